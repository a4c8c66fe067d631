#!/usr/bin/env bash
# cudarc never finds NCCL and cuFile where they are installed for use: it asks for other numbers than theirs.
#
# Versions: cudarc 0.19.10 (features nccl and cufile, bound to CUDA 13.0), the wheels nvidia-nccl-cu13 2.32.3 and
#   nvidia-cufile 1.19.1.55 (x86-64 Linux). No GPU is needed, and no libnccl or libcufile that the loader finds by itself.
# One would expect: a library that is installed and on LD_LIBRARY_PATH is loaded.
# What happens: one list of names serves every library: .so, then .so. with the major version of CUDA, 12, 11, 10, 9 and 1
#   (cudarc-steps-down). But NCCL numbers by its own version, 2, and cuFile by 0, and the wheels have no plain .so. So
#   is_culib_present() is false, and the first call of NCCL panics though it returns a Result. A link of the plain name to
#   the same file mends it. Seen on 2026-11-28:
#     NCCL, libnccl.so.2 alone: not present, version panicked
#     NCCL, and a link libnccl.so: present, version 23203
#     cuFile, libcufile.so.0 alone: not present
#     cuFile, and a link libcufile.so: present
# Who is hit: who runs a program with cudarc's NCCL where PyTorch's wheels brought the library, or another package
#   without the developers' files. Make the link.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never PIP_CACHE_DIR="$tmp/cache"
unset CUDARC_CUDA_VERSION RUSTFLAGS LD_LIBRARY_PATH
! ldconfig -p 2> /dev/null | grep -E 'libnccl|libcufile' || { echo "the loader finds this by itself: nothing can be seen"; exit 2; }
python3 -m venv "$tmp/venv"
for wheel in nvidia-nccl-cu13==2.32.3 nvidia-cufile==1.19.1.55; do
    "$tmp/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$tmp/${wheel%%==*}" "$wheel"
done

mkdir -p "$tmp/see/src"
cd "$tmp/see"
cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.0.0"
edition = "2021"

[dependencies.cudarc]
version = "=0.19.10"
default-features = false
features = ["std", "nccl", "cufile", "cuda-13000", "fallback-dynamic-loading"]
TOML
cat > src/main.rs <<'RS'
use cudarc::{cufile, nccl};

fn main() {
    let present = |yes| if yes { "present" } else { "not present" };
    if std::env::args().nth(1).unwrap() == "cuFile" {
        return println!("{}", present(unsafe { cufile::sys::is_culib_present() }));
    }
    std::panic::set_hook(Box::new(|_| ()));
    let version = std::panic::catch_unwind(|| nccl::result::get_nccl_version().unwrap().to_string());
    let version = version.unwrap_or("panicked".into());
    println!("{}, version {version}", present(unsafe { nccl::sys::is_culib_present() }));
}
RS
cargo build --quiet
failed=0
see() { # library, what is there, what must be printed, folder
    local got
    got=$(LD_LIBRARY_PATH=$4 "$tmp/target/debug/see" "$1")
    echo "$1, $2: $got"
    [[ $got == "$3" ]] || { echo "CHANGED: expected $3"; failed=1; }
}
both() { # library, its file, folder, what must be printed without and with the link
    [[ $(cd "$3" && echo "${2%.*}"*) == "$2" ]] || { echo "CHANGED: other files in the wheel"; failed=1; }
    see "$1" "$2 alone" "$4" "$3"
    ln -s "$2" "$3/${2%.*}"
    see "$1" "and a link ${2%.*}" "$5" "$3"
}
both NCCL libnccl.so.2 "$tmp/nvidia-nccl-cu13/nvidia/nccl/lib" "not present, version panicked" "present, version 23203"
both cuFile libcufile.so.0 "$tmp/nvidia-cufile/nvidia/cu13/lib" "not present" "present"
exit $failed
