//! Operands: memory of any kind, of the host or of a device, with its shape and strides.

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::shape::{Shape, Strides};

/// The largest supported `head_dim`.
pub const MAX_HEAD_DIM: usize = 512;
/// The most heads. No model has nearly as many; without a limit a problem of no rows and no keys, whose operands have no memory,
/// could have any number, and what is kept per head would not fit anywhere.
pub const MAX_HEADS: usize = 1 << 16;

impl Shape {
    /// Elements from the first to the end of the last vector. Refuses strides that let two vectors overlap.
    pub(crate) fn required_len(self, tensor: &'static str, strides: Strides) -> Result<usize> {
        if self.inputs == 0 || self.tokens == 0 {
            return Ok(0);
        }
        // From the innermost dimension, that of the smallest stride, outwards. A dimension of one element has no neighbours: its
        // stride does not matter.
        let mut dimensions = [
            ("head", strides.head, self.heads),
            ("row", strides.row, self.tokens),
            ("input", strides.input, self.inputs),
        ];
        dimensions.sort_by_key(|(_, stride, _)| *stride);
        let mut span = self.vector;
        for (stride, value, count) in dimensions.into_iter().filter(|(.., count)| *count > 1) {
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

    /// What a merge takes: `[rows, heads, head_dim]`, at least one head, vectors of at most [`MAX_HEAD_DIM`].
    pub(crate) fn check_state(self) -> Result<()> {
        let limits = [
            ("inputs", self.inputs, 1),
            ("heads", self.heads, usize::MAX),
            ("head_dim", self.vector, MAX_HEAD_DIM),
        ];
        for (field, value, max) in limits {
            match value {
                0 => return Err(Error::Zero { field }),
                _ if value > max => return Err(Error::TooLarge { field, value, max }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// An operand: memory from its first element on, `&[E]` and `&mut [E]` of the host, cudarc's views and `cuda::Memory` of a
/// device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View<M> {
    /// The memory.
    pub data: M,
    /// What is in it.
    pub shape: Shape,
    /// Where.
    pub strides: Strides,
}

impl<'a, E> View<&'a mut [E]> {
    /// The vectors `[tokens, heads]` of an operand of one input, which has passed its check.
    pub(crate) fn into_vectors(self) -> Vec<&'a mut [E]> {
        let Shape { tokens, heads, vector, .. } = self.shape;
        // Without rows the strides may be anything, 0 too.
        if tokens == 0 {
            return Vec::new();
        }
        // The outer dimension is the one of the larger stride; where there is one element, the stride may be anything.
        let by_token = heads == 1 || tokens > 1 && self.strides.row > self.strides.head;
        let (outer, inner) = if by_token {
            (self.strides.row, self.strides.head)
        } else {
            (self.strides.head, self.strides.row)
        };
        let (outers, inners) = if by_token { (tokens, heads) } else { (heads, tokens) };
        let step = |stride: usize, count: usize| if count > 1 { stride } else { usize::MAX };
        let mut vectors: Vec<&mut [E]> = (0..tokens * heads).map(|_| Default::default()).collect();
        for (o, data) in self.data.chunks_mut(step(outer, outers)).take(outers).enumerate() {
            for (i, data) in data.chunks_mut(step(inner, inners)).take(inners).enumerate() {
                let at = if by_token { o * heads + i } else { i * heads + o };
                vectors[at] = &mut data[..vector];
            }
        }
        vectors
    }

    /// The same operand, to read.
    pub fn reborrow(&self) -> View<&[E]> {
        View { data: self.data, shape: self.shape, strides: self.strides }
    }
}

impl<M> View<M> {
    /// An operand without gaps, in the order of its dimensions.
    pub fn contiguous(shape: impl Into<Shape>, data: M) -> Self {
        let shape = shape.into();
        Self { data, shape, strides: shape.strides() }
    }

    /// The same operand in memory that `f` makes of this one's.
    pub fn map<N>(self, f: impl FnOnce(M) -> N) -> View<N> {
        View { data: f(self.data), shape: self.shape, strides: self.strides }
    }

    /// An operand with gaps, or in another order.
    pub fn strided(shape: impl Into<Shape>, strides: Strides, data: M) -> Self {
        Self { data, shape: shape.into(), strides }
    }
}

/// The shared K and V, each `[key_positions, kv_heads, head_dim]` of packed inputs or `[inputs, max_keys, kv_heads,
/// head_dim]`: [`Problem::kv_shape`](crate::Problem::kv_shape).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SharedKv<M> {
    /// Keys.
    pub k: View<M>,
    /// Values.
    pub v: View<M>,
}

impl<M> SharedKv<M> {
    /// K and V without gaps.
    pub fn contiguous(shape: impl Into<Shape>, k: M, v: M) -> Self {
        let shape = shape.into();
        Self { k: View::contiguous(shape, k), v: View::contiguous(shape, v) }
    }
}

/// Attention over a part of the keys: its normalised output and its natural-log LSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartialState<M, L> {
    /// `[rows, heads, head_dim]`.
    pub out: View<M>,
    /// `[rows, heads]`, f32.
    pub lse: View<L>,
}

impl<M, L> PartialState<M, L> {
    /// A state without gaps; `shape` is that of its output.
    pub fn contiguous(shape: impl Into<Shape>, out: M, lse: L) -> Self {
        let shape = shape.into();
        Self { out: View::contiguous(shape, out), lse: View::contiguous(shape.scalars(), lse) }
    }
}

/// Checks an operand in host memory, which may begin at any element: only 4 bytes are certain for a `Vec<f32>`, though many
/// allocators give 16, and the CPU's loads need no more.
pub(crate) fn check<E: Element>(tensor: &'static str, view: View<&[E]>, allowed: Shape) -> Result<()> {
    let View { data, shape, strides } = view;
    let memory = Extent { address: 0, len: data.len(), size: size_of::<E>() };
    memory.check(tensor, shape, allowed, strides)
}

/// Memory as the checks see it, of the host or of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub address: usize,
    /// In elements.
    pub len: usize,
    /// Bytes of an element.
    pub size: usize,
}

impl Extent {
    #[cfg(feature = "cuda")]
    pub fn bytes(self) -> usize {
        self.len * self.size
    }

    /// Checks an operand in this memory: that its shape is `allowed`, that the memory is large enough, that no two vectors
    /// overlap, and that address and strides are aligned.
    pub fn check(self, tensor: &'static str, shape: Shape, allowed: Shape, strides: Strides) -> Result<()> {
        if shape != allowed {
            return Err(Error::WrongShape { tensor, value: shape, allowed });
        }
        let min = shape.required_len(tensor, strides)?;
        if self.len < min {
            return Err(Error::TooShort { tensor, value: self.len, min });
        }
        // No memory is accessed. Below, no stride in use overflows, as `min` did not.
        if min == 0 {
            return Ok(());
        }
        let align = vector_align(shape.vector * self.size);
        let used = |stride: usize, count: usize| if count > 1 { stride * self.size } else { 0 };
        for (part, value) in [
            ("data", self.address),
            ("strides.input", used(strides.input, shape.inputs)),
            ("strides.row", used(strides.row, shape.tokens)),
            ("strides.head", used(strides.head, shape.heads)),
        ] {
            if !value.is_multiple_of(align) {
                return Err(Error::Misaligned { tensor, part, value, align });
            }
        }
        Ok(())
    }
}

/// The alignment of vectors of `bytes` bytes: they are accessed 16 bytes at a time, or by the largest power of two that divides
/// them where that is less. So a head_dim of 64 needs 16 bytes, and one of 5 the size of an element.
pub(crate) fn vector_align(bytes: usize) -> usize {
    1 << bytes.trailing_zeros().min(4)
}
