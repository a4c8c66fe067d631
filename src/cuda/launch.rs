//! A plan on the device, and its runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUdeviceptr, CUstream};
use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice,
};

use super::abi::{OnekvAttention, OnekvMerge, OnekvWork};
use super::kernels::{Kernels, address_of};
use super::modules::{Function, Grid, cuda};
use super::operands::{
    DeviceKv, DeviceKvE4m3, DeviceLse, DeviceOutput, DeviceQueries, apart, same_context, strides,
};
use super::tensor_map::{TensorMap, boxes_of_tokens};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::plan::{Architecture, Plan};
use crate::problem::{Extent, Strides};

// SAFETY: plain old data, as the kernels read it.
unsafe impl DeviceRepr for OnekvWork {}
// SAFETY: as above.
unsafe impl DeviceRepr for OnekvMerge {}

/// The handle by which each thread names a default stream of its own: `CU_STREAM_PER_THREAD` in cuda.h.
const PER_THREAD: usize = 2;
/// Bytes that the workspace's address is a multiple of: partial states are written 16 at a time.
const WORKSPACE_ALIGN: CUdeviceptr = 16;

/// Operands as device addresses; strides in elements. An LSE of address 0 is not written.
#[derive(Debug, Clone, Copy)]
pub struct RawOperands {
    /// `[total_rows, heads, head_dim]`.
    pub q: CUdeviceptr,
    /// `[key_positions, kv_heads, head_dim]`.
    pub k: CUdeviceptr,
    /// As `k`.
    pub v: CUdeviceptr,
    /// Of e4m3 K and V: `[kv_heads]`, f32. Else not read.
    pub k_scale: CUdeviceptr,
    /// As `k_scale`.
    pub v_scale: CUdeviceptr,
    /// `[total_rows, heads, head_dim]`.
    pub out: CUdeviceptr,
    /// `[total_rows, heads]`, f32, or 0.
    pub lse: CUdeviceptr,
    /// At least [`Plan::workspace_len`] f32; not read where no input is split.
    pub workspace: CUdeviceptr,
    /// Strides of `q`.
    pub q_strides: Strides,
    /// Strides of `k`.
    pub k_strides: Strides,
    /// Strides of `v`.
    pub v_strides: Strides,
    /// Strides of `out`.
    pub out_strides: Strides,
    /// Strides of `lse`.
    pub lse_strides: Strides,
}

/// A plan with its work list on the device; runs any number of times, from any thread and on any stream.
///
/// Runs at the same time need a workspace each. A captured graph holds addresses: it may replay as long as this, the
/// operands and the workspace live. Dropped after runs on a stream other than that of [`Launch::new`], or on threads' own
/// default streams, where cudarc does not order streams, it waits for the context.
pub struct Launch {
    kernels: Arc<Kernels>,
    plan: Plan,
    function: Function,
    combine: Option<Function>,
    work: Uploaded<OnekvWork>,
    merges: Option<Uploaded<OnekvMerge>>,
    /// On another stream than that in whose order the work list is freed.
    ran_elsewhere: AtomicBool,
}

/// Device memory that is written once, before any launch: no stream needs to wait for it.
struct Uploaded<T> {
    at: CUdeviceptr,
    /// `None` once it has leaked.
    memory: Option<CudaSlice<T>>,
}

impl<T: DeviceRepr> Uploaded<T> {
    fn new(stream: &Arc<CudaStream>, data: &[T]) -> Result<Self> {
        let memory = stream.clone_htod(data).map_err(cuda("uploading a plan"))?;
        let at = memory.device_ptr(stream).0;
        Ok(Self { at, memory: Some(memory) })
    }

    /// Keeps the memory for good.
    fn leak(&mut self) {
        self.memory.take().map(CudaSlice::leak);
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        if *self.ran_elsewhere.get_mut() && self.kernels.context().synchronize().is_err() {
            // It may still be read.
            self.work.leak();
            self.merges.iter_mut().for_each(Uploaded::leak);
        }
    }
}

impl Launch {
    /// Uploads the plan's work list on `stream` and waits for it.
    ///
    /// # Errors
    /// [`Error::Cuda`], [`Error::WrongContext`] for a stream of another context.
    pub fn new(kernels: &Arc<Kernels>, plan: Plan, stream: &Arc<CudaStream>) -> Result<Self> {
        same_context(kernels, stream.context(), "stream")?;
        let variant = plan.variant();
        let function =
            kernels.modules.function(&variant.module(), &variant.kernel(), variant.shared_bytes)?;
        // The plan keeps every number below 2^31.
        let work: Vec<OnekvWork> = plan
            .work()
            .iter()
            .map(|w| OnekvWork {
                row_base: w.row_base as i32,
                rows: w.rows as i32,
                tile: w.tile as i32,
                kv_head: w.kv_head as i32,
                key_begin: w.keys.start as i32,
                key_end: w.keys.end as i32,
                slot: w.slot.map_or(-1, |slot| slot as i32),
                reserved: 0,
            })
            .collect();
        let merges: Vec<OnekvMerge> = plan
            .merges()
            .iter()
            .map(|m| OnekvMerge {
                row_base: m.row_base as i32,
                rows: m.rows as i32,
                tile: m.tile as i32,
                kv_head: m.kv_head as i32,
                slot: m.slots.start as i32,
                slots: m.slots.len() as i32,
                reserved: [0; 2],
            })
            .collect();
        // A plan without work has nothing to launch; memory of no bytes does not exist.
        let none = OnekvWork {
            row_base: 0,
            rows: 0,
            tile: 0,
            kv_head: 0,
            key_begin: 0,
            key_end: 0,
            slot: -1,
            reserved: 0,
        };
        let work = Uploaded::new(stream, if work.is_empty() { std::slice::from_ref(&none) } else { &work })?;
        let (combine, merges) = match merges.is_empty() {
            true => (None, None),
            false => {
                let (module, name) = variant.combine();
                let combine = kernels.modules.function(&module, &name, 0)?;
                (Some(combine), Some(Uploaded::new(stream, &merges)?))
            }
        };
        // Other streams may run it from now on.
        stream.synchronize().map_err(cuda("uploading a plan"))?;
        let (kernels, ran_elsewhere) = (kernels.clone(), AtomicBool::new(false));
        Ok(Self { kernels, plan, function, combine, work, merges, ran_elsewhere })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs on `stream`: allocates nothing, waits for nothing.
    ///
    /// To capture it in a graph, switch cudarc's event tracking off before the operands are allocated
    /// ([`CudaContext::disable_event_tracking`](cudarc::driver::CudaContext::disable_event_tracking)): its events lie
    /// outside of the capture.
    ///
    /// # Errors
    /// What [`Problem::check`](crate::Problem::check) refuses, of device memory; [`Error::WrongDType`], [`Error::WrongKv`],
    /// [`Error::WrongContext`], [`Error::Workspace`], [`Error::Overlap`], [`Error::Cuda`].
    pub fn run<E: Element + DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        q: DeviceQueries<'_, E>,
        kv: DeviceKv<'_, E>,
        out: DeviceOutput<'_, E>,
        lse: Option<DeviceLse<'_>>,
        workspace: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        if self.plan.variant().e4m3_kv() {
            return Err(Error::WrongKv { value: "in the type of q", planned: "e4m3 (Launch::run_e4m3)" });
        }
        self.check_and_run(stream, q, kv, None, out, lse, workspace)
    }

    /// [`Launch::run`] with K and V in e4m3, for plans by [`Plan::with_e4m3_kv`].
    ///
    /// # Errors
    /// As [`Launch::run`]; [`Error::TooShort`] for fewer scales than K/V heads.
    pub fn run_e4m3<E: Element + DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        q: DeviceQueries<'_, E>,
        kv: DeviceKvE4m3<'_>,
        out: DeviceOutput<'_, E>,
        lse: Option<DeviceLse<'_>>,
        workspace: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        if !self.plan.variant().e4m3_kv() {
            return Err(Error::WrongKv { value: "e4m3", planned: "in the type of q (Launch::run)" });
        }
        let heads = self.plan.problem().kv_heads();
        for (tensor, scales) in [("k_scale", &kv.k_scale), ("v_scale", &kv.v_scale)] {
            same_context(&self.kernels, scales.stream().context(), tensor)?;
            if scales.len() < heads {
                return Err(Error::TooShort { tensor, value: scales.len(), min: heads });
            }
        }
        self.check_and_run(stream, q, kv.codes, Some([&kv.k_scale, &kv.v_scale]), out, lse, workspace)
    }

    /// `P`: the elements of K and V, with their scales where they have any.
    #[allow(clippy::too_many_arguments, reason = "the operands of a run")]
    fn check_and_run<E: Element + DeviceRepr, P: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        q: DeviceQueries<'_, E>,
        kv: DeviceKv<'_, P>,
        scales: Option<[&CudaView<'_, f32>; 2]>,
        mut out: DeviceOutput<'_, E>,
        mut lse: Option<DeviceLse<'_>>,
        workspace: &mut CudaViewMut<'_, f32>,
    ) -> Result<()> {
        let planned = self.plan.variant().dtype;
        if E::DTYPE != planned {
            return Err(Error::WrongDType { value: E::DTYPE, planned });
        }
        let of_kernels = |context, tensor| same_context(&self.kernels, context, tensor);
        of_kernels(stream.context(), "stream")?;
        of_kernels(q.data.stream().context(), "q")?;
        of_kernels(kv.k.stream().context(), "k")?;
        of_kernels(kv.v.stream().context(), "v")?;
        of_kernels(out.data.stream().context(), "out")?;
        of_kernels(workspace.stream().context(), "workspace")?;
        if let Some(lse) = &lse {
            of_kernels(lse.data.stream().context(), "lse")?;
        }
        if workspace.len() < self.plan.workspace_len() {
            return Err(Error::Workspace { value: workspace.len(), min: self.plan.workspace_len() });
        }
        let no_lse = Strides { row: 0, head: 0 };
        let (out_len, lse_len, workspace_len) =
            (out.data.len(), lse.as_ref().map(|l| l.data.len()), workspace.len());
        let (q_at, _q) = q.data.device_ptr(stream);
        let (k_at, _k) = kv.k.device_ptr(stream);
        let (v_at, _v) = kv.v.device_ptr(stream);
        let scale_ptrs = scales.map(|both| both.map(|scale| scale.device_ptr(stream)));
        let [k_scale, v_scale] = scale_ptrs.as_ref().map_or([0; 2], |both| [both[0].0, both[1].0]);
        let out_strides = out.strides;
        let (out_at, _out) = out.data.device_ptr_mut(stream);
        let lse_strides = lse.as_ref().map_or(no_lse, |l| l.strides);
        let lse_ptr = lse.as_mut().map(|l| l.data.device_ptr_mut(stream));
        let lse_at = lse_ptr.as_ref().map_or(0, |(at, _)| *at);
        let (workspace_at, _workspace) = workspace.device_ptr_mut(stream);
        // Whatever stream this is, the work list is not freed before it has been read: by these events where cudarc keeps
        // streams in order, else by `drop`.
        let work = self.work.memory.as_ref();
        let elsewhere = stream.cu_stream().addr() == PER_THREAD
            || work.is_none_or(|memory| memory.stream().cu_stream() != stream.cu_stream());
        if elsewhere && !stream.context().is_managing_stream_synchronization() {
            self.ran_elsewhere.store(true, Ordering::Relaxed);
        }
        let _work = work.map(|memory| memory.device_ptr(stream));
        let merges = self.merges.as_ref().and_then(|merges| merges.memory.as_ref());
        let _merges = merges.map(|memory| memory.device_ptr(stream));

        let problem = self.plan.problem();
        let rows =
            Extent { tokens: problem.total_rows(), heads: problem.heads(), vector: problem.head_dim() };
        let keys =
            Extent { tokens: problem.key_positions(), heads: problem.kv_heads(), vector: problem.head_dim() };
        let (size, kv_size) = (size_of::<E>(), size_of::<P>());
        let address = |at: CUdeviceptr| at as usize;
        rows.check_memory("q", q.data.len(), address(q_at), size, q.strides)?;
        keys.check_memory("k", kv.k.len(), address(k_at), kv_size, kv.k_strides)?;
        keys.check_memory("v", kv.v.len(), address(v_at), kv_size, kv.v_strides)?;
        rows.check_memory("out", out_len, address(out_at), size, out_strides)?;
        if let Some(len) = lse_len {
            Extent { vector: 1, ..rows }.check_memory(
                "lse",
                len,
                address(lse_at),
                size_of::<f32>(),
                lse_strides,
            )?;
        }
        if self.plan.slots() > 0 && workspace_at % WORKSPACE_ALIGN != 0 {
            let (value, align) = (address(workspace_at), WORKSPACE_ALIGN as usize);
            return Err(Error::Misaligned { tensor: "workspace", part: "data", value, align });
        }
        let read = [
            ("q", q_at, q.data.len() * size),
            ("k", k_at, kv.k.len() * kv_size),
            ("v", v_at, kv.v.len() * kv_size),
            ("k_scale", k_scale, scales.map_or(0, |both| both[0].len() * size_of::<f32>())),
            ("v_scale", v_scale, scales.map_or(0, |both| both[1].len() * size_of::<f32>())),
        ];
        let written = [
            ("out", out_at, out_len * size),
            ("lse", lse_at, lse_len.unwrap_or(0) * size_of::<f32>()),
            ("workspace", workspace_at, workspace_len * size_of::<f32>()),
        ];
        apart(&read, &written)?;
        let operands = RawOperands {
            q: q_at,
            k: k_at,
            v: v_at,
            k_scale,
            v_scale,
            out: out_at,
            lse: lse_at,
            workspace: workspace_at,
            q_strides: q.strides,
            k_strides: kv.k_strides,
            v_strides: kv.v_strides,
            out_strides,
            lse_strides,
        };
        // SAFETY: sizes, strides and alignment were checked against the problem, the context is the kernels';
        // the views keep the operands allocated, and cudarc orders their release after this stream's work; the work list
        // is released after it, too, as said above.
        unsafe { self.run_raw(stream.cu_stream(), &operands) }
    }

    /// Runs on a stream handle and device addresses, unchecked.
    ///
    /// # Safety
    /// - `stream` is a stream of the context of [`Kernels`], alive, or null for its default stream.
    /// - Every operand is device memory of that context, of the plan's dtype (K and V of an e4m3 plan: its codes;
    ///   scales, LSE and workspace: f32), as large as the problem and the strides reach, with addresses and strides that are
    ///   multiples of 16 bytes (scales and LSE: 4).
    /// - It stays allocated until the work queued here has run; nothing else writes the inputs, or touches
    ///   output, LSE and workspace, before then.
    /// - Output, LSE and workspace overlap nothing else.
    /// - `self`, whose work list the kernels read, is not dropped before that work has run, unless `stream` is that of
    ///   [`Launch::new`], in whose order it is freed; nor before a graph that captured it has replayed for the last time.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub unsafe fn run_raw(&self, stream: CUstream, operands: &RawOperands) -> Result<()> {
        if self.plan.work().is_empty() {
            return Ok(());
        }
        let (problem, variant) = (self.plan.problem(), self.plan.variant());
        let partial_out = operands.workspace as *mut f32;
        let (score_scale, softcap) = match problem.softcap() {
            Some(cap) => (problem.scale() / cap, cap),
            None => (problem.scale(), 0.0),
        };
        let parameters = OnekvAttention {
            q: operands.q as *const _,
            k: operands.k as *const _,
            v: operands.v as *const _,
            out: operands.out as *mut _,
            lse: operands.lse as *mut f32,
            partial_out,
            partial_lse: partial_out.wrapping_add(self.plan.slots() * variant.tile_rows * variant.head_dim),
            work: self.work.at as *const OnekvWork,
            merges: self.merges.as_ref().map_or(std::ptr::null(), |m| m.at as *const OnekvMerge),
            q_strides: strides(operands.q_strides),
            k_strides: strides(operands.k_strides),
            v_strides: strides(operands.v_strides),
            out_strides: strides(operands.out_strides),
            lse_strides: strides(operands.lse_strides),
            group: problem.group() as i32,
            tile_rows: variant.tile_rows as i32,
            score_scale,
            softcap,
            k_scale: operands.k_scale as *const f32,
            v_scale: operands.v_scale as *const f32,
        };
        let hopper = variant.architecture == Architecture::Sm90a;
        let mut list = vec![address_of(&parameters)];
        // No block asks for keys where there are none, so there is nothing to describe.
        let maps = match hopper && problem.key_positions() > 0 {
            true => {
                let extent = Extent {
                    tokens: problem.key_positions(),
                    heads: problem.kv_heads(),
                    vector: variant.head_dim,
                };
                let map = |at, strides| boxes_of_tokens(variant, at, extent, strides);
                [map(operands.k, operands.k_strides)?, map(operands.v, operands.v_strides)?]
            }
            false => [TensorMap::EMPTY; 2],
        };
        if hopper {
            list.extend(maps.iter().map(address_of));
        }
        let grid = Grid {
            // Whole clusters, whose size is in the kernel.
            x: self.plan.work().len(),
            threads: variant.threads,
            shared_bytes: variant.shared_bytes,
            // Hopper's kernels wait for what was launched before them by themselves.
            overlaps: hopper,
            ..Grid::default()
        };
        // SAFETY: the caller's contract, by which `self` and with it the work list outlives the launch; Hopper's kernels
        // take two maps more, and wait for their predecessors.
        unsafe {
            self.kernels.modules.launch(self.function, grid, stream, &mut list)?;
            match self.combine {
                Some(combine) => {
                    // A warp per row of every merged tile: COMBINE_ROWS in cuda/attention/combine.cuh.
                    let blocks = self.plan.merges().len() * variant.tile_rows / 4;
                    let grid = Grid { x: blocks, threads: 128, shared_bytes: 0, ..grid };
                    self.kernels.modules.launch(combine, grid, stream, &mut list[..1])
                }
                None => Ok(()),
            }
        }
    }
}
