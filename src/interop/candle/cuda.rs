//! On CUDA: candle's stream and memory, onekv's kernels.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendDevice as _;
use candle_core::cuda::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Error, Result, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaView};

use super::operand::{CandleElement, Operand, Operands, State, States};
use crate::cuda::{Event, Kernels, Prepared, Queue};
use crate::dtype::DType;
use crate::plan::{Plan, PlanOptions};
use crate::problem::Problem;
use crate::shape::Shape;
use crate::view::{PartialState, SharedKv, View};

pub(super) struct Attention {
    device: CudaDevice,
    queue: Queue,
    in_use: Arc<InUse>,
}

pub(super) struct Planned {
    device: CudaDevice,
    plan: Plan,
    queue: Queue,
    prepared: Prepared,
    in_use: Arc<InUse>,
}

/// Tensors of runs that may not have ended, kept alive on devices whose stream is each thread's own: another thread that drops a
/// tensor would free it on its own stream, which does not wait for those runs.
#[derive(Default)]
struct InUse(Mutex<VecDeque<(Event, Vec<Tensor>)>>);

impl InUse {
    /// Keeps `tensors` until what is queued now has run, and lets go of those whose runs have ended.
    fn keep(&self, queue: &Queue, tensors: impl FnOnce() -> Vec<Tensor>) -> Result<()> {
        if !queue.serves_per_thread_stream() {
            return Ok(());
        }
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match Event::behind(queue.stream()) {
            Ok(event) => list.push_back((event, tensors())),
            Err(error) => {
                // They may still be used.
                std::mem::forget(tensors());
                return Err(Error::wrap(error));
            }
        }
        while list.front().is_some_and(|(event, _)| event.has_passed()) {
            list.pop_front();
        }
        Ok(())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let list = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (event, tensors) in list.drain(..) {
            if event.synchronize().is_err() {
                // They may still be used.
                std::mem::forget(tensors);
            }
        }
    }
}

impl Attention {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        // SAFETY: what runs use is kept by `InUse` until they have ended.
        let queue = Kernels::new(device.cuda_stream().context())
            .and_then(|kernels| unsafe { Queue::for_per_thread_stream(&kernels, &device.cuda_stream()) })
            .map_err(Error::wrap)?;
        Ok(Self { device: device.clone(), queue, in_use: Arc::default() })
    }

    pub(super) fn plan(&self, problem: &Problem, dtype: DType, options: &PlanOptions) -> Result<Planned> {
        let plan = Plan::new(problem, dtype, self.queue.kernels().facts(), options).map_err(Error::wrap)?;
        let prepared = self.queue.prepare(&plan).map_err(Error::wrap)?;
        let (device, queue, in_use) = (self.device.clone(), self.queue.clone(), self.in_use.clone());
        Ok(Planned { device, plan, queue, prepared, in_use })
    }

    pub(super) fn merge<E: CandleElement>(&self, states: &States<'_>) -> Result<(Tensor, Tensor)> {
        let device = &self.device;
        let parts = states.list.iter().map(|State { out, lse }| {
            Ok(PartialState { out: out.in_device_memory::<E>(device)?, lse: lse.in_device_memory(device)? })
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let (mut out, mut lse) = (unset::<E>(device, states.shape)?, unset(device, states.shape.scalars())?);
        let merged = self.queue.merge_states(&parts, out.as_view_mut(), Some(lse.as_view_mut()));
        let (out, lse) = (tensor(out, device, states.out_dims()), tensor(lse, device, states.lse_dims()));
        let used = || {
            let read = states.list.iter().flat_map(|State { out, lse }| [out.tensor(), lse.tensor()]);
            read.chain([&out, &lse]).cloned().collect()
        };
        self.in_use.keep(&self.queue, used)?;
        merged.map_err(Error::wrap)?;
        Ok((out, lse))
    }
}

impl Planned {
    pub(super) fn explain(&self) -> String {
        self.plan.explain()
    }

    pub(super) fn replan(&mut self, problem: &Problem, dtype: DType) -> Result<()> {
        let (facts, like) = (self.queue.kernels().facts(), PlanOptions::like(&self.plan));
        let plan = Plan::new(problem, dtype, facts, &like).map_err(Error::wrap)?;
        self.prepared.replan(&plan).map_err(Error::wrap)?;
        self.plan = plan;
        Ok(())
    }

    pub(super) fn run<E: CandleElement>(
        &self,
        operands: &Operands<'_>,
        lse: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (Operands { q, k, v }, device, problem) = (operands, &self.device, self.plan.problem());
        let mut out = unset::<E>(device, problem.query_shape())?;
        let mut sums = lse.then(|| unset::<f32>(device, problem.lse_shape())).transpose()?;
        let ran = self.prepared.run(
            q.in_device_memory::<E>(device)?,
            SharedKv { k: k.in_device_memory::<E>(device)?, v: v.in_device_memory::<E>(device)? },
            out.as_view_mut(),
            sums.as_mut().map(View::<CudaSlice<f32>>::as_view_mut),
        );
        let sums = sums.map(|sums| tensor(sums, device, operands.lse_dims()));
        let out = tensor(out, device, operands.out_dims());
        let used = || [q.tensor(), k.tensor(), v.tensor(), &out].into_iter().chain(&sums).cloned().collect();
        self.in_use.keep(&self.queue, used)?;
        ran.map_err(Error::wrap)?;
        Ok((out, sums))
    }
}

/// Memory for a result, of at least one element: so does candle for tensors of none.
fn unset<E: CandleElement>(device: &CudaDevice, shape: Shape) -> Result<View<CudaSlice<E>>> {
    // SAFETY: a call that writes all of it is queued before anybody else has it.
    let memory = unsafe { device.alloc::<E>(shape.elements().max(1)) }?;
    Ok(View::contiguous(shape, memory))
}

/// Memory without gaps as a tensor.
fn tensor<E: CudaDType>(result: View<CudaSlice<E>>, device: &CudaDevice, dims: &[usize]) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(result.data, device.clone()));
    Tensor::from_storage(storage, dims, BackpropOp::none(), false)
}

impl Operand<'_> {
    fn in_device_memory<E: CandleElement>(&self, device: &CudaDevice) -> Result<View<CudaView<'_, E>>> {
        let Storage::Cuda(storage) = &**self.storage else { return Err(self.misplaced("CUDA")) };
        // As candle's operations: of a card's several devices each has its own stream and account of memory.
        if !storage.device.same_device(device) {
            return Err(self.misplaced("the device and stream"));
        }
        Ok(self.view(storage.as_cuda_slice::<E>()?.slice(self.offset..)))
    }
}
