//! Tiles of K and V, read where they lie or copied as f32.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::widen::widen;
use crate::dtype::Element;
use crate::view::View;

/// Keys per tile: K and V tiles of 64 keys x 64 f32 fill a 32 KiB L1 cache between them.
pub(super) const TILE_KEYS: usize = 64;

/// One head of K or V: vectors of `dim` elements, `stride` apart.
pub(super) struct HeadOf<'a, E> {
    pub data: &'a [E],
    pub stride: usize,
    pub dim: usize,
}

impl<'a, E: Element> HeadOf<'a, E> {
    pub fn new(of: View<&'a [E]>, slot: usize, head: usize) -> Self {
        // Without keys there is no memory, and the strides may be anything.
        let at = (slot.checked_mul(of.strides.input).zip(head.checked_mul(of.strides.head)))
            .and_then(|(slot, head)| slot.checked_add(head));
        let data = at.and_then(|at| of.data.get(at..)).unwrap_or_default();
        Self { data, stride: of.strides.row, dim: of.shape.vector }
    }

    /// Whether the elements can be read in whole registers where they are.
    #[inline(always)]
    pub fn in_place<S: Simd>(&self) -> bool {
        self.dim.is_multiple_of(S::F32_LANES) && self.stride >= self.dim
    }

    /// The keys `range`, which are `in_place`.
    #[inline(always)]
    pub fn as_they_lie(&self, range: &Range<usize>) -> Vectors<'_, E> {
        Vectors { data: self.span(range), stride: self.stride }
    }

    /// The keys `range` as f32: a view of the operand where it serves as it is, else a copy in `buffer`, in whole registers
    /// whose elements past the vector are left as they are.
    ///
    /// `again`: they are read several times, and should not fight for the few cache sets that a large stride, often a
    /// multiple of the page size, leaves them.
    #[inline(always)]
    pub fn tile<'t, S: Simd>(
        &'t self,
        simd: S,
        range: &Range<usize>,
        again: bool,
        buffer: &'t mut [Line],
    ) -> Vectors<'t, f32> {
        let src = self.span(range);
        let serves = self.in_place::<S>() && (self.stride == self.dim || !again);
        if let Some(data) = E::as_f32(src).filter(|_| serves) {
            return Vectors { data, stride: self.stride };
        }
        let width = self.dim.next_multiple_of(S::F32_LANES);
        let vectors: &mut [f32] = &mut bytemuck::cast_slice_mut(buffer)[..range.len() * width];
        for (i, dst) in vectors.chunks_exact_mut(width).enumerate() {
            let src = &src[i * self.stride..][..self.dim];
            widen(simd, src, &mut dst[..self.dim]);
        }
        Vectors { data: vectors, stride: width }
    }

    /// Memory from the first of the keys to the end of the last.
    #[inline(always)]
    fn span(&self, range: &Range<usize>) -> &[E] {
        &self.data[range.start * self.stride..(range.end - 1) * self.stride + self.dim]
    }
}

/// A cache line. A register's memory that is aligned to one never straddles two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; 16]);

/// Vectors that begin `stride` elements apart, no less than their length.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a, E> {
    pub data: &'a [E],
    pub stride: usize,
}

impl<'a, E> Vectors<'a, E> {
    #[inline(always)]
    pub fn iter(self) -> impl Iterator<Item = &'a [E]> {
        self.data.chunks(self.stride)
    }
}

/// K and V of one K/V head.
pub(super) struct KeyTiles<'a, E> {
    pub k: HeadOf<'a, E>,
    pub v: HeadOf<'a, E>,
}
