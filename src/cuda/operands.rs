//! Operands in device memory, and the checks that all calls share.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaView, CudaViewMut};

use super::abi::OnekvStrides;
use super::kernels::Kernels;
use crate::error::{Error, Result};
use crate::problem::{Problem, Strides};

/// Queries `[total_rows, heads, head_dim]` on the device.
pub struct DeviceQueries<'a, E> {
    /// Memory from row 0, head 0 on.
    pub data: CudaView<'a, E>,
    /// Its strides, in elements.
    pub strides: Strides,
}

/// The shared K and V on the device, each `[key_positions, kv_heads, head_dim]`.
pub struct DeviceKv<'a, E> {
    /// Keys, from position 0, head 0 on.
    pub k: CudaView<'a, E>,
    /// Values, likewise.
    pub v: CudaView<'a, E>,
    /// Strides of `k`, in elements.
    pub k_strides: Strides,
    /// Strides of `v`, in elements.
    pub v_strides: Strides,
}

/// The shared K and V on the device as [`e4m3`](crate::e4m3) codes: an element of a K/V head is the value of its code times
/// the head's scale.
pub struct DeviceKvE4m3<'a> {
    /// The codes; strides are multiples of 16.
    pub codes: DeviceKv<'a, u8>,
    /// Scales of K's heads `[kv_heads]`: finite, 0 or more.
    pub k_scale: CudaView<'a, f32>,
    /// Scales of V's heads `[kv_heads]`.
    pub v_scale: CudaView<'a, f32>,
}

/// Output `[total_rows, heads, head_dim]` on the device.
pub struct DeviceOutput<'a, E> {
    /// Memory from row 0, head 0 on.
    pub data: CudaViewMut<'a, E>,
    /// Its strides, in elements.
    pub strides: Strides,
}

/// Natural-log LSE `[total_rows, heads]` on the device.
pub struct DeviceLse<'a> {
    /// Memory from row 0, head 0 on.
    pub data: CudaViewMut<'a, f32>,
    /// Its strides, in elements.
    pub strides: Strides,
}

impl<'a, E> DeviceQueries<'a, E> {
    /// Queries without gaps.
    pub fn contiguous(problem: &Problem, data: CudaView<'a, E>) -> Self {
        Self { data, strides: problem.query_strides() }
    }
}

impl<'a, E> DeviceKv<'a, E> {
    /// K and V without gaps.
    pub fn contiguous(problem: &Problem, k: CudaView<'a, E>, v: CudaView<'a, E>) -> Self {
        let strides = problem.kv_strides();
        Self { k, v, k_strides: strides, v_strides: strides }
    }
}

impl<'a, E> DeviceOutput<'a, E> {
    /// Output without gaps.
    pub fn contiguous(problem: &Problem, data: CudaViewMut<'a, E>) -> Self {
        Self { data, strides: problem.query_strides() }
    }
}

impl<'a> DeviceLse<'a> {
    /// LSE without gaps.
    pub fn contiguous(problem: &Problem, data: CudaViewMut<'a, f32>) -> Self {
        Self { data, strides: Strides::contiguous(problem.heads(), 1) }
    }
}

/// Strides as the kernels take them.
pub(super) const fn strides(strides: Strides) -> OnekvStrides {
    OnekvStrides { row: strides.row as i64, head: strides.head as i64 }
}

/// The operand `tensor` belongs to the kernels' context.
pub(super) fn same_context(
    kernels: &Kernels,
    context: &Arc<CudaContext>,
    tensor: &'static str,
) -> Result<()> {
    if kernels.context().cu_ctx() != context.cu_ctx() {
        return Err(Error::WrongContext { tensor });
    }
    Ok(())
}

/// What is written overlaps nothing.
pub(super) fn apart(
    read: &[(&'static str, CUdeviceptr, usize)],
    written: &[(&'static str, CUdeviceptr, usize)],
) -> Result<()> {
    for (i, (tensor, at, bytes)) in written.iter().enumerate() {
        for (other, other_at, other_bytes) in read.iter().chain(&written[i + 1..]) {
            let overlaps = *bytes > 0
                && *other_bytes > 0
                && *at < other_at + *other_bytes as CUdeviceptr
                && *other_at < at + *bytes as CUdeviceptr;
            if overlaps {
                return Err(Error::Overlap { tensor, other });
            }
        }
    }
    Ok(())
}
