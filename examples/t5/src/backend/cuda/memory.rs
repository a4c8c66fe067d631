//! Device memory that is taken once and used again.
//!
//! A buffer that is dropped goes back to the pool. Everything runs on one stream, so whoever takes it next writes
//! it after the last reader. A request is served by memory of its own size class or by new memory, never by
//! another class: a step that takes and drops the same sizes as the step before it needs nothing new, which is
//! what lets it be recorded.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytemuck::{AnyBitPattern, NoUninit};
use cudarc::driver::sys::{CUdeviceptr, CUresult};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};
use half::{bf16, f16};
use onekv::DType;

/// Alignment and least size of a buffer.
const GRAIN: usize = 512;

/// What nobody uses, by class, with addresses.
type Free = HashMap<usize, Vec<(CUdeviceptr, CudaSlice<u8>)>>;

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
    stream: Arc<CudaStream>,
    state: Rc<State>,
}

/// A piece of device memory.
pub struct Buffer {
    memory: Option<CudaSlice<u8>>,
    at: CUdeviceptr,
    bytes: usize,
    state: Rc<State>,
}

/// Keeps the pool from giving back what recorded steps take. Between replays other passes may take it, but nobody may
/// keep it: the next replay writes there.
pub struct Pinned(Rc<State>);

impl Pool {
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        let state = State {
            free: RefCell::default(),
            held: Cell::new(0),
            peak: Cell::new(0),
            recordings: Cell::new(0),
            recorded: RefCell::default(),
            recording: Cell::new(false),
        };
        Self { stream: stream.clone(), state: Rc::new(state) }
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
            let at = list.iter().rposition(|(at, _)| for_a_pass || !recorded.contains(at))?;
            Some(list.remove(at))
        });
        let (at, memory) = match taken {
            Some(taken) => taken,
            None if state.recording.get() => bail!("a recorded step asked for {class} bytes of new memory"),
            None => {
                let memory = self.allocate(class)?;
                let at = memory.device_ptr(&self.stream).0;
                (at, memory)
            }
        };
        if state.recording.get() {
            state.recorded.borrow_mut().insert(at);
        }
        Ok(Buffer { memory: Some(memory), at, bytes, state })
    }

    fn allocate(&self, class: usize) -> Result<CudaSlice<u8>> {
        // SAFETY: any bytes are valid u8, and nothing on the host reads them before a kernel or a copy wrote them;
        // that kernels do not either is what their tests on the virtual card check.
        let memory = match unsafe { self.stream.alloc::<u8>(class) } {
            Ok(memory) => memory,
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = self.stream.context().mem_get_info().map_or(0, |(free, _)| free);
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

    pub fn upload<T: NoUninit>(&self, data: &[T]) -> Result<Buffer> {
        let mut buffer = self.keep(size_of_val(data))?;
        self.write(&mut buffer, data)?;
        Ok(buffer)
    }

    /// Writes the first elements of a buffer.
    pub fn write<T: NoUninit>(&self, buffer: &mut Buffer, data: &[T]) -> Result<()> {
        let bytes = bytemuck::cast_slice::<T, u8>(data);
        if let Some(memory) = buffer.memory.as_mut().filter(|_| !bytes.is_empty()) {
            let Some(mut view) = memory.try_slice_mut(..bytes.len()) else {
                bail!("a buffer is shorter than what is written")
            };
            self.stream.memcpy_htod(bytes, &mut view)?;
        }
        Ok(())
    }

    /// Memory of zeros.
    pub fn zeros(&self, bytes: usize) -> Result<Buffer> {
        let mut buffer = self.keep(bytes)?;
        if let Some(memory) = buffer.memory.as_mut() {
            self.stream.memset_zeros(memory)?;
        }
        Ok(buffer)
    }

    /// The first `len` elements; waits for the stream.
    pub fn download<T: AnyBitPattern + NoUninit>(&self, buffer: &Buffer, len: usize) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); len];
        let bytes = bytemuck::cast_slice_mut::<T, u8>(&mut data);
        if let Some(memory) = buffer.memory.as_ref().filter(|_| !bytes.is_empty()) {
            let Some(view) = memory.try_slice(..bytes.len()) else {
                bail!("a buffer is shorter than what is read")
            };
            self.stream.memcpy_dtoh(&view, bytes)?;
        }
        self.stream.synchronize()?;
        Ok(data)
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
        let (Some(from), Some(to)) = (&from.memory, &mut to.memory) else { bail!("a buffer has no memory") };
        let views = (from.try_slice(from_at..from_at + bytes), to.try_slice_mut(to_at..to_at + bytes));
        let (Some(from), Some(mut to)) = views else { bail!("a copy reaches past its memory") };
        Ok(self.stream.memcpy_dtod(&from, &mut to)?)
    }

    /// Gives back what is not in use, but for what recordings took.
    pub fn trim(&self) {
        let recorded = self.state.recorded.borrow();
        for (class, list) in self.state.free.borrow_mut().iter_mut() {
            let before = list.len();
            list.retain(|(at, _)| recorded.contains(at));
            self.state.held.set(self.state.held.get() - class * (before - list.len()));
        }
    }

    /// [`Pool::trim`], to the system; the peak starts anew.
    pub fn release(&self) -> Result<()> {
        self.stream.synchronize()?;
        self.trim();
        self.stream.synchronize()?;
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
        self.at
    }

    /// Bytes that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.state.free.borrow_mut().entry(memory.len()).or_default().push((self.at, memory));
        }
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
