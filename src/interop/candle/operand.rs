//! Tensors as operands: shape, strides and memory, checked.

use std::cell::Cell;
use std::rc::Rc;

#[cfg(feature = "candle-cuda")]
use candle_core::cuda::CudaDType;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Error, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail,
};
#[cfg(feature = "candle-cuda")]
use cudarc::driver::DeviceRepr;

use crate::dtype::{DType, Element};
use crate::problem::Problem;
use crate::shape::{Shape, Strides};
use crate::view::{View, vector_align};

/// An element type of both, candle and onekv.
#[cfg(not(feature = "candle-cuda"))]
pub(super) trait CandleElement: Element + WithDType {}
#[cfg(not(feature = "candle-cuda"))]
impl<E: Element + WithDType> CandleElement for E {}
/// An element type of all: candle, cudarc and onekv.
#[cfg(feature = "candle-cuda")]
pub(super) trait CandleElement: Element + WithDType + CudaDType + DeviceRepr {}
#[cfg(feature = "candle-cuda")]
impl<E: Element + WithDType + CudaDType + DeviceRepr> CandleElement for E {}

/// A tensor with the shape and strides that it has as an operand.
pub(super) struct Operand<'t> {
    name: &'static str,
    tensor: &'t Tensor,
    pub(super) storage: Rc<StorageRef<'t>>,
    /// From the storage's first element to the tensor's.
    pub(super) offset: usize,
    shape: Shape,
    strides: Strides,
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
    /// Of the outputs.
    pub(super) shape: Shape,
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
        let mut storages = Storages::default();
        let mut operand = |name, tensor: &'t Tensor, shape| {
            Operand::new(name, tensor, dtype, shape, tensor.layout(), &mut storages)
        };
        Ok(Self {
            q: operand("q", q, p.query_shape())?,
            k: operand("k", k, p.kv_shape())?,
            v: operand("v", v, p.kv_shape())?,
        })
    }

    /// Checks one of them.
    pub(super) fn check(
        name: &'static str,
        tensor: &Tensor,
        dtype: candle_core::DType,
        shape: Shape,
    ) -> Result<()> {
        Operand::new(name, tensor, dtype, shape, tensor.layout(), &mut Storages::default()).map(drop)
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
        let shape = Shape::from([rows, *heads, *head_dim]);
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
            let out = Operand::new("states.out", out, first.dtype(), shape, out.layout(), &mut storages)?;
            // One number for each head.
            let (dims, stride) = ([lse.dims(), &[1]].concat(), [lse.stride(), &[1]].concat());
            let layout = Layout::new(dims.into(), stride, lse.layout().start_offset());
            let f32 = candle_core::DType::F32;
            let lse = Operand::new("states.lse", lse, f32, shape.scalars(), &layout, &mut storages)?;
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
        shape: Shape,
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
        let offset = if shape.elements() == 0 { 0 } else { layout.start_offset() };
        let align = vector_align(shape.vector * dtype.size_in_bytes());
        if !(offset * dtype.size_in_bytes()).is_multiple_of(align) {
            bail!(
                "{name} begins {offset} elements into its memory, allowed: a multiple of {} (`force_contiguous()` makes it so)",
                align / dtype.size_in_bytes()
            );
        }
        Ok(Self { name, tensor, storage: storages.lock(tensor), offset, shape, strides })
    }

    pub(super) fn in_host_memory<E: WithDType>(&self) -> Result<View<&[E]>> {
        match &**self.storage {
            Storage::Cpu(storage) => Ok(self.view(&storage.as_slice::<E>()?[self.offset..])),
            _ => Err(self.misplaced("the CPU")),
        }
    }

    /// What keeps its memory.
    #[cfg(feature = "candle-cuda")]
    pub(super) fn tensor(&self) -> &'t Tensor {
        self.tensor
    }

    /// The operand; `data` is the storage from the tensor's first element on.
    pub(super) fn view<M>(&self, data: M) -> View<M> {
        View::strided(self.shape, self.strides, data)
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

        fn cpu_fwd(&self, storage: &CpuStorage, _: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
            self.0.set(std::ptr::from_ref(storage).addr());
            Err(Error::Msg(String::new()))
        }

        fn cuda_fwd(&self, storage: &CudaStorage, _: &Layout) -> Result<(CudaStorage, candle_core::Shape)> {
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

/// The strides of a tensor as an operand of `shape`. Of several slots it has a dimension for them; else all dimensions before
/// the heads are tokens.
fn strides(name: &str, layout: &Layout, shape: Shape) -> Result<Strides> {
    let (dims, stride) = (layout.dims(), layout.stride());
    let Shape { inputs, tokens, heads, vector } = shape;
    let (leading, last) = dims.split_at(dims.len().saturating_sub(2));
    let slots = inputs != 1;
    // Before the shape: what was expanded has it from that, and is to be passed as it was. Of nothing any stride may be 0.
    let expanded = |dim: &usize| dims[*dim] > 1 && stride[*dim] == 0 && !dims.contains(&0);
    if let Some(copied) = (0..dims.len().saturating_sub(1)).find(expanded) {
        let advice = match name {
            "k" | "v" => {
                format!("pass the one there is, `narrow({copied}, 0, 1)`, to a problem that shares it")
            }
            _ => "`contiguous()` makes it so".to_string(),
        };
        bail!("{name} is {dims:?} with the strides {stride:?}, allowed: memory for each vector ({advice})");
    }
    if slots && dims != [inputs, tokens, heads, vector] {
        bail!("{name} is {dims:?}, allowed: {shape}");
    }
    if last != [heads, vector] || !slots && product(leading) != Some(tokens) {
        bail!(
            "{name} is {dims:?}, allowed: [.., {heads}, {vector}] with {tokens} rows in the leading dimensions"
        );
    }
    if shape.elements() == 0 {
        return Ok(shape.strides());
    }
    let (head, along_vector) = (stride[leading.len()], stride[leading.len() + 1]);
    if vector > 1 && along_vector != 1 {
        bail!("{name} has the stride {along_vector} along head_dim, allowed: 1");
    }
    if slots {
        return Ok(Strides { input: stride[0], row: stride[1], head });
    }
    // From the last of the leading dimensions on, all that have neighbours.
    let mut row = None;
    let mut rows = 1;
    for (size, &along) in leading.iter().zip(stride).rev().filter(|(size, _)| **size > 1) {
        if along != row.get_or_insert(along).saturating_mul(rows) {
            bail!(
                "{name} is {dims:?} with the strides {stride:?}, allowed: leading dimensions at one distance from row to \
                 row (`contiguous()` makes it so; `Keys::Padded` takes K and V with two)"
            );
        }
        rows *= size;
    }
    Ok(Strides::new(row.unwrap_or(heads * vector), head))
}
