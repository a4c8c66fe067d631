//! The problem: what is attended to what.

use onekv::{Error, Keys, Problem, ProblemSpec};

use crate::handles::{free, get, list, put, put_new};
use crate::operands::onekv_shape;
use crate::status::{Failure, Result, onekv_status};

/// A shared cross-attention problem: which query rows read which keys. Immutable: any number of threads may use it.
///
/// For every query row r of input b and every query head h, with the K/V head g = h / (heads / kv_heads) and j over the keys
/// of b:
///
///   s[j]      = softcap(scale * q[r, h] . k[j, g])
///   out[r, h] = sum_j softmax(s)[j] * v[j, g]
///   lse[r, h] = ln sum_j exp(s[j])            natural logarithm
///
/// A row with no keys has out = 0 and lse = -inf. There is no causal mask.
pub struct onekv_problem(pub(crate) Problem);

/// What a problem is made of. Exactly one of `key_offsets` and `key_lengths` is given. Fill it with zeros first: fields that a
/// later version adds are then what they were.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_problem_spec {
    /// Query heads, 1 to 65536.
    pub heads: usize,
    /// K/V heads; `heads` is a multiple of it (grouped-query attention where they differ).
    pub kv_heads: usize,
    /// Elements per head, of K and V alike: 1 to 512 on the CPU; 32, 64, 96, 128 or 256 on CUDA.
    pub head_dim: usize,
    /// Factor on the scores, above 0. T5 has 1, most others 1 / sqrt(head_dim).
    pub scale: f32,
    /// With c above 0 the scaled score s becomes c * tanh(s / c); 0: there is none.
    pub softcap: f32,
    /// Inputs.
    pub inputs: usize,
    /// [inputs + 1]: input b has the query rows row_offsets[b] .. row_offsets[b + 1], from 0, never decreasing. Rows are
    /// prompts x beams x tokens: attention does not care.
    pub row_offsets: *const usize,
    /// Packed keys, [inputs + 1]: input b has the keys key_offsets[b] .. key_offsets[b + 1] of K and V [keys, kv_heads,
    /// head_dim].
    pub key_offsets: *const usize,
    /// Padded keys: those of a slot, of K and V [inputs, max_keys, kv_heads, head_dim]. Packed: 0.
    pub max_keys: usize,
    /// Padded keys, [inputs]: input b has the first key_lengths[b] keys of its slot. What follows them may be anything, but
    /// is memory that there is: it changes no result.
    pub key_lengths: *const usize,
}

/// Shapes of the operands of a problem.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_shapes {
    /// Of queries and output: [1, rows of all inputs, heads, head_dim].
    pub query: onekv_shape,
    /// Of K and of V: [1, keys of all inputs, kv_heads, head_dim] where they are packed, else [inputs, max_keys, kv_heads,
    /// head_dim].
    pub kv: onekv_shape,
    /// Of LSE, f32: [1, rows of all inputs, heads, 1].
    pub lse: onekv_shape,
}

/// Checks `spec`, copies it, and writes a new problem to `problem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_problem_new(
    spec: *const onekv_problem_spec,
    problem: *mut *mut onekv_problem,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe { put_new("problem", problem, || Ok(onekv_problem(Problem::new(to_spec(get("spec", spec)?)?)?))) }
}

/// The spec as onekv has it, with lists of its own.
///
/// # Safety
/// The header's contract for what `spec` points to.
unsafe fn to_spec(spec: &onekv_problem_spec) -> Result<ProblemSpec> {
    let onekv_problem_spec { heads, kv_heads, head_dim, scale, softcap, inputs, max_keys, .. } = *spec;
    let offsets = |name, at: *const usize| {
        let len = inputs.checked_add(1).ok_or(Error::Overflow { field: "inputs" })?;
        // SAFETY: the caller's contract.
        Ok::<_, Failure>(unsafe { list(name, at, len)? }.to_vec())
    };
    let keys = match (spec.key_offsets.is_null(), spec.key_lengths.is_null()) {
        (false, true) if max_keys == 0 => Keys::Packed { offsets: offsets("key_offsets", spec.key_offsets)? },
        (false, true) => {
            return Err(Failure::invalid(format!("max_keys is {max_keys}, allowed: 0 with key_offsets")));
        }
        (true, false) => {
            // SAFETY: the caller's contract.
            let lengths = unsafe { list("key_lengths", spec.key_lengths, inputs)? }.to_vec();
            Keys::Padded { max_keys, lengths }
        }
        (is_null, _) => {
            let both = if is_null { "NULL" } else { "given" };
            let message = format!("key_offsets and key_lengths are both {both}, allowed: one of them");
            return Err(Failure::invalid(message));
        }
    };
    let row_offsets = offsets("row_offsets", spec.row_offsets)?;
    let softcap = Some(softcap).filter(|cap| *cap != 0.0);
    Ok(ProblemSpec { heads, kv_heads, head_dim, scale, softcap, row_offsets, keys })
}

/// Writes the shapes of a problem's operands to `shapes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_problem_shapes(
    problem: *const onekv_problem,
    shapes: *mut onekv_shapes,
) -> onekv_status {
    // SAFETY: the header's contract.
    unsafe {
        put("shapes", shapes, || {
            let onekv_problem(problem) = get("problem", problem)?;
            let [query, kv, lse] = [problem.query_shape(), problem.kv_shape(), problem.lse_shape()];
            Ok(onekv_shapes { query: query.into(), kv: kv.into(), lse: lse.into() })
        })
    }
}

/// Frees a problem; NULL is good. Plans have a copy of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn onekv_problem_free(problem: *mut onekv_problem) {
    // SAFETY: the header's contract.
    unsafe { free(problem) }
}
