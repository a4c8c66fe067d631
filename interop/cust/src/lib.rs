//! onekv for engines on the crate `cust`: attention on its `DeviceBuffer`s and `Stream`s. Thin, no arithmetic.
//!
//! [`Queue`] and [`Prepared`] are those of `onekv::cuda`, whose page says what holds for streams, plans and replans. A device
//! has one primary context, which is both cust's `Context` and `onekv::cuda::context`: memory and streams of the one serve the
//! other. As with cudarc, calls leave that context current to the thread.
//!
//! # Lifetimes
//!
//! What is prepared keeps its stream and its context. Runs are `unsafe` for one reason, that of cust's own asynchronous
//! copies: they return before the card has run, and nothing of cust keeps memory until then. A `DeviceBuffer` frees at
//! once, in no stream's order, and a `DeviceSlice` is a plain address that safe code may copy and keep longer than its
//! buffer, so that no borrow, not even one that lasts until a run that waits, would prove that memory is there. What
//! cust allocates in the order of the queue's stream (`DeviceBuffer::from_slice_async`), `DeviceBuffer::drop_async`
//! frees in that order: directly after a run, too.

use std::fmt;
use std::sync::Arc;

use cust::memory::{DeviceCopy, DeviceSlice};
use cust::stream::Stream;
use onekv::cuda::{Kernels, RawOperands, RawState};
use onekv::cudarc::driver::CudaContext;
// cudarc's binding of the driver, not cust's, which is older: a result that it does not know would be no value of its
// enum.
use onekv::cudarc::driver::sys::{self, CUresult};
use onekv::plan::Plan;
use onekv::{Element as _, PartialState, Shape, SharedKv, Strides, View, cuda};

/// A Rust type that cust copies to a device, and that is one of onekv's: f32, and f16 and bf16 of half 1.8, as cust has them.
///
/// # Safety
/// Every value is one of [`Element::Onekv`], bit by bit: `repr(transparent)` over it, as a type around half 2's is.
pub unsafe trait Element: DeviceCopy {
    /// The type as onekv knows it.
    type Onekv: onekv::Element;
}

// SAFETY: the same type.
unsafe impl Element for f32 {
    type Onekv = f32;
}

// SAFETY: IEEE binary16 in a u16, as of half 2.
unsafe impl Element for half_1::f16 {
    type Onekv = half::f16;
}

// SAFETY: bfloat16 in a u16, as of half 2.
unsafe impl Element for half_1::bf16 {
    type Onekv = half::bf16;
}

/// What is refused, or failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As onekv says it.
    #[error(transparent)]
    Onekv(#[from] onekv::Error),

    /// The stream was made in another context than the kernels are in.
    #[error(
        "the stream belongs to another CUDA context; allowed: the primary one of device {device}, which the kernels are in and \
         cust's Context::new makes current"
    )]
    WrongContext {
        /// The kernels' device.
        device: usize,
    },

    /// An operand is memory of another device.
    #[error("{tensor} is memory of device {value}, allowed: of device {allowed}, which the kernels are on")]
    WrongDevice {
        /// Which operand.
        tensor: &'static str,
        /// Its device.
        value: i32,
        /// The kernels' device.
        allowed: usize,
    },

    /// An operand's address is not allocated.
    #[error("{tensor} begins at {address:#x}, which is not allocated; allowed: device memory")]
    NotAllocated {
        /// Which operand.
        tensor: &'static str,
        /// Its address.
        address: u64,
    },
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A cust stream, in whose order everything that is prepared on it runs: `onekv::cuda::Queue`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    // Dropped in this order: the queue waits for its stream, and the stream is destroyed while its context still lives.
    queue: cuda::Queue,
    stream: Arc<Stream>,
    context: Arc<CudaContext>,
}

impl Queue {
    /// A queue on `stream`, which it keeps.
    ///
    /// # Errors
    /// [`Error::WrongContext`], [`Error::Onekv`].
    pub fn new(kernels: &Arc<Kernels>, stream: &Arc<Stream>) -> Result<Self> {
        let context = kernels.context();
        let mut stream_context = std::ptr::null_mut();
        // SAFETY: the stream is alive; writes one handle.
        check("cuStreamGetCtx", unsafe {
            sys::cuStreamGetCtx(stream.as_inner().cast(), &mut stream_context)
        })?;
        if stream_context != context.cu_ctx() {
            return Err(Error::WrongContext { device: context.ordinal() });
        }
        // SAFETY: a stream of this context, kept for longer than the queue and what is prepared on it; cust's work on it and
        // the queue's come in the order in which they are queued.
        let wrapped = unsafe { context.wrap_borrowed_stream(stream.as_inner().cast()) };
        let queue = cuda::Queue::new(kernels, &wrapped)?;
        Ok(Self { queue, stream: stream.clone(), context: context.clone() })
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The kernels.
    pub fn kernels(&self) -> &Arc<Kernels> {
        self.queue.kernels()
    }

    /// Makes a plan ready: `onekv::cuda::Queue::prepare`.
    ///
    /// # Errors
    /// [`Error::Onekv`].
    pub fn prepare(&self, plan: &Plan) -> Result<Prepared> {
        Ok(Prepared { prepared: self.queue.prepare(plan)?, queue: self.clone() })
    }

    /// Joins attention over parts of the keys: `onekv::cuda::Queue::merge_states`. States are of the output's type, or f32.
    ///
    /// # Safety
    /// As [`Prepared::run`].
    ///
    /// # Errors
    /// As [`Prepared::run`].
    pub unsafe fn merge_states<P: Element, T: Element>(
        &self,
        states: &[PartialState<&DeviceSlice<P>, &DeviceSlice<f32>>],
        out: View<&mut DeviceSlice<T>>,
        lse: Option<View<&mut DeviceSlice<f32>>>,
    ) -> Result<()> {
        self.enter()?;
        let shape = out.shape;
        let states = states.iter().map(|state| {
            let names = ["states.out", "states.lse"];
            self.raw_state(names, shape, state.out, Some(state.lse))
        });
        let states = states.collect::<Result<Vec<_>>>()?;
        let lse = lse.map(|lse| lse.map(|slice| &*slice));
        let out = self.raw_state(["out", "lse"], shape, out.map(|slice| &*slice), lse)?;
        let (from, to) = (P::Onekv::DTYPE, T::Onekv::DTYPE);
        // SAFETY: memory of the queue's device, whose primary context is the queue's, of these types and lengths; the rest is
        // the caller's contract. The stream is not captured.
        unsafe { self.queue.merge_states_raw(from, &states, to, &out, shape)? };
        Ok(())
    }

    /// A state, or what states are merged into, as `merge_states_raw` takes it.
    fn raw_state<T: DeviceCopy>(
        &self,
        names: [&'static str; 2],
        shape: Shape,
        out: View<&DeviceSlice<T>>,
        lse: Option<View<&DeviceSlice<f32>>>,
    ) -> Result<RawState> {
        let mut raw = RawState::default();
        (raw.out, raw.out_len, raw.out_strides) = self.operand(names[0], out, shape)?;
        if let Some(lse) = lse {
            let lse_shape = Shape { vector: 1, ..shape };
            (raw.lse, raw.lse_len, raw.lse_strides) = self.operand(names[1], lse, lse_shape)?;
        }
        Ok(raw)
    }

    /// Begins a call: makes the context current, which the driver's queries need, and refuses a captured stream, as a
    /// graph would keep neither operands nor what is prepared.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is alive.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context.cu_ctx()) })?;
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is alive; writes one status.
        let asked = unsafe { sys::cuStreamIsCapturing(self.stream.as_inner().cast(), &raw mut status) };
        check("cuStreamIsCapturing", asked)?;
        match status {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(onekv::Error::Captured { what: "the queue's stream" }.into()),
        }
    }

    /// Address, length and strides of an operand, which is of the shape `allowed` and in memory of the queue's device.
    fn operand<T: DeviceCopy>(
        &self,
        tensor: &'static str,
        view: View<&DeviceSlice<T>>,
        allowed: Shape,
    ) -> Result<(u64, usize, Strides)> {
        if view.shape != allowed {
            return Err(onekv::Error::WrongShape { tensor, value: view.shape, allowed }.into());
        }
        let (address, len) = (view.data.as_device_ptr().as_raw(), view.data.len());
        if len == 0 {
            // cust may give 0 as the address of no elements; for an LSE 0 would say that none is wanted.
            return Ok((NOWHERE, 0, view.strides));
        }
        let (mut device, allowed) = (0i32, self.context.ordinal());
        let ordinal = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        // SAFETY: writes one integer; any address may be asked about.
        let asked = unsafe { sys::cuPointerGetAttribute((&raw mut device).cast(), ordinal, address) };
        if asked == CUresult::CUDA_ERROR_INVALID_VALUE {
            return Err(Error::NotAllocated { tensor, address });
        }
        check("cuPointerGetAttribute", asked)?;
        if usize::try_from(device) != Ok(allowed) {
            return Err(Error::WrongDevice { tensor, value: device, allowed });
        }
        Ok((address, len, view.strides))
    }
}

/// The address of an operand without elements: aligned, not 0, and never read.
const NOWHERE: u64 = 16;

/// A plan on a [`Queue`]: `onekv::cuda::Prepared`. Runs any number of times, every layer and step.
pub struct Prepared {
    // Dropped before the stream.
    prepared: cuda::Prepared,
    queue: Queue,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prepared.fmt(f)
    }
}

impl Prepared {
    /// Takes another plan's lengths in place: `onekv::cuda::Prepared::replan`.
    ///
    /// # Errors
    /// [`Error::Onekv`].
    pub fn replan(&mut self, plan: &Plan) -> Result<()> {
        Ok(self.prepared.replan(plan)?)
    }

    /// Attention on the queue's stream: allocates nothing on the card and waits for nothing.
    ///
    /// `q` and `out` are `[rows, heads, head_dim]`, K and V `[key_positions, kv_heads, head_dim]` or
    /// `[inputs, max_keys, kv_heads, head_dim]`, `lse` (natural logarithm) `[rows, heads]`: the shapes of the plan's problem.
    /// The driver is asked once for each operand which device its memory is of.
    ///
    /// # Safety
    /// Until what is queued here has run, which `Stream::synchronize` waits for:
    /// - operands stay allocated: no `DeviceBuffer` that a slice is of is dropped, but by `DeviceBuffer::drop_async` on this stream;
    /// - nothing else writes them, or reads `out` and `lse`, but for what is queued on the same stream before or after, or is
    ///   ordered with it by events.
    ///
    /// # Errors
    /// [`Error::WrongDevice`], [`Error::NotAllocated`]; [`Error::Onekv`] with what
    /// `onekv::cuda::Prepared::run` refuses: other types, shapes, too short memory, strides, alignment, overlaps, a captured
    /// stream, a plan for K and V in e4m3.
    pub unsafe fn run<T: Element>(
        &self,
        q: View<&DeviceSlice<T>>,
        kv: SharedKv<&DeviceSlice<T>>,
        out: View<&mut DeviceSlice<T>>,
        lse: Option<View<&mut DeviceSlice<f32>>>,
    ) -> Result<()> {
        let (queue, variant) = (&self.queue, self.prepared.variant());
        queue.enter()?;
        if T::Onekv::DTYPE != variant.dtype {
            return Err(onekv::Error::WrongDType { value: T::Onekv::DTYPE, planned: variant.dtype }.into());
        }
        if variant.e4m3_kv() {
            let planned = "e4m3 (onekv::cuda::Prepared::run_e4m3)";
            return Err(onekv::Error::WrongKv { value: "in the type of q", planned }.into());
        }
        let (query_shape, kv_shape) = (self.prepared.query_shape(), self.prepared.kv_shape());
        let mut raw = RawOperands::default();
        (raw.q, raw.lens.q, raw.q_strides) = queue.operand("q", q, query_shape)?;
        (raw.k, raw.lens.k, raw.k_strides) = queue.operand("k", kv.k, kv_shape)?;
        (raw.v, raw.lens.v, raw.v_strides) = queue.operand("v", kv.v, kv_shape)?;
        (raw.out, raw.lens.out, raw.out_strides) =
            queue.operand("out", out.map(|slice| &*slice), query_shape)?;
        if let Some(lse) = lse {
            let lse = queue.operand("lse", lse.map(|slice| &*slice), self.prepared.lse_shape())?;
            (raw.lse, raw.lens.lse, raw.lse_strides) = lse;
        }
        // SAFETY: memory of the queue's device, whose primary context is the queue's, of the plan's type and these lengths; the
        // rest is the caller's contract. The stream is not captured.
        unsafe { self.prepared.run_raw_checked(&raw)? };
        Ok(())
    }
}

/// What a call of the driver's returned, as a result.
fn check(call: &'static str, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        _ => Err(onekv::Error::Cuda { call, result }.into()),
    }
}
