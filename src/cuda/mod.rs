//! The CUDA runtime: kernels, a queue on a stream, plans made ready on it.
//!
//! ```no_run
//! use half::bf16;
//! use onekv::cuda::{Kernels, Queue};
//! use onekv::plan::{Plan, PlanOptions};
//! use onekv::{DType, Keys, Problem, ProblemSpec, SharedKv, View};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = onekv::cuda::context(0)?;
//! let stream = context.default_stream();
//! let queue = Queue::new(&Kernels::new(&context)?, &stream)?;      // once per stream
//! let problem = Problem::new(ProblemSpec {
//!     heads: 12, kv_heads: 12, head_dim: 64, scale: 1.0, softcap: None,
//!     row_offsets: vec![0, 30], keys: Keys::Packed { offsets: vec![0, 512] },
//! })?;
//! let plan = Plan::new(&problem, DType::Bf16, queue.kernels().facts(), &PlanOptions::default())?;
//! let mut prepared = queue.prepare(&plan)?;                        // once per kind of batch
//! let q = stream.alloc_zeros::<bf16>(30 * 768)?;
//! let (k, v) = (stream.alloc_zeros::<bf16>(512 * 768)?, stream.alloc_zeros::<bf16>(512 * 768)?);
//! let mut out = stream.alloc_zeros::<bf16>(30 * 768)?;
//! prepared.run(                                                    // every layer, every step
//!     View::contiguous(problem.query_shape(), q.as_view()),
//!     SharedKv::contiguous(problem.kv_shape(), k.as_view(), v.as_view()),
//!     View::contiguous(problem.query_shape(), out.as_view_mut()),
//!     None,
//! )?;
//! // Other lengths, in place: the same kernel, no search, and nothing allocated or waited for on the card.
//! let shorter = Problem::new(ProblemSpec {
//!     heads: 12, kv_heads: 12, head_dim: 64, scale: 1.0, softcap: None,
//!     row_offsets: vec![0, 20], keys: Keys::Packed { offsets: vec![0, 300] },
//! })?;
//! let like = PlanOptions::like(&plan);
//! prepared.replan(&Plan::new(&shorter, DType::Bf16, queue.kernels().facts(), &like)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! On cards from 9.0 on K and V can be [`e4m3`](crate::e4m3): a plan by
//! [`Plan::with_e4m3_kv`](crate::plan::Plan::with_e4m3_kv), run by [`Prepared::run_e4m3`]. [`Queue::merge_states`] joins
//! attention over parts of the keys. [`Modules`] loads and launches kernels of a caller's own.
//!
//! # Streams
//!
//! A [`Queue`] is one stream. What is prepared on it, its lists, its workspace, its runs and replans happen in that stream's
//! order, from whatever thread they come. Runs never wait for the card. [`Memory::read`], [`Memory::write`] and the drop of a
//! queue's last owner wait for the stream, [`Prepared::replan`] where the lists of four are still on their way, and what
//! grows (a first, or longer, list) for those on their way; runs of other threads wait with them. Two streams are two queues.
//!
//! Operands may have been allocated on other streams of the same `CudaContext`. The run then waits for what those streams
//! were given before it, and they for the run: two events each. With everything on the queue's stream there are none. Of
//! cudarc's `per_thread_stream`, which is another stream in every thread, and of other contexts nothing is taken.
//!
//! What counts is the stream that memory was *allocated* on: freeing is right by that, with cudarc's event tracking and
//! without. Data that another stream writes into it is known to cudarc's event tracking; without that, and in a [`Memory`],
//! it is the caller's to order: `queue.stream().join(&encoder)?` before the run, the other way before the next write. With
//! event tracking cudarc records an event for each operand between kernels, and on cards from 9.0 on a run no longer begins
//! while the one before it ends.
//!
//! # Lifetimes
//!
//! Views are borrowed for the call; what they were made of may be dropped as soon as it returns, as cudarc frees memory in
//! the order of its stream, which comes after the run. (Slices of a default stream, while another context is current to the
//! thread that drops them, cudarc frees on that one's: a matter between them. Memory of a queue is not.) So it is with
//! [`Prepared`]: dropping it waits for nothing. The last
//! owner of a queue (clones, what was prepared on it, recordings) waits for its stream, since the kernels may be unloaded
//! next.
//!
//! # Graphs
//!
//! A graph holds addresses. [`Queue::record`] gives a [`Recorder`], which takes operands as [`Memory`], whose clones it keeps
//! with lists and workspace until the [`Recording`] is dropped. It captures a stream of its own: what else happens meanwhile,
//! on the queue's stream or by a drop, is not recorded. Kernels of an engine's own are recorded on [`Recorder::cu_stream`],
//! unsafely, as they are launched. Where K and V are written before a replay begins, as those of an encoder are,
//! [`Recorder::assume_kv_settled`] lets runs fetch them while the kernels before still run.
//!
//! ```no_run
//! # use half::bf16;
//! # use onekv::cuda::{Prepared, Queue};
//! # use onekv::{Result, SharedKv, View};
//! # fn record(queue: &Queue, prepared: &Prepared) -> Result<()> {
//! let (rows, keys) = (prepared.recorded_query_shape(), prepared.recorded_kv_shape());
//! let [q, out] = [queue.zeros::<bf16>(rows.elements())?, queue.zeros::<bf16>(rows.elements())?];
//! let [k, v] = [queue.zeros::<bf16>(keys.elements())?, queue.zeros::<bf16>(keys.elements())?];
//! let mut recorder = queue.record()?;
//! recorder.run(
//!     prepared,
//!     View::contiguous(rows, q.clone()),
//!     SharedKv::contiguous(keys, k.clone(), v.clone()),
//!     View::contiguous(rows, out.clone()),
//!     None,
//! )?;
//! let recording = recorder.finish()?;
//! recording.replay()?;
//! let answer: Vec<bf16> = out.read()?;
//! # Ok(())
//! # }
//! ```
//!
//! Borrowed views would end before the replay, and are not taken:
//!
//! ```compile_fail,E0308
//! # use half::bf16;
//! # use onekv::cuda::{Memory, Prepared, Recorder};
//! # use onekv::cudarc::driver::CudaSlice;
//! # use onekv::{Result, SharedKv, View};
//! # fn record(recorder: &mut Recorder, prepared: &Prepared, slice: CudaSlice<bf16>, memory: Memory<bf16>) -> Result<()> {
//! # let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
//! # let kv = SharedKv::contiguous(keys, memory.clone(), memory.clone());
//! recorder.run(prepared, View::contiguous(rows, slice.as_view()), kv, View::contiguous(rows, memory), None)
//! # }
//! ```
//!
//! [`Prepared::replan`] rewrites the lists that a recording reads, at the same address, so that it replays with other
//! lengths. Its launches have as many blocks as the plan that was prepared; those for which a shorter batch has no work read
//! 32 bytes and end. (The other way, an update of every launch of every recording, would cost the host a call for each; a
//! block that ends at once costs the card less.) A [`Recording`] may go to another thread; a [`Recorder`] stays.
//!
//! Which plans fit? Prepare with the longest rows and keys that each input may have; every batch whose inputs, place by place,
//! have no more of either fits then. Equal totals that are shared out otherwise may not: they can need more tiles.
//!
//! A stream that is captured by other means is refused, by an error that says so (as it is asked: another thread must not begin
//! a capture in the middle of a call); [`Prepared::run_raw`] can be captured, by a caller who keeps everything.
//!
//! # Errors of the driver
//!
//! [`Error::Cuda`] names the call that failed, and nothing is lost by it: what was there before can be used again, once the driver
//! does as it is asked. After a fault ([`Error::is_context_lost`]) it never does; what there is can only be dropped. Drops
//! have no result: cudarc's next call in the `CudaContext` tells that memory could not be freed. Where nobody can say that the
//! card no longer uses kernels or lists, these stay for good.
//!
//! # Determinism
//!
//! The same plan gives the same bits in every run, on every stream, in recordings and out of them. A row's bits do not depend
//! on its batch where `split_keys` and `tile_rows` of [`PlanOptions`](crate::plan::PlanOptions) are fixed, as
//! [`PlanOptions::like`](crate::plan::PlanOptions::like) fixes them. No kernel adds in an order that depends on time.

#[allow(missing_docs, reason = "generated; cuda/abi.h documents it")]
mod abi;
mod driver;
mod kernels;
mod memory;
mod merge;
mod modules;
mod operands;
mod prepared;
mod queue;
mod recording;
mod tensor_map;

use std::sync::Arc;

use cudarc::driver::CudaContext;
use libloading::{Library, library_filename};

#[cfg(feature = "candle-cuda")]
pub(crate) use driver::Event;
pub use kernels::Kernels;
pub use memory::Memory;
pub use merge::{MAX_STATES, RawState};
pub use modules::{Function, Grid, Modules};
pub use operands::{DeviceRead, DeviceWrite};
pub use prepared::{Prepared, QuantizedKv, RawLens, RawOperands};
pub use queue::Queue;
pub use recording::{Recorder, Recording};
pub use tensor_map::TensorMap;

use crate::error::{Error, Result};

/// The context of a device, or an error where there is no driver or no such device.
///
/// # Errors
/// [`Error::Cuda`], [`Error::CudaUnavailable`]; cudarc's own constructor panics without a driver. A program in which another crate has cudarc link the
/// driver (candle with CUDA does) does not start without one.
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    // The names that cudarc looks for. Its own `is_culib_present` does not exist where another crate, as candle does, has it link
    // the driver.
    let names = [library_filename("cuda"), "libcuda.so.1".into(), library_filename("nvcuda")];
    // SAFETY: NVIDIA's driver library: its code for being loaded and unloaded is all that runs.
    if !names.into_iter().any(|name| unsafe { Library::new(name) }.is_ok()) {
        let why = "libcuda was not found: no NVIDIA driver is installed".to_owned();
        return Err(Error::CudaUnavailable { what: "loading the driver", why });
    }
    let count = CudaContext::device_count().map_err(driver::cuda("cuInit, cuDeviceGetCount"))?;
    if usize::try_from(count).is_ok_and(|count| ordinal >= count) {
        let why = format!("device {ordinal}, allowed: below {count}, as many as there are");
        return Err(Error::CudaUnavailable { what: "opening a device", why });
    }
    // cudarc does not say which call failed.
    let calls = "cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain, cuDeviceGetAttribute, cuCtxGetCurrent or cuCtxSetCurrent";
    CudaContext::new(ordinal).map_err(driver::cuda(calls))
}
