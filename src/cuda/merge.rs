//! Joining partial attention states on the device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, DevicePtr as _, DevicePtrMut as _, DeviceRepr, DeviceSlice as _};

use super::abi::{ONEKV_MAX_STATES, OnekvMergeStates, OnekvState};
use super::kernels::{Kernels, address_of};
use super::modules::Grid;
use super::operands::{DeviceLse, DeviceOutput, apart, same_context, strides};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::problem::{Extent, StateShape, Strides};

/// The most states that one call of [`merge_states`] joins.
pub const MAX_STATES: usize = ONEKV_MAX_STATES as usize;

/// Attention over a part of the keys, on the device: its normalised output and its natural-log LSE.
pub struct DeviceState<'a, P> {
    /// `[rows, heads, head_dim]`.
    pub out: CudaView<'a, P>,
    /// Strides of `out`, in elements.
    pub out_strides: Strides,
    /// `[rows, heads]`, natural log.
    pub lse: CudaView<'a, f32>,
    /// Strides of `lse`, in elements.
    pub lse_strides: Strides,
}

impl<'a, P> DeviceState<'a, P> {
    /// A state without gaps.
    pub fn contiguous(shape: StateShape, out: CudaView<'a, P>, lse: CudaView<'a, f32>) -> Self {
        let out_strides = Strides::contiguous(shape.heads, shape.head_dim);
        Self { out, out_strides, lse, lse_strides: Strides::contiguous(shape.heads, 1) }
    }
}

/// [`cpu::merge_states`](crate::cpu::merge_states) on the device: allocates nothing, waits for nothing.
///
/// States are of the output's type, or f32 so that nothing is rounded twice. Sums are f32.
///
/// # Errors
/// [`Error::NoStates`], [`Error::TooLarge`] for more than [`MAX_STATES`], [`Error::WrongDType`] for states of
/// another 16-bit type, [`Error::WrongContext`], [`Error::Overlap`], [`Error::Cuda`], and per operand what
/// [`Problem::check`](crate::Problem::check) refuses.
pub fn merge_states<P: Element + DeviceRepr, E: Element + DeviceRepr>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    shape: StateShape,
    states: &[DeviceState<'_, P>],
    mut out: DeviceOutput<'_, E>,
    mut lse: Option<DeviceLse<'_>>,
) -> Result<()> {
    let vectors = shape.extent()?;
    let scalars = Extent { vector: 1, ..vectors };
    if states.is_empty() {
        return Err(Error::NoStates);
    }
    let blocks = shape.rows.saturating_mul(shape.heads).div_ceil(4);
    let limit = i32::MAX as usize;
    for (field, value, max) in [
        ("states", states.len(), MAX_STATES),
        ("heads", shape.heads, limit),
        ("head_dim", shape.head_dim, limit),
        ("rows x heads / 4", blocks, limit),
    ] {
        if value > max {
            return Err(Error::TooLarge { field, value, max });
        }
    }
    if P::DTYPE != E::DTYPE && P::DTYPE != DType::F32 {
        return Err(Error::WrongDType { value: P::DTYPE, planned: E::DTYPE });
    }
    let (partial, size) = (size_of::<P>(), size_of::<E>());
    same_context(kernels, stream.context(), "stream")?;
    let mut list = [const {
        let none = Strides { row: 0, head: 0 };
        OnekvState {
            out: std::ptr::null(),
            lse: std::ptr::null(),
            out_strides: strides(none),
            lse_strides: strides(none),
        }
    }; MAX_STATES];
    let mut read = Vec::with_capacity(2 * states.len());
    let mut guards = Vec::with_capacity(2 * states.len());
    for (slot, state) in list.iter_mut().zip(states) {
        same_context(kernels, state.out.stream().context(), "states.out")?;
        same_context(kernels, state.lse.stream().context(), "states.lse")?;
        let (out_at, guard) = state.out.device_ptr(stream);
        guards.push(guard);
        let (lse_at, guard) = state.lse.device_ptr(stream);
        guards.push(guard);
        vectors.check_memory("states.out", state.out.len(), out_at as usize, partial, state.out_strides)?;
        scalars.check_memory("states.lse", state.lse.len(), lse_at as usize, 4, state.lse_strides)?;
        read.push(("states.out", out_at, state.out.len() * partial));
        read.push(("states.lse", lse_at, state.lse.len() * 4));
        *slot = OnekvState {
            out: out_at as *const _,
            lse: lse_at as *const _,
            out_strides: strides(state.out_strides),
            lse_strides: strides(state.lse_strides),
        };
    }
    same_context(kernels, out.data.stream().context(), "out")?;
    let (out_len, out_strides) = (out.data.len(), out.strides);
    let (out_at, _out) = out.data.device_ptr_mut(stream);
    vectors.check_memory("out", out_len, out_at as usize, size, out_strides)?;
    let mut written = vec![("out", out_at, out_len * size)];
    let lse_strides = lse.as_ref().map_or(Strides { row: 0, head: 0 }, |lse| lse.strides);
    let mut lse_at = 0;
    let _lse = match &mut lse {
        Some(lse) => {
            same_context(kernels, lse.data.stream().context(), "lse")?;
            let len = lse.data.len();
            let (at, guard) = lse.data.device_ptr_mut(stream);
            scalars.check_memory("lse", len, at as usize, 4, lse_strides)?;
            written.push(("lse", at, len * 4));
            lse_at = at;
            Some(guard)
        }
        None => None,
    };
    apart(&read, &written)?;
    if blocks == 0 {
        return Ok(());
    }
    let parameters = OnekvMergeStates {
        states: list,
        out: out_at as *mut _,
        lse: lse_at as *mut f32,
        out_strides: strides(out_strides),
        lse_strides: strides(lse_strides),
        rows: shape.rows as i64,
        heads: shape.heads as i32,
        head_dim: shape.head_dim as i32,
        count: states.len() as i32,
        reserved: 0,
    };
    let function = kernels.modules.function("merge", &format!("onekv_merge_{}_{}", P::DTYPE, E::DTYPE), 0)?;
    // SAFETY: the kernel takes an OnekvMergeStates; sizes, strides and alignment were checked against the
    // shape, all is of the kernels' context; the views keep the memory allocated, and cudarc orders its release
    // after this stream's work.
    unsafe {
        let grid = Grid { x: blocks, threads: 128, ..Grid::default() };
        kernels.modules.launch(function, grid, stream.cu_stream(), &mut [address_of(&parameters)])
    }
}
