#!/usr/bin/env bash
# A cudarc call that fails half-way keeps what it took: memory of an allocation, the primary context of a device.
#
# Versions: cudarc 0.19.10 (bound to CUDA 13.0), gcc. No GPU: a library in C plays the driver, counts what is taken and given
#   back, and lets one function fail when it is told to.
# One would expect: in Rust, that what a failed call took is given back as its parts are dropped.
# What happens: CudaStream::alloc allocates, then creates two events, and the bare address is not wrapped until all three have
#   come: where an event cannot be had (out of memory is when it cannot) the error is returned and the memory never freed, nor by
#   dropping stream and context. With the second event it is the same, of the first one is destroyed. CudaContext::new retains
#   the primary context, then asks an attribute; where that fails, nobody releases it. Without event tracking there is no event
#   to fail. Seen on 2026-11-29:
#     no failure: alloc ok, memory 1 of 1 freed, context 1 of 1 released, events 2 of 2 destroyed
#     1st event: alloc CUDA_ERROR_OUT_OF_MEMORY, memory 0 of 1 freed, context 1 of 1 released, events 0 of 0 destroyed
#     2nd event: alloc CUDA_ERROR_OUT_OF_MEMORY, memory 0 of 1 freed, context 1 of 1 released, events 1 of 1 destroyed
#     attribute: context CUDA_ERROR_INVALID_VALUE, memory 0 of 0 freed, context 0 of 1 released, events 0 of 0 destroyed
#     no tracking: alloc ok, memory 1 of 1 freed, context 1 of 1 released, events 0 of 0 destroyed
# Who is hit: who goes on after a failure, as a server does that refuses one request for want of memory: each refusal may cost
#   the memory that it asked for. Allocate by `result::malloc_async` and wrap the address at once, or disable event tracking.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never
unset CUDARC_CUDA_VERSION RUSTFLAGS LD_LIBRARY_PATH
mkdir -p "$tmp/see/src" "$tmp/driver"
cd "$tmp/see"

cat > driver.c <<'C'
#include <stdlib.h>
#include <string.h>
typedef void *P;
static int memory, freed, retained, released, created, destroyed;
static int fails(const char *what) { const char *asked = getenv("FAIL"); return asked && !strcmp(asked, what); }
int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuGetErrorName(int e, const char **s) { *s = e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE"; return 0; }
int cuGetErrorString(int e, const char **s) { return cuGetErrorName(e, s); }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = 1; return fails("attribute") ? 1 : 0; }
int cuDevicePrimaryCtxRetain(P *c, int d) { *c = &memory; retained++; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { released++; return 0; }
int cuCtxGetCurrent(P *c) { *c = &memory; return 0; }
int cuCtxSetCurrent(P c) { return 0; }
int cuCtxSynchronize(void) { return 0; }
int cuStreamSynchronize(P s) { return 0; }
int cuStreamWaitEvent(P s, P e, unsigned f) { return 0; }
int cuStreamIsCapturing(P s, int *c) { *c = 0; return 0; }
int cuMemAllocAsync(P *p, size_t n, P s) { *p = malloc(n); memory++; return 0; }
int cuMemFreeAsync(P p, P s) { free(p); freed++; return 0; }
int cuEventCreate(P *e, unsigned f) {
    if (fails(created ? "2nd event" : "1st event")) return 2;
    *e = malloc(1), created++;
    return 0;
}
int cuEventRecord(P e, P s) { return 0; }
int cuEventSynchronize(P e) { return 0; }
int cuEventDestroy_v2(P e) { free(e); destroyed++; return 0; }
void counts(int *to) { int all[] = {freed, memory, released, retained, destroyed, created}; memcpy(to, all, sizeof all); }
C
gcc -shared -fPIC -o "$tmp/driver/libcuda.so" driver.c
cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.0.0"
edition = "2021"

[dependencies]
libloading = "=0.8.9"

[dependencies.cudarc]
version = "=0.19.10"
default-features = false
features = ["std", "driver", "cuda-13000", "fallback-dynamic-loading"]
TOML
cat > src/main.rs <<'RS'
use cudarc::driver::{CudaContext, DriverError};

fn name<T>(done: &Result<T, DriverError>) -> String {
    done.as_ref().map_or_else(|e| e.error_name().unwrap().to_str().unwrap().into(), |_| "ok".into())
}

fn work(tracking: bool) -> String {
    let context = CudaContext::new(0);
    let Ok(context) = &context else { return format!("context {}", name(&context)) };
    if !tracking {
        unsafe { context.disable_event_tracking() };
    }
    let memory = unsafe { context.default_stream().alloc::<u8>(1024) };
    format!("alloc {}", name(&memory))
}

fn main() {
    let said = work(std::env::args().nth(1).is_none());
    let mut n = [0; 6];
    unsafe {
        let driver = libloading::Library::new("libcuda.so").unwrap();
        driver.get::<unsafe extern "C" fn(*mut i32)>(b"counts").unwrap()(n.as_mut_ptr());
    }
    let [freed, memory, released, retained, destroyed, created] = n;
    println!(
        "{said}, memory {freed} of {memory} freed, context {released} of {retained} released, \
         events {destroyed} of {created} destroyed"
    );
}
RS
cargo build --quiet
failed=0
see() { # what fails, what must be printed, arguments
    local got
    got=$(FAIL=$1 LD_LIBRARY_PATH="$tmp/driver" "$tmp/target/debug/see" "${@:3}")
    echo "$1: $got"
    [[ $got == "$2" ]] || { echo "CHANGED: expected $2"; failed=1; }
}
see "no failure" "alloc ok, memory 1 of 1 freed, context 1 of 1 released, events 2 of 2 destroyed"
see "1st event" "alloc CUDA_ERROR_OUT_OF_MEMORY, memory 0 of 1 freed, context 1 of 1 released, events 0 of 0 destroyed"
see "2nd event" "alloc CUDA_ERROR_OUT_OF_MEMORY, memory 0 of 1 freed, context 1 of 1 released, events 1 of 1 destroyed"
see "attribute" "context CUDA_ERROR_INVALID_VALUE, memory 0 of 0 freed, context 0 of 1 released, events 0 of 0 destroyed"
see "no tracking" "alloc ok, memory 1 of 1 freed, context 1 of 1 released, events 0 of 0 destroyed" untracked
exit $failed
