//! Problems and operands from bytes, most of them valid, and what is asserted of them.

use onekv::{Element, Error, Keys, ProblemSpec, Shape, Strides, View};

use crate::bytes::Bytes;

/// Most elements of one operand: what is handed over is bounded, whatever its shape says.
const MOST_ELEMENTS: usize = 1 << 16;

pub fn spec(bytes: &mut Bytes) -> ProblemSpec {
    let kv_heads = bytes.count(4);
    let heads = if bytes.once_in(8) { bytes.number() } else { kv_heads.saturating_mul(bytes.below(4)) };
    let head_dim = match bytes.below(4) {
        0 => bytes.one_of(&[32, 64, 96, 128, 256, 512]),
        1 => bytes.number(),
        _ => bytes.below(40),
    };
    let scale = if bytes.once_in(4) { bytes.float() } else { 0.5 };
    let softcap = bytes.once_in(4).then(|| bytes.float());
    let inputs = bytes.below(5);
    let row_offsets = offsets(bytes, inputs);
    let keys = if bytes.once_in(2) {
        let max_keys = bytes.count(70);
        let length =
            |bytes: &mut Bytes| if bytes.once_in(8) { bytes.number() } else { bytes.count(70).min(max_keys) };
        Keys::Padded { max_keys, lengths: (0..inputs).map(|_| length(bytes)).collect() }
    } else {
        Keys::Packed { offsets: offsets(bytes, inputs) }
    };
    ProblemSpec { heads, kv_heads, head_dim, scale, softcap, row_offsets, keys }
}

/// Offsets of so many inputs; now and then of another number, or not in order.
fn offsets(bytes: &mut Bytes, inputs: usize) -> Vec<usize> {
    let mut offsets = vec![if bytes.once_in(16) { bytes.number() } else { 0 }];
    let inputs = if bytes.once_in(16) { bytes.below(8) } else { inputs };
    for at in 0..inputs {
        let next =
            if bytes.once_in(16) { bytes.number() } else { offsets[at].saturating_add(bytes.count(70)) };
        offsets.push(next);
    }
    offsets
}

/// Strides that fit the shape in one of several orders, with gaps or without; or any.
pub fn strides(bytes: &mut Bytes, shape: Shape) -> Strides {
    let Shape { inputs, tokens, heads, vector } = shape;
    let gap = bytes.one_of(&[0, 0, 4, 8, 1]);
    let vector = vector.saturating_add(gap);
    let usual = match bytes.below(4) {
        0 | 1 => {
            let row = heads.saturating_mul(vector);
            Strides { input: tokens.saturating_mul(row), row, head: vector }
        }
        2 => {
            let head = tokens.saturating_mul(vector);
            Strides { input: heads.saturating_mul(head), row: vector, head }
        }
        _ => {
            let row = inputs.saturating_mul(vector);
            Strides { input: vector, row, head: tokens.saturating_mul(row) }
        }
    };
    let mut any = |usual| if bytes.once_in(16) { bytes.number() } else { usual };
    Strides { input: any(usual.input), row: any(usual.row), head: any(usual.head) }
}

/// Elements from the first of an operand to its last, counted without overflow; at most MOST_ELEMENTS.
pub fn span(shape: Shape, strides: Strides) -> usize {
    let Shape { inputs, tokens, heads, vector } = shape;
    if inputs == 0 || tokens == 0 || heads == 0 {
        return 0;
    }
    let far = |stride: usize, count: usize| (stride as u128).saturating_mul(count as u128 - 1);
    let parts =
        [far(strides.input, inputs), far(strides.row, tokens), far(strides.head, heads), vector as u128];
    parts.into_iter().fold(0u128, u128::saturating_add).min(MOST_ELEMENTS as u128) as usize
}

/// What an operand is filled with.
#[derive(Clone, Copy, PartialEq)]
pub enum Filling {
    /// From -1 to 1.
    Small,
    /// Small, and now and then any bits.
    Any(u8),
}

impl Filling {
    pub fn of(bytes: &mut Bytes) -> Self {
        if bytes.once_in(3) { Self::Any(bytes.byte()) } else { Self::Small }
    }

    fn value(self, at: usize) -> f32 {
        let mixed = (at as u32).wrapping_add(1).wrapping_mul(0x9e37_79b9);
        let small = (mixed >> 20) as f32 / 2048.0 - 1.0;
        match self {
            Self::Small => small,
            Self::Any(seed) => match mixed.wrapping_mul(u32::from(seed) | 1) >> 28 {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                3 => f32::MAX,
                4 => f32::from_bits(mixed),
                _ => small,
            },
        }
    }
}

/// An operand: its memory, shape and strides.
pub struct Operand<E> {
    memory: Vec<E>,
    /// Elements in front of those that are handed over, for addresses that are not aligned to 16 bytes: 0 or 1.
    skip: usize,
    pub shape: Shape,
    pub strides: Strides,
}

impl<E: Element> Operand<E> {
    pub fn of(bytes: &mut Bytes, shape: Shape, filling: Filling) -> Self {
        let shape = if bytes.once_in(32) {
            let mut any = |n| if bytes.once_in(4) { bytes.number() } else { n };
            Shape {
                inputs: any(shape.inputs),
                tokens: any(shape.tokens),
                heads: any(shape.heads),
                vector: any(shape.vector),
            }
        } else {
            shape
        };
        let strides = strides(bytes, shape);
        let span = span(shape, strides);
        let len = match bytes.below(16) {
            0 => span.saturating_sub(1),
            1 => span + 3,
            2 => bytes.below(256),
            _ => span,
        };
        let skip = if bytes.once_in(32) { 1 } else { 0 };
        let values = (0..len + skip).map(|at| E::from_f32(filling.value(at)));
        Self { memory: values.collect(), skip, shape, strides }
    }

    pub fn view(&self) -> View<&[E]> {
        View::strided(self.shape, self.strides, &self.memory[self.skip..])
    }

    pub fn view_mut(&mut self) -> View<&mut [E]> {
        View::strided(self.shape, self.strides, &mut self.memory[self.skip..])
    }

    pub fn elements(&self) -> Vec<E> {
        self.memory[self.skip..].to_vec()
    }

    /// Row, head and index of every element of a query, an output or an LSE (one slot) that passed its check.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let Shape { tokens, heads, vector, .. } = self.shape;
        (0..tokens).flat_map(move |row| {
            (0..heads).flat_map(move |head| {
                let at = row * self.strides.row * usize::from(tokens > 1)
                    + head * self.strides.head * usize::from(heads > 1);
                (0..vector).map(move |i| (row, head, at + i))
            })
        })
    }

    /// Asserts that what no row covers is as it was.
    pub fn assert_untouched(&self, what: &str, before: &[E]) {
        let mut covered = vec![false; before.len()];
        self.places().for_each(|(_, _, at)| covered[at] = true);
        let after = self.elements();
        for (at, _) in covered.iter().enumerate().filter(|(_, covered)| !**covered) {
            assert!(
                same(&before[at..=at], &after[at..=at]),
                "{what}[{at}], which is no row's, was {:?} and is {:?}",
                before[at],
                after[at]
            );
        }
    }
}

/// Whether they have the same bits, those of NaN too.
pub fn same<E: Element>(a: &[E], b: &[E]) -> bool {
    let bits = |x: &E| x.to_f32().to_bits();
    a.len() == b.len() && a.iter().map(bits).eq(b.iter().map(bits))
}

/// Asserts that a message names one of `fields`, and says what is allowed.
pub fn assert_named(error: &Error, fields: &[&str]) {
    let text = error.to_string();
    assert!(text.contains("allowed"), "an error that does not say what is allowed: {text}");
    assert!(fields.iter().any(|field| text.contains(field)), "an error that names no field: {text}");
}
