//! A plan made ready on a queue, and its runs.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::ptr::from_ref;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::abi::{OnekvAttention, OnekvCombine, OnekvWork};
use super::driver::{LaunchStream, is_captured};
use super::memory::StreamMemory;
use super::modules::{Function, Grid};
use super::operands::{Call, DeviceRead, DeviceWrite, Placed, strides};
use super::queue::{Queue, QueueInner};
use super::tensor_map::{TensorMap, kv_tensor_map};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::plan::{Plan, Variant};
use crate::problem::Problem;
use crate::shape::{Shape, Strides};
use crate::span::span;
use crate::view::{SharedKv, View};

// SAFETY: C structures of eight i32 (cuda/abi.h, whose sizes abi.rs asserts): no padding, any bytes are a value.
unsafe impl Zeroable for OnekvWork {}
// SAFETY: as above.
unsafe impl Pod for OnekvWork {}
// SAFETY: as above.
unsafe impl Zeroable for OnekvCombine {}
// SAFETY: as above.
unsafe impl Pod for OnekvCombine {}

/// Length of a list's entry, in u64.
const ENTRY_LEN: usize = size_of::<OnekvWork>() / 8;
const _: () = assert!(size_of::<OnekvCombine>() == size_of::<OnekvWork>());
/// Rows that a block of the combining kernels takes: `COMBINE_ROWS` of cuda/attention/combine.cuh.
const COMBINE_ROWS: usize = 4;
const COMBINE_THREADS: usize = 32 * COMBINE_ROWS;

/// K and V in [`e4m3`](crate::e4m3): an element of a K/V head is the value of its code times the head's scale.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedKv<M, S> {
    /// The codes; strides are multiples of 16.
    pub codes: SharedKv<M>,
    /// Scales of K's heads `[kv_heads]`, f32: finite, 0 or more.
    pub k_scale: S,
    /// Scales of V's heads `[kv_heads]`.
    pub v_scale: S,
}

/// Operands as device addresses; strides in elements. [`RawOperands::contiguous`] makes them, or the default, all 0; fields
/// that differ are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct RawOperands {
    /// [`Problem::query_shape`].
    pub q: CUdeviceptr,
    /// [`Problem::kv_shape`].
    pub k: CUdeviceptr,
    /// As `k`.
    pub v: CUdeviceptr,
    /// Of e4m3 K and V: `[kv_heads]`, f32. Else not read.
    pub k_scale: CUdeviceptr,
    /// As `k_scale`.
    pub v_scale: CUdeviceptr,
    /// [`Problem::query_shape`].
    pub out: CUdeviceptr,
    /// [`Problem::lse_shape`], f32; 0: not wanted.
    pub lse: CUdeviceptr,
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
    /// The caller promises that K and V were written before anything that may still run when the launch begins: see
    /// [`Recorder::assume_kv_settled`](super::Recorder::assume_kv_settled).
    pub kv_settled: bool,
    /// How much memory there is at the addresses, for [`Prepared::run_raw_checked`].
    pub lens: RawLens,
}

/// Elements from the addresses of [`RawOperands`] on. The default, `usize::MAX`, switches their check off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawLens {
    /// Of `q`.
    pub q: usize,
    /// Of `k`.
    pub k: usize,
    /// Of `v`.
    pub v: usize,
    /// Of `out`.
    pub out: usize,
    /// Of `lse`.
    pub lse: usize,
}

impl Default for RawLens {
    fn default() -> Self {
        let all = usize::MAX;
        Self { q: all, k: all, v: all, out: all, lse: all }
    }
}

impl RawOperands {
    /// Operands without gaps, LSE not wanted, nothing known of when K and V were written.
    pub fn contiguous(
        problem: &Problem,
        q: CUdeviceptr,
        k: CUdeviceptr,
        v: CUdeviceptr,
        out: CUdeviceptr,
    ) -> Self {
        let (rows, keys) = (problem.query_shape().strides(), problem.kv_shape().strides());
        let lse_strides = problem.lse_shape().strides();
        let (k_strides, v_strides) = (keys, keys);
        let (k_scale, v_scale, lse) = (0, 0, 0);
        Self {
            q,
            k,
            v,
            k_scale,
            v_scale,
            out,
            lse,
            q_strides: rows,
            k_strides,
            v_strides,
            out_strides: rows,
            lse_strides,
            kv_settled: false,
            lens: RawLens::default(),
        }
    }
}

/// The sizes of a plan: of its operands, its lists, its workspace.
#[derive(Debug, Clone, Copy)]
struct PlanSizes {
    query: Shape,
    lse: Shape,
    kv: Shape,
    work: usize,
    combines: usize,
    partial_states: usize,
}

impl PlanSizes {
    fn of(plan: &Plan) -> Self {
        let problem = plan.problem();
        Self {
            query: problem.query_shape(),
            lse: problem.lse_shape(),
            kv: problem.kv_shape(),
            work: plan.work().len(),
            combines: plan.combines().len(),
            partial_states: plan.partial_states(),
        }
    }

    /// Those that no replan may exceed, by name.
    fn limits(self) -> [(&'static str, usize); 6] {
        [
            ("rows", self.query.tokens),
            ("slots of K and V", self.kv.inputs),
            ("keys of a slot", self.kv.tokens),
            ("blocks", self.work),
            ("combines", self.combines),
            ("partial states", self.partial_states),
        ]
    }
}

/// What all launches of a prepared plan have in common, and replans keep.
#[derive(Clone, Copy)]
struct Launch {
    variant: &'static Variant,
    split_cluster: usize,
    function: Function,
    combine: Option<Function>,
    group: usize,
    scale: f32,
    softcap: Option<f32>,
}

/// A plan on a [`Queue`]: its work list in device memory, written in the stream's order. Runs any number of times, every layer
/// and step.
///
/// Other lengths are other plans, of the same variant: [`Prepared::replan`] takes them in place. Dropping it waits for
/// nothing: its memory is freed in the order of the stream.
pub struct Prepared {
    queue: Arc<QueueInner>,
    launch: Launch,
    /// Of the plan that it was prepared with; no later one exceeds them.
    most: PlanSizes,
    /// Of the plan whose lists are in device memory; `None` where a failure leaves open which lists are there.
    now: Option<PlanSizes>,
    /// Entries of work, then of combines, as many as `most` has; those that the plan of now does not use have no rows.
    lists: Option<Arc<StreamMemory>>,
    workspace: Option<Arc<StreamMemory>>,
}

impl Queue {
    /// Makes a plan ready: loads its kernels, allocates memory for its lists and writes them, and has the workspace grow where it
    /// is too small. All in the order of the stream, which is not waited for.
    ///
    /// Memory and launches of recordings are those of this plan. One whose inputs have as many rows and keys as any to come at
    /// their place makes room for all that [`Prepared::replan`] may bring.
    ///
    /// # Errors
    /// [`Error::WrongCard`], [`Error::Captured`], [`Error::Overflow`], [`Error::Cuda`].
    pub fn prepare(&self, plan: &Plan) -> Result<Prepared> {
        span!("prepare", kernel = plan.variant().kernel(), blocks = plan.work().len());
        let queue = &self.0;
        queue.check_uncaptured()?;
        let (variant, problem) = (plan.variant(), plan.problem());
        let (facts, modules) = (queue.kernels.facts(), &queue.kernels.modules);
        if !variant.fits(facts) {
            let (kernel, capability) = (variant.kernel(), facts.compute_capability);
            return Err(Error::WrongCard { kernel, capability, shared_bytes: facts.shared_bytes_per_block });
        }
        let function = modules.function(&variant.module(), &variant.kernel(), variant.shared_bytes)?;
        let combine = match plan.combines().is_empty() {
            true => None,
            false => {
                let (module, name) = variant.combine();
                Some(modules.function(&module, &name, 0)?)
            }
        };
        let (scale, softcap) = (problem.scale(), problem.softcap());
        let launch = Launch {
            variant,
            split_cluster: plan.split_cluster(),
            function,
            combine,
            group: problem.group(),
            scale,
            softcap,
        };
        let most = PlanSizes::of(plan);
        let mut state = queue.lock();
        let workspace = state.workspace(queue, plan.workspace_len())?;
        let lists =
            StreamMemory::new::<u64>(&queue.retired, (most.work + most.combines) * ENTRY_LEN)?.map(Arc::new);
        drop(state);
        let mut prepared = Prepared { queue: queue.clone(), launch, most, now: None, lists, workspace };
        prepared.write(plan)?;
        Ok(prepared)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("most", &self.most)
            .field("kernel", &self.launch.variant.kernel())
            .field("now", &self.now)
            .finish()
    }
}

impl Prepared {
    /// The shape of Q and the output.
    pub fn query_shape(&self) -> Shape {
        self.now.unwrap_or(self.most).query
    }

    /// The shape of K and of V.
    pub fn kv_shape(&self) -> Shape {
        self.now.unwrap_or(self.most).kv
    }

    /// The shape of LSE.
    pub fn lse_shape(&self) -> Shape {
        self.query_shape().scalars()
    }

    /// The shape of Q and the output in recordings: that of the plan that was prepared.
    pub fn recorded_query_shape(&self) -> Shape {
        self.most.query
    }

    /// The shape of K and of V in recordings.
    pub fn recorded_kv_shape(&self) -> Shape {
        self.most.kv
    }

    /// The kernel.
    pub fn variant(&self) -> &'static Variant {
        self.launch.variant
    }

    /// Takes another plan's lengths: rewrites the lists in the order of the stream. Allocates nothing, and waits only where
    /// four such lists are still on their way. Runs and recordings that are queued afterwards have these lengths, those
    /// before it the former.
    ///
    /// The plan is of the same variant, heads, scale and softcap ([`PlanOptions::like`](crate::plan::PlanOptions::like)), and
    /// in no respect larger than the one that was prepared.
    ///
    /// # Errors
    /// [`Error::Replan`], [`Error::OverPrepared`], [`Error::Captured`]: all is as before. [`Error::Cuda`]: so it is, or runs are
    /// refused, by [`Error::ReplanFailed`], until another replan succeeds.
    pub fn replan(&mut self, plan: &Plan) -> Result<()> {
        span!("replan", kernel = self.launch.variant.kernel(), blocks = plan.work().len());
        let (problem, Launch { variant, scale, softcap, .. }) = (plan.problem(), self.launch);
        if plan.variant() != variant {
            let (value, prepared) = (plan.variant().kernel(), variant.kernel());
            return Err(Error::Replan { field: "kernel", value, prepared });
        }
        let (query, kv) = (self.most.query, self.most.kv);
        for (field, value, prepared) in [
            ("kv_heads", problem.kv_heads(), kv.heads),
            ("heads", problem.heads(), query.heads),
            ("split_cluster", plan.split_cluster(), self.launch.split_cluster),
        ] {
            if value != prepared {
                let (value, prepared) = (value.to_string(), prepared.to_string());
                return Err(Error::Replan { field, value, prepared });
            }
        }
        for (field, value, prepared) in
            [("softcap", problem.softcap(), softcap), ("scale", Some(problem.scale()), Some(scale))]
        {
            if value != prepared {
                let words = |x: Option<f32>| x.map_or_else(|| "none".to_owned(), |x| x.to_string());
                return Err(Error::Replan { field, value: words(value), prepared: words(prepared) });
            }
        }
        let limits = PlanSizes::of(plan).limits().into_iter().zip(self.most.limits());
        for ((field, value), (_, max)) in limits {
            if value > max {
                return Err(Error::OverPrepared { field, value, max });
            }
        }
        self.queue.check_uncaptured()?;
        self.write(plan)
    }

    /// Writes the plan's lists.
    fn write(&mut self, plan: &Plan) -> Result<()> {
        // Unknown until the lists are there: with those of before a run might reach past the operands of now.
        self.now = None;
        let now = PlanSizes::of(plan);
        let Some(lists) = &self.lists else {
            self.now = Some(now);
            return Ok(());
        };
        let fill = |list: &mut [u64]| {
            let (work, combines) = list.split_at_mut(self.most.work * ENTRY_LEN);
            let work: &mut [OnekvWork] = bytemuck::cast_slice_mut(work);
            let combines: &mut [OnekvCombine] = bytemuck::cast_slice_mut(combines);
            // The plan keeps every number below 2^31.
            for (to, w) in work.iter_mut().zip(plan.work()) {
                *to = OnekvWork {
                    row_base: w.row_base as i32,
                    rows: w.rows as i32,
                    tile_start: w.tile_start as i32,
                    kv_head: w.kv_head as i32,
                    key_begin: w.keys.start as i32,
                    key_end: w.keys.end as i32,
                    state: w.state.map_or(-1, |state| state as i32),
                    kv_slot: w.kv_slot as i32,
                };
            }
            for (to, c) in combines.iter_mut().zip(plan.combines()) {
                *to = OnekvCombine {
                    row_base: c.row_base as i32,
                    rows: c.rows as i32,
                    tile_start: c.tile_start as i32,
                    kv_head: c.kv_head as i32,
                    first_state: c.states.start as i32,
                    states: c.states.len() as i32,
                    reserved: [0; 2],
                };
            }
            // Recordings launch blocks for all entries: those without work end at once.
            work[plan.work().len()..].fill(OnekvWork::zeroed());
            combines[plan.combines().len()..].fill(OnekvCombine::zeroed());
        };
        self.queue.lock().upload(&self.queue, lists.at, lists.len, fill)?;
        self.now = Some(now);
        Ok(())
    }

    /// Attention on the queue's stream: allocates nothing and waits for nothing.
    ///
    /// Operands are memory of the stream's context: cudarc's views, borrowed until what runs is queued and freed by cudarc
    /// after it, or [`Memory`](super::Memory). Where they were allocated on another stream, that waits for this run, and this
    /// run for it.
    ///
    /// # Errors
    /// What [`Problem::check`] refuses, of device memory; [`Error::WrongDType`], [`Error::WrongKv`], [`Error::WrongContext`],
    /// [`Error::PerThreadStream`], [`Error::Overlap`], [`Error::ReplanFailed`], [`Error::Cuda`]; [`Error::Captured`] where the
    /// stream is captured: the graph would not keep what the run needs, as [`Queue::record`] does.
    pub fn run<Q, K, O>(
        &self,
        q: View<Q>,
        kv: SharedKv<K>,
        out: View<O>,
        lse: Option<View<O::Lse>>,
    ) -> Result<()>
    where
        O: DeviceWrite<Element: Element>,
        Q: DeviceRead<Element = O::Element>,
        K: DeviceRead<Element = O::Element>,
    {
        let _together = self.queue.lock();
        let call = Call::new(&self.queue)?;
        self.check_and_launch(call, self.queue.launch_stream(), q, Kv::<K, K>::Unquantized(kv), out, lse)
    }

    /// [`Prepared::run`] with K and V in e4m3, for plans by [`Plan::with_e4m3_kv`].
    ///
    /// # Errors
    /// As [`Prepared::run`]; [`Error::TooShort`] for fewer scales than K/V heads.
    pub fn run_e4m3<Q, K, S, O>(
        &self,
        q: View<Q>,
        kv: QuantizedKv<K, S>,
        out: View<O>,
        lse: Option<View<O::Lse>>,
    ) -> Result<()>
    where
        O: DeviceWrite<Element: Element>,
        Q: DeviceRead<Element = O::Element>,
        K: DeviceRead<Element = u8>,
        S: DeviceRead<Element = f32>,
    {
        let _together = self.queue.lock();
        let call = Call::new(&self.queue)?;
        self.check_and_launch(call, self.queue.launch_stream(), q, Kv::E4m3(kv), out, lse)
    }

    pub(super) fn check_and_launch<Q, K, S, O>(
        &self,
        call: Call<'_>,
        on: LaunchStream,
        q: View<Q>,
        kv: Kv<K, S>,
        mut out: View<O>,
        mut lse: Option<View<O::Lse>>,
    ) -> Result<()>
    where
        O: DeviceWrite<Element: Element>,
        Q: DeviceRead,
        K: DeviceRead,
        S: DeviceRead,
    {
        // Here, so that its lifetime is that of the operands.
        let mut call = call;
        let Launch { variant, .. } = self.launch;
        if O::Element::DTYPE != variant.dtype {
            return Err(Error::WrongDType { value: O::Element::DTYPE, planned: variant.dtype });
        }
        let (kv, scales) = match (&kv, variant.e4m3_kv()) {
            (Kv::Unquantized(kv), false) => (kv, None),
            (Kv::E4m3(kv), true) => (&kv.codes, Some([&kv.k_scale, &kv.v_scale])),
            (Kv::Unquantized(_), true) => {
                return Err(Error::WrongKv { value: "in the type of q", planned: "e4m3 (run_e4m3)" });
            }
            (Kv::E4m3(_), false) => {
                return Err(Error::WrongKv { value: "e4m3", planned: "in the type of q (run)" });
            }
        };
        let sizes = self.sizes(on)?;
        let no_lse = Strides::new(0, 0);
        let lse_strides = lse.as_ref().map_or(no_lse, |lse| lse.strides);
        let out_strides = out.strides;
        let q_at = call.read("q", &q, sizes.query)?;
        let k = call.read("k", &kv.k, sizes.kv)?;
        let v = call.read("v", &kv.v, sizes.kv)?;
        let heads = sizes.kv.heads;
        let k_scale = scales.map(|[k, _]| call.read_list("k_scale", k, heads)).transpose()?;
        let v_scale = scales.map(|[_, v]| call.read_list("v_scale", v, heads)).transpose()?;
        let out = call.write("out", &mut out, sizes.query)?;
        let lse = lse.as_mut().map(|lse| call.write("lse", lse, sizes.lse)).transpose()?;
        let at = |placed: &Option<Placed<'_>>| placed.as_ref().map_or(0, |placed| placed.at);
        let operands = RawOperands {
            q: q_at.at,
            k: k.at,
            v: v.at,
            k_scale: at(&k_scale),
            v_scale: at(&v_scale),
            out: out.at,
            lse: at(&lse),
            q_strides: q.strides,
            k_strides: kv.k.strides,
            v_strides: kv.v.strides,
            out_strides,
            lse_strides,
            kv_settled: on.kv_settled,
            lens: RawLens::default(),
        };
        // SAFETY: shapes, sizes, strides, alignment and overlap were checked, all is of the kernels' context. Each operand is
        // allocated until this returns, and freed in the order of a stream that comes after the launch: the queue's own, or
        // one that waits for it (`Call`); a recording, whose on is another, keeps them.
        let launched = unsafe { self.launch(on, &operands) };
        let completed = call.complete((q_at, k, v, k_scale, v_scale, out, lse));
        launched.and(completed)
    }

    /// [`Prepared::run`] on device addresses, which it takes as they are.
    ///
    /// It is the one run that a graph may capture by other means than [`Queue::record`]. Captured, it launches as many blocks
    /// as the plan has that was prepared, with operands of that plan's shapes, and replays with the lengths of the last
    /// [`Prepared::replan`].
    ///
    /// # Safety
    /// - Every operand is device memory of the stream's context, of the plan's dtype (K and V of an e4m3 plan: its codes;
    ///   scales and LSE: f32), as large as the plan's shapes and the strides reach, with addresses and strides that are
    ///   multiples of 16 bytes (scales and LSE: 4).
    /// - It stays allocated until the work queued here has run; nothing else writes the inputs, or touches output and LSE,
    ///   before then.
    /// - Output and LSE overlap nothing else.
    /// - With `kv_settled`, what [`Recorder::assume_kv_settled`](super::Recorder::assume_kv_settled) asks for.
    /// - Captured, that holds for every replay; until the last of them has run, this and a clone of its [`Queue`] are not
    ///   dropped; replays are on the queue's stream, none between two launches of another thread's run.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub unsafe fn run_raw(&self, operands: &RawOperands) -> Result<()> {
        let _together = self.queue.lock();
        // SAFETY: the caller's contract.
        unsafe { self.launch(self.raw_launch_stream()?, operands) }
    }

    /// [`Prepared::run_raw`], with what can be seen of addresses and strides checked.
    ///
    /// # Safety
    /// As [`Prepared::run_raw`].
    ///
    /// # Errors
    /// As [`Prepared::run_raw`]; [`Error::Null`] for an address of 0 where there is memory, [`Error::TooShort`] by
    /// [`RawOperands::lens`], [`Error::Misaligned`], [`Error::StrideTooSmall`], [`Error::Overlap`].
    pub unsafe fn run_raw_checked(&self, operands: &RawOperands) -> Result<()> {
        let _together = self.queue.lock();
        let on = self.raw_launch_stream()?;
        let (PlanSizes { query, lse, kv, .. }, Launch { variant, .. }) = (*self.sizes(on)?, self.launch);
        let scales = Shape::from([if variant.e4m3_kv() { kv.heads } else { 0 }, 1]);
        let (size, row) = (variant.dtype.size_bytes(), Strides::new(1, 1));
        let mut call = Call::of_one_stream(&self.queue);
        let (o, lens) = (operands, operands.lens);
        let lse = if o.lse == 0 { Shape { tokens: 0, ..lse } } else { lse };
        for (tensor, at, len, shape, strides, size, written) in [
            ("q", o.q, lens.q, query, o.q_strides, size, false),
            ("k", o.k, lens.k, kv, o.k_strides, variant.kv_bytes, false),
            ("v", o.v, lens.v, kv, o.v_strides, variant.kv_bytes, false),
            ("k_scale", o.k_scale, usize::MAX, scales, row, size_of::<f32>(), false),
            ("v_scale", o.v_scale, usize::MAX, scales, row, size_of::<f32>(), false),
            ("out", o.out, lens.out, query, o.out_strides, size, true),
            ("lse", o.lse, lens.lse, lse, o.lse_strides, size_of::<f32>(), true),
        ] {
            call.place_raw(tensor, (at, len), shape, strides, size, written)?;
        }
        // SAFETY: the caller's contract.
        unsafe { self.launch(on, operands) }
    }

    /// The queue's stream, which others may have begun to capture.
    fn raw_launch_stream(&self) -> Result<LaunchStream> {
        Ok(LaunchStream { captured: is_captured(&self.queue.stream)?, ..self.queue.launch_stream() })
    }

    /// The sizes for a run: those of the plan that was prepared where it goes to a graph, which replays with any lengths up to them.
    fn sizes(&self, on: LaunchStream) -> Result<&PlanSizes> {
        match on.captured {
            true => Ok(&self.most),
            false => self.now.as_ref().ok_or(Error::ReplanFailed),
        }
    }

    /// The queue that it was prepared on.
    pub(super) fn queue(&self) -> &Arc<QueueInner> {
        &self.queue
    }

    /// What a recording must keep alive.
    pub(super) fn memory(&self) -> impl Any + Send + use<> {
        (self.queue.clone(), self.lists.clone(), self.workspace.clone())
    }

    /// # Safety
    /// As [`Prepared::run_raw`], on the stream of `on`.
    unsafe fn launch(&self, on: LaunchStream, operands: &RawOperands) -> Result<()> {
        span!("run", kernel = self.launch.variant.kernel(), captured = on.captured);
        let (sizes, Launch { variant, function, combine, .. }) = (self.sizes(on)?, self.launch);
        let Some(lists) = self.lists.as_ref().filter(|_| sizes.work > 0) else { return Ok(()) };
        let partial_out = self.workspace.as_ref().map_or(0, |workspace| workspace.at) as *mut f32;
        let combines_at = lists.at + (self.most.work * size_of::<OnekvWork>()) as CUdeviceptr;
        let parameters = OnekvAttention {
            q: operands.q as *const _,
            k: operands.k as *const _,
            v: operands.v as *const _,
            out: operands.out as *mut _,
            lse: operands.lse as *mut f32,
            partial_out,
            partial_lse: partial_out
                .wrapping_add(self.most.partial_states * variant.tile_rows * variant.head_dim),
            work: lists.at as *const OnekvWork,
            combines: combines_at as *const OnekvCombine,
            q_strides: strides(operands.q_strides),
            k_strides: strides(operands.k_strides),
            v_strides: strides(operands.v_strides),
            out_strides: strides(operands.out_strides),
            lse_strides: strides(operands.lse_strides),
            k_slot_stride: operands.k_strides.input as i64,
            v_slot_stride: operands.v_strides.input as i64,
            group: self.launch.group as i32,
            tile_rows: variant.tile_rows as i32,
            score_scale: self.launch.softcap.map_or(self.launch.scale, |cap| self.launch.scale / cap),
            softcap: self.launch.softcap.unwrap_or(0.0),
            k_scale: operands.k_scale as *const f32,
            v_scale: operands.v_scale as *const f32,
            kv_settled: i32::from(operands.kv_settled),
            work_count: sizes.work as i32,
        };
        let copy_engine = variant.architecture.has_copy_engine();
        // Without keys no block uses the maps, and there is no memory to describe.
        let maps = match copy_engine && sizes.kv.elements() > 0 {
            true => {
                let map = |at, strides| kv_tensor_map(variant, at, sizes.kv, strides);
                [map(operands.k, operands.k_strides)?, map(operands.v, operands.v_strides)?]
            }
            false => [TensorMap::EMPTY; 2],
        };
        // Kernels of the copy engine have three parameters; the others have the first alone.
        let mut list = [address_of(&parameters), address_of(&maps[0]), address_of(&maps[1])];
        let grid = Grid {
            // Whole clusters. The size of clusters that share K and V is fixed in the kernel.
            x: variant.blocks_for(sizes.work, self.queue.kernels.facts()),
            cluster: self.launch.split_cluster,
            threads: variant.threads,
            shared_bytes: variant.shared_bytes,
            // They wait for what was launched before them by themselves.
            overlaps: copy_engine,
            ..Grid::default()
        };
        let modules = &self.queue.kernels.modules;
        // SAFETY: the caller's contract; lists and workspace are freed in the order of the stream, or kept with a recording;
        // kernels that overlap wait for their predecessors. The driver reads as many parameters as a kernel has.
        unsafe {
            modules.launch(function, grid, on.stream, &mut list)?;
            match combine {
                Some(combine) => {
                    // A warp per row of every combined tile.
                    let x = sizes.combines * variant.tile_rows / COMBINE_ROWS;
                    let grid = Grid { x, cluster: 1, threads: COMBINE_THREADS, shared_bytes: 0, ..grid };
                    modules.launch(combine, grid, on.stream, &mut list[..1])
                }
                None => Ok(()),
            }
        }
    }
}

/// K and V of a call: of Q's element type, or in e4m3.
pub(super) enum Kv<K, S> {
    Unquantized(SharedKv<K>),
    E4m3(QuantizedKv<K, S>),
}

/// A parameter as [`Modules::launch`](super::Modules::launch) takes it: read, never written.
pub(super) fn address_of<P>(parameter: &P) -> *mut c_void {
    from_ref(parameter).cast_mut().cast()
}
