//! Joining partial attention states on the device.

use super::abi::{ONEKV_MAX_STATES, OnekvMergeStates, OnekvState};
use super::driver::Lane;
use super::modules::Grid;
use super::operands::{Call, DeviceRead, DeviceWrite, Placed, strides};
use super::prepared::address_of;
use super::queue::{Queue, Shared};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::shape::Strides;
use crate::span::span;
use crate::view::{PartialState, View};

/// The most states that one merge joins.
pub const MAX_STATES: usize = ONEKV_MAX_STATES as usize;

/// Rows of a block, a warp each.
const ROWS: usize = 4;

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
        merge_states(&self.0, Call::new(&self.0)?, self.0.lane(), states, out, lse)
    }
}

pub(super) fn merge_states<P, L, O>(
    queue: &Shared,
    call: Call<'_>,
    lane: Lane,
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
    // As long as the operands live.
    let mut call = call;
    let shape = out.shape;
    shape.check_state()?;
    if states.is_empty() {
        return Err(Error::NoStates);
    }
    let blocks = shape.tokens.saturating_mul(shape.heads).div_ceil(ROWS);
    let limit = i32::MAX as usize;
    for (field, value, max) in [
        ("states", states.len(), MAX_STATES),
        ("heads", shape.heads, limit),
        ("rows x heads / 4", blocks, limit),
    ] {
        if value > max {
            return Err(Error::TooLarge { field, value, max });
        }
    }
    let function = queue.kernels.merging(P::Element::DTYPE, O::Element::DTYPE)?;
    let none = const {
        let none = strides(Strides::new(0, 0));
        OnekvState { out: std::ptr::null(), lse: std::ptr::null(), out_strides: none, lse_strides: none }
    };
    let mut list = [none; MAX_STATES];
    let mut read: [Option<[Placed<'_>; 2]>; MAX_STATES] = [const { None }; MAX_STATES];
    for (i, state) in states.iter().enumerate() {
        let out = call.read("states.out", &state.out, shape)?;
        let lse = call.read("states.lse", &state.lse, shape.scalars())?;
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
    let lse = lse.as_mut().map(|lse| call.write("lse", lse, shape.scalars())).transpose()?;
    let parameters = OnekvMergeStates {
        states: list,
        out: out.at as *mut _,
        lse: lse.as_ref().map_or(0, |lse| lse.at) as *mut f32,
        out_strides,
        lse_strides,
        rows: shape.tokens as i64,
        heads: shape.heads as i32,
        head_dim: shape.vector as i32,
        count: states.len() as i32,
        reserved: 0,
    };
    let grid = Grid { x: blocks, threads: 32 * ROWS, ..Grid::default() };
    // SAFETY: the kernel takes an OnekvMergeStates; shapes, sizes, strides and alignment were checked, all is of the
    // kernels' context. Operands are allocated until this returns, and freed in the order of a stream that comes after the
    // launch (`Call`); a recording keeps them; of a `RawSlice` that is its maker's word.
    let launched =
        unsafe { queue.kernels.modules.launch(function, grid, lane.stream, &mut [address_of(&parameters)]) };
    drop((read, out, lse));
    call.complete().and(launched)
}
