//! The C interface's CPU part: structures from bytes, of any sizes and strides; memory is as large as `len` says, or NULL.
//!
//! Promised: no panic, which would be ONEKV_PANIC; a call that fails has a message that says what is allowed, and wrote
//! nothing but NULL for a handle.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use onekv::{Shape, Strides};
use onekv_c_api::cpu::{onekv_cpu_attend, onekv_cpu_merge_states};
use onekv_c_api::cuda::{onekv_kernels, onekv_kernels_new};
use onekv_c_api::operands::{
    onekv_shape, onekv_shape_strides, onekv_state, onekv_strides, onekv_view, onekv_view_mut,
};
use onekv_c_api::problem::{onekv_problem, onekv_problem_free, onekv_problem_new, onekv_problem_shapes};
use onekv_c_api::problem::{onekv_problem_spec, onekv_shapes};
use onekv_c_api::status::{onekv_last_error, onekv_status};

use crate::bytes::Bytes;
use crate::operands::{spec, strides};

/// Most bytes of an operand.
const MOST_BYTES: usize = 256 << 10;
/// What all memory is filled with before a call.
const FILL: u8 = 0x3c;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    match bytes.below(4) {
        0 => merge(&mut bytes),
        _ => attend(&mut bytes),
    }
    let mut kernels: *mut onekv_kernels = null_mut();
    // SAFETY: a place for the handle.
    let status = unsafe { onekv_kernels_new(bytes.number() as i32, &mut kernels) };
    assert!(kernels.is_null(), "a card, in a build without CUDA");
    assert_refused(status);
}

/// Asserts that a call was refused, with a message that says what is allowed.
fn assert_refused(status: onekv_status) {
    // SAFETY: a string of this thread, copied before its next failure.
    let message = unsafe { CStr::from_ptr(onekv_last_error()) }.to_string_lossy().into_owned();
    assert!(
        matches!(status, onekv_status::ONEKV_INVALID | onekv_status::ONEKV_UNAVAILABLE),
        "{status:?}: {message}"
    );
    assert!(message.contains("allowed"), "{status:?} without what is allowed: {message:?}");
}

/// Memory for an operand, aligned to 16 bytes.
struct Operand {
    memory: Vec<u128>,
    view: onekv_view,
}

impl Operand {
    fn of(bytes: &mut Bytes, shape: Shape, size: usize) -> Self {
        let Strides { input, row, head } = strides(bytes, shape);
        let strides = onekv_strides { input, row, head };
        let span = crate::operands::span(shape, Strides { input, row, head });
        let len = if bytes.once_in(8) { bytes.below(256) } else { span }.min(MOST_BYTES / size);
        let memory = vec![u128::from_ne_bytes([FILL; 16]); (len * size).div_ceil(16) + 1];
        let offset = if bytes.once_in(16) { usize::from(bytes.byte() % 16) } else { 0 };
        let data = memory.as_ptr().cast::<c_void>().wrapping_byte_add(offset);
        let (data, len) = match bytes.below(32) {
            0 => (null(), len),
            // A size that there cannot be is refused before the memory is looked at.
            1 => (data, usize::MAX - bytes.below(8)),
            2 => (null(), 0),
            _ => (data, len),
        };
        Self { memory, view: onekv_view { data, len, strides } }
    }

    fn view_mut(&mut self) -> onekv_view_mut {
        let onekv_view { data, len, strides } = self.view;
        // From a mutable borrow: through the view's pointer nothing may be written.
        let offset = (data as usize).wrapping_sub(self.memory.as_ptr() as usize);
        let at = self.memory.as_mut_ptr().cast::<c_void>().wrapping_byte_add(offset);
        onekv_view_mut { data: if data.is_null() { null_mut() } else { at }, len, strides }
    }

    fn assert_unwritten(&self, what: &str) {
        assert!(
            self.memory.iter().all(|x| *x == u128::from_ne_bytes([FILL; 16])),
            "{what} was written by a call that failed"
        );
    }
}

/// A type, most often a known one, and the bytes of an element.
fn dtype(bytes: &mut Bytes) -> (u32, usize) {
    match bytes.below(16) {
        0 => (bytes.number() as u32 | 4, 4),
        n if n < 6 => (1, 4),
        n => (2 + (n as u32 & 1), 2),
    }
}

fn attend(bytes: &mut Bytes) {
    let wanted = spec(bytes);
    let (key_offsets, key_lengths, max_keys) = match &wanted.keys {
        onekv::Keys::Packed { offsets } => (offsets.clone(), Vec::new(), 0),
        onekv::Keys::Padded { max_keys, lengths } => (Vec::new(), lengths.clone(), *max_keys),
    };
    // Inputs that the list of keys is for.
    let listed = if key_lengths.is_empty() { key_offsets.len().saturating_sub(1) } else { key_lengths.len() };
    let inputs = match bytes.below(32) {
        0 => usize::MAX - bytes.below(4),
        1 => isize::MAX as usize / 4,
        _ => listed.min(wanted.row_offsets.len() - 1),
    };
    let given = |list: &Vec<usize>| if list.is_empty() { null() } else { list.as_ptr() };
    let mut spec = onekv_problem_spec {
        heads: wanted.heads,
        kv_heads: wanted.kv_heads,
        head_dim: wanted.head_dim,
        scale: wanted.scale,
        softcap: wanted.softcap.unwrap_or(0.0),
        inputs,
        row_offsets: wanted.row_offsets.as_ptr(),
        key_offsets: given(&key_offsets),
        max_keys,
        key_lengths: given(&key_lengths),
    };
    match bytes.below(32) {
        0 => spec.row_offsets = null(),
        1 => spec.key_offsets = null(),
        2 => spec.key_lengths = null(),
        3 => spec.max_keys = bytes.number(),
        _ => {}
    }
    // The library reads lists as far as `inputs` says, but for sizes that no memory can have, which it refuses. A count
    // between the two would take it past their ends.
    if spec.inputs > listed && spec.inputs < isize::MAX as usize / 8 {
        return;
    }
    let mut problem: *mut onekv_problem = std::ptr::dangling_mut();
    // SAFETY: lists are as long as `inputs` says, NULL, or of a size that there cannot be.
    let status = unsafe { onekv_problem_new(&spec, &mut problem) };
    if status != onekv_status::ONEKV_OK {
        assert!(problem.is_null(), "a handle of a call that failed");
        return assert_refused(status);
    }
    let mut shapes = std::mem::MaybeUninit::<onekv_shapes>::uninit();
    // SAFETY: a problem, and room for its shapes.
    let shapes = unsafe {
        assert_eq!(onekv_problem_shapes(problem, shapes.as_mut_ptr()), onekv_status::ONEKV_OK);
        shapes.assume_init()
    };
    let of = |shape: onekv_shape| {
        onekv_shape_strides(shape);
        Shape { inputs: shape.inputs, tokens: shape.tokens, heads: shape.heads, vector: shape.vector }
    };
    let (dtype, size) = dtype(bytes);
    let [q, k, v] = [shapes.query, shapes.kv, shapes.kv].map(|shape| Operand::of(bytes, of(shape), size));
    let mut out = Operand::of(bytes, of(shapes.query), size);
    let mut lse = Operand::of(bytes, of(shapes.lse), 4);
    let (to, lse_to) = (out.view_mut(), lse.view_mut());
    // Now and then the output lies over the query.
    let to = if bytes.once_in(32) { onekv_view_mut { data: q.view.data.cast_mut(), ..to } } else { to };
    let lse_at = if bytes.once_in(4) { null() } else { &raw const lse_to };
    let q_at = if bytes.once_in(32) { null() } else { &raw const q.view };
    let overlaps = to.data.cast_const() == q.view.data && to.len.min(q.view.len) > 0;
    // What overlaps is refused before anything is written. The query's memory must have what the output's `len` says.
    let fits = !overlaps || to.len <= q.view.len;
    if fits {
        // SAFETY: memory of `len` elements, NULL, or of a size that there cannot be.
        let status = unsafe { onekv_cpu_attend(problem, dtype, q_at, &k.view, &v.view, &to, lse_at) };
        if status == onekv_status::ONEKV_OK {
            assert!(!overlaps, "the output over the query");
        } else {
            assert_refused(status);
            [(&q, "q"), (&out, "out"), (&lse, "lse")]
                .iter()
                .for_each(|(operand, what)| operand.assert_unwritten(what));
        }
    }
    // SAFETY: made above.
    unsafe { onekv_problem_free(problem) };
}

fn merge(bytes: &mut Bytes) {
    let head_dim = if bytes.once_in(8) { bytes.number() } else { bytes.below(40) };
    let shape = Shape::from([bytes.count(6), bytes.count(4), head_dim]);
    let scalars = Shape { vector: 1, ..shape };
    let (states_dtype, states_size) = dtype(bytes);
    let (dtype, size) = dtype(bytes);
    let parts: Vec<[Operand; 2]> = (0..bytes.below(4))
        .map(|_| [Operand::of(bytes, shape, states_size), Operand::of(bytes, scalars, 4)])
        .collect();
    let states: Vec<onekv_state> =
        parts.iter().map(|[out, lse]| onekv_state { out: out.view, lse: lse.view }).collect();
    let (mut out, mut lse) = (Operand::of(bytes, shape, size), Operand::of(bytes, scalars, 4));
    let (to, lse_to) = (out.view_mut(), lse.view_mut());
    let (at, count) = match bytes.below(16) {
        0 => (null(), bytes.number()),
        1 => (states.as_ptr(), usize::MAX),
        _ => (states.as_ptr(), states.len()),
    };
    let lse_at = if bytes.once_in(4) { null() } else { &raw const lse_to };
    // SAFETY: memory of `len` elements, NULL, or of a size that there cannot be.
    let status = unsafe {
        onekv_cpu_merge_states(
            states_dtype,
            at,
            count,
            dtype,
            shape.tokens,
            shape.heads,
            shape.vector,
            &to,
            lse_at,
        )
    };
    if status != onekv_status::ONEKV_OK {
        assert_refused(status);
        [(&out, "out"), (&lse, "lse")].iter().for_each(|(operand, what)| operand.assert_unwritten(what));
    }
}
