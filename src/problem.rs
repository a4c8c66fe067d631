//! The problem: what is attended to what. Validated once; everything below trusts it.
//!
//! A [`Problem`] is geometry only: which query rows read which keys, how many heads, what scale.
//! The operands ([`Queries`], [`SharedKv`], [`Output`], [`Lse`]) are borrowed memory with strides;
//! a backend checks them against the problem before it touches them.

use std::ops::Range;

use crate::dtype::Element;
use crate::error::{Error, Result};

/// The largest supported `head_dim`.
pub const MAX_HEAD_DIM: usize = 512;

/// Where each input's keys stand in the K/V tensors `[key_positions, kv_heads, head_dim]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Inputs one after the other: input `b` has the keys `offsets[b] .. offsets[b + 1]`.
    Packed {
        /// Inputs + 1 offsets, from 0, never decreasing.
        offsets: Vec<usize>,
    },
    /// One slot of `max_keys` keys per input, `[inputs, max_keys, kv_heads, head_dim]`: input `b`
    /// has the first `lengths[b]` keys of its slot. What follows them may be anything: it changes no result.
    Padded {
        /// Keys per slot.
        max_keys: usize,
        /// Keys in use, one entry per input.
        lengths: Vec<usize>,
    },
}

/// What a [`Problem`] is made of. Plain data; [`Problem::new`] validates it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemSpec {
    /// Query heads.
    pub heads: usize,
    /// K/V heads; `heads` is a multiple of it (grouped-query attention where they differ).
    pub kv_heads: usize,
    /// Elements per head, of K and V alike.
    pub head_dim: usize,
    /// Factor on the scores. No default: T5 has 1.0, most others `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// With `Some(c)` the scaled score `s` becomes `c * tanh(s / c)`.
    pub softcap: Option<f32>,
    /// Input `b` has the query rows `row_offsets[b] .. row_offsets[b + 1]`: inputs + 1 offsets,
    /// from 0, never decreasing. Rows are prompts x beams x tokens: attention does not care.
    pub row_offsets: Vec<usize>,
    /// Where each input's keys stand.
    pub keys: Keys,
}

/// One input of the batch: its query rows all read its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Rows of the query, output and LSE tensors.
    pub rows: Range<usize>,
    /// Positions in the K and V tensors.
    pub keys: Range<usize>,
}

/// A validated shared cross-attention problem.
///
/// For every query row `r` of input `b` and every query head `h`, with the K/V head
/// `g = h / (heads / kv_heads)` and `j` over the keys of `b`:
///
/// ```text
/// s[j]      = softcap(scale * q[r, h] . k[j, g])
/// out[r, h] = sum_j softmax(s)[j] * v[j, g]
/// lse[r, h] = ln sum_j exp(s[j])            natural logarithm
/// ```
///
/// A row with no keys has `out = 0` and `lse = -inf`. There is no causal mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    softcap: Option<f32>,
    inputs: Vec<Input>,
    total_rows: usize,
    key_positions: usize,
}

impl Problem {
    /// Validates `spec`.
    ///
    /// # Errors
    /// Zero heads, kv_heads, head_dim; heads not a multiple of kv_heads; head_dim over
    /// [`MAX_HEAD_DIM`]; scale or softcap not finite or not above 0; offsets that do not start
    /// at 0 or decrease; a length over its slot; rows and keys for different numbers of inputs;
    /// sizes that overflow.
    pub fn new(spec: ProblemSpec) -> Result<Self> {
        let ProblemSpec { heads, kv_heads, head_dim, scale, softcap, row_offsets, keys } = spec;
        for (field, value) in [("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)] {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        if head_dim > MAX_HEAD_DIM {
            return Err(Error::TooLarge { field: "head_dim", value: head_dim, max: MAX_HEAD_DIM });
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::HeadsNotMultiple { heads, kv_heads });
        }
        for (field, value) in [("scale", Some(scale)), ("softcap", softcap)] {
            if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(Error::NotPositive { field, value });
            }
        }

        let rows = ranges_of("row_offsets", &row_offsets)?;
        let (field, keys, key_positions) = match keys {
            Keys::Packed { offsets } => {
                let ranges = ranges_of("keys.offsets", &offsets)?;
                ("keys.offsets", ranges, offsets.last().copied().unwrap_or(0))
            }
            Keys::Padded { max_keys, lengths } => {
                let (ranges, positions) = padded_ranges(max_keys, &lengths)?;
                ("keys.lengths", ranges, positions)
            }
        };
        if keys.len() != rows.len() {
            return Err(Error::InputsDiffer { field, value: keys.len(), inputs: rows.len() });
        }
        let total_rows = row_offsets.last().copied().unwrap_or(0);
        // A later product of counts below this limit cannot overflow, nor a stride of an empty batch.
        for (field, tokens, heads) in [
            ("rows x heads x head_dim", total_rows, heads),
            ("keys x kv_heads x head_dim", key_positions, kv_heads),
        ] {
            heads
                .checked_mul(tokens.max(1))
                .and_then(|n| n.checked_mul(head_dim))
                .and_then(|n| n.checked_mul(size_of::<f32>()))
                .filter(|&bytes| isize::try_from(bytes).is_ok())
                .ok_or(Error::Overflow { field })?;
        }
        let inputs = rows.into_iter().zip(keys).map(|(rows, keys)| Input { rows, keys }).collect();
        Ok(Self { heads, kv_heads, head_dim, scale, softcap, inputs, total_rows, key_positions })
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// K/V heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Query heads that read one K/V head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Factor on the scores.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The softcap, if any.
    pub fn softcap(&self) -> Option<f32> {
        self.softcap
    }

    /// The inputs, in the order of their rows.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Query rows of all inputs: the first dimension of queries, output and LSE.
    pub fn total_rows(&self) -> usize {
        self.total_rows
    }

    /// First dimension of K and V, padding included.
    pub fn key_positions(&self) -> usize {
        self.key_positions
    }

    /// Strides of `[total_rows, heads, head_dim]` without gaps.
    pub fn query_strides(&self) -> Strides {
        Strides::contiguous(self.heads, self.head_dim)
    }

    /// Strides of `[key_positions, kv_heads, head_dim]` without gaps.
    pub fn kv_strides(&self) -> Strides {
        Strides::contiguous(self.kv_heads, self.head_dim)
    }

    /// Checks every operand of one call: lengths, strides, alignment, overlap.
    ///
    /// # Errors
    /// [`Error::StrideTooSmall`], [`Error::Misaligned`], [`Error::TooShort`], [`Error::Overflow`].
    pub fn check<E: Element>(
        &self,
        q: &Queries<'_, E>,
        kv: &SharedKv<'_, E>,
        out: &Output<'_, E>,
        lse: Option<&Lse<'_>>,
    ) -> Result<()> {
        let rows = Extent { tokens: self.total_rows, heads: self.heads, vector: self.head_dim };
        let keys = Extent { tokens: self.key_positions, heads: self.kv_heads, vector: self.head_dim };
        rows.check("q", q.data, q.strides)?;
        keys.check("k", kv.k, kv.k_strides)?;
        keys.check("v", kv.v, kv.v_strides)?;
        rows.check("out", out.data, out.strides)?;
        if let Some(lse) = lse {
            Extent { vector: 1, ..rows }.check("lse", lse.data, lse.strides)?;
        }
        Ok(())
    }
}

/// Distances between neighbours of a `[rows, heads, head_dim]` tensor, in elements. The last
/// dimension is contiguous. Either order of the first two dimensions is fine: row-major
/// (`head` at least head_dim, `row` at least a whole row) or head-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// From a row (of K and V: a key) to the next.
    pub row: usize,
    /// From a head to the next.
    pub head: usize,
}

impl Strides {
    /// Row-major without gaps.
    pub fn contiguous(heads: usize, head_dim: usize) -> Self {
        Self { row: heads * head_dim, head: head_dim }
    }
}

/// Queries `[total_rows, heads, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a, E> {
    /// Memory from row 0, head 0 on.
    pub data: &'a [E],
    /// Its strides.
    pub strides: Strides,
}

impl<'a, E: Element> Queries<'a, E> {
    /// Queries without gaps.
    pub fn contiguous(problem: &Problem, data: &'a [E]) -> Self {
        Self { data, strides: problem.query_strides() }
    }
}

/// The shared K and V, each `[key_positions, kv_heads, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct SharedKv<'a, E> {
    /// Keys, from position 0, head 0 on.
    pub k: &'a [E],
    /// Values, likewise.
    pub v: &'a [E],
    /// Strides of `k`.
    pub k_strides: Strides,
    /// Strides of `v`.
    pub v_strides: Strides,
}

impl<'a, E: Element> SharedKv<'a, E> {
    /// K and V without gaps.
    pub fn contiguous(problem: &Problem, k: &'a [E], v: &'a [E]) -> Self {
        let strides = problem.kv_strides();
        Self { k, v, k_strides: strides, v_strides: strides }
    }
}

/// Output `[total_rows, heads, head_dim]`; every element that the strides reach is written.
#[derive(Debug)]
pub struct Output<'a, E> {
    /// Memory from row 0, head 0 on.
    pub data: &'a mut [E],
    /// Its strides.
    pub strides: Strides,
}

impl<'a, E: Element> Output<'a, E> {
    /// Output without gaps.
    pub fn contiguous(problem: &Problem, data: &'a mut [E]) -> Self {
        Self { data, strides: problem.query_strides() }
    }
}

/// Natural-log log-sum-exp of the scores, `[total_rows, heads]`, f32.
#[derive(Debug)]
pub struct Lse<'a> {
    /// Memory from row 0, head 0 on.
    pub data: &'a mut [f32],
    /// Its strides.
    pub strides: Strides,
}

impl<'a> Lse<'a> {
    /// LSE without gaps.
    pub fn contiguous(problem: &Problem, data: &'a mut [f32]) -> Self {
        Self { data, strides: Strides::contiguous(problem.heads(), 1) }
    }
}

/// Shape of the states that [`cpu::merge_states`](crate::cpu::merge_states) joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateShape {
    /// Query rows.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Elements per head, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
}

impl StateShape {
    /// Its vectors.
    ///
    /// # Errors
    /// Zero heads or head_dim; head_dim over [`MAX_HEAD_DIM`].
    pub(crate) fn extent(self) -> Result<Extent> {
        let Self { rows, heads, head_dim } = self;
        for (field, value) in [("heads", heads), ("head_dim", head_dim)] {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        if head_dim > MAX_HEAD_DIM {
            return Err(Error::TooLarge { field: "head_dim", value: head_dim, max: MAX_HEAD_DIM });
        }
        Ok(Extent { tokens: rows, heads, vector: head_dim })
    }
}

/// `[tokens, heads, vector]`: what an operand has to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub tokens: usize,
    pub heads: usize,
    pub vector: usize,
}

impl Extent {
    /// Checks memory and strides of one operand against this extent.
    pub(crate) fn check<E: Element>(self, tensor: &'static str, data: &[E], strides: Strides) -> Result<()> {
        self.check_memory(tensor, data.len(), data.as_ptr().addr(), size_of::<E>(), strides)
    }

    /// Checks `len` elements of `size` bytes at an address, of host or device memory, likewise.
    pub(crate) fn check_memory(
        self,
        tensor: &'static str,
        len: usize,
        address: usize,
        size: usize,
        strides: Strides,
    ) -> Result<()> {
        let min = self.required_len(tensor, strides)?;
        if len < min {
            return Err(Error::TooShort { tensor, value: len, min });
        }
        // Nothing is reached; strides that are used fit the address space, as `min` does.
        if min == 0 {
            return Ok(());
        }
        let align = vector_align(self.vector * size);
        let row = if self.tokens > 1 { strides.row * size } else { 0 };
        let head = if self.heads > 1 { strides.head * size } else { 0 };
        for (part, value) in [("data", address), ("strides.row", row), ("strides.head", head)] {
            if !value.is_multiple_of(align) {
                return Err(Error::Misaligned { tensor, part, value, align });
            }
        }
        Ok(())
    }

    /// Elements from the first to the last that is reached, with all vectors apart.
    fn required_len(self, tensor: &'static str, strides: Strides) -> Result<usize> {
        let Self { tokens, heads, vector } = self;
        if tokens == 0 {
            return Ok(0);
        }
        // The dimension with the smaller stride is the inner one; a dimension of one element
        // has no neighbours, so its stride does not matter.
        let row = ("row", strides.row, tokens);
        let head = ("head", strides.head, heads);
        let head_is_inner = tokens == 1 || (heads > 1 && strides.head <= strides.row);
        let (inner, outer) = if head_is_inner { (head, row) } else { (row, head) };
        let mut span = vector;
        for (stride, value, count) in [inner, outer] {
            if count <= 1 {
                continue;
            }
            if value < span {
                return Err(Error::StrideTooSmall { tensor, stride, value, min: span });
            }
            span = value
                .checked_mul(count - 1)
                .and_then(|n| n.checked_add(span))
                .filter(|n| n.checked_mul(size_of::<f32>()).is_some_and(|b| isize::try_from(b).is_ok()))
                .ok_or(Error::Overflow { field: tensor })?;
        }
        Ok(span)
    }
}

/// What addresses of vectors of so many bytes are a multiple of: they are accessed 16 bytes at a time, or at the largest
/// power of two that divides them. So a head_dim of 64 asks for 16 bytes and one of 5 for the element's own size.
pub(crate) fn vector_align(bytes: usize) -> usize {
    1 << bytes.trailing_zeros().min(4)
}

/// The ranges between neighbouring offsets.
fn ranges_of(field: &'static str, offsets: &[usize]) -> Result<Vec<Range<usize>>> {
    if offsets.first() != Some(&0) {
        return Err(Error::OffsetsStart { field, value: offsets.first().copied() });
    }
    offsets
        .windows(2)
        .enumerate()
        .map(|(i, pair)| match *pair {
            [previous, value] if value < previous => {
                Err(Error::OffsetsDecrease { field, index: i + 1, value, previous })
            }
            _ => Ok(pair[0]..pair[1]),
        })
        .collect()
}

/// The ranges of padded slots, and the number of positions in all.
fn padded_ranges(max_keys: usize, lengths: &[usize]) -> Result<(Vec<Range<usize>>, usize)> {
    let positions = lengths.len().checked_mul(max_keys).ok_or(Error::Overflow { field: "keys.max_keys" })?;
    let ranges = lengths.iter().enumerate().map(|(input, &value)| {
        if value > max_keys {
            return Err(Error::LengthOverSlot { input, value, max_keys });
        }
        let start = input * max_keys;
        Ok(start..start + value)
    });
    Ok((ranges.collect::<Result<_>>()?, positions))
}
