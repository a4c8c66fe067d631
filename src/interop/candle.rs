//! Shared cross-attention on [candle](https://docs.rs/candle-core) tensors, on the CPU and, with feature `candle-cuda`, on
//! CUDA.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use onekv::interop::candle::Attention;
//! use onekv::plan::PlanOptions;
//! use onekv::{Keys, Problem, ProblemSpec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda_if_available(0)?;
//! let attention = Attention::new(&device)?;                              // once per device
//! // 30 query rows over one input of 512 keys, 12 heads of 64.
//! let problem = Problem::new(ProblemSpec {
//!     heads: 12, kv_heads: 12, head_dim: 64, scale: 1.0, softcap: None,
//!     row_offsets: vec![0, 30], keys: Keys::Packed { offsets: vec![0, 512] },
//! })?;
//! let planned = attention.plan(&problem, DType::F32, &PlanOptions::default())?;    // once per shape
//! println!("{}", planned.explain());
//! let tensor = |x: f32, tokens: usize| Tensor::from_vec(vec![x; tokens * 768], (tokens, 12, 64), &device);
//! let (q, k, v) = (tensor(0.1, 30)?, tensor(0.2, 512)?, tensor(0.3, 512)?);
//! let out = planned.run(&q, &k, &v)?;                                    // every layer, every step
//! assert_eq!(out.dims(), [30, 12, 64]);
//! # assert!(out.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| (x - 0.3).abs() < 1e-5));
//! # Ok(())
//! # }
//! ```
//!
//! For decoder-only models whose sequences share a prefix, [`Attention::merge_states`] joins attention over the prefix with
//! attention over what follows it.
//!
//! A projection's `[inputs, tokens, heads * head_dim]`, reshaped to `[inputs, tokens, heads, head_dim]`, is what
//! [`Planned::run`] takes, and so is a cache `[inputs, kv_heads, capacity, head_dim]` with `transpose(1, 2)`: neither needs
//! `contiguous`, nor an `expand` of the K/V.

mod cpu;
#[cfg(feature = "candle-cuda")]
mod cuda;
mod operand;

use candle_core::{Device, Result, Tensor, WithDType, bail};
use half::{bf16, f16};

use crate::dtype::{DType, Element};
use crate::plan::PlanOptions;
use crate::problem::Problem;
use operand::{Operands, States, onekv_dtype};

/// Attention on one candle device; on CUDA, its kernels.
pub struct Attention {
    on: On,
}

enum On {
    Cpu,
    #[cfg(feature = "candle-cuda")]
    Cuda(cuda::Attention),
}

/// A problem, planned for a device and a dtype. Runs any number of times.
pub struct Planned {
    problem: Problem,
    dtype: DType,
    on: PlannedOn,
}

enum PlannedOn {
    Cpu,
    #[cfg(feature = "candle-cuda")]
    Cuda(Box<cuda::Planned>),
}

/// An element type of both, candle and onekv.
#[cfg(not(feature = "candle-cuda"))]
trait CandleElement: Element + WithDType {}
#[cfg(not(feature = "candle-cuda"))]
impl<E: Element + WithDType> CandleElement for E {}
/// An element type of both, candle and onekv.
#[cfg(feature = "candle-cuda")]
trait CandleElement: Element + WithDType + cuda::CudaElement {}
#[cfg(feature = "candle-cuda")]
impl<E: Element + WithDType + cuda::CudaElement> CandleElement for E {}

impl Attention {
    /// For tensors of `device`.
    ///
    /// # Errors
    /// A Metal device, or a CUDA device without feature `candle-cuda`; [`Error::Cuda`](crate::Error::Cuda).
    pub fn new(device: &Device) -> Result<Self> {
        let on = match device {
            Device::Cpu => On::Cpu,
            #[cfg(feature = "candle-cuda")]
            Device::Cuda(device) => On::Cuda(cuda::Attention::new(device)?),
            #[cfg(not(feature = "candle-cuda"))]
            Device::Cuda(_) => bail!("device is CUDA, allowed: the CPU; feature `candle-cuda` allows CUDA"),
            Device::Metal(_) => bail!("device is Metal, allowed: the CPU, CUDA"),
        };
        Ok(Self { on })
    }

    /// Plans a problem for tensors of `dtype`; on CUDA, uploads the work list. The CPU plans as it runs, and heeds no
    /// options.
    ///
    /// # Errors
    /// A dtype other than f32, f16 and bf16. On CUDA, what [`Plan::new`](crate::plan::Plan::new) refuses, and
    /// [`Error::Cuda`](crate::Error::Cuda).
    #[cfg_attr(not(feature = "candle-cuda"), allow(unused_variables, reason = "only CUDA heeds options"))]
    pub fn plan(
        &self,
        problem: &Problem,
        dtype: candle_core::DType,
        options: &PlanOptions,
    ) -> Result<Planned> {
        let dtype = onekv_dtype("dtype", dtype)?;
        let on = match &self.on {
            On::Cpu => PlannedOn::Cpu,
            #[cfg(feature = "candle-cuda")]
            On::Cuda(attention) => PlannedOn::Cuda(Box::new(attention.plan(problem, dtype, options)?)),
        };
        Ok(Planned { problem: problem.clone(), dtype, on })
    }

    /// Joins attention over disjoint parts of the keys, each an output `[.., heads, head_dim]` and its LSE `[.., heads]`
    /// as [`Planned::run_with_lse`] gives them, into attention over all of them: the same pair.
    ///
    /// So the sequences of a decoder-only model share the K/V of their prefix: one input with all rows for the prefix, one
    /// input per sequence for what follows it, and this.
    ///
    /// # Errors
    /// No states; tensors of another device, dtype or shape than the first, or that record gradients; on CUDA more states
    /// than `cuda::MAX_STATES`, and [`Error::Cuda`](crate::Error::Cuda).
    pub fn merge_states(&self, states: &[(&Tensor, &Tensor)]) -> Result<(Tensor, Tensor)> {
        let states = States::new(states)?;
        match states.dtype {
            DType::F32 => self.merge::<f32>(&states),
            DType::F16 => self.merge::<f16>(&states),
            DType::Bf16 => self.merge::<bf16>(&states),
        }
    }

    fn merge<E: CandleElement>(&self, states: &States<'_>) -> Result<(Tensor, Tensor)> {
        match &self.on {
            On::Cpu => cpu::merge::<E>(states),
            #[cfg(feature = "candle-cuda")]
            On::Cuda(attention) => attention.merge::<E>(states),
        }
    }
}

impl Planned {
    /// Attention of every query row.
    ///
    /// Shapes: `q` and the result `[.., heads, head_dim]`; the leading dimensions, one after the other, are the problem's
    /// query rows: `[total_rows, heads, head_dim]` and `[inputs, tokens, heads, head_dim]` alike. `k` and `v` likewise
    /// `[.., kv_heads, head_dim]` with [`Keys::Packed`](crate::Keys::Packed) and with one input; of several inputs with
    /// [`Keys::Padded`](crate::Keys::Padded) they are `[inputs, max_keys, kv_heads, head_dim]`.
    ///
    /// head_dim is contiguous; the distance from row to row, from head to head, and from slot to slot of padded K and V is
    /// free, in any order. So K and V may be views of a cache: `[inputs, kv_heads, capacity, head_dim]` with
    /// `transpose(1, 2)`, of a larger capacity with `narrow`, of more inputs with `narrow(0, ..)`. Where a head is a multiple
    /// of 16 bytes, so are these distances and the offset. The result is contiguous.
    ///
    /// On CUDA the result is allocated on the device's stream, and the work is in its order. The stream of `Device::new_cuda`
    /// is each thread's own: as with candle's operations, a tensor that another thread made is not waited for. Runs are then
    /// on a stream beside, which waits for the calling thread's and is waited for by it; with `Device::new_cuda_with_stream`
    /// there is nothing to wait for.
    ///
    /// # Errors
    /// Tensors of another device (on CUDA: or stream), dtype or shape, or with other strides; a tensor that records
    /// gradients, as there is no backward pass; what [`Problem::check`] refuses; [`Error::Cuda`](crate::Error::Cuda).
    pub fn run(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        Ok(self.attend(q, k, v, false)?.0)
    }

    /// [`Planned::run`], and every row's natural-log LSE `[.., heads]`, f32: what attention over parts of the keys is
    /// joined by.
    ///
    /// # Errors
    /// As [`Planned::run`].
    pub fn run_with_lse(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        match self.attend(q, k, v, true)? {
            (out, Some(lse)) => Ok((out, lse)),
            (_, None) => bail!("no LSE was computed: a bug of onekv"),
        }
    }

    /// What runs, and why.
    pub fn explain(&self) -> String {
        match &self.on {
            PlannedOn::Cpu => "on the CPU, which plans as it runs".to_owned(),
            #[cfg(feature = "candle-cuda")]
            PlannedOn::Cuda(planned) => planned.explain(),
        }
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, lse: bool) -> Result<(Tensor, Option<Tensor>)> {
        match self.dtype {
            DType::F32 => self.attend_as::<f32>(q, k, v, lse),
            DType::F16 => self.attend_as::<f16>(q, k, v, lse),
            DType::Bf16 => self.attend_as::<bf16>(q, k, v, lse),
        }
    }

    fn attend_as<E: CandleElement>(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        lse: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let operands = Operands::new(&self.problem, <E as WithDType>::DTYPE, q, k, v)?;
        match &self.on {
            PlannedOn::Cpu => cpu::run::<E>(&self.problem, &operands, lse),
            #[cfg(feature = "candle-cuda")]
            PlannedOn::Cuda(planned) => planned.run::<E>(&operands, lse),
        }
    }
}
