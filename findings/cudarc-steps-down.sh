#!/usr/bin/env bash
# cudarc bound to CUDA 13 opens the library of CUDA 12 where there is no other, and says nothing.
#
# Versions: cudarc 0.19.10, the wheels nvidia-cuda-runtime 13.0.96 and nvidia-cuda-runtime-cu12 12.9.79 (x86-64 Linux). No
#   GPU is needed, and no libcudart that the loader finds by itself.
# One would expect: the library of the major version that was bound, or "not found". The name says .so.12 or .so.13
#   because the one cannot stand for the other.
# What happens: the list of names ends in .so.MAJOR, .so.12, .so.11, .so.10, .so.9, .so.1, whatever was bound, and the
#   first that opens is taken. So bindings of 13.0 run on a library of 12.9, and those of 12.9 never try .so.13, which is
#   all that the wheels of CUDA 13 bring (no plain .so). is_culib_present() says true of the wrong one too. It is the same
#   list for every library (cublasLt, nvrtc, curand and the others). Seen on 2026-11-27:
#     bound 13000, names .so.13 .so.12 .so.11 .so.10 .so.9 .so.1
#     bound 13000, only libcudart.so.13 there: loaded 13000
#     bound 13000, only libcudart.so.12 there: loaded 12090
#     bound 12090, names .so.12 .so.12 .so.11 .so.10 .so.9 .so.1
#     bound 12090, only libcudart.so.13 there: not found
#     bound 12090, only libcudart.so.12 there: loaded 12090
# Who is hit: who ships a program for 13 to a machine where a package left the library of 12 in the loader's path, and who
#   asks is_culib_present() before the first call. Ask the library for its version as well, as the script does.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never PIP_CACHE_DIR="$tmp/cache"
unset CUDARC_CUDA_VERSION RUSTFLAGS LD_LIBRARY_PATH
python3 -m venv "$tmp/venv"
install() { "$tmp/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$tmp/$1" "$2"; }
install 13 nvidia-cuda-runtime==13.0.96
install 12 nvidia-cuda-runtime-cu12==12.9.79

mkdir -p "$tmp/see/src"
cd "$tmp/see"
cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.0.0"
edition = "2021"

[dependencies]
libloading = "=0.9.1"

[dependencies.cudarc]
version = "=0.19.10"
default-features = false
features = ["std", "driver", "runtime", "fallback-dynamic-loading"]

[features]
bound-12090 = ["cudarc/cuda-12090"]
bound-13000 = ["cudarc/cuda-13000"]
TOML
cat > src/main.rs <<'RS'
use cudarc::runtime::{result::version, sys};

fn main() {
    if std::env::args().len() > 1 {
        let names = cudarc::get_lib_name_candidates("cudart");
        let ends: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("libcudart")).collect();
        println!("names {}", ends.into_iter().filter(|end| end.starts_with(".so.")).collect::<Vec<_>>().join(" "));
    } else if unsafe { sys::is_culib_present() } {
        println!("loaded {}", version::get_runtime_version().unwrap());
    } else {
        println!("not found");
    }
}
RS
failed=0
! ldconfig -p 2> /dev/null | grep libcudart || { echo "the loader finds this by itself: nothing can be seen"; exit 2; }
see() { # bound, what, what must be printed, folder of libraries, arguments
    local got
    got=$(LD_LIBRARY_PATH=$4 "$tmp/$1" "${@:5}")
    echo "bound $1, $2$got"
    [[ $got == "$3" ]] || { echo "CHANGED: expected $3"; failed=1; }
}
for bound in 13000 12090; do
    cargo build --quiet --features "bound-$bound"
    cp "$tmp/target/debug/see" "$tmp/$bound"
done
so13=$tmp/13/nvidia/cu13/lib so12=$tmp/12/nvidia/cuda_runtime/lib
[[ -e $so13/libcudart.so.13 && ! -e $so13/libcudart.so && -e $so12/libcudart.so.12 && ! -e $so12/libcudart.so ]] ||
    { echo "CHANGED: other files in the wheels"; failed=1; }
see 13000 "" "names .so.13 .so.12 .so.11 .so.10 .so.9 .so.1" "" names
see 13000 "only libcudart.so.13 there: " "loaded 13000" "$so13"
see 13000 "only libcudart.so.12 there: " "loaded 12090" "$so12"
see 12090 "" "names .so.12 .so.12 .so.11 .so.10 .so.9 .so.1" "" names
see 12090 "only libcudart.so.13 there: " "not found" "$so13"
see 12090 "only libcudart.so.12 there: " "loaded 12090" "$so12"
exit $failed
