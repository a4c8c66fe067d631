//! Device memory that is used and freed in the order of one stream: [`Memory`], which has many owners, and what it is made of.
//! What is dropped while the stream is captured is freed later.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtrMut as _, result};

use super::driver::{WAIT, catching_errors, cuda, is_captured, make_current, same_context, synchronize};
use crate::error::{Error, Result};

/// A stream, and what was dropped while it was captured: freed then, it would be freed by every replay of that graph.
pub(super) struct Retired {
    stream: Arc<CudaStream>,
    list: Mutex<Vec<Box<dyn Any + Send>>>,
    /// The stream, where it is the queue's own: destroyed after all of its memory, which refers to this.
    own: Option<OwnStream>,
}

impl Retired {
    pub fn new(stream: &Arc<CudaStream>) -> Arc<Self> {
        Arc::new(Self { stream: stream.clone(), list: Mutex::default(), own: None })
    }

    /// For a stream that is destroyed with the last of its memory.
    #[cfg(feature = "candle-cuda")]
    pub fn owning(own: OwnStream) -> Arc<Self> {
        Arc::new(Self { stream: own.0.clone(), list: Mutex::default(), own: Some(own) })
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Whether the stream is the queue's own.
    pub fn is_owning(&self) -> bool {
        self.own.is_some()
    }

    /// Keeps what must not be freed now.
    pub fn keep(&self, memory: Box<dyn Any + Send>) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }

    /// Whether memory may be freed now, in the order of the stream: not while it is captured, or where the driver does not say.
    /// Makes the context current, as cudarc frees memory of a default stream on the default stream of the current context.
    fn may_free(&self) -> bool {
        is_captured(&self.stream).is_ok_and(|captured| !captured)
            && make_current(self.stream.context()).is_ok()
    }

    /// Frees what was kept, where that may be.
    pub fn free(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.is_empty() && self.may_free() {
            list.clear();
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.free();
        let list = self.list.get_mut().unwrap_or_else(PoisonError::into_inner);
        list.drain(..).for_each(std::mem::forget);
    }
}

/// A stream made without cudarc. At the first stream that cudarc makes, it waits for the whole context and begins to track events.
pub(super) struct OwnStream(pub Arc<CudaStream>);

impl OwnStream {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        make_current(context)?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(cuda("cuStreamCreate"))?;
        // SAFETY: a stream of this context, destroyed with this only; clones are of owners that keep this longer, or that
        // queue nothing.
        Ok(Self(unsafe { context.wrap_borrowed_stream(raw) }))
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        let _ = make_current(self.0.context());
        // SAFETY: created in `new`, destroyed only here; the driver lets what is queued on it end.
        let _ = unsafe { result::stream::destroy(self.0.cu_stream()) };
    }
}

/// Device memory allocated without cudarc, freed in the order of its stream. cudarc's slices make events as well, and where that
/// fails the memory is lost.
struct Allocation {
    at: CUdeviceptr,
    stream: Arc<CudaStream>,
}

impl Allocation {
    fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let context = stream.context();
        make_current(context)?;
        // SAFETY: a live stream of the context that is current; what is read of the memory was written before, by the callers.
        let at = unsafe {
            match context.has_async_alloc() {
                true => result::malloc_async(stream.cu_stream(), bytes).map_err(cuda("cuMemAllocAsync")),
                false => result::malloc_sync(bytes).map_err(cuda("cuMemAlloc")),
            }
        }?;
        Ok(Self { at, stream: stream.clone() })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let context = self.stream.context();
        // SAFETY: allocated in `new`, freed only here, behind everything that uses it: that is on this stream. Its context is
        // current, by `Retired::may_free`.
        context.record_err(unsafe {
            match context.has_async_alloc() {
                true => result::free_async(self.at, self.stream.cu_stream()),
                false => result::stream::synchronize(self.stream.cu_stream())
                    .and_then(|()| result::free_sync(self.at)),
            }
        });
    }
}

/// Memory that is used on one stream alone, and freed in its order.
pub(super) struct StreamMemory {
    pub at: CUdeviceptr,
    /// Elements.
    pub len: usize,
    /// What frees it when dropped; `None` while this is dropped itself.
    memory: Option<Box<dyn Any + Send + Sync>>,
    retired: Arc<Retired>,
}

impl StreamMemory {
    /// New memory of the stream of `retired`, its contents unset; `None` where there are no elements.
    pub fn new<T>(retired: &Arc<Retired>, len: usize) -> Result<Option<Self>> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or(Error::Overflow { field: "device memory" })?;
        if bytes == 0 {
            return Ok(None);
        }
        let block = Allocation::new(&retired.stream, bytes)?;
        Ok(Some(Self { at: block.at, len, memory: Some(Box::new(block)), retired: retired.clone() }))
    }

    /// A slice of the stream of `retired`.
    fn of_slice<T: 'static>(mut slice: CudaSlice<T>, retired: &Arc<Retired>) -> Result<Self> {
        // Has the stream wait for what cudarc knows of the slice's use elsewhere.
        let (at, waits) =
            catching_errors(retired.stream.context(), || slice.device_ptr_mut(&retired.stream).0);
        waits.map_err(cuda(WAIT))?;
        Ok(Self { at, len: slice.len(), memory: Some(Box::new(slice)), retired: retired.clone() })
    }
}

impl Drop for StreamMemory {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take()
            && !self.retired.may_free()
        {
            self.retired.keep(memory);
        }
    }
}

/// Device memory of the stream of one [`Queue`](super::Queue), which lives as long as a clone of it: what a
/// [`Recording`](super::Recording) reads and writes. A clone is the same memory.
///
/// Reading, writing and copying follow the order of that stream, and so does freeing. Kernels of an engine's own take
/// [`Memory::at`], on that stream.
pub struct Memory<E: 'static> {
    at: CUdeviceptr,
    len: usize,
    owner: Arc<dyn Any + Send + Sync>,
    retired: Arc<Retired>,
    element: PhantomData<E>,
}

impl<E> Clone for Memory<E> {
    fn clone(&self) -> Self {
        Self { owner: self.owner.clone(), retired: self.retired.clone(), ..*self }
    }
}

impl<E> fmt::Debug for Memory<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("at", &format_args!("{:#x}", self.at)).field("len", &self.len).finish()
    }
}

impl<E> Memory<E> {
    /// New memory, its contents unset.
    pub(super) fn new(retired: &Arc<Retired>, len: usize) -> Result<Self> {
        Ok(match StreamMemory::new::<E>(retired, len)? {
            Some(stored) => Self::of(stored),
            None => Self { at: 0, len, owner: Arc::new(()), retired: retired.clone(), element: PhantomData },
        })
    }

    /// A slice of the stream of `retired`.
    pub(super) fn of_slice(slice: CudaSlice<E>, retired: &Arc<Retired>) -> Result<Self> {
        StreamMemory::of_slice(slice, retired).map(Self::of)
    }

    fn of(stored: StreamMemory) -> Self {
        let (at, len, retired) = (stored.at, stored.len, stored.retired.clone());
        Self { at, len, owner: Arc::new(stored), retired, element: PhantomData }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its address.
    pub fn at(&self) -> CUdeviceptr {
        self.at
    }

    /// The stream that it is used on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.retired.stream
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.end > self.len || range.start > range.end {
            return Err(Error::Range { start: range.start, end: range.end, len: self.len });
        }
        let at = self.at + (range.start * size_of::<E>()) as CUdeviceptr;
        Ok(Self { at, len: range.len(), ..self.clone() })
    }
}

impl<E: Pod> Memory<E> {
    /// The same bytes as elements of another type, as many as there are whole ones.
    ///
    /// # Errors
    /// [`Error::Misaligned`].
    pub fn cast<F: Pod>(&self) -> Result<Memory<F>> {
        let (value, align) = (self.at as usize, align_of::<F>());
        if !value.is_multiple_of(align) {
            return Err(Error::Misaligned { tensor: "memory", part: "data", value, align });
        }
        let (owner, retired) = (self.owner.clone(), self.retired.clone());
        let len = self.len * size_of::<E>() / size_of::<F>().max(1);
        Ok(Memory { at: self.at, len, owner, retired, element: PhantomData })
    }

    /// Writes its first elements; waits for the stream.
    ///
    /// # Errors
    /// [`Error::TooShort`] for more than there are, [`Error::Captured`], [`Error::Cuda`].
    pub fn write(&self, data: &[E]) -> Result<()> {
        self.ready_for(data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let stream = self.stream();
        // SAFETY: no more elements than the memory ready_for, which is freed after this in the order of the stream; `data` is
        // borrowed until the stream has been waited for: where it is pinned memory, the copy reads it as late as that.
        let copied = unsafe { result::memcpy_htod_async(self.at, data, stream.cu_stream()) };
        copied.map_err(cuda("cuMemcpyHtoDAsync"))?;
        synchronize(stream)
    }

    /// Reads it all; waits for the stream.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Cuda`].
    pub fn read(&self) -> Result<Vec<E>> {
        self.ready_for(0)?;
        let mut data = vec![E::zeroed(); self.len];
        if self.len == 0 {
            return Ok(data);
        }
        // SAFETY: as many elements as the memory ready_for, of a type that any bytes are a value of; the stream is waited for
        // before `data` is used or freed, and where that fails nothing runs any more.
        let copied = unsafe { result::memcpy_dtoh_async(&mut data, self.at, self.stream().cu_stream()) };
        copied.map_err(cuda("cuMemcpyDtoHAsync"))?;
        synchronize(self.stream()).map(|()| data)
    }

    /// Fills it with zeros.
    ///
    /// # Errors
    /// [`Error::Captured`], [`Error::Cuda`].
    pub fn fill_zeros(&self) -> Result<()> {
        self.ready_for(0)?;
        let bytes = self.len * size_of::<E>();
        match bytes {
            0 => Ok(()),
            // SAFETY: the memory's own bytes; it is freed after this in the order of the stream.
            _ => unsafe { result::memset_d8_async(self.at, 0, bytes, self.stream().cu_stream()) }
                .map_err(cuda("cuMemsetD8Async")),
        }
    }

    /// Copies other memory of the same stream to its first elements.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::WrongContext`], [`Error::WrongStream`], [`Error::Overlap`], [`Error::Captured`],
    /// [`Error::Cuda`].
    pub fn copy_from(&self, from: &Self) -> Result<()> {
        self.ready_for(from.len)?;
        // The default streams of all contexts have the same handle, so that comparing handles is not enough.
        same_context(self.stream().context(), from.stream().context(), "from")?;
        if from.stream().cu_stream() != self.stream().cu_stream() {
            return Err(Error::WrongStream { what: "from" });
        }
        let bytes = from.len * size_of::<E>();
        if bytes > 0 && self.at < from.at + bytes as CUdeviceptr && from.at < self.at + bytes as CUdeviceptr {
            return Err(Error::Overlap { tensor: "memory", other: "from" });
        }
        match bytes {
            0 => Ok(()),
            // SAFETY: both hold that many bytes, and are freed after this in the order of the stream.
            _ => unsafe { result::memcpy_dtod_async(self.at, from.at, bytes, self.stream().cu_stream()) }
                .map_err(cuda("cuMemcpyDtoDAsync")),
        }
    }

    /// Checks that `len` elements can be copied now, and makes the context current for it.
    fn ready_for(&self, len: usize) -> Result<()> {
        if len > self.len {
            return Err(Error::TooShort { tensor: "memory", value: self.len, min: len });
        }
        // A graph would keep neither this memory nor the host's.
        if is_captured(self.stream())? {
            return Err(Error::Captured { what: "the memory's stream" });
        }
        make_current(self.stream().context())
    }
}
