//! Tensors as operands: shape, strides and memory, checked.

use std::cell::Cell;
use std::rc::Rc;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Error, Layout, Result, Shape, Storage, StorageRef, Tensor, WithDType,
    bail,
};

use crate::dtype::DType;
use crate::problem::{Problem, StateShape, Strides, vector_align};

/// A tensor whose leading dimensions are rows, or keys.
pub(super) struct Operand<'t> {
    name: &'static str,
    tensor: &'t Tensor,
    pub(super) storage: Rc<StorageRef<'t>>,
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

/// Attention over a part of the keys.
pub(super) struct State<'t> {
    pub(super) out: Operand<'t>,
    pub(super) lse: Operand<'t>,
}

/// Those of one merge.
pub(super) struct States<'t> {
    pub(super) list: Vec<State<'t>>,
    pub(super) shape: StateShape,
    pub(super) dtype: DType,
}

impl<'t> Operands<'t> {
    pub(super) fn new(
        p: &Problem,
        dtype: candle_core::DType,
        q: &'t Tensor,
        k: &'t Tensor,
        v: &'t Tensor,
    ) -> Result<Self> {
        let (rows, keys, dim) = (p.total_rows(), p.key_positions(), p.head_dim());
        let mut storages = Storages::default();
        let mut operand = |name, tensor: &'t Tensor, tokens, heads| {
            Operand::new(name, tensor, dtype, [tokens, heads, dim], tensor.layout(), &mut storages)
        };
        Ok(Self {
            q: operand("q", q, rows, p.heads())?,
            k: operand("k", k, keys, p.kv_heads())?,
            v: operand("v", v, keys, p.kv_heads())?,
        })
    }

    /// Of the output, as of `q`.
    pub(super) fn out_dims(&self) -> &[usize] {
        self.q.tensor.dims()
    }

    pub(super) fn lse_dims(&self) -> &[usize] {
        without_head_dim(self.out_dims())
    }
}

impl<'t> States<'t> {
    pub(super) fn new(states: &[(&'t Tensor, &'t Tensor)]) -> Result<Self> {
        let [(first, _), ..] = states else { return Err(Error::wrap(crate::Error::NoStates)) };
        let [leading @ .., heads, head_dim] = first.dims() else {
            bail!("states.out is {:?}, allowed: [.., heads, head_dim]", first.dims())
        };
        let rows =
            product(leading).ok_or_else(|| Error::wrap(crate::Error::Overflow { field: "states.out" }))?;
        let shape = StateShape { rows, heads: *heads, head_dim: *head_dim };
        let mut storages = Storages::default();
        let list = states.iter().map(|(out, lse)| {
            let lse_dims = without_head_dim(first.dims());
            for (name, tensor, allowed) in
                [("states.out", *out, first.dims()), ("states.lse", *lse, lse_dims)]
            {
                if tensor.dims() != allowed {
                    bail!("{name} is {:?}, allowed: {allowed:?}, as the first of them says", tensor.dims());
                }
            }
            let vectors = [rows, *heads, *head_dim];
            let out = Operand::new("states.out", out, first.dtype(), vectors, out.layout(), &mut storages)?;
            // One number for each head.
            let (dims, stride) = ([lse.dims(), &[1]].concat(), [lse.stride(), &[1]].concat());
            let layout = Layout::new(dims.into(), stride, lse.layout().start_offset());
            let (f32, scalars) = (candle_core::DType::F32, [rows, *heads, 1]);
            let lse = Operand::new("states.lse", lse, f32, scalars, &layout, &mut storages)?;
            Ok(State { out, lse })
        });
        let dtype = onekv_dtype("states.out", first.dtype())?;
        Ok(Self { list: list.collect::<Result<_>>()?, shape, dtype })
    }

    pub(super) fn out_dims(&self) -> &[usize] {
        self.list.first().map_or(&[], |first| first.out.tensor.dims())
    }

    pub(super) fn lse_dims(&self) -> &[usize] {
        without_head_dim(self.out_dims())
    }
}

impl<'t> Operand<'t> {
    /// `layout`: the tensor's, as `[.., heads, head_dim]`.
    fn new(
        name: &'static str,
        tensor: &'t Tensor,
        dtype: candle_core::DType,
        shape: [usize; 3],
        layout: &Layout,
        storages: &mut Storages<'t>,
    ) -> Result<Self> {
        if tensor.track_op() {
            bail!(
                "{name} records gradients, allowed: a tensor that does not (`detach()`): there is no backward pass"
            );
        }
        if tensor.dtype() != dtype {
            bail!("{name} is {}, allowed: {}", tensor.dtype().as_str(), dtype.as_str());
        }
        let strides = strides(name, layout, shape)?;
        // Where there is nothing it may stand anywhere.
        let offset = if shape.contains(&0) { 0 } else { layout.start_offset() };
        let align = vector_align(shape[2] * dtype.size_in_bytes());
        if !(offset * dtype.size_in_bytes()).is_multiple_of(align) {
            bail!(
                "{name} begins {offset} elements into its memory, allowed: a multiple of {} (`force_contiguous()` makes it so)",
                align / dtype.size_in_bytes()
            );
        }
        Ok(Self { name, tensor, storage: storages.lock(tensor), offset, strides })
    }

    /// The storage from the tensor's first element on.
    pub(super) fn in_host_memory<E: WithDType>(&self) -> Result<&[E]> {
        match &**self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<E>()?[self.offset..]),
            _ => Err(self.misplaced("the CPU")),
        }
    }

    pub(super) fn misplaced(&self, allowed: &str) -> Error {
        let on = self.tensor.device().location();
        Error::msg(format!("{} is on {on:?}, allowed: {allowed}, which this attention is for", self.name))
    }
}

/// Storages, each locked once: a second lock by this thread would wait for a writer that waits for the first.
#[derive(Default)]
struct Storages<'t>(Vec<(usize, Rc<StorageRef<'t>>)>);

impl<'t> Storages<'t> {
    fn lock(&mut self, tensor: &'t Tensor) -> Rc<StorageRef<'t>> {
        let at = address(tensor);
        if let Some((_, held)) = self.0.iter().find(|(held, _)| *held == at) {
            return held.clone();
        }
        let storage = Rc::new(tensor.storage_and_layout().0);
        self.0.push((at, storage.clone()));
        storage
    }
}

/// Where a tensor's storage stands. candle tells it to operations alone, whose locks wait for no writer.
fn address(tensor: &Tensor) -> usize {
    struct Address(Cell<usize>);

    impl CustomOp1 for Address {
        fn name(&self) -> &'static str {
            "the address of a storage"
        }

        fn cpu_fwd(&self, storage: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            self.0.set(std::ptr::from_ref(storage).addr());
            Err(Error::Msg(String::new()))
        }

        fn cuda_fwd(&self, storage: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
            self.0.set(std::ptr::from_ref(storage).addr());
            Err(Error::Msg(String::new()))
        }
    }

    let found = Address(Cell::new(0));
    // An error in any case: there is no result.
    let _ = tensor.apply_op1_no_bwd(&found);
    found.0.get()
}

/// `None` where it overflows.
fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1, |product: usize, size| product.checked_mul(*size))
}

/// onekv's name for a type of candle's.
pub(super) fn onekv_dtype(name: &str, dtype: candle_core::DType) -> Result<DType> {
    match dtype {
        candle_core::DType::F32 => Ok(DType::F32),
        candle_core::DType::F16 => Ok(DType::F16),
        candle_core::DType::BF16 => Ok(DType::Bf16),
        other => bail!("{name} is {}, allowed: f32, f16, bf16", other.as_str()),
    }
}

fn without_head_dim(dims: &[usize]) -> &[usize] {
    dims.split_last().map_or(&[], |(_, leading)| leading)
}

/// The strides of a tensor `[.., heads, head_dim]` as one of `[tokens, heads, head_dim]`.
fn strides(name: &str, layout: &Layout, [tokens, heads, dim]: [usize; 3]) -> Result<Strides> {
    let (dims, stride) = (layout.dims(), layout.stride());
    let leading = dims.len().saturating_sub(2);
    if dims[leading..] != [heads, dim] || product(&dims[..leading]) != Some(tokens) {
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
        if step == 0 || *stride != step.saturating_mul(rows) {
            bail!(
                "{name} is {dims:?} with the strides {:?}, allowed: leading dimensions at one distance from row to row \
                 (`contiguous()` makes it so)",
                layout.stride()
            );
        }
        rows *= size;
    }
    if heads > 1 && stride[leading] == 0 {
        bail!(
            "{name} has the stride 0 along the heads, allowed: memory for each (`contiguous()` makes it so)"
        );
    }
    Ok(Strides { row: row.unwrap_or(heads * dim), head: stride[leading] })
}
