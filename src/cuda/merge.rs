//! Joining partial attention states on the device.

use cudarc::driver::sys::CUdeviceptr;

use super::abi::{ONEKV_MAX_STATES, OnekvMergeStates, OnekvState};
use super::driver::LaunchStream;
use super::modules::{Function, Grid};
use super::operands::{Call, DeviceRead, DeviceWrite, Placed, strides};
use super::prepared::address_of;
use super::queue::{Queue, QueueInner};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::shape::{Shape, Strides};
use crate::span::span;
use crate::view::{PartialState, View};

/// The most states that one merge joins.
pub const MAX_STATES: usize = ONEKV_MAX_STATES as usize;

/// Pairs of row and head that a block of the kernel merges, a warp each: as in cuda/merge.cu.
const ROWS_PER_BLOCK: usize = 4;

impl Queue {
    /// [`cpu::merge_states`](crate::cpu::merge_states) on the device: allocates nothing and waits for nothing, once its kernel is
    /// loaded ([`Kernels::preload`](super::Kernels::preload)).
    ///
    /// States are of the output's type, or f32 so that nothing is rounded twice. Sums are f32.
    ///
    /// # Errors
    /// [`Error::NoStates`], [`Error::TooLarge`] for more than [`MAX_STATES`], [`Error::WrongDType`] for states of
    /// another 16-bit type, and per operand what [`Prepared::run`](super::Prepared::run) refuses.
    pub fn merge_states<P, L, O>(
        &self,
        states: &[PartialState<P, L>],
        out: View<O>,
        lse: Option<View<O::Lse>>,
    ) -> Result<()>
    where
        P: DeviceRead<Element: Element>,
        L: DeviceRead<Element = f32>,
        O: DeviceWrite<Element: Element>,
    {
        let _together = self.0.lock();
        merge_states(&self.0, Call::new(&self.0)?, self.0.launch_stream(), states, out, lse)
    }

    /// [`Queue::merge_states`] on device addresses, with what can be seen of them checked: `states` of type `from` into `out` of
    /// type `to`, `[rows, heads, head_dim]`.
    ///
    /// A graph may capture it by other means than [`Queue::record`].
    ///
    /// # Safety
    /// - Every operand is device memory of the stream's context, of its type, and has the elements that it says.
    /// - It stays allocated until the work queued here has run; nothing else writes the states, or touches output and LSE,
    ///   before then.
    /// - Captured, that holds for every replay; until the last of them has run, the kernels are not dropped.
    ///
    /// # Errors
    /// As [`Queue::merge_states`]; [`Error::Null`] for an address of 0 where there is memory.
    pub unsafe fn merge_states_raw(
        &self,
        from: DType,
        states: &[RawState],
        to: DType,
        out: &RawState,
        shape: impl Into<Shape>,
    ) -> Result<()> {
        span!("merge", states = states.len());
        let _together = self.0.lock();
        let mut call = Call::of_one_stream(&self.0);
        let merge = Merge::new(&self.0, (from, to), states.len(), shape.into())?;
        let (shape, sums) = (merge.shape, merge.shape.scalars());
        let mut list = [NONE; MAX_STATES];
        for (state, to) in states.iter().zip(&mut list) {
            let size = from.size_bytes();
            call.place_raw("states.out", (state.out, state.out_len), shape, state.out_strides, size, false)?;
            let lse = (state.lse, state.lse_len);
            call.place_raw("states.lse", lse, sums, state.lse_strides, size_of::<f32>(), false)?;
            *to = state.to_kernel();
        }
        call.place_raw("out", (out.out, out.out_len), shape, out.out_strides, to.size_bytes(), true)?;
        if out.lse != 0 {
            let lse = (out.lse, out.lse_len);
            call.place_raw("lse", lse, sums, out.lse_strides, size_of::<f32>(), true)?;
        }
        // SAFETY: the caller's contract.
        unsafe { merge.launch(self.0.launch_stream(), list, out.to_kernel()) }
    }
}

/// A partial state, or the result of a merge, by device addresses; the default is all 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RawState {
    /// The output `[rows, heads, head_dim]`.
    pub out: CUdeviceptr,
    /// Elements from there on.
    pub out_len: usize,
    /// Strides of it, in elements.
    pub out_strides: Strides,
    /// The LSE `[rows, heads]`, f32; of a result 0: not wanted.
    pub lse: CUdeviceptr,
    /// Elements from there on.
    pub lse_len: usize,
    /// Strides of it, in elements.
    pub lse_strides: Strides,
}

impl RawState {
    const fn to_kernel(self) -> OnekvState {
        OnekvState {
            out: self.out as *const _,
            lse: self.lse as *const f32,
            out_strides: strides(self.out_strides),
            lse_strides: strides(self.lse_strides),
        }
    }
}

const NONE: OnekvState = {
    let none = strides(Strides::new(0, 0));
    OnekvState { out: std::ptr::null(), lse: std::ptr::null(), out_strides: none, lse_strides: none }
};

/// A merge whose counts and types were checked, with its kernel.
struct Merge<'q> {
    queue: &'q QueueInner,
    function: Function,
    shape: Shape,
    count: usize,
    blocks: usize,
}

impl<'q> Merge<'q> {
    fn new(queue: &'q QueueInner, (from, to): (DType, DType), count: usize, shape: Shape) -> Result<Self> {
        shape.check_state()?;
        if count == 0 {
            return Err(Error::NoStates);
        }
        let blocks = shape.tokens.saturating_mul(shape.heads).div_ceil(ROWS_PER_BLOCK);
        let limit = i32::MAX as usize;
        for (field, value, max) in [
            ("states", count, MAX_STATES),
            ("heads", shape.heads, limit),
            ("rows x heads / 4", blocks, limit),
        ] {
            if value > max {
                return Err(Error::TooLarge { field, value, max });
            }
        }
        Ok(Self { queue, function: queue.kernels.merge_kernel(from, to)?, shape, count, blocks })
    }

    /// # Safety
    /// Operands are device memory of the kernels' context, of the kernel's types, of `shape` by their strides, aligned, what is
    /// written apart from all else; it stays until this has run.
    unsafe fn launch(
        &self,
        on: LaunchStream,
        states: [OnekvState; MAX_STATES],
        out: OnekvState,
    ) -> Result<()> {
        let Self { queue, function, shape, count, blocks } = *self;
        let parameters = OnekvMergeStates {
            states,
            out: out.out.cast_mut(),
            lse: out.lse.cast_mut(),
            out_strides: out.out_strides,
            lse_strides: out.lse_strides,
            rows: shape.tokens as i64,
            heads: shape.heads as i32,
            head_dim: shape.vector as i32,
            count: count as i32,
            reserved: 0,
        };
        let grid = Grid { x: blocks, threads: 32 * ROWS_PER_BLOCK, ..Grid::default() };
        // SAFETY: the kernel takes an OnekvMergeStates; the rest is the caller's contract.
        unsafe { queue.kernels.modules.launch(function, grid, on.stream, &mut [address_of(&parameters)]) }
    }
}

pub(super) fn merge_states<P, L, O>(
    queue: &QueueInner,
    call: Call<'_>,
    on: LaunchStream,
    states: &[PartialState<P, L>],
    mut out: View<O>,
    mut lse: Option<View<O::Lse>>,
) -> Result<()>
where
    P: DeviceRead<Element: Element>,
    L: DeviceRead<Element = f32>,
    O: DeviceWrite<Element: Element>,
{
    span!("merge", states = states.len(), rows = out.shape.tokens);
    // Here, so that its lifetime is that of the operands.
    let mut call = call;
    let merge = Merge::new(queue, (P::Element::DTYPE, O::Element::DTYPE), states.len(), out.shape)?;
    let (shape, sums) = (merge.shape, merge.shape.scalars());
    let mut list = [NONE; MAX_STATES];
    let mut read: [Option<[Placed<'_>; 2]>; MAX_STATES] = [const { None }; MAX_STATES];
    for (i, state) in states.iter().enumerate() {
        let out = call.read("states.out", &state.out, shape)?;
        let lse = call.read("states.lse", &state.lse, sums)?;
        list[i] = OnekvState {
            out: out.at as *const _,
            lse: lse.at as *const _,
            out_strides: strides(state.out.strides),
            lse_strides: strides(state.lse.strides),
        };
        read[i] = Some([out, lse]);
    }
    let out_strides = strides(out.strides);
    let lse_strides = strides(lse.as_ref().map_or(Strides::new(0, 0), |lse| lse.strides));
    let out = call.write("out", &mut out, shape)?;
    let lse = lse.as_mut().map(|lse| call.write("lse", lse, sums)).transpose()?;
    let lse_at = lse.as_ref().map_or(0, |lse| lse.at);
    let to = OnekvState { out: out.at as *const _, lse: lse_at as *const f32, out_strides, lse_strides };
    // SAFETY: shapes, sizes, strides, alignment and overlap were checked, all is of the kernels' context. Operands are allocated
    // until this returns, and freed in the order of a stream that comes after the launch (`Call`); a recording keeps them.
    let launched = unsafe { merge.launch(on, list, to) };
    let completed = call.complete((read, out, lse));
    launched.and(completed)
}
