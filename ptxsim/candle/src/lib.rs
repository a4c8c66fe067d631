//! Stand-ins for cuBLAS and cuRAND, for tests of candle tensors on the virtual GPU.
//!
//! candle links these libraries and opens both with every CUDA device. The handles here compute nothing. No other
//! function is there: a program that calls one does not link.
#![allow(non_snake_case, reason = "the exported names are the libraries'")]

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

/// Of both libraries.
const SUCCESS: c_uint = 0;

/// What every handle points at.
static HANDLE: u8 = 0;

/// Writes a handle.
///
/// # Safety
/// `to` is where a pointer can be written.
unsafe fn open(to: *mut *mut c_void) -> c_uint {
    // SAFETY: by the caller's contract. Nobody looks behind a handle.
    unsafe { to.write((&raw const HANDLE).cast_mut().cast()) };
    SUCCESS
}

/// # Safety
/// `handle` is where a pointer can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasCreate_v2(handle: *mut *mut c_void) -> c_uint {
    // SAFETY: by the caller's contract.
    unsafe { open(handle) }
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

/// # Safety
/// `generator` is where a pointer can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn curandCreateGenerator(generator: *mut *mut c_void, _kind: c_int) -> c_uint {
    // SAFETY: by the caller's contract.
    unsafe { open(generator) }
}

/// Nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn curandDestroyGenerator(_generator: *mut c_void) -> c_uint {
    SUCCESS
}

/// Nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetPseudoRandomGeneratorSeed(_generator: *mut c_void, _seed: c_ulonglong) -> c_uint {
    SUCCESS
}

/// Nothing to do.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetStream(_generator: *mut c_void, _stream: *mut c_void) -> c_uint {
    SUCCESS
}
