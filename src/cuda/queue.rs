//! One stream, and what its runs share: the workspace, and pinned memory that lists of work are written through.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, PinnedHostSlice, result};

use super::driver::{Event, Lane, cuda, is_captured, is_per_thread, make_current, same_context, synchronize};
use super::kernels::Kernels;
use super::memory::{Memory, Retired, Stored};
use crate::error::{Error, Result};

/// Lists that may be on their way to the card before the next waits for the first.
const LISTS_ON_THE_WAY: usize = 4;

/// A stream, in whose order everything that is prepared on it runs. Cheap to clone; usable from any thread.
///
/// It owns the workspace of its runs, which come one after the other and so share it: it grows to what the largest plan
/// needs ([`Queue::reserve`] does so ahead) and never shrinks.
#[derive(Clone)]
pub struct Queue(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub kernels: Arc<Kernels>,
    pub stream: Arc<CudaStream>,
    pub retired: Arc<Retired>,
    /// Held while the launches of one run are queued, which must stay together.
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    workspace: Option<Arc<Stored<f32>>>,
    ring: Option<Ring>,
}

/// Pinned memory for lists on their way, used in turn.
struct Ring {
    memory: PinnedHostSlice<u64>,
    /// Where it is; asked of the slice, cudarc would wait for an event of its own, and answer with the errors of others.
    at: *mut u64,
    /// Of one list, in u64.
    part: usize,
    /// Behind the last copy from each part.
    copied: [Event; LISTS_ON_THE_WAY],
    next: usize,
}

// SAFETY: the address is that of memory that the ring alone has.
unsafe impl Send for Ring {}

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

    /// The same, and for the default stream that each thread has for itself a queue beside it, which takes its memory: what it
    /// runs comes after the work of the thread that has it run, and later work of that thread after it.
    ///
    /// # Safety
    /// Memory of each thread's own stream is freed by another thread only after what was queued with it.
    #[cfg(feature = "candle-cuda")]
    pub(crate) unsafe fn of_threads(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>) -> Result<Self> {
        if !is_per_thread(stream) {
            return Self::new(kernels, stream);
        }
        same_context(kernels.context(), stream.context(), "stream")?;
        Ok(Self::with(kernels, Retired::owning(super::memory::OwnStream::new(stream.context())?)))
    }

    /// Whether it takes memory of each thread's own stream.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn is_of_threads(&self) -> bool {
        self.0.retired.is_owning()
    }

    fn with(kernels: &Arc<Kernels>, retired: Arc<Retired>) -> Self {
        let (kernels, stream) = (kernels.clone(), retired.stream().clone());
        Self(Arc::new(Shared { kernels, stream, retired, state: Mutex::default() }))
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
        self.0.open()?;
        self.0.lock().workspace(&self.0, len).map(drop)
    }

    /// Memory for recordings, from a slice of this queue's stream.
    ///
    /// # Errors
    /// [`Error::WrongContext`], [`Error::WrongStream`], [`Error::Captured`].
    pub fn memory<E: 'static>(&self, slice: CudaSlice<E>) -> Result<Memory<E>> {
        same_context(self.0.stream.context(), slice.context(), "slice")?;
        if slice.stream().cu_stream() != self.0.stream.cu_stream() {
            return Err(Error::WrongStream { what: "slice" });
        }
        match self.0.open() {
            Ok(()) => Ok(Memory::new(Some(slice), &self.0.retired)),
            Err(error) => {
                self.0.retired.keep(slice);
                Err(error)
            }
        }
    }

    /// The same, new and with zeros.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Cuda`].
    pub fn zeros<E: Pod + DeviceRepr>(&self, len: usize) -> Result<Memory<E>> {
        self.0.open()?;
        let memory = Memory::new(self.0.allocate(len)?, &self.0.retired);
        memory.fill_zeros()?;
        Ok(memory)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("stream", &self.0.stream.cu_stream()).finish_non_exhaustive()
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For kernels that run at once.
    pub fn lane(&self) -> Lane {
        Lane { stream: self.stream.cu_stream(), captured: false, kv_settled: false }
    }

    /// The stream takes copies and allocations now: it is not captured. Frees what had to wait for that.
    pub fn open(&self) -> Result<()> {
        if is_captured(&self.stream)? {
            return Err(Error::Captured { what: "the queue's stream" });
        }
        self.retired.free();
        Ok(())
    }

    /// Device memory, its contents unset; `None` for no elements, of which there is none.
    pub fn allocate<T: DeviceRepr>(&self, len: usize) -> Result<Option<CudaSlice<T>>> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
        bytes.ok_or(Error::Overflow { field: "device memory" })?;
        // SAFETY: what is read of it was written before: a workspace and lists by kernels and copies of this crate, `Memory`
        // by `Queue::zeros`.
        let slice = (len > 0).then(|| unsafe { self.stream.alloc::<T>(len) });
        slice.transpose().map_err(cuda("cuMemAllocAsync"))
    }
}

impl State {
    /// The workspace, of at least so many elements; `None` where no plan needed any.
    pub fn workspace(&mut self, queue: &Shared, len: usize) -> Result<Option<Arc<Stored<f32>>>> {
        if self.workspace.as_ref().map_or(0, |workspace| workspace.len) < len
            && let Some(larger) = queue.allocate(len)?
        {
            self.workspace = Some(Arc::new(Stored::new(larger, &queue.retired)));
        }
        Ok(self.workspace.clone())
    }

    /// Copies `len` u64, as `fill` writes them, to the device in the order of the stream. Allocates where the list is longer
    /// than all before it; waits where [`LISTS_ON_THE_WAY`] lists still are.
    pub fn upload(
        &mut self,
        queue: &Shared,
        to: CUdeviceptr,
        len: usize,
        fill: impl FnOnce(&mut [u64]),
    ) -> Result<()> {
        let ring = match self.ring.take() {
            Some(ring) if ring.part >= len => ring,
            old => {
                let least = old.as_ref().map_or(0, |ring| ring.part);
                if let Some(old) = old {
                    old.wait()?;
                }
                Ring::new(queue.stream.context(), len.max(least).next_power_of_two())?
            }
        };
        self.ring.insert(ring).copy(&queue.stream, to, len, fill)
    }
}

impl Ring {
    fn new(context: &Arc<CudaContext>, part: usize) -> Result<Self> {
        let event = || Event::new(context);
        let copied = [event()?, event()?, event()?, event()?];
        // SAFETY: it is set below, before anything reads it.
        let allocated = unsafe { context.alloc_pinned::<u64>(LISTS_ON_THE_WAY * part) };
        let mut memory = allocated.map_err(cuda("cuMemHostAlloc"))?;
        let at = memory.as_mut_ptr().map_err(cuda("cuEventSynchronize"))?;
        // SAFETY: memory of so many u64, which nothing else refers to yet.
        unsafe { at.write_bytes(0, LISTS_ON_THE_WAY * part) };
        Ok(Self { memory, at, part, copied, next: 0 })
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
        debug_assert!(len <= self.part, "a list longer than its part");
        // SAFETY: `len` is at most a part by `upload`, which lies in the ring's memory, is set since `new`, and is read by nothing
        // now that the event has passed.
        let list = unsafe { std::slice::from_raw_parts_mut(self.at.add(self.next * self.part), len) };
        fill(list);
        make_current(stream.context())?;
        // SAFETY: the caller's memory is as large, and freed in the order of the stream; the source is not written again,
        // nor freed, before the event behind the copy.
        unsafe { result::memcpy_htod_async(to, list, stream.cu_stream()) }
            .map_err(cuda("cuMemcpyHtoDAsync"))?;
        self.next = (self.next + 1) % LISTS_ON_THE_WAY;
        // Where neither is possible nothing runs any more.
        copied.record(stream).or_else(|_| synchronize(stream))
    }

    /// Until nothing reads the memory; where that cannot be known, it stays for good.
    fn wait(self) -> Result<()> {
        let waited = self.copied.iter().try_for_each(Event::synchronize);
        if waited.is_err() {
            std::mem::forget(self.memory);
        }
        waited
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(ring) = state.ring.take() {
            // An error is that of the context, and told by the next call.
            let _ = ring.wait();
        }
        // The kernels are unloaded with their last owner, and may still run.
        let captured = is_captured(&self.stream).unwrap_or(true);
        let done = || Event::behind(&self.stream)?.synchronize();
        if captured || done().is_err() {
            std::mem::forget(self.kernels.clone());
        }
    }
}
