//! Attention and merges on CUDA: kernels, queues, plans, runs.

#![cfg_attr(
    not(feature = "cuda"),
    allow(unused_variables, unused_imports, unused_unsafe, reason = "with_cuda! leaves the bodies out")
)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::PoisonError;

use onekv::{Error, Strides};

use crate::device::{self, with_cuda};
use crate::handles::{free, get, list, put, put_new};
use crate::operands::{ONEKV_E4M3, onekv_dtype, onekv_state, onekv_view, onekv_view_mut};
use crate::problem::onekv_problem;
use crate::status::{Failure, Result, onekv_status, status_of};
#[cfg(feature = "cuda")]
use onekv::cuda::{RawOperands, RawState};
#[cfg(feature = "cuda")]
use onekv::plan::{Architecture, Plan, PlanOptions};

/// The most states that one merge on the device joins.
pub const ONEKV_MAX_STATES: usize = 8;
#[cfg(feature = "cuda")]
const _: () = assert!(ONEKV_MAX_STATES == onekv::cuda::MAX_STATES);

/// Kernels for compute capability 8.0 and all that came after it.
pub const ONEKV_SM80: u32 = 80;
/// For 9.0 and newer, with the shared memory of data-centre cards.
pub const ONEKV_SM90: u32 = 90;
/// For Hopper, 9.0, alone.
pub const ONEKV_SM90A: u32 = 901;
/// For 12.0 and newer.
pub const ONEKV_SM120: u32 = 120;

/// K and V were written before anything that may still run on the stream when the run begins, as those of an encoder are: on
/// cards from 9.0 on the run fetches them while what was queued before it still runs. A flag of onekv_prepared_run.
pub const ONEKV_KV_SETTLED: u32 = 1;

/// The library's kernels in the primary context of a device. Any number of threads may use it.
pub struct onekv_kernels(device::Kernels);

/// A stream, in whose order everything that is prepared on it runs, and a workspace that these runs share. Any number of
/// threads may use it.
pub struct onekv_queue(device::Queue);

/// A problem made ready for a card: which kernel, which tiles, how the keys are split. Immutable: any number of threads may use
/// it.
pub struct onekv_plan(device::Plan);

/// A plan made ready on a queue. Any number of threads may use it; a run or replan is whole before another begins.
pub struct onekv_prepared(device::Prepared);

/// Wishes about a plan; 0 lets the library choose.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_plan_options {
    /// Keys of one split, rounded up to whole tiles of K and V. With this and `tile_rows` fixed an input's result has the same
    /// bits whatever else is in the batch.
    pub split_keys: usize,
    /// Rows of a tile: 16, 32, 64, 128 or 192, where the card has such kernels.
    pub tile_rows: usize,
    /// Blocks of a cluster: 1 or 2.
    pub cluster: usize,
    /// Blocks of a cluster that share out the keys of a tile: 1, 2, 4 or 8.
    pub split_cluster: usize,
    /// ONEKV_SM80, ONEKV_SM90, ONEKV_SM90A or ONEKV_SM120.
    pub architecture: u32,
}

/// An architecture and its number in C.
#[cfg(feature = "cuda")]
const ARCHITECTURES: [(u32, Architecture); 4] = [
    (ONEKV_SM80, Architecture::Sm80),
    (ONEKV_SM90, Architecture::Sm90),
    (ONEKV_SM90A, Architecture::Sm90a),
    (ONEKV_SM120, Architecture::Sm120),
];

#[cfg(feature = "cuda")]
impl onekv_plan_options {
    /// As onekv has them: what is 0 is left to the library.
    fn plan_options(&self) -> Result<PlanOptions> {
        let mut options = PlanOptions::default();
        let wish = |value: usize| Some(value).filter(|value| *value != 0);
        options.split_keys = wish(self.split_keys);
        options.tile_rows = wish(self.tile_rows);
        options.cluster = wish(self.cluster);
        options.split_cluster = wish(self.split_cluster);
        if self.architecture != 0 {
            let named = ARCHITECTURES.iter().find(|(number, _)| *number == self.architecture);
            let (_, architecture) = named.ok_or_else(|| {
                let value = self.architecture;
                let all = "0, ONEKV_SM80 (80), ONEKV_SM90 (90), ONEKV_SM90A (901), ONEKV_SM120 (120)";
                Failure::invalid(format!("options.architecture is {value}, allowed: {all}"))
            })?;
            options.architecture = Some(*architecture);
        }
        Ok(options)
    }

    /// What [`onekv_plan_like`] writes.
    fn like(plan: &Plan) -> Self {
        let options = PlanOptions::like(plan);
        let number = |(number, architecture): &(u32, Architecture)| {
            Some(*number).filter(|_| Some(*architecture) == options.architecture)
        };
        Self {
            split_keys: options.split_keys.unwrap_or(0),
            tile_rows: options.tile_rows.unwrap_or(0),
            cluster: options.cluster.unwrap_or(0),
            split_cluster: options.split_cluster.unwrap_or(0),
            architecture: ARCHITECTURES.iter().find_map(number).unwrap_or(0),
        }
    }
}

/// Opens device number `device` and writes its kernels to `kernels`. Each is loaded when a plan first needs it.
///
/// The context is the device's primary one, which is that of the CUDA runtime API (cudaMalloc, cudaStreamCreate); memory and
/// streams of a context of cuCtxCreate are not for these kernels. ONEKV_UNAVAILABLE where there is no driver, no such device,
/// or no CUDA in this build of the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_kernels_new(device: c_int, kernels: *mut *mut onekv_kernels) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe { put_new("kernels", kernels, || Ok(onekv_kernels(device::kernels(device)?))) }
}

/// Loads every kernel that plans of this type may choose on this card, and those that merge its states: before a stream is
/// captured, or before the first call that is to be quick.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_kernels_preload(
    kernels: *const onekv_kernels,
    dtype: onekv_dtype,
) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe {
        with_cuda! {
            Ok(get("kernels", kernels)?.0.preload(device::dtype("dtype", dtype)?)?)
        }
    })
}

/// Frees the kernels; NULL is good. Queues keep what they need of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_kernels_free(kernels: *mut onekv_kernels) {
    // SAFETY: the header's contract.
    unsafe { free_on_device(kernels) }
}

/// Writes a new queue on `stream`, a cudaStream_t or CUstream of the kernels' device, to `queue`; NULL is the default stream.
/// The default stream per thread (cudaStreamPerThread) is refused: nobody could say when its work is done.
///
/// The stream outlives the queue and all that is prepared on it. Its workspace grows to what the largest plan needs and never
/// shrinks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_queue_new(
    kernels: *const onekv_kernels,
    stream: *mut c_void,
    queue: *mut *mut onekv_queue,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe {
        put_new("queue", queue, || {
            with_cuda! { Ok(onekv_queue(device::queue(&get("kernels", kernels)?.0, stream)?)) }
        })
    }
}

/// Has the workspace hold `bytes` (onekv_plan_workspace_bytes), so that no later onekv_prepared_new has it grow. What was
/// prepared before keeps the one that it has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_queue_reserve(queue: *const onekv_queue, bytes: usize) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe {
        with_cuda! { Ok(get("queue", queue)?.0.reserve(bytes.div_ceil(size_of::<f32>()))?) }
    })
}

/// onekv_cpu_merge_states on the device: operands are device memory. Allocates nothing and waits for nothing once its kernel is
/// loaded (onekv_kernels_preload).
///
/// At most ONEKV_MAX_STATES states, of type `dtype` or ONEKV_F32. Memory is as for onekv_prepared_run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_queue_merge_states(
    queue: *const onekv_queue,
    states_dtype: onekv_dtype,
    states: *const onekv_state,
    count: usize,
    dtype: onekv_dtype,
    rows: usize,
    heads: usize,
    head_dim: usize,
    out: *const onekv_view_mut,
    lse: *const onekv_view_mut,
) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe {
        with_cuda! {
            let onekv_queue(queue) = get("queue", queue)?;
            let (states, out) = (list("states", states, count)?, get("out", out)?);
            let from = device::dtype("states_dtype", states_dtype)?;
            let to = device::dtype("dtype", dtype)?;
            let mut raw_states = [RawState::default(); ONEKV_MAX_STATES];
            let raw_states = raw_states.get_mut(..count).ok_or(Error::TooLarge {
                field: "states",
                value: count,
                max: ONEKV_MAX_STATES,
            })?;
            for (raw, onekv_state { out, lse }) in raw_states.iter_mut().zip(states) {
                (raw.out, raw.out_len, raw.out_strides) = (out.data as u64, out.len, out.strides.into());
                (raw.lse, raw.lse_len, raw.lse_strides) = (lse.data as u64, lse.len, lse.strides.into());
            }
            let lse = lse.as_ref();
            let out = RawState {
                out: out.data as u64,
                out_len: out.len,
                out_strides: out.strides.into(),
                lse: address("lse", lse)?,
                lse_len: lse.map_or(0, |lse| lse.len),
                lse_strides: lse.map_or(Strides::default(), |lse| lse.strides.into()),
            };
            Ok(queue.merge_states_raw(from, raw_states, to, &out, [rows, heads, head_dim])?)
        }
    })
}

/// Frees a queue; NULL is good. The last of a queue and of all that was prepared on it to be freed waits for the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_queue_free(queue: *mut onekv_queue) {
    // SAFETY: the header's contract.
    unsafe { free_on_device(queue) }
}

/// Plans `problem` for the card of `kernels`, on Q and an output of type `dtype`, and writes the plan to `plan`. K and V are of
/// type `kv_dtype`: `dtype` too, or ONEKV_E4M3. `options` may be NULL, which leaves every choice to the library. No device
/// memory is touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_plan_new(
    kernels: *const onekv_kernels,
    problem: *const onekv_problem,
    dtype: onekv_dtype,
    kv_dtype: onekv_dtype,
    options: *const onekv_plan_options,
    plan: *mut *mut onekv_plan,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe {
        put_new("plan", plan, || {
            with_cuda! {
                let facts = get("kernels", kernels)?.0.facts();
                let onekv_problem(problem) = get("problem", problem)?;
                let options = options.as_ref().map(onekv_plan_options::plan_options);
                let options = options.transpose()?.unwrap_or_default();
                let q_dtype = device::dtype("dtype", dtype)?;
                let plan = match kv_dtype {
                    ONEKV_E4M3 => Plan::with_e4m3_kv(problem, q_dtype, facts, &options)?,
                    _ if kv_dtype == dtype => Plan::new(problem, q_dtype, facts, &options)?,
                    _ => {
                        return Err(Failure::invalid(format!(
                            "kv_dtype is {kv_dtype}, allowed: {dtype}, as dtype, or ONEKV_E4M3 ({ONEKV_E4M3})"
                        )));
                    }
                };
                let explained = std::ffi::CString::new(plan.explain()).unwrap_or_default();
                Ok(onekv_plan(device::Plan { plan, explained }))
            }
        })
    }
}

/// Writes the options with which a plan of other lengths is one that onekv_prepared_replan takes: the kernel and the split of
/// `plan`, and nothing left to choose.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_plan_like(
    plan: *const onekv_plan,
    options: *mut onekv_plan_options,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe {
        put("options", options, || with_cuda! { Ok(onekv_plan_options::like(&get("plan", plan)?.0.plan)) })
    }
}

/// Writes to `text` what was chosen and why, in one line, which is the plan's: it stays until the plan is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_plan_explain(
    plan: *const onekv_plan,
    text: *mut *const c_char,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe { put("text", text, || with_cuda! { Ok(get("plan", plan)?.0.explained.as_ptr()) }) }
}

/// Writes the bytes of workspace that a run needs to `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_plan_workspace_bytes(
    plan: *const onekv_plan,
    bytes: *mut usize,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe { put("bytes", bytes, || with_cuda! { Ok(get("plan", plan)?.0.plan.workspace_bytes()) }) }
}

/// Frees a plan; NULL is good. What was prepared of it keeps what it needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_plan_free(plan: *mut onekv_plan) {
    // SAFETY: the header's contract.
    unsafe { free(plan) }
}

/// Makes a plan ready on a queue, once per kind of batch: loads its kernels, allocates and writes its lists, has the workspace
/// grow where it is too small. In the order of the stream, which is not waited for.
///
/// One whose inputs have as many rows and keys as any to come at their place makes room for all that onekv_prepared_replan may
/// bring.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_prepared_new(
    queue: *const onekv_queue,
    plan: *const onekv_plan,
    prepared: *mut *mut onekv_prepared,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe {
        put_new("prepared", prepared, || {
            with_cuda! {
                let onekv_queue(queue) = get("queue", queue)?;
                let onekv_plan(device::Plan { plan, .. }) = get("plan", plan)?;
                Ok(onekv_prepared(queue.prepare(plan)?.into()))
            }
        })
    }
}

/// Takes another plan's lengths, in the order of the stream: runs that are queued afterwards have these, those before it the
/// former. Allocates nothing, and waits only where four such lists are still on their way.
///
/// `plan` was made with the options of onekv_plan_like, and is in no respect larger than the one that was prepared. Not while
/// the stream is captured.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_prepared_replan(
    prepared: *const onekv_prepared,
    plan: *const onekv_plan,
) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe {
        with_cuda! {
            let onekv_prepared(prepared) = get("prepared", prepared)?;
            let onekv_plan(device::Plan { plan, .. }) = get("plan", plan)?;
            Ok(prepared.lock().unwrap_or_else(PoisonError::into_inner).replan(plan)?)
        }
    })
}

/// Queues attention on the stream, every layer, every step: allocates nothing and waits for nothing. Operands are device
/// memory, of the plan's type and shapes; `lse` is f32, or NULL where it is not wanted. `flags` are 0 or ONEKV_KV_SETTLED.
///
/// Addresses and strides are multiples of 16 bytes (those of LSE: 4). As with any launch it is the caller's that
/// - operands are memory of the kernels' device with the elements that they say, and stay allocated until the stream has run
///   this;
/// - nothing else writes q, k and v, or touches out and lse, meanwhile; work of other streams is ordered by events;
/// - what ONEKV_KV_SETTLED says is so where it is given.
///
/// The stream may be captured in a graph (cudaStreamBeginCapture). Operands have the shapes of the plan that was prepared then;
/// replays run with the lengths of the last onekv_prepared_replan. `prepared` and its queue are freed after the last replay,
/// and replays are on the queue's stream, none while another thread is in a call of that queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_prepared_run(
    prepared: *const onekv_prepared,
    q: *const onekv_view,
    k: *const onekv_view,
    v: *const onekv_view,
    out: *const onekv_view_mut,
    lse: *const onekv_view_mut,
    flags: u32,
) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe { run(prepared, (q, k, v), None, (out, lse), flags) })
}

/// onekv_prepared_run of a plan whose `kv_dtype` is ONEKV_E4M3: an element of K/V head g is the value of its code in `k` times
/// k_scale[g], in `v` times v_scale[g]. Scales are device memory [kv_heads], f32, finite, 0 or more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_prepared_run_e4m3(
    prepared: *const onekv_prepared,
    q: *const onekv_view,
    k: *const onekv_view,
    v: *const onekv_view,
    k_scale: *const f32,
    v_scale: *const f32,
    out: *const onekv_view_mut,
    lse: *const onekv_view_mut,
    flags: u32,
) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe { run(prepared, (q, k, v), Some((k_scale, v_scale)), (out, lse), flags) })
}

/// [`onekv_prepared_run`], and with `scales`, those of K and of V, [`onekv_prepared_run_e4m3`].
///
/// # Safety
/// The contract of `onekv_prepared_run`.
unsafe fn run(
    prepared: *const onekv_prepared,
    (q, k, v): (*const onekv_view, *const onekv_view, *const onekv_view),
    scales: Option<(*const f32, *const f32)>,
    (out, lse): (*const onekv_view_mut, *const onekv_view_mut),
    flags: u32,
) -> Result<()> {
    with_cuda! {
        // SAFETY: the caller's contract.
        let (onekv_prepared(prepared), q, k, v, out, lse) = unsafe {
            (get("prepared", prepared)?, get("q", q)?, get("k", k)?, get("v", v)?, get("out", out)?, lse.as_ref())
        };
        if flags & !ONEKV_KV_SETTLED != 0 {
            let message = format!("flags is {flags}, allowed: 0 or ONEKV_KV_SETTLED ({ONEKV_KV_SETTLED})");
            return Err(Failure::invalid(message));
        }
        let prepared = prepared.lock().unwrap_or_else(PoisonError::into_inner);
        match (prepared.variant().e4m3_kv(), scales.is_some()) {
            (true, false) => {
                let planned = "e4m3 (onekv_prepared_run_e4m3)";
                return Err(Error::WrongKv { value: "in the type of q", planned }.into());
            }
            (false, true) => {
                let planned = "in the type of q (onekv_prepared_run)";
                return Err(Error::WrongKv { value: "e4m3", planned }.into());
            }
            _ => {}
        }
        let mut raw = RawOperands::default();
        (raw.q, raw.lens.q, raw.q_strides) = (q.data as u64, q.len, q.strides.into());
        (raw.k, raw.lens.k, raw.k_strides) = (k.data as u64, k.len, k.strides.into());
        (raw.v, raw.lens.v, raw.v_strides) = (v.data as u64, v.len, v.strides.into());
        (raw.out, raw.lens.out, raw.out_strides) = (out.data as u64, out.len, out.strides.into());
        if let Some(lse) = lse {
            (raw.lse, raw.lens.lse, raw.lse_strides) = (address("lse", Some(lse))?, lse.len, lse.strides.into());
        }
        if let Some((k_scale, v_scale)) = scales {
            (raw.k_scale, raw.v_scale) = (k_scale as u64, v_scale as u64);
        }
        raw.kv_settled = flags & ONEKV_KV_SETTLED != 0;
        // SAFETY: the caller's contract.
        unsafe { prepared.run_raw_checked(&raw)? };
        Ok(())
    }
}

/// The address of an operand that may be left out, which gives 0. One that has elements may not be NULL.
#[cfg(feature = "cuda")]
fn address(tensor: &'static str, view: Option<&onekv_view_mut>) -> Result<u64> {
    match view {
        Some(view) if view.data.is_null() && view.len > 0 => Err(Error::Null { tensor }.into()),
        view => Ok(view.map_or(0, |view| view.data as u64)),
    }
}

/// Frees what was prepared; NULL is good. Waits for nothing, but where it is the last of its queue: memory is freed in the order
/// of the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_prepared_free(prepared: *mut onekv_prepared) {
    // SAFETY: the header's contract.
    unsafe { free_on_device(prepared) }
}

/// Frees a handle and leaves the thread's current context as it was. With NULL the driver is not asked for that
/// context: it may not be loaded.
///
/// # Safety
/// As [`free`].
unsafe fn free_on_device<T>(handle: *mut T) {
    if !handle.is_null() {
        status_of(|| {
            with_cuda! {
                // SAFETY: the caller's contract.
                unsafe { free(handle) };
                Ok(())
            }
        });
    }
}
