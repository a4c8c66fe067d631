//! Runs recorded as a CUDA graph that keeps what it uses.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaStream, result};

use super::driver::{LaunchStream, cuda, make_current};
use super::memory::{Memory, OwnStream};
use super::merge::merge_states;
use super::operands::Call;
use super::prepared::{Kv, Prepared, QuantizedKv};
use super::queue::{Queue, QueueInner};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::span::span;
use crate::view::{PartialState, SharedKv, View};

/// A stream for one capture alone: only what the recorder queues comes into the graph. What others do on the queue's stream
/// meanwhile, frees included, happens as ever.
struct Capture {
    stream: OwnStream,
    /// Whether it has begun, and not ended.
    active: bool,
}

impl Capture {
    fn begin(context: &Arc<CudaContext>) -> Result<Self> {
        let mut capture = Self { stream: OwnStream::new(context)?, active: false };
        // Nothing else can get into this capture, so that no thread's calls need be refused meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        make_current(context)?;
        // SAFETY: a live stream of the context, which nothing else is on.
        unsafe { result::stream::begin_capture(capture.stream().cu_stream(), mode) }
            .map_err(cuda("cuStreamBeginCapture"))?;
        capture.active = true;
        Ok(capture)
    }

    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream.0
    }

    /// Ends the capture: its graph, or `None` where nothing was captured.
    fn end(&mut self) -> Result<Option<Graph>> {
        let context = self.stream().context();
        make_current(context)?;
        // SAFETY: a live stream, whose graph is taken here alone.
        let graph = unsafe { result::stream::end_capture(self.stream().cu_stream()) }
            .map_err(cuda("cuStreamEndCapture"))?;
        let graph = (!graph.is_null()).then(|| Graph(graph, context.clone()));
        self.active = false;
        Ok(graph)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.active {
            // The recorder was dropped, or ending it failed.
            let _ = self.end();
        }
    }
}

/// A graph that was captured.
struct Graph(CUgraph, Arc<CudaContext>);

impl Graph {
    fn executable(&self) -> Result<Executable> {
        // SAFETY: a graph that is alive.
        let raw = unsafe { result::graph::instantiate(self.0, CUgraphInstantiate_flags(0)) };
        Ok(Executable(raw.map_err(cuda("cuGraphInstantiateWithFlags"))?, self.1.clone()))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = make_current(&self.1);
        // SAFETY: captured for this, destroyed only here; what was made of it does not need it. A failure leaves nothing to do.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}

/// A graph made ready.
struct Executable(CUgraphExec, Arc<CudaContext>);

impl Drop for Executable {
    fn drop(&mut self) {
        let _ = make_current(&self.1);
        // SAFETY: made for this, destroyed only here; the driver lets what was launched end. A failure leaves nothing to do.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// Records runs of one [`Queue`]: [`Queue::record`].
///
/// It takes operands as [`Memory`], whose clones it keeps, and launches as many blocks as the plan has that was prepared.
/// Dropped, it records nothing.
pub struct Recorder {
    // Dropped before the kernels that it refers to.
    capture: Capture,
    queue: Arc<QueueInner>,
    kept: Vec<Box<dyn Any + Send>>,
    /// A run was refused, or launched in part.
    failed: bool,
    kv_settled: bool,
}

/// Recorded runs. Owns the memory that they use, until it is dropped and the last replay has run.
pub struct Recording {
    // Dropped before what it refers to.
    graph: Option<Executable>,
    queue: Arc<QueueInner>,
    _kept: Vec<Box<dyn Any + Send>>,
}

// SAFETY: the driver's graphs are not for two threads at once, which this is not, as it is not Sync; any one may use and destroy
// them. All else is Send.
unsafe impl Send for Recording {}

impl Queue {
    /// Begins to record. Runs of [`Recorder`] go to the recording, all else to the stream as before; nothing is waited for.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn record(&self) -> Result<Recorder> {
        let capture = Capture::begin(self.0.stream.context())?;
        Ok(Recorder { capture, queue: self.0.clone(), kept: Vec::new(), failed: false, kv_settled: false })
    }
}

impl Recorder {
    /// The stream that is captured: for kernels of a caller's own, which become part of the recording. Whoever queues them
    /// sees to it that what they use outlives the recording.
    pub fn cu_stream(&self) -> CUstream {
        self.capture.stream().cu_stream()
    }

    fn launch_stream(&self) -> LaunchStream {
        LaunchStream { stream: self.cu_stream(), captured: true, kv_settled: self.kv_settled }
    }

    /// From here on runs take their K and V as settled: on cards from 9.0 on they fetch them while what was recorded before
    /// still runs, and wait for that only before they read Q. A decode step is such: K and V come from the encoder, once.
    ///
    /// # Safety
    /// Nothing that is recorded writes K or V of a run that follows, nor does anything else while a replay runs. What is on
    /// the queue's stream before a replay has ended when it begins.
    pub unsafe fn assume_kv_settled(&mut self) {
        self.kv_settled = true;
    }

    /// Attention. Operands have the shapes of the plan that was prepared ([`Prepared::recorded_query_shape`],
    /// [`Prepared::recorded_kv_shape`]); replays have the lengths of the last
    /// [`Prepared::replan`] before them.
    ///
    /// # Errors
    /// As [`Prepared::run`]; [`Error::WrongStream`] for what belongs to another stream than the recorder's queue.
    pub fn run<E: Element>(
        &mut self,
        prepared: &Prepared,
        q: View<Memory<E>>,
        kv: SharedKv<Memory<E>>,
        out: View<Memory<E>>,
        lse: Option<View<Memory<f32>>>,
    ) -> Result<()> {
        self.keep(prepared, (q.clone(), kv.clone(), out.clone(), lse.clone()))?;
        let kv = Kv::<_, Memory<f32>>::Unquantized(kv);
        let done = prepared.check_and_launch(
            Call::of_one_stream(&self.queue),
            self.launch_stream(),
            q,
            kv,
            out,
            lse,
        );
        self.note_failure(done)
    }

    /// [`Recorder::run`] with K and V in e4m3.
    ///
    /// # Errors
    /// As [`Recorder::run`] and [`Prepared::run_e4m3`].
    pub fn run_e4m3<E: Element>(
        &mut self,
        prepared: &Prepared,
        q: View<Memory<E>>,
        kv: QuantizedKv<Memory<u8>, Memory<f32>>,
        out: View<Memory<E>>,
        lse: Option<View<Memory<f32>>>,
    ) -> Result<()> {
        self.keep(prepared, (q.clone(), kv.clone(), out.clone(), lse.clone()))?;
        let done = prepared.check_and_launch(
            Call::of_one_stream(&self.queue),
            self.launch_stream(),
            q,
            Kv::E4m3(kv),
            out,
            lse,
        );
        self.note_failure(done)
    }

    /// [`Queue::merge_states`].
    ///
    /// # Errors
    /// As [`Queue::merge_states`]; [`Error::WrongStream`].
    pub fn merge_states<P: Element, E: Element>(
        &mut self,
        states: &[PartialState<Memory<P>, Memory<f32>>],
        out: View<Memory<E>>,
        lse: Option<View<Memory<f32>>>,
    ) -> Result<()> {
        self.kept.push(Box::new((states.to_vec(), out.clone(), lse.clone())));
        let done = merge_states(
            &self.queue,
            Call::of_one_stream(&self.queue),
            self.launch_stream(),
            states,
            out,
            lse,
        );
        self.note_failure(done)
    }

    /// Remembers a failed run: it may have been recorded in part.
    fn note_failure(&mut self, done: Result<()>) -> Result<()> {
        self.failed |= done.is_err();
        done
    }

    fn keep(&mut self, prepared: &Prepared, operands: impl Any + Send) -> Result<()> {
        if !Arc::ptr_eq(prepared.queue(), &self.queue) {
            self.failed = true;
            return Err(Error::WrongQueue);
        }
        self.kept.push(Box::new((prepared.memory(), operands)));
        Ok(())
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// [`Error::NotRecorded`] where one of its runs failed; [`Error::Cuda`].
    pub fn finish(mut self) -> Result<Recording> {
        if self.failed {
            return Err(Error::NotRecorded);
        }
        let graph = self.capture.end()?.map(|graph| graph.executable()).transpose()?;
        Ok(Recording { graph, queue: self.queue, _kept: self.kept })
    }
}

impl Recording {
    /// Queues everything once more, on the queue's stream.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Cuda`].
    pub fn replay(&self) -> Result<()> {
        span!("replay");
        let Some(graph) = &self.graph else { return Ok(()) };
        let _together = self.queue.lock();
        self.queue.check_uncaptured()?;
        let stream = &self.queue.stream;
        make_current(stream.context())?;
        // SAFETY: an executable graph of this context, alive as long as `graph`, which is not shared with other threads; what
        // its nodes use is kept in this, and freed after this launch in the order of the stream.
        unsafe { result::graph::launch(graph.0, stream.cu_stream()) }.map_err(cuda("cuGraphLaunch"))
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("operands", &self.kept.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("empty", &self.graph.is_none()).finish_non_exhaustive()
    }
}
