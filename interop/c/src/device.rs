//! What the handles of `cuda.rs` stand for, and the threads' current context.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use onekv::cuda::MAX_STATES;
use onekv::cudarc::driver::{result, sys};
use onekv::plan::Architecture;
use onekv::{DType, Error};

use crate::cuda::{ONEKV_MAX_STATES, ONEKV_SM80, ONEKV_SM90, ONEKV_SM90A, ONEKV_SM120, onekv_plan_options};
use crate::operands::{ONEKV_BF16, ONEKV_F16, ONEKV_F32, onekv_dtype, unknown_dtype};
use crate::status::{Failure, Result};

const _: () = assert!(ONEKV_MAX_STATES == MAX_STATES);

pub type Kernels = Arc<onekv::cuda::Kernels>;
pub type Queue = onekv::cuda::Queue;
/// With what `explain` says.
pub type Plan = (onekv::plan::Plan, std::ffi::CString);
/// Replans and runs of several threads come one after the other.
pub type Prepared = Mutex<onekv::cuda::Prepared>;

/// What a call of CUDA's does; the thread's current context is afterwards what it was.
macro_rules! with_cuda {
    ($($body:tt)*) => {{
        let _current = $crate::device::Current::new()?;
        $($body)*
    }};
}
pub(crate) use with_cuda;

/// The thread's current context, which it has again when this is dropped: the CUDA runtime takes it for the current device.
pub struct Current(sys::CUcontext);

impl Current {
    /// After [`kernels`], without which nobody has a handle: the driver is loaded.
    pub fn new() -> Result<Self> {
        let current = result::ctx::get_current();
        let current = current.map_err(|error| Error::Cuda { call: "cuCtxGetCurrent", result: error.0 })?;
        Ok(Self(current.unwrap_or(null_mut())))
    }
}

impl Drop for Current {
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
    // A thread of its own: this one's current context stays, and before the driver is loaded nobody can ask for it.
    let loaded = std::thread::scope(|scope| {
        let load = || onekv::cuda::Kernels::new(&onekv::cuda::context(ordinal)?);
        scope.spawn(load).join()
    });
    Ok(loaded.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?)
}

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

/// An architecture and its number in C.
const ARCHITECTURES: [(u32, Architecture); 4] = [
    (ONEKV_SM80, Architecture::Sm80),
    (ONEKV_SM90, Architecture::Sm90),
    (ONEKV_SM90A, Architecture::Sm90a),
    (ONEKV_SM120, Architecture::Sm120),
];

/// 0 is no wish.
pub fn options(wished: &onekv_plan_options) -> Result<onekv::plan::PlanOptions> {
    let mut options = onekv::plan::PlanOptions::default();
    let wish = |value: usize| Some(value).filter(|value| *value != 0);
    options.split_keys = wish(wished.split_keys);
    options.tile_rows = wish(wished.tile_rows);
    options.cluster = wish(wished.cluster);
    options.split_cluster = wish(wished.split_cluster);
    if wished.architecture != 0 {
        let named = ARCHITECTURES.iter().find(|(number, _)| *number == wished.architecture);
        let (_, architecture) = named.ok_or_else(|| {
            let value = wished.architecture;
            let all = "0, ONEKV_SM80 (80), ONEKV_SM90 (90), ONEKV_SM90A (901), ONEKV_SM120 (120)";
            Failure::invalid(format!("options.architecture is {value}, allowed: {all}"))
        })?;
        options.architecture = Some(*architecture);
    }
    Ok(options)
}

pub fn like(plan: &Plan) -> onekv_plan_options {
    let options = onekv::plan::PlanOptions::like(&plan.0);
    let number = |(number, architecture): &(u32, Architecture)| {
        Some(*number).filter(|_| Some(*architecture) == options.architecture)
    };
    onekv_plan_options {
        split_keys: options.split_keys.unwrap_or(0),
        tile_rows: options.tile_rows.unwrap_or(0),
        cluster: options.cluster.unwrap_or(0),
        split_cluster: options.split_cluster.unwrap_or(0),
        architecture: ARCHITECTURES.iter().find_map(number).unwrap_or(0),
    }
}
