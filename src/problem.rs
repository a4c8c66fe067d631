//! The problem: what is attended to what. Validated once; everything below trusts it.
//!
//! A [`Problem`] is geometry only: which query rows read which keys, how many heads, what scale.
//! The operands ([`View`], [`SharedKv`]) are memory with a shape and strides; a backend checks them against the problem before
//! it touches them.

use std::ops::Range;

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::view::{MAX_HEAD_DIM, MAX_HEADS, SharedKv, View, check};

/// Where each input's keys stand in the K/V tensors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Keys {
    /// Inputs one after the other: input `b` has the keys `offsets[b] .. offsets[b + 1]`.
    Packed {
        /// Inputs + 1 offsets, from 0, never decreasing.
        offsets: Vec<usize>,
    },
    /// One slot of `max_keys` keys per input, `[inputs, max_keys, kv_heads, head_dim]`: input `b`
    /// has the first `lengths[b]` keys of its slot. What follows them may be anything: it changes no result. A cache that is
    /// larger than what it holds is this, with its capacity as `max_keys`.
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Input {
    /// Rows of the query, output and LSE tensors.
    pub rows: Range<usize>,
    /// Its slot, the first dimension of K and V; 0 where inputs are packed.
    pub slot: usize,
    /// Positions in that slot.
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
/// A row with no keys, or whose keys all score -inf, has `out = 0` and `lse = -inf`. There is no causal mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    softcap: Option<f32>,
    inputs: Vec<Input>,
    total_rows: usize,
    /// Slots of K and V, and positions of each.
    slots: usize,
    max_keys: usize,
}

impl Problem {
    /// Validates `spec`.
    ///
    /// # Errors
    /// Zero heads, kv_heads, head_dim; heads over [`MAX_HEADS`], or not a multiple of kv_heads; head_dim over
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
        for (field, value, max) in [("heads", heads, MAX_HEADS), ("head_dim", head_dim, MAX_HEAD_DIM)] {
            if value > max {
                return Err(Error::TooLarge { field, value, max });
            }
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
        let (field, keys, slots, max_keys) = match keys {
            Keys::Packed { offsets } => {
                let ranges = ranges_of("keys.offsets", &offsets)?;
                let keys = ranges.into_iter().map(|keys| (0, keys)).collect::<Vec<_>>();
                ("keys.offsets", keys, 1, offsets.last().copied().unwrap_or(0))
            }
            Keys::Padded { max_keys, lengths } => {
                ("keys.lengths", in_slots(max_keys, &lengths)?, lengths.len(), max_keys)
            }
        };
        if keys.len() != rows.len() {
            return Err(Error::InputsDiffer { field, value: keys.len(), inputs: rows.len() });
        }
        let total_rows = row_offsets.last().copied().unwrap_or(0);
        let inputs =
            rows.into_iter().zip(keys).map(|(rows, (slot, keys))| Input { rows, slot, keys }).collect();
        Self { heads, kv_heads, head_dim, scale, softcap, inputs, total_rows, slots, max_keys }.sized()
    }

    /// Itself, if its operands fit the address space. Later products of its counts then cannot overflow, nor can strides, also
    /// those of an empty batch.
    fn sized(self) -> Result<Self> {
        for (field, slots, tokens, heads) in [
            ("rows x heads x head_dim", 1, self.total_rows, self.heads),
            ("keys x kv_heads x head_dim", self.slots, self.max_keys, self.kv_heads),
        ] {
            heads
                .checked_mul(tokens.max(1))
                .and_then(|n| n.checked_mul(slots.max(1)))
                .and_then(|n| n.checked_mul(self.head_dim))
                .and_then(|n| n.checked_mul(size_of::<f32>()))
                .filter(|&bytes| isize::try_from(bytes).is_ok())
                .ok_or(Error::Overflow { field })?;
        }
        Ok(self)
    }

    /// The same with vectors that are padded with zeros to `head_dim` elements.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn padded(&self, head_dim: usize) -> Result<Self> {
        Self { head_dim, ..self.clone() }.sized()
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

    /// Positions of K and V in all slots, padding included.
    pub fn key_positions(&self) -> usize {
        self.slots * self.max_keys
    }

    /// Of queries and output: `[total_rows, heads, head_dim]`.
    pub fn query_shape(&self) -> Shape {
        [self.total_rows, self.heads, self.head_dim].into()
    }

    /// Of K and of V: `[key_positions, kv_heads, head_dim]` where inputs are packed, else `[inputs, max_keys, kv_heads,
    /// head_dim]`.
    pub fn kv_shape(&self) -> Shape {
        [self.slots, self.max_keys, self.kv_heads, self.head_dim].into()
    }

    /// Of LSE: `[total_rows, heads]`.
    pub fn lse_shape(&self) -> Shape {
        [self.total_rows, self.heads].into()
    }

    /// Checks every operand of one call: shapes, lengths, strides, alignment.
    ///
    /// # Errors
    /// [`Error::WrongShape`], [`Error::StrideTooSmall`], [`Error::Misaligned`], [`Error::TooShort`], [`Error::Overflow`].
    pub fn check<E: Element>(
        &self,
        q: &View<&[E]>,
        kv: &SharedKv<&[E]>,
        out: &View<&mut [E]>,
        lse: Option<&View<&mut [f32]>>,
    ) -> Result<()> {
        check("q", *q, self.query_shape())?;
        check("k", kv.k, self.kv_shape())?;
        check("v", kv.v, self.kv_shape())?;
        check("out", out.reborrow(), self.query_shape())?;
        match lse {
            Some(lse) => check("lse", lse.reborrow(), self.lse_shape()),
            None => Ok(()),
        }
    }
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

/// Slots and the keys in them.
fn in_slots(max_keys: usize, lengths: &[usize]) -> Result<Vec<(usize, Range<usize>)>> {
    let of_slot = |(input, &value): (usize, &usize)| match value > max_keys {
        true => Err(Error::LengthOverSlot { input, value, max_keys }),
        false => Ok((input, 0..value)),
    };
    lengths.iter().enumerate().map(of_slot).collect()
}
