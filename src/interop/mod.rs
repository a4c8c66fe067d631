//! Other people's tensors and handles: thin, no arithmetic.
//!
//! - candle: tensors in, tensors out: module `candle`, with the feature of that name; on CUDA with `candle-cuda`.
//! - cudarc: module `cuda` takes its types.
//! - cust: its buffers and streams, by the package `onekv-cust` in the repository's `interop/cust`. It is no feature, as cust's
//!   build fails without a CUDA toolkit.
//! - Whatever else has device addresses and a stream: `cuda::Prepared::run_raw_checked` and `cuda::Queue::merge_states_raw`, which
//!   check lengths, strides, alignment and overlaps. `CudaContext::wrap_borrowed_stream` of cudarc makes a stream of a handle;
//!   a device has one primary context, that of `cuda::context` and of the CUDA runtime.

#[cfg(feature = "candle")]
pub mod candle;
