//! Calls of the driver itself. cudarc's own functions first return an error that some drop, of any thread, has left in its
//! context: that would break off a call half-way, and answer a question (is this stream captured?) with another's error.

use std::sync::Arc;

use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUstream, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

use crate::error::{Error, Result};

/// The handle by which each thread names a default stream of its own: `CU_STREAM_PER_THREAD` in cuda.h.
const PER_THREAD: usize = 2;
/// The handle of the default stream of all threads, besides null: `CU_STREAM_LEGACY`.
const LEGACY: usize = 1;

/// Turns an error of the driver into the library's, which names the function `call`.
pub(super) fn cuda(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { call, result: error.0 }
}

/// Refuses the operand `tensor` of another `CudaContext`. There may be several for one context of the driver, each with accounts
/// of its own of memory and streams: those of another know nothing of what is done here.
pub(super) fn same_context(
    ours: &Arc<CudaContext>,
    theirs: &Arc<CudaContext>,
    tensor: &'static str,
) -> Result<()> {
    match Arc::ptr_eq(ours, theirs) {
        true => Ok(()),
        false => Err(Error::WrongContext { tensor }),
    }
}

/// Where a run's kernels are queued.
#[derive(Clone, Copy)]
pub(super) struct LaunchStream {
    pub stream: CUstream,
    /// Whether it is captured: kernels then become part of a graph.
    pub captured: bool,
    /// Whether runs fetch K and V before what was queued before them has ended.
    pub kv_settled: bool,
}

/// Has cudarc do `work`, whose errors it does not return: it notes them in its context, for whatever call comes next. They are
/// taken from there, and what was noted before is put back. An error that another thread's drop notes meanwhile comes along.
pub(super) fn catching_errors<T>(
    context: &CudaContext,
    work: impl FnOnce() -> T,
) -> (T, std::result::Result<(), DriverError>) {
    let before = context.check_err();
    let value = work();
    let errors = context.check_err();
    context.record_err(before);
    (value, errors)
}

/// The calls at which cudarc may fail where it has a stream wait for others' use of memory; it does not say which one did.
pub(super) const WAIT: &str = "cuStreamWaitEvent, cuEventRecord, cuCtxGetCurrent or cuCtxSetCurrent";

/// Makes a context current to this thread: a null stream is then this context's.
pub(super) fn make_current(context: &CudaContext) -> Result<()> {
    // SAFETY: alive as long as the `CudaContext`.
    unsafe { result::ctx::set_current(context.cu_ctx()) }.map_err(cuda("cuCtxSetCurrent"))
}

/// Whether a handle is that of each thread's own default stream.
pub(super) fn is_per_thread(stream: &CudaStream) -> bool {
    stream.cu_stream().addr() == PER_THREAD
}

/// Whether what is queued on a stream now becomes part of a graph.
pub(super) fn is_captured(stream: &CudaStream) -> Result<bool> {
    // The default stream cannot be captured, and is not asked: while another stream is, the question alone breaks that capture.
    if stream.cu_stream().addr() <= LEGACY {
        return Ok(false);
    }
    make_current(stream.context())?;
    // SAFETY: a stream that lives as long as the `CudaStream`.
    let status = unsafe { result::stream::is_capturing(stream.cu_stream()) };
    let none = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    Ok(status.map_err(cuda("cuStreamIsCapturing"))? != none)
}

/// Waits for a stream. An error is that of work before, by which the context is lost: nothing runs any more.
pub(super) fn synchronize(stream: &CudaStream) -> Result<()> {
    make_current(stream.context())?;
    // SAFETY: as above.
    unsafe { result::stream::synchronize(stream.cu_stream()) }.map_err(cuda("cuStreamSynchronize"))
}

/// A point in the work of a stream: cudarc's event without its account.
pub(crate) struct Event {
    raw: CUevent,
    context: Arc<CudaContext>,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Event {}

impl Event {
    /// One that was not recorded yet: whoever waits for it goes on at once.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        make_current(context)?;
        let raw = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Ok(Self { raw: raw.map_err(cuda("cuEventCreate"))?, context: context.clone() })
    }

    /// A new one, recorded behind all work that `stream` was given.
    pub fn behind(stream: &CudaStream) -> Result<Self> {
        let event = Self::new(stream.context())?;
        event.record(stream)?;
        Ok(event)
    }

    /// Records it behind all work that `stream` was given.
    pub fn record(&self, stream: &CudaStream) -> Result<()> {
        make_current(&self.context)?;
        // SAFETY: both are alive, and of one context by the callers.
        unsafe { result::event::record(self.raw, stream.cu_stream()) }.map_err(cuda("cuEventRecord"))
    }

    /// Waits for it; at once where it was never recorded.
    pub fn synchronize(&self) -> Result<()> {
        make_current(&self.context)?;
        // SAFETY: it is alive.
        unsafe { result::event::synchronize(self.raw) }.map_err(cuda("cuEventSynchronize"))
    }

    #[cfg(feature = "candle-cuda")]
    pub fn has_passed(&self) -> bool {
        // SAFETY: as above.
        make_current(&self.context).is_ok() && unsafe { result::event::query(self.raw) }.is_ok()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = make_current(&self.context);
        // SAFETY: created in `new`, destroyed only here; the driver lets those that wait for it go on.
        let _ = unsafe { result::event::destroy(self.raw) };
    }
}

/// Has later work of `stream` wait for all work that `other` was given.
pub(super) fn join(stream: &CudaStream, other: &CudaStream) -> Result<()> {
    let event = Event::behind(other)?;
    let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: both are alive.
    unsafe { result::stream::wait_event(stream.cu_stream(), event.raw, flags) }
        .map_err(cuda("cuStreamWaitEvent"))
}
