//! Stand-ins for cuBLAS and cuRAND, for tests of candle tensors on the virtual GPU.
//!
//! candle links these libraries and opens both with every CUDA device. The handles of cuBLAS compute nothing; the generators
//! of cuRAND draw numbers, their own ones. No other function is there: a program that calls one does not link.
#![allow(non_snake_case, reason = "the exported names are the libraries'")]

use std::ffi::{c_uint, c_void};

pub mod random;

/// Of both libraries.
const SUCCESS: c_uint = 0;

/// What every handle of cuBLAS points at. Nobody looks there.
static HANDLE: u8 = 0;

/// # Safety
/// `handle` is where a pointer can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasCreate_v2(handle: *mut *mut c_void) -> c_uint {
    // SAFETY: by the caller's contract.
    unsafe { handle.write((&raw const HANDLE).cast_mut().cast()) };
    SUCCESS
}

/// Nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn cublasDestroy_v2(_handle: *mut c_void) -> c_uint {
    SUCCESS
}

/// Nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn cublasSetStream_v2(_handle: *mut c_void, _stream: *mut c_void) -> c_uint {
    SUCCESS
}
