//! The same on CUDA: candle's stream and memory, onekv's kernels.

use std::sync::Arc;

use candle_core::cuda::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Error, Result, Storage, Tensor};
use cudarc::driver::{CudaView, DeviceRepr};

use super::CandleElement;
use super::operand::{Operand, Operands};
use crate::DType;
use crate::cuda::{DeviceKv, DeviceLse, DeviceOutput, DeviceQueries, Kernels, Launch};
use crate::plan::{Plan, PlanOptions};
use crate::problem::Problem;

/// What candle and cudarc ask of an element.
pub(super) trait CudaElement: CudaDType + DeviceRepr {}
impl<E: CudaDType + DeviceRepr> CudaElement for E {}

pub(super) struct Attention {
    device: CudaDevice,
    kernels: Arc<Kernels>,
}

pub(super) struct Planned {
    device: CudaDevice,
    launch: Launch,
}

impl Attention {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let kernels = Kernels::new(device.cuda_stream().context()).map_err(Error::wrap)?;
        Ok(Self { device: device.clone(), kernels })
    }

    pub(super) fn plan(&self, problem: &Problem, dtype: DType, options: &PlanOptions) -> Result<Planned> {
        let launch = Plan::new(problem, dtype, self.kernels.facts(), options)
            .and_then(|plan| Launch::new(&self.kernels, plan, &self.device.cuda_stream()))
            .map_err(Error::wrap)?;
        Ok(Planned { device: self.device.clone(), launch })
    }
}

impl Planned {
    pub(super) fn explain(&self) -> &str {
        self.launch.plan().explain()
    }

    pub(super) fn run<E: CandleElement>(
        &self,
        operands: &Operands<'_>,
        lse: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let Operands { q, k, v } = operands;
        let (plan, stream) = (self.launch.plan(), self.device.cuda_stream());
        let problem = plan.problem();
        let rows = problem.total_rows() * problem.heads();
        // Memory of no bytes does not exist.
        let workspace_len = plan.workspace_len().max(1);
        // SAFETY: nothing reads them before the launch below, which writes every element of the output and of the LSE; of
        // the workspace its kernels read what they wrote.
        let (mut out, mut sums, mut workspace) = unsafe {
            let sums = lse.then(|| self.device.alloc::<f32>(rows)).transpose()?;
            (
                self.device.alloc::<E>(rows * problem.head_dim())?,
                sums,
                self.device.alloc::<f32>(workspace_len)?,
            )
        };
        self.launch
            .run(
                &stream,
                DeviceQueries { data: q.in_device_memory::<E>()?, strides: q.strides },
                DeviceKv {
                    k: k.in_device_memory::<E>()?,
                    v: v.in_device_memory::<E>()?,
                    k_strides: k.strides,
                    v_strides: v.strides,
                },
                DeviceOutput::contiguous(problem, out.as_view_mut()),
                sums.as_mut().map(|sums| DeviceLse::contiguous(problem, sums.as_view_mut())),
                &mut workspace.as_view_mut(),
            )
            .map_err(Error::wrap)?;
        let tensor = |storage, dims: &[usize]| {
            Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false)
        };
        let wrap = |data| CudaStorage::wrap_cuda_slice(data, self.device.clone());
        let out = CudaStorage::wrap_cuda_slice(out, self.device.clone());
        Ok((tensor(out, operands.out_dims()), sums.map(|sums| tensor(wrap(sums), operands.lse_dims()))))
    }
}

impl Operand<'_> {
    /// The storage from the tensor's first element on.
    fn in_device_memory<E: CandleElement>(&self) -> Result<CudaView<'_, E>> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage.as_cuda_slice::<E>()?.slice(self.offset..)),
            _ => Err(self.misplaced("CUDA")),
        }
    }
}
