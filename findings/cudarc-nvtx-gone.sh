#!/usr/bin/env bash
# cudarc's NVTX asks for a library that CUDA's packages no longer have, and panics; NVIDIA's own crate asks for none.
#
# Versions: cudarc 0.19.10 (feature nvtx, bound to CUDA 13.0), the wheels nvidia-nvtx 13.0.85 and nvidia-nvtx-cu12 12.9.79
#   and 12.6.77 (x86-64 Linux), the crate nvtx 2.0.0. No GPU is needed, and no tool that listens.
# One would expect: a mark that nobody listens to costs nothing and does nothing, as NVTX promises.
# What happens: cudarc binds NVTX 2, which lived in libnvToolsExt. Version 3 is headers alone; the wheel of 12.6 still has
#   libnvToolsExt.so.1, those of 12.9 and 13.0 have libnvtx3interop.so.1 in its place. So a program that marks anything
#   panics on its first mark on a machine with CUDA 13, though it builds. cudarc's is_culib_present() tells. The crate nvtx compiles
#   the headers (its build needs libclang), looks for a listener itself, and marks in silence. Seen on 2026-11-28:
#     wheel 12.6.77 has libnvToolsExt.so.1; cudarc: present, marked
#     wheel 12.9.79 has libnvtx3interop.so.1; cudarc: not present, panicked
#     wheel 13.0.85 has libnvtx3interop.so.1; cudarc: not present, panicked
#     nvtx 2.0.0 without any: marked
# Who is hit: who turns cudarc's feature nvtx on for profiling, and ships it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never PIP_CACHE_DIR="$tmp/cache"
unset CUDARC_CUDA_VERSION RUSTFLAGS LD_LIBRARY_PATH NVTX_INJECTION64_PATH
! ldconfig -p 2> /dev/null | grep libnvToolsExt || { echo "the loader finds this by itself: nothing can be seen"; exit 2; }
python3 -m venv "$tmp/venv"
install() { "$tmp/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$tmp/$1" "$2"; }
install 12.6.77 nvidia-nvtx-cu12==12.6.77
install 12.9.79 nvidia-nvtx-cu12==12.9.79
install 13.0.85 nvidia-nvtx==13.0.85
install clang libclang==18.1.1

mkdir -p "$tmp/see/src"
cd "$tmp/see"
cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.0.0"
edition = "2021"

[dependencies]
nvtx = { version = "=2.0.0", default-features = false, features = ["std"] }

[dependencies.cudarc]
version = "=0.19.10"
default-features = false
features = ["std", "nvtx", "cuda-13000", "fallback-dynamic-loading"]
TOML
cat > src/main.rs <<'RS'
fn main() {
    if std::env::args().len() > 1 {
        nvtx::mark(c"hello");
        return println!("marked");
    }
    print!("{}present, ", if unsafe { cudarc::nvtx::sys::is_culib_present() } { "" } else { "not " });
    std::panic::set_hook(Box::new(|_| ()));
    let marked = std::panic::catch_unwind(|| cudarc::nvtx::mark("hello"));
    println!("{}", if marked.is_ok() { "marked" } else { "panicked" });
}
RS
LIBCLANG_PATH=$tmp/clang/clang/native BINDGEN_EXTRA_CLANG_ARGS="-isystem $(gcc -print-file-name=include)" cargo build --quiet
failed=0
see() { # what it is, what must be printed, folder of libraries, arguments
    local got
    got=$(LD_LIBRARY_PATH=$3 "$tmp/target/debug/see" "${@:4}")
    echo "$1$got"
    [[ $got == "$2" ]] || { echo "CHANGED: expected $2"; failed=1; }
}
wheel() { # version, its library, what must be printed
    local folder found
    folder=$(dirname "$(find "$tmp/$1" -name '*.so*' | head -1)")
    found=$(cd "$folder" && echo *.so*)
    [[ $found == "$2" ]] || { echo "CHANGED: wheel $1 has $found, expected $2"; failed=1; }
    see "wheel $1 has $found; cudarc: " "$3" "$folder"
}
wheel 12.6.77 libnvToolsExt.so.1 "present, marked"
wheel 12.9.79 libnvtx3interop.so.1 "not present, panicked"
wheel 13.0.85 libnvtx3interop.so.1 "not present, panicked"
see "nvtx 2.0.0 without any: " "marked" "" nvtx
exit $failed
