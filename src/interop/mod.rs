//! Other people's tensors and handles: thin, no arithmetic.
//!
//! - candle: tensors in, tensors out: module `candle`, with the feature of that name; on CUDA with `candle-cuda`.
//! - cudarc: module `cuda` takes its types.
//! - cust, and whatever else has device addresses and a stream: `cuda::Launch::run_raw`. A device has one primary
//!   context, which is both cust's `Context` and onekv's `cuda::context`: memory and streams of the one serve the other.
//!
//! ```ignore
//! let _context = cust::quick_init()?;
//! let context = onekv::cuda::context(0)?;                            // the same one
//! let kernels = Kernels::new(&context)?;
//! let plan = Plan::new(&problem, DType::F32, kernels.facts(), &PlanOptions::default())?;
//! let launch = Launch::new(&kernels, plan, &context.default_stream())?;
//! let operands = RawOperands {
//!     q: q.as_device_ptr().as_raw(),                                  // cust::memory::DeviceBuffer<f32>
//!     q_strides: problem.query_strides(),
//!     // k, v, out, lse, workspace likewise
//! };
//! // SAFETY: see `Launch::run_raw`.
//! unsafe { launch.run_raw(stream.as_inner().cast(), &operands)? };        // cust::stream::Stream
//! ```

#[cfg(feature = "candle")]
pub mod candle;
