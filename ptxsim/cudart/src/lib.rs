//! A CUDA runtime over the driver API, for programs that nvcc compiles, on the virtual GPU.
//!
//! NVIDIA's own runtime runs on NVIDIA's driver alone. This one has what plain programs call, by its documentation and by
//! nvcc's header `crt/host_runtime.h`; structures are laid out as in CUDA 13. Named libcudart.so.13 it serves programs that
//! are linked with `-cudart shared`; the rest of the runtime is not there, and a program that calls it does not link.
//!
//! Pointers are plain addresses: all but few are handed to the driver, which checks them.
#![allow(non_snake_case, reason = "the exported names are the runtime's")]
#![deny(unsafe_op_in_unsafe_fn)]

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::sys;

pub mod device;
pub mod error;
pub mod launch;
pub mod memory;
pub mod stream;

use error::{Code, INVALID_VALUE, Outcome};

thread_local! {
    static DEVICE: Cell<i32> = const { Cell::new(0) };
}

/// Calls a function of the driver's.
macro_rules! drive {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the driver checks handles and probes pointers; what the caller vouches for, the runtime's documentation
        // asks of it as well.
        $crate::outcome(unsafe { cudarc::driver::sys::$name($($argument),*) })
    };
}
use drive;

fn outcome(code: sys::CUresult) -> Outcome {
    outcome_of(code as Code)
}

fn outcome_of(code: Code) -> Outcome {
    if code == 0 { Ok(()) } else { Err(code) }
}

/// A pointer that the driver takes.
fn pointer<T>(address: usize) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address)
}

/// Declares exported functions of the runtime. They see to it that this thread's device has its primary context.
macro_rules! runtime {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        #[doc = concat!("The runtime's `", stringify!($name), "`.")]
        // SAFETY: the runtime owns this name; the library takes its place and exports it once.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> i32 {
            $crate::error::finish($crate::make_current().and_then(|()| $body))
        }
    )*};
}
use runtime;

/// Writes a value of the caller's, through a pointer that is not null.
fn write<T>(to: usize, value: T) -> Outcome {
    if to == 0 {
        return Err(INVALID_VALUE);
    }
    // SAFETY: by the runtime's documentation the caller gives a place for this value.
    unsafe { pointer::<T>(to).write_unaligned(value) };
    Ok(())
}

/// The primary contexts, by device; retained at their first use and kept.
static CONTEXTS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Starts the driver, once.
fn start() -> Outcome {
    static STARTED: OnceLock<Outcome> = OnceLock::new();
    *STARTED.get_or_init(|| drive!(cuInit(0)))
}

fn make_current() -> Outcome {
    start()?;
    let device = DEVICE.get();
    let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let at = device as usize;
    if contexts.len() <= at {
        contexts.resize(at + 1, 0);
    }
    if contexts[at] == 0 {
        let mut context = null_mut();
        drive!(cuDevicePrimaryCtxRetain(&mut context, device))?;
        contexts[at] = context.expose_provenance();
    }
    drive!(cuCtxSetCurrent(pointer(contexts[at])))
}
