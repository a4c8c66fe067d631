//! Operands in device memory, and the checks that all calls share.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr as _, DevicePtrMut as _, DeviceSlice as _,
    SyncOnDrop,
};

use super::abi::{ONEKV_MAX_STATES, OnekvStrides};
use super::driver::{
    WAIT, catching_errors, cuda, is_captured, is_per_thread, join, same_context, synchronize,
};
use super::memory::Memory;
use super::queue::QueueInner;
use crate::error::{Error, Result};
use crate::shape::{Shape, Strides};
use crate::view::{Extent, SharedKv, View};

/// Operands of one call at most: those of a merge.
const MAX_OPERANDS: usize = 2 * ONEKV_MAX_STATES as usize + 2;

pub(super) mod sealed {
    use super::{Arc, CUdeviceptr, CudaStream, SyncOnDrop};

    /// Memory that kernels read, and how cudarc is told.
    pub trait Source {
        fn elements(&self) -> usize;
        /// The stream that it was allocated on.
        fn owner(&self) -> &Arc<CudaStream>;
        /// Its address. Has the stream `on` wait for the writes that cudarc knows of, and tells cudarc that `on` reads it.
        fn read_on<'a>(&'a self, on: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>);
    }

    pub trait Target: Source {
        /// As `read_on`, to write.
        fn write_on<'a>(&'a mut self, on: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>);
    }
}

/// Device memory that kernels read: cudarc's views and [`Memory`].
#[diagnostic::on_unimplemented(note = "pass `slice.as_view()`, or `memory.clone()`")]
pub trait DeviceRead: sealed::Source {
    /// What it consists of.
    type Element: 'static;
}

/// Device memory that kernels write: cudarc's mutable views and [`Memory`].
#[diagnostic::on_unimplemented(note = "pass `slice.as_view_mut()`, or `memory.clone()`")]
pub trait DeviceWrite: DeviceRead + sealed::Target {
    /// The same kind of memory, of f32.
    type Lse: DeviceWrite<Element = f32>;
}

impl<E> sealed::Source for CudaView<'_, E> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn owner(&self) -> &Arc<CudaStream> {
        self.stream()
    }
    fn read_on<'a>(&'a self, on: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.device_ptr(on)
    }
}

impl<E> sealed::Source for CudaViewMut<'_, E> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn owner(&self) -> &Arc<CudaStream> {
        self.stream()
    }
    fn read_on<'a>(&'a self, on: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.device_ptr(on)
    }
}

impl<E> sealed::Target for CudaViewMut<'_, E> {
    fn write_on<'a>(&'a mut self, on: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.device_ptr_mut(on)
    }
}

impl<E: 'static> DeviceRead for CudaView<'_, E> {
    type Element = E;
}

impl<E: 'static> DeviceRead for CudaViewMut<'_, E> {
    type Element = E;
}

impl<'a, E: 'static> DeviceWrite for CudaViewMut<'a, E> {
    type Lse = CudaViewMut<'a, f32>;
}

// What writes a `Memory` by way of this crate is on its queue's stream, or waits for it and is waited for (`Call`): cudarc has
// nothing to know.
impl<E: 'static> sealed::Source for Memory<E> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn owner(&self) -> &Arc<CudaStream> {
        self.stream()
    }
    fn read_on<'a>(&'a self, _: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.at(), SyncOnDrop::Record(None))
    }
}

impl<E: 'static> sealed::Target for Memory<E> {
    fn write_on<'a>(&'a mut self, _: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.at(), SyncOnDrop::Record(None))
    }
}

impl<E: 'static> DeviceRead for Memory<E> {
    type Element = E;
}

impl<E: 'static> DeviceWrite for Memory<E> {
    type Lse = Memory<f32>;
}

impl<E> View<CudaSlice<E>> {
    /// The operand to read.
    pub fn as_view(&self) -> View<CudaView<'_, E>> {
        View { data: self.data.as_view(), shape: self.shape, strides: self.strides }
    }

    /// The operand to write.
    pub fn as_view_mut(&mut self) -> View<CudaViewMut<'_, E>> {
        View { data: self.data.as_view_mut(), shape: self.shape, strides: self.strides }
    }
}

impl<E> SharedKv<CudaSlice<E>> {
    /// K and V to read.
    pub fn as_view(&self) -> SharedKv<CudaView<'_, E>> {
        SharedKv { k: self.k.as_view(), v: self.v.as_view() }
    }
}

/// The operands of one call on a queue, checked and placed one by one.
///
/// Memory is freed in the order of the stream that it was allocated on. Where that is the queue's, it comes after what was
/// queued there. Other streams wait for the queue when the call is complete, so that it does for them, too: cudarc's one
/// event for all reads of a slice tells of the last reader only.
pub(super) struct Call<'a> {
    stream: &'a Arc<CudaStream>,
    spans: [Span; MAX_OPERANDS],
    count: usize,
    others: [Option<Arc<CudaStream>>; MAX_OPERANDS],
    /// Operands of other streams are refused: in a graph streams cannot wait for each other.
    one_stream: bool,
    /// Whether memory of each thread's own default stream is taken: `Queue::for_per_thread_stream`.
    takes_per_thread: bool,
}

/// The memory of an operand, to see overlaps.
#[derive(Clone, Copy)]
struct Span {
    tensor: &'static str,
    at: usize,
    bytes: usize,
    written: bool,
}

impl<'a> Call<'a> {
    pub fn new(queue: &'a QueueInner) -> Result<Self> {
        queue.check_uncaptured()?;
        Ok(Self { one_stream: false, ..Self::of_one_stream(queue) })
    }

    /// All operands are of the queue's stream: for a graph, or for addresses, whose order is the caller's.
    pub fn of_one_stream(queue: &'a QueueInner) -> Self {
        let none = Span { tensor: "", at: 0, bytes: 0, written: false };
        let others = [const { None }; MAX_OPERANDS];
        let takes_per_thread = queue.retired.is_owning();
        Self {
            stream: &queue.stream,
            spans: [none; MAX_OPERANDS],
            count: 0,
            others,
            one_stream: true,
            takes_per_thread,
        }
    }

    /// Checks that a kernel may use memory of the stream `owner`. Where that is another than the queue's, the queue waits for it.
    fn admit(&mut self, tensor: &'static str, owner: &Arc<CudaStream>) -> Result<()> {
        same_context(self.stream.context(), owner.context(), tensor)?;
        if owner.cu_stream() == self.stream.cu_stream() {
            return Ok(());
        }
        if self.one_stream {
            return Err(Error::WrongStream { what: tensor });
        }
        if is_per_thread(owner) && !self.takes_per_thread {
            return Err(Error::PerThreadStream { what: tensor });
        }
        if self.others[..self.count].iter().flatten().any(|other| other.cu_stream() == owner.cu_stream()) {
            return Ok(());
        }
        if is_captured(owner)? {
            return Err(Error::Captured { what: tensor });
        }
        join(self.stream, owner)?;
        self.others[self.count] = Some(owner.clone());
        Ok(())
    }

    /// The address of memory, once the queue's stream waits for what cudarc knows of its use elsewhere.
    fn waited(
        &self,
        place: impl FnOnce(&'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>),
    ) -> Result<(CUdeviceptr, SyncOnDrop<'a>)> {
        let stream = self.stream;
        let (placed, waits) = catching_errors(stream.context(), || place(stream));
        waits.map_err(cuda(WAIT)).map(|()| placed)
    }

    fn place(
        &mut self,
        tensor: &'static str,
        (at, guard): (CUdeviceptr, SyncOnDrop<'a>),
        bytes: usize,
        written: bool,
    ) -> Result<Placed<'a>> {
        let span = Span { tensor, at: at as usize, bytes, written };
        let overlaps = |other: &&Span| {
            (written || other.written)
                && bytes > 0
                && other.bytes > 0
                && span.at < other.at + other.bytes
                && other.at < span.at + bytes
        };
        if let Some(other) = self.spans[..self.count].iter().find(overlaps) {
            let (tensor, other) = if written { (tensor, other.tensor) } else { (other.tensor, tensor) };
            return Err(Error::Overlap { tensor, other });
        }
        self.spans[self.count] = span;
        self.count += 1;
        Ok(Placed { at, _guard: guard })
    }

    /// An operand that is read, of the shape `allowed`.
    pub fn read<M: DeviceRead>(
        &mut self,
        tensor: &'static str,
        view: &'a View<M>,
        allowed: Shape,
    ) -> Result<Placed<'a>> {
        self.admit(tensor, view.data.owner())?;
        let placed = self.waited(|stream| view.data.read_on(stream))?;
        let memory =
            Extent { address: placed.0 as usize, len: view.data.elements(), size: size_of::<M::Element>() };
        memory.check(tensor, view.shape, allowed, view.strides)?;
        self.place(tensor, placed, memory.bytes(), false)
    }

    /// Numbers that are read, at least `min` of them.
    pub fn read_list<M: DeviceRead>(
        &mut self,
        tensor: &'static str,
        list: &'a M,
        min: usize,
    ) -> Result<Placed<'a>> {
        if list.elements() < min {
            return Err(Error::TooShort { tensor, value: list.elements(), min });
        }
        self.admit(tensor, list.owner())?;
        let placed = self.waited(|stream| list.read_on(stream))?;
        self.place(tensor, placed, list.elements() * size_of::<M::Element>(), false)
    }

    /// An operand that is written, of the shape `allowed`.
    pub fn write<M: DeviceWrite>(
        &mut self,
        tensor: &'static str,
        view: &'a mut View<M>,
        allowed: Shape,
    ) -> Result<Placed<'a>> {
        self.admit(tensor, view.data.owner())?;
        let (len, size) = (view.data.elements(), size_of::<M::Element>());
        let placed = self.waited(|stream| view.data.write_on(stream))?;
        let memory = Extent { address: placed.0 as usize, len, size };
        memory.check(tensor, view.shape, allowed, view.strides)?;
        self.place(tensor, placed, memory.bytes(), true)
    }

    /// An operand by its address, with `len` elements from there on.
    pub fn place_raw(
        &mut self,
        tensor: &'static str,
        (at, len): (CUdeviceptr, usize),
        shape: Shape,
        strides: Strides,
        size: usize,
        written: bool,
    ) -> Result<()> {
        let min = shape.required_len(tensor, strides)?;
        if at == 0 && min > 0 {
            return Err(Error::Null { tensor });
        }
        let memory = Extent { address: at as usize, len: len.min(min), size };
        memory.check(tensor, shape, shape, strides)?;
        self.place(tensor, (at, SyncOnDrop::Record(None)), memory.bytes(), written).map(drop)
    }

    /// To be called after the kernels were queued, whether or not that succeeded. Dropping `placed` tells cudarc of their use, and
    /// other streams are made to wait for the kernels. Where that fails the host waits: nothing else would keep memory from being
    /// freed, and results from being read, too early. Where that fails too, nothing runs any more.
    pub fn complete(self, placed: impl Sized) -> Result<()> {
        let ((), told) = catching_errors(self.stream.context(), || drop(placed));
        let mut all = told.or_else(|_| synchronize(self.stream));
        for other in self.others.into_iter().flatten() {
            if join(&other, self.stream).is_err() {
                all = all.and(synchronize(self.stream));
            }
        }
        all
    }
}

/// An operand's address; cudarc is told of its use when this is dropped.
pub(super) struct Placed<'a> {
    pub at: CUdeviceptr,
    _guard: SyncOnDrop<'a>,
}

/// Strides as the kernels take them.
pub(super) const fn strides(strides: Strides) -> OnekvStrides {
    OnekvStrides { row: strides.row as i64, head: strides.head as i64 }
}
