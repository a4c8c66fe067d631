//! Device memory that is taken once and used again.
//!
//! A buffer that is dropped goes back to the pool. Everything runs on one stream, so whoever takes it next writes
//! it after the last reader. A request is served by memory of its own size class or by new memory, never by
//! another class: a step that takes and drops the same sizes as the step before it needs nothing new, which is
//! what lets it be recorded.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use bytemuck::Pod;
use cudarc::driver::sys::CUdeviceptr;
use half::{bf16, f16};
use onekv::DType;
use onekv::cuda::{Memory, Queue};

use super::driver::wait;

/// Alignment and least size of a buffer.
const GRAIN: usize = 512;

/// What nobody uses, by class.
type Free = HashMap<usize, Vec<Memory<u8>>>;

#[derive(Default)]
struct State {
    free: RefCell<Free>,
    /// Bytes that the pool holds, in use or not, and the most there ever were.
    held: Cell<usize>,
    peak: Cell<usize>,
    /// Recordings that refer to memory of the pool, and what they took.
    recordings: Cell<usize>,
    recorded: RefCell<HashSet<CUdeviceptr>>,
    recording: Cell<bool>,
}

/// The memory of one stream.
pub struct Pool {
    queue: Queue,
    state: Rc<State>,
}

/// A piece of device memory.
pub struct Buffer {
    /// Of the size of its class.
    memory: Memory<u8>,
    bytes: usize,
    state: Rc<State>,
}

/// Keeps the pool from giving back what recorded steps take. Between replays other passes may take it, but nobody may
/// keep it: the next replay writes there.
pub struct Pinned(Rc<State>);

impl Pool {
    pub fn new(queue: &Queue) -> Self {
        Self { queue: queue.clone(), state: Rc::default() }
    }

    /// Memory for what a pass computes, in classes an eighth apart, so that passes of unlike length share it.
    pub fn take(&self, bytes: usize) -> Result<Buffer> {
        let step = (bytes.next_power_of_two() / 16).max(GRAIN);
        self.of_class(bytes, bytes.max(1).next_multiple_of(step), true)
    }

    /// Memory for what stays: weights, K/V, caches.
    pub fn keep(&self, bytes: usize) -> Result<Buffer> {
        self.of_class(bytes, bytes.max(1).next_multiple_of(GRAIN), false)
    }

    fn of_class(&self, bytes: usize, class: usize, for_a_pass: bool) -> Result<Buffer> {
        let state = self.state.clone();
        let taken = state.free.borrow_mut().get_mut(&class).and_then(|list| {
            let recorded = state.recorded.borrow();
            let at = list.iter().rposition(|memory| for_a_pass || !recorded.contains(&memory.at()))?;
            Some(list.remove(at))
        });
        let memory = match taken {
            Some(taken) => taken,
            None if state.recording.get() => bail!("a recorded step asked for {class} bytes of new memory"),
            None => self.allocate(class)?,
        };
        if state.recording.get() {
            state.recorded.borrow_mut().insert(memory.at());
        }
        Ok(Buffer { memory, bytes, state })
    }

    fn allocate(&self, class: usize) -> Result<Memory<u8>> {
        // SAFETY: nothing on the host reads it before a kernel or a copy wrote it; that kernels do not either is what their
        // tests on the virtual card check.
        let memory = match unsafe { self.queue.unset::<u8>(class) } {
            Ok(memory) => memory,
            Err(error) if error.is_out_of_memory() => {
                let free = self.queue.stream().context().mem_get_info().map_or(0, |(free, _)| free);
                let held = self.state.held.get();
                bail!(
                    "out of device memory: asked for {class} bytes, {free} are free and {held} taken by this run"
                );
            }
            Err(error) => return Err(error).context("cannot allocate device memory"),
        };
        self.state.held.set(self.state.held.get() + class);
        self.state.peak.set(self.state.peak.get().max(self.state.held.get()));
        Ok(memory)
    }

    pub fn upload<T: Pod>(&self, data: &[T]) -> Result<Buffer> {
        let mut buffer = self.keep(size_of_val(data))?;
        self.write(&mut buffer, data)?;
        Ok(buffer)
    }

    /// Writes the first elements of a buffer.
    pub fn write<T: Pod>(&self, buffer: &mut Buffer, data: &[T]) -> Result<()> {
        self.is_not_recorded()?;
        buffer.memory.cast::<T>()?.write(data).context("cannot write to device memory")
    }

    /// Memory of zeros.
    pub fn zeros(&self, bytes: usize) -> Result<Buffer> {
        self.is_not_recorded()?;
        let buffer = self.keep(bytes)?;
        buffer.memory.fill_zeros()?;
        Ok(buffer)
    }

    /// The first `len` elements; waits for the stream.
    pub fn download<T: Pod>(&self, buffer: &Buffer, len: usize) -> Result<Vec<T>> {
        self.is_not_recorded()?;
        buffer.elements::<T>(0..len)?.read().context("cannot read device memory")
    }

    /// Copies and fills would not become part of a recording.
    fn is_not_recorded(&self) -> Result<()> {
        if self.state.recording.get() {
            bail!("a recorded step touches memory other than by kernels");
        }
        Ok(())
    }

    /// The first `len` elements of a type, as f32; waits for the stream.
    pub fn download_as(&self, buffer: &Buffer, len: usize, dtype: DType) -> Result<Vec<f32>> {
        Ok(match dtype {
            DType::F16 => self.download::<f16>(buffer, len)?.iter().map(|x| x.to_f32()).collect(),
            DType::Bf16 => self.download::<bf16>(buffer, len)?.iter().map(|x| x.to_f32()).collect(),
            _ => self.download(buffer, len)?,
        })
    }

    /// Copies `bytes` bytes within the device.
    pub fn copy(
        &self,
        from: &Buffer,
        from_at: usize,
        to: &mut Buffer,
        to_at: usize,
        bytes: usize,
    ) -> Result<()> {
        self.is_not_recorded()?;
        let (from, to) = (from.elements(from_at..from_at + bytes)?, to.elements::<u8>(to_at..to_at + bytes)?);
        Ok(to.copy_from(&from)?)
    }

    /// Gives back what is not in use, but for what recordings took.
    pub fn trim(&self) {
        let recorded = self.state.recorded.borrow();
        for (class, list) in self.state.free.borrow_mut().iter_mut() {
            let before = list.len();
            list.retain(|memory| recorded.contains(&memory.at()));
            self.state.held.set(self.state.held.get() - class * (before - list.len()));
        }
    }

    /// [`Pool::trim`], to the system; the peak starts anew.
    pub fn release(&self) -> Result<()> {
        wait(self.queue.stream())?;
        self.trim();
        wait(self.queue.stream())?;
        self.state.peak.set(self.state.held.get());
        Ok(())
    }

    pub fn peak(&self) -> usize {
        self.state.peak.get()
    }

    /// While `work` runs, nothing new is allocated: it fails instead.
    pub fn without_new<T>(&self, work: impl FnOnce() -> T) -> T {
        self.state.recording.set(true);
        let result = work();
        self.state.recording.set(false);
        result
    }

    pub fn pin(&self) -> Pinned {
        self.state.recordings.set(self.state.recordings.get() + 1);
        Pinned(self.state.clone())
    }
}

impl Buffer {
    pub fn at(&self) -> CUdeviceptr {
        self.memory.at()
    }

    /// Elements of it; an error where it does not have them.
    pub fn elements<T: Pod>(&self, range: Range<usize>) -> Result<Memory<T>> {
        Ok(self.memory.cast::<T>()?.slice(range)?)
    }

    /// Bytes that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = self.memory.clone();
        self.state.free.borrow_mut().entry(memory.len()).or_default().push(memory);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.recordings.set(self.0.recordings.get() - 1);
        if self.0.recordings.get() == 0 {
            self.0.recorded.take();
        }
    }
}
