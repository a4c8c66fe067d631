//! The CUDA runtime: kernels, plans on the device, launches.
//!
//! ```no_run
//! use cudarc::driver::CudaContext;
//! use half::bf16;
//! use onekv::cuda::{DeviceKv, DeviceOutput, DeviceQueries, Kernels, Launch};
//! use onekv::plan::{Plan, PlanOptions};
//! use onekv::{DType, Keys, Problem, ProblemSpec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = CudaContext::new(0)?;
//! let stream = context.default_stream();
//! let kernels = Kernels::new(&context)?;
//! let problem = Problem::new(ProblemSpec {
//!     heads: 12, kv_heads: 12, head_dim: 64, scale: 1.0, softcap: None,
//!     row_offsets: vec![0, 30], keys: Keys::Packed { offsets: vec![0, 512] },
//! })?;
//! let plan = Plan::new(&problem, DType::Bf16, kernels.facts(), &PlanOptions::default())?;
//! let launch = Launch::new(&kernels, plan, &stream)?;          // uploads the work list, once
//! let mut workspace = stream.alloc_zeros::<f32>(launch.plan().workspace_len().max(1))?;
//! let q = stream.alloc_zeros::<bf16>(30 * 768)?;
//! let (k, v) = (stream.alloc_zeros::<bf16>(512 * 768)?, stream.alloc_zeros::<bf16>(512 * 768)?);
//! let mut out = stream.alloc_zeros::<bf16>(30 * 768)?;
//! launch.run(                                                   // every layer, every step
//!     &stream,
//!     DeviceQueries::contiguous(&problem, q.as_view()),
//!     DeviceKv::contiguous(&problem, k.as_view(), v.as_view()),
//!     DeviceOutput::contiguous(&problem, out.as_view_mut()),
//!     None,
//!     &mut workspace.as_view_mut(),
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Launch::run`] allocates nothing, waits for nothing and reads nothing back: it can be captured in a graph,
//! and follows the order of its stream. [`Launch::run_raw`] is the same by stream handle and device addresses.
//! On Hopper K and V can be [`e4m3`](crate::e4m3): a plan by [`Plan::with_e4m3_kv`](crate::plan::Plan::with_e4m3_kv), run by
//! [`Launch::run_e4m3`]. [`merge_states`] joins attention over parts of the keys. [`Modules`] loads and launches
//! kernels of a caller's own.

#[allow(missing_docs, reason = "generated; cuda/abi.h documents it")]
mod abi;
mod kernels;
mod launch;
mod merge;
mod modules;
mod operands;
mod tensor_map;

use std::sync::Arc;

use cudarc::driver::CudaContext;
use libloading::{Library, library_filename};

pub use kernels::Kernels;
pub use launch::{Launch, RawOperands};
pub use merge::{DeviceState, MAX_STATES, merge_states};
pub use modules::{Function, Grid, Modules};
pub use operands::{DeviceKv, DeviceKvE4m3, DeviceLse, DeviceOutput, DeviceQueries};
pub use tensor_map::TensorMap;

use crate::error::{Error, Result};

/// The context of a device, or an error where there is no driver or no such device.
///
/// # Errors
/// [`Error::Cuda`]; cudarc's own constructor panics without a driver. A program in which another crate has cudarc link the
/// driver (candle with CUDA does) does not start without one.
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    // Names that cudarc looks for too. Its own `is_culib_present` is not there where another crate asks it to link the
    // driver, as candle does.
    let names = [library_filename("cuda"), "libcuda.so.1".into(), library_filename("nvcuda")];
    // SAFETY: NVIDIA's driver library: its code for being loaded and unloaded is all that runs.
    if !names.into_iter().any(|name| unsafe { Library::new(name) }.is_ok()) {
        let why = "libcuda was not found: no NVIDIA driver is installed".to_owned();
        return Err(Error::Cuda { what: "loading the driver", why });
    }
    CudaContext::new(ordinal).map_err(modules::cuda("opening the device"))
}
