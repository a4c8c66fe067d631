//! Errors: the driver's codes are the runtime's, which has a few of its own.

use std::cell::Cell;
use std::ffi::CStr;

/// A `cudaError_t`.
pub type Code = i32;

pub(crate) type Outcome<T = ()> = Result<T, Code>;

pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const INITIALIZATION: Code = 3;
pub(crate) const INVALID_CONFIGURATION: Code = 9;
pub(crate) const INVALID_SYMBOL: Code = 13;
pub(crate) const INVALID_COPY: Code = 21;
pub(crate) const INVALID_DEVICE_FUNCTION: Code = 98;
pub(crate) const INVALID_DEVICE: Code = 101;
const NOT_READY: Code = 600;

/// Codes, their names and words; ordered.
#[rustfmt::skip]
static NAMES: &[(Code, &CStr, &CStr)] = &[
    (0, c"cudaSuccess", c"no error"),
    (1, c"cudaErrorInvalidValue", c"invalid argument"),
    (2, c"cudaErrorMemoryAllocation", c"out of memory"),
    (3, c"cudaErrorInitializationError", c"initialization error"),
    (9, c"cudaErrorInvalidConfiguration", c"invalid configuration argument"),
    (13, c"cudaErrorInvalidSymbol", c"invalid device symbol"),
    (21, c"cudaErrorInvalidMemcpyDirection", c"invalid copy direction for memcpy"),
    (98, c"cudaErrorInvalidDeviceFunction", c"invalid device function"),
    (100, c"cudaErrorNoDevice", c"no CUDA-capable device is detected"),
    (101, c"cudaErrorInvalidDevice", c"invalid device ordinal"),
    (200, c"cudaErrorInvalidKernelImage", c"device kernel image is invalid"),
    (201, c"cudaErrorDeviceUninitialized", c"invalid device context"),
    (209, c"cudaErrorNoKernelImageForDevice", c"no kernel image is available for execution on the device"),
    (218, c"cudaErrorInvalidPtx", c"a PTX JIT compilation failed"),
    (222, c"cudaErrorUnsupportedPtxVersion", c"the provided PTX was compiled with an unsupported toolchain."),
    (400, c"cudaErrorInvalidResourceHandle", c"invalid resource handle"),
    (500, c"cudaErrorSymbolNotFound", c"named symbol not found"),
    (600, c"cudaErrorNotReady", c"device not ready"),
    (700, c"cudaErrorIllegalAddress", c"an illegal memory access was encountered"),
    (702, c"cudaErrorLaunchTimeout", c"the launch timed out and was terminated"),
    (710, c"cudaErrorAssert", c"device-side assert triggered"),
    (715, c"cudaErrorIllegalInstruction", c"an illegal instruction was encountered"),
    (716, c"cudaErrorMisalignedAddress", c"misaligned address"),
    (719, c"cudaErrorLaunchFailure", c"unspecified launch failure"),
    (720, c"cudaErrorCooperativeLaunchTooLarge", c"too many blocks in cooperative launch"),
    (800, c"cudaErrorNotPermitted", c"operation not permitted"),
    (801, c"cudaErrorNotSupported", c"operation not supported"),
    (900, c"cudaErrorStreamCaptureUnsupported", c"operation not permitted when stream is capturing"),
    (901, c"cudaErrorStreamCaptureInvalidated", c"operation failed due to a previous error during capture"),
    (999, c"cudaErrorUnknown", c"unknown error"),
];

thread_local! {
    static LAST_ERROR: Cell<Code> = const { Cell::new(0) };
}

/// Keeps a call's error for cudaGetLastError, and gives its code.
pub(crate) fn finish(result: Outcome) -> Code {
    let Err(code) = result else { return 0 };
    if code != NOT_READY {
        LAST_ERROR.set(code);
    }
    code
}

/// The thread's last error, which this clears.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> Code {
    LAST_ERROR.replace(0)
}

/// The thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn cudaPeekAtLastError() -> Code {
    LAST_ERROR.get()
}

fn find(code: Code) -> Option<&'static (Code, &'static CStr, &'static CStr)> {
    NAMES.binary_search_by_key(&code, |row| row.0).ok().map(|at| &NAMES[at])
}

/// The name of a code.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorName(code: Code) -> *const std::ffi::c_char {
    find(code).map_or(c"unrecognized error code", |row| row.1).as_ptr()
}

/// A code in words.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorString(code: Code) -> *const std::ffi::c_char {
    find(code).map_or(c"unrecognized error code", |row| row.2).as_ptr()
}
