//! What the handles of `cuda.rs` stand for, and the threads' current context.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use onekv::cudarc::driver::{result, sys};
use onekv::{DType, Error};

use crate::operands::{ONEKV_BF16, ONEKV_F16, ONEKV_F32, onekv_dtype, unknown_dtype};
use crate::status::{Failure, Result};

pub type Kernels = Arc<onekv::cuda::Kernels>;
pub type Queue = onekv::cuda::Queue;
/// A plan, and what onekv_plan_explain hands out.
pub struct Plan {
    pub plan: onekv::plan::Plan,
    pub explained: std::ffi::CString,
}

/// Replans and runs of several threads come one after the other.
pub type Prepared = Mutex<onekv::cuda::Prepared>;

/// The body of a call that needs CUDA; afterwards the thread's current context is what it was.
macro_rules! with_cuda {
    ($($body:tt)*) => {{
        let _restored = $crate::device::CurrentContext::new()?;
        $($body)*
    }};
}
pub(crate) use with_cuda;

/// The thread's current context, which it has again when this is dropped: the CUDA runtime takes its device from it.
pub struct CurrentContext(sys::CUcontext);

impl CurrentContext {
    /// Only for calls that have a handle: whoever has one went through [`kernels`], so the driver is loaded.
    pub fn new() -> Result<Self> {
        let current = result::ctx::get_current();
        let current = current.map_err(|error| Error::Cuda { call: "cuCtxGetCurrent", result: error.0 })?;
        Ok(Self(current.unwrap_or(null_mut())))
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        // SAFETY: it was current, and nothing here destroys it.
        let _ = unsafe { result::ctx::set_current(self.0) };
    }
}

/// The kernels in a device's primary context.
pub fn kernels(device: c_int) -> Result<Kernels> {
    let Ok(ordinal) = usize::try_from(device) else {
        return Err(Failure::invalid(format!("device is {device}, allowed: 0 or more")));
    };
    // In a thread of its own, so that this one's current context stays. It cannot be restored as in other calls: before
    // the driver is loaded nobody can ask for it.
    let loaded = std::thread::scope(|scope| {
        let load = || onekv::cuda::Kernels::new(&onekv::cuda::context(ordinal)?);
        scope.spawn(load).join()
    });
    Ok(loaded.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?)
}

/// A queue on `stream`.
///
/// # Safety
/// NULL, or a stream of the kernels' context that outlives the queue and all that is prepared on it.
pub unsafe fn queue(kernels: &Kernels, stream: *mut c_void) -> Result<Queue> {
    // SAFETY: the caller's contract.
    let stream = unsafe { kernels.context().wrap_borrowed_stream(stream.cast()) };
    Ok(Queue::new(kernels, &stream)?)
}

pub fn dtype(name: &str, value: onekv_dtype) -> Result<DType> {
    match value {
        ONEKV_F32 => Ok(DType::F32),
        ONEKV_F16 => Ok(DType::F16),
        ONEKV_BF16 => Ok(DType::Bf16),
        other => Err(unknown_dtype(name, other)),
    }
}
