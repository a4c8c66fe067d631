//! Attention and merges on the CPU.

use onekv::{Element, PartialState, Shape, SharedKv, cpu};

use crate::handles::{get, list};
use crate::operands::{HostOperands, onekv_dtype, onekv_state, onekv_view, onekv_view_mut, with_element};
use crate::problem::onekv_problem;
use crate::status::{Result, onekv_status, status_of};

/// Attention on the CPU: `q`, `k`, `v` and `out` are of type `dtype` and of the problem's shapes (onekv_problem_shapes), `lse`
/// is f32, or NULL where it is not wanted. Arithmetic is f32, rounded once at the end.
///
/// Runs on a pool of threads of the library's own, one per core, or as many as RAYON_NUM_THREADS says, and returns when it is
/// done. Strides are multiples of 16 bytes, or of the largest power of two that divides a head's bytes; addresses of an element.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_cpu_attend(
    problem: *const onekv_problem,
    dtype: onekv_dtype,
    q: *const onekv_view,
    k: *const onekv_view,
    v: *const onekv_view,
    out: *const onekv_view_mut,
    lse: *const onekv_view_mut,
) -> onekv_status {
    // SAFETY: the header's contract.
    status_of(|| unsafe {
        let onekv_problem(problem) = get("problem", problem)?;
        let (q, k, v, out) = (get("q", q)?, get("k", k)?, get("v", v)?, get("out", out)?);
        with_element!("dtype", dtype, E => {
            let mut host = HostOperands::default();
            let (query_shape, kv_shape) = (problem.query_shape(), problem.kv_shape());
            let q = host.read::<E>("q", q, query_shape)?;
            let kv = SharedKv { k: host.read::<E>("k", k, kv_shape)?, v: host.read::<E>("v", v, kv_shape)? };
            let out = host.write::<E>("out", out, query_shape)?;
            let lse = lse.as_ref().map(|lse| host.write::<f32>("lse", lse, problem.lse_shape()));
            Ok(cpu::attend(problem, q, kv, out, lse.transpose()?)?)
        })
    })
}

/// Joins attention over disjoint parts of the keys into attention over all of them, on the CPU: `count` states, whose outputs
/// are of type `states_dtype`, f32 so that nothing is rounded twice, into `out` [rows, heads, head_dim] of type `dtype` and,
/// where it is not NULL, `lse` [rows, heads], f32.
///
/// With lse = ln sum_i exp(lse_i) the result is sum_i exp(lse_i - lse) * out_i. A part with lse_i = -inf (no keys) has no
/// weight, and its output is not read; where all parts are so, out = 0 and lse = -inf.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_cpu_merge_states(
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
        let (states, out) = (list("states", states, count)?, get("out", out)?);
        let shape = Shape::from([rows, heads, head_dim]);
        with_element!("states_dtype", states_dtype, P => with_element!("dtype", dtype, E => {
            merge::<P, E>(states, shape, out, lse.as_ref())
        }))
    })
}

/// [`onekv_cpu_merge_states`] of types that are known.
///
/// # Safety
/// The header's contract for all operands.
unsafe fn merge<P: Element, E: Element>(
    states: &[onekv_state],
    shape: Shape,
    out: &onekv_view_mut,
    lse: Option<&onekv_view_mut>,
) -> Result<()> {
    let mut host = HostOperands::default();
    let lse_shape = [shape.tokens, shape.heads];
    let mut parts = Vec::with_capacity(states.len());
    for onekv_state { out, lse } in states {
        // SAFETY: the caller's contract.
        let (out, lse) = unsafe {
            (host.read::<P>("states.out", out, shape)?, host.read::<f32>("states.lse", lse, lse_shape)?)
        };
        parts.push(PartialState { out, lse });
    }
    // SAFETY: the caller's contract.
    let out = unsafe { host.write::<E>("out", out, shape)? };
    // SAFETY: the caller's contract.
    let lse = lse.map(|lse| unsafe { host.write::<f32>("lse", lse, lse_shape) }).transpose()?;
    Ok(cpu::merge_states(&parts, out, lse)?)
}
