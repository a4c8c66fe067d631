//! The same on CUDA: candle's stream and memory, onekv's kernels.

use std::sync::Arc;

use candle_core::cuda::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Error, Result, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaView, DeviceRepr};

use super::CandleElement;
use super::operand::{Operand, Operands, State, States};
use crate::cuda::{
    DeviceKv, DeviceLse, DeviceOutput, DeviceQueries, DeviceState, Kernels, Launch, merge_states,
};
use crate::dtype::DType;
use crate::plan::{Plan, PlanOptions};
use crate::problem::{Problem, Strides};

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

    pub(super) fn merge<E: CandleElement>(&self, states: &States<'_>) -> Result<(Tensor, Tensor)> {
        let shape = states.shape;
        let parts = states.list.iter().map(|State { out, lse }| {
            let (out_strides, lse_strides) = (out.strides, lse.strides);
            Ok(DeviceState {
                out: out.in_device_memory::<E>(&self.device)?,
                lse: lse.in_device_memory::<f32>(&self.device)?,
                out_strides,
                lse_strides,
            })
        });
        let parts: Vec<DeviceState<'_, E>> = parts.collect::<Result<_>>()?;
        let vectors = shape.rows.saturating_mul(shape.heads);
        let out_len = vectors.saturating_mul(shape.head_dim);
        // SAFETY: nothing reads them before the launch below, which writes every element.
        let (mut out, mut lse) =
            unsafe { (self.device.alloc::<E>(some(out_len))?, self.device.alloc::<f32>(some(vectors))?) };
        let strides = Strides::contiguous(shape.heads, shape.head_dim);
        let lse_strides = Strides::contiguous(shape.heads, 1);
        merge_states(
            &self.kernels,
            &self.device.cuda_stream(),
            shape,
            &parts,
            DeviceOutput { data: out.as_view_mut(), strides },
            Some(DeviceLse { data: lse.as_view_mut(), strides: lse_strides }),
        )
        .map_err(Error::wrap)?;
        let device = &self.device;
        Ok((tensor(out, device, states.out_dims()), tensor(lse, device, states.lse_dims())))
    }
}

impl Planned {
    pub(super) fn explain(&self) -> String {
        self.launch.plan().explain()
    }

    pub(super) fn run<E: CandleElement>(
        &self,
        operands: &Operands<'_>,
        lse: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (Operands { q, k, v }, device) = (operands, &self.device);
        let (plan, stream) = (self.launch.plan(), device.cuda_stream());
        let problem = plan.problem();
        let vectors = problem.total_rows() * problem.heads();
        // SAFETY: nothing reads them before the launch below, which writes every element of the output and of the LSE; of
        // the workspace its kernels read what they wrote.
        let (mut out, mut sums, mut workspace) = unsafe {
            (
                device.alloc::<E>(some(vectors * problem.head_dim()))?,
                lse.then(|| device.alloc::<f32>(some(vectors))).transpose()?,
                device.alloc::<f32>(some(plan.workspace_len()))?,
            )
        };
        self.launch
            .run(
                &stream,
                DeviceQueries { data: q.in_device_memory::<E>(device)?, strides: q.strides },
                DeviceKv {
                    k: k.in_device_memory::<E>(device)?,
                    v: v.in_device_memory::<E>(device)?,
                    k_strides: k.strides,
                    v_strides: v.strides,
                },
                DeviceOutput::contiguous(problem, out.as_view_mut()),
                sums.as_mut().map(|sums| DeviceLse::contiguous(problem, sums.as_view_mut())),
                &mut workspace.as_view_mut(),
            )
            .map_err(Error::wrap)?;
        let sums = sums.map(|sums| tensor(sums, device, operands.lse_dims()));
        Ok((tensor(out, device, operands.out_dims()), sums))
    }
}

/// Elements to allocate for this many: memory of no bytes does not exist.
fn some(len: usize) -> usize {
    len.max(1)
}

/// Memory without gaps as a tensor.
fn tensor<E: CudaDType>(data: CudaSlice<E>, device: &CudaDevice, dims: &[usize]) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(data, device.clone()));
    Tensor::from_storage(storage, dims, BackpropOp::none(), false)
}

impl Operand<'_> {
    /// The storage from the tensor's first element on.
    fn in_device_memory<E: CandleElement>(&self, device: &CudaDevice) -> Result<CudaView<'_, E>> {
        let Storage::Cuda(storage) = &**self.storage else { return Err(self.misplaced("CUDA")) };
        // Work of another stream would not be waited for.
        let (at, planned) = (storage.device.cuda_stream(), device.cuda_stream());
        if at.context().cu_ctx() != planned.context().cu_ctx() || at.cu_stream() != planned.cu_stream() {
            return Err(self.misplaced("the device and stream"));
        }
        Ok(storage.as_cuda_slice::<E>()?.slice(self.offset..))
    }
}
