//! A queue: one stream, and what its runs share, the workspace and the pinned memory through which lists of work are uploaded.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use cudarc::driver::sys::{CU_MEMHOSTALLOC_WRITECOMBINED, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, result};

use super::driver::{
    Event, LaunchStream, cuda, is_captured, is_per_thread, make_current, same_context, synchronize,
};
use super::kernels::Kernels;
use super::memory::{Memory, Retired, StreamMemory};
use crate::error::{Error, Result};

/// Lists that may be on their way to the card at once; a further one waits for the oldest.
const LISTS_ON_THE_WAY: usize = 4;

/// A stream, in whose order everything that is prepared on it runs. Cheap to clone; usable from any thread.
///
/// It owns the workspace of its runs, which come one after the other and so share it: it grows to what the largest plan
/// needs ([`Queue::reserve`] does so ahead) and never shrinks.
#[derive(Clone)]
pub struct Queue(pub(super) Arc<QueueInner>);

pub(super) struct QueueInner {
    pub kernels: Arc<Kernels>,
    pub stream: Arc<CudaStream>,
    pub retired: Arc<Retired>,
    /// Locked while the launches of one run are queued: they share the workspace, and must stay together.
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    workspace: Option<Arc<StreamMemory>>,
    ring: Option<Ring>,
}

/// Pinned memory for lists on their way to the card, a part for each, used in turn.
struct Ring {
    memory: Pinned,
    /// Length of a part, in u64: of the longest list.
    list_len: usize,
    /// Recorded behind the last copy from each part.
    copied: [Event; LISTS_ON_THE_WAY],
    next: usize,
}

/// Pinned memory of the host.
struct Pinned {
    at: *mut u64,
    context: Arc<CudaContext>,
}

// SAFETY: the address is that of memory that this alone has.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory of `len` zeros.
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<u64>()).ok_or(Error::Overflow { field: "pinned memory" })?;
        make_current(context)?;
        // SAFETY: a context is current; the memory is set below, before anything reads it.
        let at = unsafe { result::malloc_host(bytes, CU_MEMHOSTALLOC_WRITECOMBINED) };
        let at = at.map_err(cuda("cuMemHostAlloc"))?.cast::<u64>();
        // SAFETY: memory of so many u64, aligned to a page, which nothing else refers to yet.
        unsafe { at.write_bytes(0, len) };
        Ok(Self { at, context: context.clone() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = make_current(&self.context);
        // SAFETY: allocated in `new`, freed only here, when nothing reads it any more (`Ring::wait`).
        self.context.record_err(unsafe { result::free_host(self.at.cast()) });
    }
}

impl Queue {
    /// A queue on `stream`. Several on one stream are possible; each has a workspace.
    ///
    /// # Errors
    /// [`Error::WrongContext`]; [`Error::PerThreadStream`] for the default stream that each thread has for itself, of which
    /// nobody could say when its work is done.
    pub fn new(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>) -> Result<Self> {
        same_context(kernels.context(), stream.context(), "stream")?;
        if is_per_thread(stream) {
            return Err(Error::PerThreadStream { what: "stream" });
        }
        Ok(Self::with(kernels, Retired::new(stream)))
    }

    /// [`Queue::new`], which also takes the default stream that each thread has for itself. For that one it makes a stream of its
    /// own: a run comes after the work of the thread that calls it, and later work of that thread after the run.
    ///
    /// # Safety
    /// Memory of each thread's own stream is freed by another thread only after what was queued with it.
    #[cfg(feature = "candle-cuda")]
    pub(crate) unsafe fn for_per_thread_stream(
        kernels: &Arc<Kernels>,
        stream: &Arc<CudaStream>,
    ) -> Result<Self> {
        if !is_per_thread(stream) {
            return Self::new(kernels, stream);
        }
        same_context(kernels.context(), stream.context(), "stream")?;
        Ok(Self::with(kernels, Retired::owning(super::memory::OwnStream::new(stream.context())?)))
    }

    /// Whether it was made for the default stream that each thread has for itself, and takes memory of it.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn serves_per_thread_stream(&self) -> bool {
        self.0.retired.is_owning()
    }

    fn with(kernels: &Arc<Kernels>, retired: Arc<Retired>) -> Self {
        let (kernels, stream) = (kernels.clone(), retired.stream().clone());
        Self(Arc::new(QueueInner { kernels, stream, retired, state: Mutex::default() }))
    }

    /// The kernels.
    pub fn kernels(&self) -> &Arc<Kernels> {
        &self.0.kernels
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.0.stream
    }

    /// Elements of f32 that the workspace has.
    pub fn workspace_len(&self) -> usize {
        self.0.lock().workspace.as_ref().map_or(0, |workspace| workspace.len)
    }

    /// Has the workspace hold `len` elements of f32 ([`Plan::workspace_len`](crate::plan::Plan::workspace_len)), so that no
    /// later [`Queue::prepare`] has it grow. What was prepared before keeps the one that it has.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Cuda`].
    pub fn reserve(&self, len: usize) -> Result<()> {
        self.0.check_uncaptured()?;
        self.0.lock().workspace(&self.0, len).map(drop)
    }

    /// Memory for recordings, from a slice of this queue's stream.
    ///
    /// # Errors
    /// [`Error::WrongContext`], [`Error::WrongStream`], [`Error::Captured`], [`Error::Cuda`].
    pub fn memory<E: 'static>(&self, slice: CudaSlice<E>) -> Result<Memory<E>> {
        same_context(self.0.stream.context(), slice.context(), "slice")?;
        if slice.stream().cu_stream() != self.0.stream.cu_stream() {
            return Err(Error::WrongStream { what: "slice" });
        }
        match self.0.check_uncaptured() {
            Ok(()) => Memory::of_slice(slice, &self.0.retired),
            Err(error) => {
                self.0.retired.keep(Box::new(slice));
                Err(error)
            }
        }
    }

    /// The same, new and with zeros.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Cuda`].
    pub fn zeros<E: Pod + DeviceRepr>(&self, len: usize) -> Result<Memory<E>> {
        // SAFETY: it is filled before anybody has it.
        let memory = unsafe { self.unset(len) }?;
        memory.fill_zeros()?;
        Ok(memory)
    }

    /// The same, its contents unset.
    ///
    /// # Safety
    /// Nothing reads it before it is written.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Overflow`], [`Error::Cuda`].
    pub unsafe fn unset<E: Pod + DeviceRepr>(&self, len: usize) -> Result<Memory<E>> {
        self.0.check_uncaptured()?;
        Memory::new(&self.0.retired, len)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("stream", &self.0.stream.cu_stream()).finish_non_exhaustive()
    }
}

impl QueueInner {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For kernels that are not recorded.
    pub fn launch_stream(&self) -> LaunchStream {
        LaunchStream { stream: self.stream.cu_stream(), captured: false, kv_settled: false }
    }

    /// Refuses work while the stream is captured; else frees what was kept while it was.
    pub fn check_uncaptured(&self) -> Result<()> {
        if is_captured(&self.stream)? {
            return Err(Error::Captured { what: "the queue's stream" });
        }
        self.retired.free();
        Ok(())
    }
}

impl State {
    /// The workspace, of at least `len` elements; `None` where no plan needed any.
    pub fn workspace(&mut self, queue: &QueueInner, len: usize) -> Result<Option<Arc<StreamMemory>>> {
        if self.workspace.as_ref().map_or(0, |workspace| workspace.len) < len
            && let Some(larger) = StreamMemory::new::<f32>(&queue.retired, len)?
        {
            self.workspace = Some(Arc::new(larger));
        }
        Ok(self.workspace.clone())
    }

    /// Copies `len` u64, as `fill` writes them, to the device in the order of the stream. Allocates where the list is longer
    /// than all before it; waits where [`LISTS_ON_THE_WAY`] lists still are.
    pub fn upload(
        &mut self,
        queue: &QueueInner,
        to: CUdeviceptr,
        len: usize,
        fill: impl FnOnce(&mut [u64]),
    ) -> Result<()> {
        let least = self.ring.as_ref().map_or(0, |ring| ring.list_len);
        let ring = match &mut self.ring {
            Some(ring) if least >= len => ring,
            ring => {
                if let Some(old) = ring {
                    old.wait().or_else(|_| synchronize(&queue.stream))?;
                }
                // Made before the old one is dropped: where that fails, the old one stays.
                ring.insert(Ring::new(queue.stream.context(), len.max(least).next_power_of_two())?)
            }
        };
        ring.copy(&queue.stream, to, len, fill)
    }
}

impl Ring {
    fn new(context: &Arc<CudaContext>, list_len: usize) -> Result<Self> {
        let event = || Event::new(context);
        let copied = [event()?, event()?, event()?, event()?];
        let memory = Pinned::new(context, LISTS_ON_THE_WAY.saturating_mul(list_len))?;
        Ok(Self { memory, list_len, copied, next: 0 })
    }

    fn copy(
        &mut self,
        stream: &CudaStream,
        to: CUdeviceptr,
        len: usize,
        fill: impl FnOnce(&mut [u64]),
    ) -> Result<()> {
        let copied = &self.copied[self.next];
        copied.synchronize()?;
        debug_assert!(len <= self.list_len, "a list longer than its part");
        // SAFETY: `len` is at most a part's by `upload`; the part lies in the ring's memory, is set since `new`, and is read by nothing
        // now that the event has passed.
        let list =
            unsafe { std::slice::from_raw_parts_mut(self.memory.at.add(self.next * self.list_len), len) };
        fill(list);
        make_current(stream.context())?;
        // SAFETY: the caller's memory is as large, and freed in the order of the stream; the source is not written again,
        // nor freed, before the event behind the copy.
        unsafe { result::memcpy_htod_async(to, list, stream.cu_stream()) }
            .map_err(cuda("cuMemcpyHtoDAsync"))?;
        self.next = (self.next + 1) % LISTS_ON_THE_WAY;
        // Where neither works the context is lost, and nothing reads the part any more.
        copied.record(stream).or_else(|_| synchronize(stream))
    }

    /// Waits until no copy reads the memory.
    fn wait(&self) -> Result<()> {
        self.copied.iter().try_for_each(Event::synchronize)
    }
}

impl Drop for QueueInner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Asked again where the driver fails: there is no other way to know, and waiting for a captured stream would break the capture.
        let asked = || is_captured(&self.stream);
        let captured = asked().or_else(|_| asked()).unwrap_or(true);
        // Where waiting for an event fails, waiting for the stream may not. Where both fail, nobody knows what still runs, and what
        // that may use is leaked. If the context is at fault, the next call says so.
        let by_stream = |error| if captured { Err(error) } else { synchronize(&self.stream) };
        if let Some(ring) = state.ring.take()
            && ring.wait().or_else(by_stream).is_err()
        {
            std::mem::forget(ring.memory);
        }
        // Kernels may still run, and are unloaded with their last owner.
        let done = || Event::behind(&self.stream)?.synchronize();
        if captured || done().or_else(by_stream).is_err() {
            std::mem::forget(self.kernels.clone());
        }
    }
}
