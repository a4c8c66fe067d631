//! Shapes and strides of operands: plain numbers.

use std::fmt;

/// Extents of an operand `[inputs, tokens, heads, vector]`, outermost first: made from an array of four of them, of three
/// (`[tokens, heads, vector]`, one input) or, for LSE, of two (`[tokens, heads]`, a number each).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Slots, one per input; 1 where inputs are packed one after the other.
    pub inputs: usize,
    /// Rows; of K and V: keys.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Elements per head; of LSE 1.
    pub vector: usize,
}

impl From<[usize; 4]> for Shape {
    fn from([inputs, tokens, heads, vector]: [usize; 4]) -> Self {
        Self { inputs, tokens, heads, vector }
    }
}

impl From<[usize; 3]> for Shape {
    fn from([tokens, heads, vector]: [usize; 3]) -> Self {
        Self { inputs: 1, tokens, heads, vector }
    }
}

impl From<[usize; 2]> for Shape {
    fn from([tokens, heads]: [usize; 2]) -> Self {
        Self { inputs: 1, tokens, heads, vector: 1 }
    }
}

/// `[tokens, heads, vector]`, with the inputs before them where there is more than one.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, tokens, heads, vector } = *self;
        match inputs {
            1 => write!(f, "{:?}", [tokens, heads, vector]),
            _ => write!(f, "{:?}", [inputs, tokens, heads, vector]),
        }
    }
}

impl Shape {
    /// Elements. Saturates where they overflow.
    pub fn elements(self) -> usize {
        [self.tokens, self.heads, self.vector].into_iter().fold(self.inputs, usize::saturating_mul)
    }

    /// Strides of this shape without gaps, in the order of its dimensions.
    pub fn strides(self) -> Strides {
        let row = self.heads.saturating_mul(self.vector);
        Strides { input: self.tokens.saturating_mul(row), row, head: self.vector }
    }

    /// The same with a number in place of each vector: the shape of LSE.
    pub(crate) fn scalars(self) -> Self {
        Self { vector: 1, ..self }
    }
}

/// Distances between neighbours of a `[inputs, tokens, heads, vector]` tensor, in elements. The last dimension is contiguous;
/// the others may lie in any order: `[inputs, heads, capacity, head_dim]` caches are as good as `[inputs, tokens, heads,
/// head_dim]`, and so is memory with gaps. The stride of a dimension of one element may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Strides {
    /// From an input's slot to the next.
    pub input: usize,
    /// From a row (of K and V: a key) to the next.
    pub row: usize,
    /// From a head to the next.
    pub head: usize,
}

impl Strides {
    /// Of a tensor without slots per input.
    pub const fn new(row: usize, head: usize) -> Self {
        Self { input: 0, row, head }
    }

    /// From the first element to a vector's first.
    pub(crate) fn at(self, input: usize, token: usize, head: usize) -> usize {
        input * self.input + token * self.row + head * self.head
    }
}
