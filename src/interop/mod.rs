//! Other people's tensors and handles: thin, no arithmetic.
//!
//! - candle: tensors in, tensors out: module `candle`, with the feature of that name; on CUDA with `candle-cuda`.
//! - cudarc: module `cuda` takes its types.
//! - cust, and whatever else has device addresses and a stream: `cuda::Prepared::run_raw`. A device has one primary
//!   context, which is both cust's `Context` and onekv's `cuda::context`: memory and streams of the one serve the other.
//!
//! ```ignore
//! let _context = cust::quick_init()?;
//! let context = onekv::cuda::context(0)?;                            // the same one
//! // SAFETY: cust's stream outlives the queue and what is prepared on it.
//! let stream = unsafe { context.wrap_borrowed_stream(stream.as_inner().cast()) };       // cust::stream::Stream
//! let kernels = Kernels::new(&context)?;
//! let queue = Queue::new(&kernels, &stream)?;
//! let plan = Plan::new(&problem, DType::F32, kernels.facts(), &PlanOptions::default())?;
//! let prepared = queue.prepare(&plan)?;
//! let [q, k, v, out] = [&q, &k, &v, &out].map(|buffer| buffer.as_device_ptr().as_raw()); // cust::memory::DeviceBuffer<f32>
//! // SAFETY: see `Prepared::run_raw`.
//! unsafe { prepared.run_raw(&RawOperands::contiguous(&problem, q, k, v, out))? };
//! ```

#[cfg(feature = "candle")]
pub mod candle;
