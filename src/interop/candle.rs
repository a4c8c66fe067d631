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
//! // Every layer, every step: planned once per shape.
//! let planned = attention.planned(&problem, DType::F32, &PlanOptions::default())?;
//! println!("{}", planned.explain());
//! let tensor = |x: f32, tokens: usize| Tensor::from_vec(vec![x; tokens * 768], (tokens, 12, 64), &device);
//! let (q, k, v) = (tensor(0.1, 30)?, tensor(0.2, 512)?, tensor(0.3, 512)?);
//! let out = planned.run(&q, &k, &v)?;
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
//! `contiguous`, nor an `expand` of the K/V. A cache that grows in place, by `slice_set`, is [`Keys::Padded`](crate::Keys) with
//! its capacity as `max_keys`; [`Planned::replan`] takes its new lengths.

mod cpu;
#[cfg(feature = "candle-cuda")]
mod cuda;
mod operand;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Device, Result, Tensor, WithDType, bail};
use half::{bf16, f16};

use crate::dtype::DType;
use crate::plan::PlanOptions;
use crate::problem::Problem;
use operand::{CandleElement, Operands, States, onekv_dtype};

/// Plans that an [`Attention`] keeps for [`Attention::planned`].
pub const KEPT_PLANS: usize = 64;

/// Attention on one candle device; on CUDA, its kernels.
pub struct Attention {
    on: On,
    /// Whether head_dims that no kernel has are padded.
    #[cfg_attr(not(feature = "candle-cuda"), allow(dead_code, reason = "the CPU takes any head_dim"))]
    padding: bool,
    /// At most [`KEPT_PLANS`], the last used first.
    kept: Mutex<VecDeque<Arc<Planned>>>,
}

enum On {
    Cpu,
    #[cfg(feature = "candle-cuda")]
    Cuda(cuda::Attention),
}

/// A problem, planned for a device and a dtype. Runs any number of times.
pub struct Planned {
    problem: Problem,
    /// The problem that is computed: `problem`, padded to a larger head_dim where no kernel has its own.
    computed: Problem,
    dtype: DType,
    options: PlanOptions,
    on: PlannedOn,
}

enum PlannedOn {
    Cpu,
    #[cfg(feature = "candle-cuda")]
    Cuda(Box<cuda::Planned>),
}

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
        Ok(Self { on, padding: false, kept: Mutex::default() })
    }

    /// The same, which takes any head_dim on CUDA too: where no kernel has it, Q, K and V are padded with zeros to the next that
    /// one has ([`HEAD_DIMS`](crate::plan::variants::HEAD_DIMS)), and the result is cut back. It is the same result. What it
    /// costs is the bytes of the zeros, and a copy of Q, K and V in every run; [`Planned::pad`] makes that of K and V once.
    pub fn with_padding(self) -> Self {
        Self { padding: true, kept: Mutex::default(), ..self }
    }

    /// [`Attention::plan`], once per shape: asked again with an equal problem (lengths, heads, scale and softcap), dtype and
    /// options, it gives the same plan. For engines that ask in every layer and step.
    ///
    /// On CUDA planning costs a search among kernels, tiles and splits on the host, an allocation and an upload; asking again
    /// costs a comparison with the plans that are kept. These are [`KEPT_PLANS`]: a further one takes the place of the one
    /// that was not asked for the longest, whose work list on the device is freed when nobody holds it any more. Threads that
    /// ask at once wait for each other's planning.
    ///
    /// # Errors
    /// As [`Attention::plan`]; what failed is not kept.
    pub fn planned(
        &self,
        problem: &Problem,
        dtype: candle_core::DType,
        options: &PlanOptions,
    ) -> Result<Arc<Planned>> {
        let onekv = onekv_dtype("dtype", dtype)?;
        let same =
            |kept: &Arc<Planned>| (kept.dtype, &kept.options, &kept.problem) == (onekv, options, problem);
        // Locked while it plans: who asks for the same meanwhile is to get the same.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = match kept.iter().position(same).and_then(|at| kept.remove(at)) {
            Some(planned) => planned,
            None => Arc::new(self.plan(problem, dtype, options)?),
        };
        kept.push_front(planned.clone());
        kept.truncate(KEPT_PLANS);
        Ok(planned)
    }

    /// Plans a problem for tensors of `dtype`; on CUDA, uploads the work list. The CPU plans as it runs, and heeds no
    /// options.
    ///
    /// # Errors
    /// A dtype other than f32, f16 and bf16. On CUDA, what [`Plan::new`](crate::plan::Plan::new) refuses, and
    /// [`Error::Cuda`](crate::Error::Cuda).
    pub fn plan(
        &self,
        problem: &Problem,
        dtype: candle_core::DType,
        options: &PlanOptions,
    ) -> Result<Planned> {
        let dtype = onekv_dtype("dtype", dtype)?;
        let computed = self.computed(problem)?;
        let on = match &self.on {
            On::Cpu => PlannedOn::Cpu,
            #[cfg(feature = "candle-cuda")]
            On::Cuda(attention) => PlannedOn::Cuda(Box::new(attention.plan(&computed, dtype, options)?)),
        };
        Ok(Planned { problem: problem.clone(), computed, dtype, options: *options, on })
    }

    /// What is computed for a problem.
    fn computed(&self, problem: &Problem) -> Result<Problem> {
        match &self.on {
            #[cfg(feature = "candle-cuda")]
            On::Cuda(_) if self.padding => {
                let dims = crate::plan::variants::HEAD_DIMS;
                // Above the largest it is refused where it is planned.
                let dim = dims.into_iter().find(|dim| *dim >= problem.head_dim());
                problem.padded(dim.unwrap_or(problem.head_dim())).map_err(candle_core::Error::wrap)
            }
            _ => Ok(problem.clone()),
        }
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

    /// Takes another problem's lengths, of rows and of keys, for runs from now on. On CUDA that is an upload: nothing is
    /// searched for and nothing allocated, and no length may exceed the problem's that was planned first. So a cache that
    /// grows is planned with all of its capacity in use, and then told what is.
    ///
    /// # Errors
    /// Other heads, kv_heads, head_dim, scale or softcap: all is as before. On CUDA also a length that is larger than planned,
    /// and [`Error::Cuda`](crate::Error::Cuda), after which runs are refused until another replan succeeds.
    pub fn replan(&mut self, problem: &Problem) -> Result<()> {
        let fields = |p: &Problem| {
            [
                ("heads", p.heads().to_string()),
                ("kv_heads", p.kv_heads().to_string()),
                ("head_dim", p.head_dim().to_string()),
                ("scale", p.scale().to_string()),
                ("softcap", p.softcap().map_or_else(|| "none".to_owned(), |softcap| softcap.to_string())),
            ]
        };
        for ((field, value), (_, planned)) in fields(problem).into_iter().zip(fields(&self.problem)) {
            if value != planned {
                bail!(
                    "{field} of the problem is {value}, allowed: {planned}, as planned (`Attention::plan` takes others)"
                );
            }
        }
        match &mut self.on {
            PlannedOn::Cpu => self.computed = problem.clone(),
            #[cfg(feature = "candle-cuda")]
            PlannedOn::Cuda(planned) => {
                let computed = problem.padded(self.computed.head_dim()).map_err(candle_core::Error::wrap)?;
                planned.replan(&computed, self.dtype)?;
                self.computed = computed;
            }
        }
        self.problem = problem.clone();
        Ok(())
    }

    /// K or V with zeros behind each head, as it is computed on [with padding](Attention::with_padding): a copy, which
    /// [`Planned::run`] takes without one of its own. Where nothing is padded, the tensor itself.
    ///
    /// # Errors
    /// Those of candle.
    pub fn pad(&self, tensor: &Tensor) -> Result<Tensor> {
        let more = self.computed.head_dim() - self.problem.head_dim();
        match more {
            0 => Ok(tensor.clone()),
            // Padding a view leaves a tensor whose dimensions are in another order.
            _ => tensor.pad_with_zeros(D::Minus1, 0, more)?.contiguous(),
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
        let (Self { problem, computed, .. }, dtype) = (self, <E as WithDType>::DTYPE);
        let is_padded = computed.head_dim() != problem.head_dim();
        let padded = |name, tensor: &Tensor, shape| {
            // K and V may come padded.
            if !is_padded || tensor.dims().last() == Some(&computed.head_dim()) {
                return Ok(tensor.clone());
            }
            // Checked before the copy, which would hide what is refused otherwise: K and V that were expanded, for one.
            Operands::check(name, tensor, dtype, shape)?;
            self.pad(tensor)
        };
        let q = padded("q", q, problem.query_shape())?;
        let [k, v] = [("k", k), ("v", v)].map(|(name, tensor)| padded(name, tensor, problem.kv_shape()));
        let (k, v) = (k?, v?);
        let operands = Operands::new(computed, dtype, &q, &k, &v)?;
        let (out, lse) = match &self.on {
            PlannedOn::Cpu => cpu::run::<E>(computed, &operands, lse)?,
            #[cfg(feature = "candle-cuda")]
            PlannedOn::Cuda(planned) => planned.run::<E>(&operands, lse)?,
        };
        let out = if is_padded { out.narrow(D::Minus1, 0, problem.head_dim())?.contiguous()? } else { out };
        Ok((out, lse))
    }
}
