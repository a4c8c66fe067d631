//! Tensors as operands: shape, strides and memory, checked.

use candle_core::{Error, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail};

use crate::problem::{Problem, Strides};

/// A tensor whose leading dimensions are rows, or keys.
pub(super) struct Operand<'t> {
    name: &'static str,
    tensor: &'t Tensor,
    pub(super) storage: StorageRef<'t>,
    /// From the storage's first element to the tensor's.
    pub(super) offset: usize,
    pub(super) strides: Strides,
}

/// Those of one run.
pub(super) struct Operands<'t> {
    pub(super) q: Operand<'t>,
    pub(super) k: Operand<'t>,
    pub(super) v: Operand<'t>,
}

impl<'t> Operands<'t> {
    pub(super) fn new(p: &Problem, q: &'t Tensor, k: &'t Tensor, v: &'t Tensor) -> Result<Self> {
        let (rows, keys, dim) = (p.total_rows(), p.key_positions(), p.head_dim());
        Ok(Self {
            q: Operand::new("q", q, [rows, p.heads(), dim])?,
            k: Operand::new("k", k, [keys, p.kv_heads(), dim])?,
            v: Operand::new("v", v, [keys, p.kv_heads(), dim])?,
        })
    }

    /// All are of the type that the plan is for, which candle calls `dtype`.
    pub(super) fn check_dtype(&self, planned: crate::DType, dtype: candle_core::DType) -> Result<()> {
        for Operand { name, tensor, .. } in [&self.q, &self.k, &self.v] {
            if tensor.dtype() != dtype {
                bail!("{name} is {}, allowed: {planned}, which the plan is for", tensor.dtype().as_str());
            }
        }
        Ok(())
    }

    pub(super) fn out_dims(&self) -> &[usize] {
        self.q.tensor.dims()
    }

    pub(super) fn lse_dims(&self) -> &[usize] {
        let dims = self.out_dims();
        &dims[..dims.len() - 1]
    }
}

impl<'t> Operand<'t> {
    fn new(name: &'static str, tensor: &'t Tensor, shape: [usize; 3]) -> Result<Self> {
        if tensor.track_op() {
            bail!(
                "{name} records gradients, allowed: a tensor that does not (`detach()`): there is no backward pass"
            );
        }
        let (storage, layout) = tensor.storage_and_layout();
        let strides = strides(name, layout, shape)?;
        Ok(Self { name, tensor, storage, offset: layout.start_offset(), strides })
    }

    /// The storage from the tensor's first element on.
    pub(super) fn in_host_memory<E: WithDType>(&self) -> Result<&[E]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<E>()?[self.offset..]),
            _ => Err(self.misplaced("the CPU")),
        }
    }

    pub(super) fn misplaced(&self, planned: &str) -> Error {
        let on = self.tensor.device().location();
        Error::msg(format!("{} is on {on:?}, allowed: {planned}, which the plan is for", self.name))
    }
}

/// The strides of a tensor `[.., heads, head_dim]` as one of `[tokens, heads, head_dim]`.
fn strides(name: &str, layout: &Layout, [tokens, heads, dim]: [usize; 3]) -> Result<Strides> {
    let (dims, stride) = (layout.dims(), layout.stride());
    let leading = dims.len().saturating_sub(2);
    if dims[leading..] != [heads, dim] || dims[..leading].iter().product::<usize>() != tokens {
        bail!(
            "{name} is {dims:?}, allowed: [.., {heads}, {dim}] with {tokens} rows in the leading dimensions"
        );
    }
    if tokens == 0 {
        return Ok(Strides::contiguous(heads, dim));
    }
    if dim > 1 && stride[leading + 1] != 1 {
        bail!("{name} has the stride {} along head_dim, allowed: 1", stride[leading + 1]);
    }
    // From the last of the leading dimensions on, all that have neighbours.
    let mut row = None;
    let mut rows = 1;
    for (size, stride) in dims[..leading].iter().zip(stride).rev().filter(|(size, _)| **size > 1) {
        let step = *row.get_or_insert(*stride);
        if *stride != rows * step {
            bail!(
                "{name} is {dims:?} with the strides {:?}, allowed: leading dimensions at one distance from row to row \
                 (`contiguous()` makes it so)",
                layout.stride()
            );
        }
        rows *= size;
    }
    Ok(Strides { row: row.unwrap_or(heads * dim), head: stride[leading] })
}
