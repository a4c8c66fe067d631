//! A few query rows against tiles of keys (picture in the parent module).

use std::ops::Range;

use pulp::{Arch, Scalar128b, Simd, WithSimd};

use super::math::Score;
use super::state::{RowState, finish_row};
use super::{KeyTiles, TILE_KEYS, Vectors};
use crate::dtype::Element;

/// Elements of a vector that a broadcast puts beside each other in the lanes of every row, and keys whose scores lie
/// beside each other afterwards.
const QUAD: usize = 4;
/// Rows up to which a tile with gaps is read where it is.
const IN_PLACE_ROWS: usize = 36;
/// The most registers of rows in a block.
const MOST_REGISTERS: usize = 3;
/// Rows whose outputs are summed at once.
const VALUE_ROWS: usize = 4;

/// Attention of `rows` (each `[dim]`), as many for each of `heads`, over the keys of one task, on the registers of `arch`.
pub(super) fn attend<E: Element>(
    arch: Arch,
    rows: &[&[E]],
    heads: &[KeyTiles<'_, E>],
    keys: Range<usize>,
    score: Score,
    dim: usize,
) -> RowState {
    arch.dispatch(Attend { rows, heads, keys, score, dim })
}

struct Attend<'a, E> {
    rows: &'a [&'a [E]],
    heads: &'a [KeyTiles<'a, E>],
    keys: Range<usize>,
    score: Score,
    dim: usize,
}

impl<E: Element> WithSimd for Attend<'_, E> {
    type Output = RowState;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> RowState {
        match S::F32_LANES {
            8 => self.over_keys::<S, 2, 1, 2>(simd),
            4 | 16 => self.over_keys::<S, MOST_REGISTERS, 2, 4>(simd),
            _ => self.over_keys::<Scalar128b, MOST_REGISTERS, 2, 4>(Scalar128b),
        }
    }
}

impl<E: Element> Attend<'_, E> {
    /// Blocks of up to `G` registers of rows, which meet `N` quads of keys and `V` registers of values at a time: as many as
    /// there are registers for.
    #[inline(always)]
    fn over_keys<S: Simd, const G: usize, const N: usize, const V: usize>(self, simd: S) -> RowState {
        let Self { rows, heads, keys, score, dim } = self;
        let rows_per_head = rows.len() / heads.len().max(1);
        let rows_per_register = S::F32_LANES / QUAD;
        let registers = rows_per_head.div_ceil(rows_per_register);
        let blocks_per_head = registers.div_ceil(G);
        let mut blocks: Vec<Block<S>> = Vec::with_capacity(heads.len() * blocks_per_head);
        for rows in rows.chunks_exact(rows_per_head.max(1)) {
            for i in 0..blocks_per_head {
                let end = |i: usize| (i * registers / blocks_per_head * rows_per_register).min(rows.len());
                blocks.push(Block::new(simd, &rows[end(i)..end(i + 1)], dim));
            }
        }

        let again = rows_per_head > IN_PLACE_ROWS;
        let mut weights = [simd.splat_f32s(0.0); TILE_KEYS / QUAD * MOST_REGISTERS];
        let (mut k_buffer, mut v_buffer) = (Vec::new(), Vec::new());
        // Tile by tile through the keys, and within a tile through the heads.
        for start in keys.clone().step_by(TILE_KEYS) {
            let range = start..keys.end.min(start + TILE_KEYS);
            for (i, tiles) in heads.iter().enumerate() {
                let k = tiles.k.tile::<S>(&range, again, &mut k_buffer);
                let v = tiles.v.tile::<S>(&range, again, &mut v_buffer);
                for block in &mut blocks[i * blocks_per_head..][..blocks_per_head] {
                    let step = Step { simd, k, v, score, count: range.len() };
                    match block.registers {
                        1 => step.block::<1, 2, V>(block, &mut weights),
                        2 => step.block::<2, N, V>(block, &mut weights),
                        _ => step.block::<MOST_REGISTERS, N, V>(block, &mut weights),
                    }
                }
            }
        }

        let mut state = RowState::empty(rows.len(), dim);
        let mut first = 0;
        for block in &blocks {
            block.finish(simd, score, &mut state, first);
            first += block.rows;
        }
        state
    }
}

/// Rows and their running softmax. A register holds [`QUAD`] lanes of each of its rows.
struct Block<S: Simd> {
    rows: usize,
    registers: usize,
    /// `[dim / QUAD][registers]`; what is past the rows or past `dim` is 0.
    q: Vec<S::f32s>,
    /// `[rows][dim / lanes]`, not yet divided by `sum`.
    out: Vec<S::f32s>,
    /// Maximum of the capped dot products so far, the same in all lanes of a row.
    max: [S::f32s; MOST_REGISTERS],
    /// Sum of the weights so far, each lane's keys by themselves.
    sum: [S::f32s; MOST_REGISTERS],
}

impl<S: Simd> Block<S> {
    #[inline(always)]
    fn new<E: Element>(simd: S, rows: &[&[E]], dim: usize) -> Self {
        let zero = simd.splat_f32s(0.0);
        let registers = (rows.len() * QUAD).div_ceil(S::F32_LANES);
        let mut q = vec![zero; dim.div_ceil(QUAD) * registers];
        let lanes: &mut [f32] = bytemuck::cast_slice_mut(&mut q);
        let mut elements = vec![0.0; dim];
        for (r, row) in rows.iter().enumerate() {
            E::widen(row, &mut elements);
            for (i, quad) in elements.chunks(QUAD).enumerate() {
                lanes[i * registers * S::F32_LANES + r * QUAD..][..quad.len()].copy_from_slice(quad);
            }
        }
        Self {
            rows: rows.len(),
            registers,
            q,
            out: vec![zero; rows.len() * dim.div_ceil(S::F32_LANES)],
            max: [simd.splat_f32s(f32::NEG_INFINITY); MOST_REGISTERS],
            sum: [zero; MOST_REGISTERS],
        }
    }

    /// Divides by the sums and writes the rows from `first` on into `state`.
    #[inline(always)]
    fn finish(&self, simd: S, score: Score, state: &mut RowState, first: usize) {
        let dim = state.dim;
        let (mut sum, mut shift) = (self.sum, self.max);
        for g in 0..MOST_REGISTERS {
            sum[g] = simd.add_f32s(sum[g], swap_one(simd, sum[g]));
            sum[g] = simd.add_f32s(sum[g], swap_two(simd, sum[g]));
            shift[g] = score.shift(simd, shift[g]);
        }
        let shift: &[f32] = bytemuck::cast_slice(&shift);
        let sum: &[f32] = bytemuck::cast_slice(&sum);
        let out: &[f32] = bytemuck::cast_slice(&self.out);
        let width = dim.next_multiple_of(S::F32_LANES);
        for r in 0..self.rows {
            let row = first + r;
            let (out, to) = (&out[r * width..][..dim], &mut state.out[row * dim..][..dim]);
            state.lse[row] = finish_row(score, sum[r * QUAD], shift[r * QUAD], out, to);
        }
    }
}

/// One K/V tile of `count` keys.
struct Step<'a, S> {
    simd: S,
    k: Vectors<'a>,
    v: Vectors<'a>,
    score: Score,
    count: usize,
}

impl<S: Simd> Step<'_, S> {
    /// Scores, softmax, values. `weights` is room, `[keys / QUAD][registers]`.
    #[inline(always)]
    fn block<const G: usize, const N: usize, const V: usize>(
        &self,
        block: &mut Block<S>,
        weights: &mut [S::f32s],
    ) {
        let (weights, _) = weights.as_chunks_mut::<G>();
        let weights = &mut weights[..self.count.div_ceil(QUAD)];
        let (q, _) = block.q.as_chunks::<G>();
        let mut keys = self.k.iter();
        let mut groups = weights.chunks_exact_mut(N);
        for scores in &mut groups {
            self.scores::<G, N>(q, &mut keys, scores);
        }
        for scores in groups.into_remainder().chunks_exact_mut(1) {
            self.scores::<G, 1>(q, &mut keys, scores);
        }
        let rescale = self.softmax(block, weights);
        self.values::<G, V>(block, &rescale, weights);
    }

    /// Dot products of the next `N` quads of keys; past the last of them, of that one again.
    #[inline(always)]
    fn scores<'k, const G: usize, const N: usize>(
        &self,
        q: &[[S::f32s; G]],
        vectors: &mut impl Iterator<Item = &'k [f32]>,
        scores: &mut [[S::f32s; G]],
    ) {
        let simd = self.simd;
        let mut keys = [[[[0.0; QUAD]; 0].as_slice(); QUAD]; N];
        let mut last = [[0.0; QUAD]; 0].as_slice();
        for key in keys.as_flattened_mut() {
            if let Some(vector) = vectors.next() {
                last = &vector.as_chunks::<QUAD>().0[..q.len()];
            }
            *key = last;
        }
        let mut sums = [[[simd.splat_f32s(0.0); G]; QUAD]; N];
        for (c, q) in q.iter().enumerate() {
            for n in 0..N {
                for i in 0..QUAD {
                    let element = splat_quad(simd, keys[n][i][c]);
                    for g in 0..G {
                        sums[n][i][g] = simd.mul_add_e_f32s(q[g], element, sums[n][i][g]);
                    }
                }
            }
        }
        for n in 0..N {
            for g in 0..G {
                scores[n][g] = sum_quads(simd, [sums[n][0][g], sums[n][1][g], sums[n][2][g], sums[n][3][g]]);
            }
        }
    }

    /// Turns scores into weights; returns the factors on what was summed before, `[rows][QUAD]`.
    #[inline(always)]
    fn softmax<const G: usize>(&self, block: &mut Block<S>, weights: &mut [[S::f32s; G]]) -> [S::f32s; G] {
        let (simd, score) = (self.simd, self.score);
        for s in weights.iter_mut() {
            score.cap(simd, s);
        }
        // Keys past the last weigh nothing; -inf would not survive the cap.
        if let (Some(last), used @ 1..) = (weights.last_mut(), self.count % QUAD) {
            for row in bytemuck::cast_slice_mut::<_, f32>(last).chunks_exact_mut(QUAD) {
                row[used..].fill(f32::NEG_INFINITY);
            }
        }
        let mut max: [S::f32s; G] = std::array::from_fn(|g| block.max[g]);
        for s in weights.iter() {
            for g in 0..G {
                max[g] = simd.max_f32s(max[g], s[g]);
            }
        }
        let mut shift = max;
        let mut rescale = max;
        for g in 0..G {
            max[g] = simd.max_f32s(max[g], swap_one(simd, max[g]));
            max[g] = simd.max_f32s(max[g], swap_two(simd, max[g]));
            shift[g] = score.shift(simd, max[g]);
            rescale[g] = score.weight(simd, block.max[g], shift[g]);
        }
        let mut sum = [simd.splat_f32s(0.0); G];
        for s in weights.iter_mut() {
            for g in 0..G {
                s[g] = score.weight(simd, s[g], shift[g]);
                sum[g] = simd.add_f32s(sum[g], s[g]);
            }
        }
        for g in 0..G {
            block.sum[g] = simd.mul_add_e_f32s(block.sum[g], rescale[g], sum[g]);
            block.max[g] = max[g];
        }
        rescale
    }

    /// `out = rescale * out + P V`.
    #[inline(always)]
    fn values<const G: usize, const V: usize>(
        &self,
        block: &mut Block<S>,
        rescale: &[S::f32s; G],
        weights: &[[S::f32s; G]],
    ) {
        let (rescale, _) = bytemuck::cast_slice::<_, f32>(rescale).as_chunks::<QUAD>();
        let (weights, _) = bytemuck::cast_slice::<_, f32>(weights).as_chunks::<QUAD>();
        let registers = block.out.len() / block.rows;
        for (i, out) in block.out.chunks_mut(VALUE_ROWS * registers).enumerate() {
            let first = i * VALUE_ROWS;
            let weights = &weights[first..];
            let rows = Values {
                simd: self.simd,
                weights,
                row_quads: G * S::F32_LANES / QUAD,
                rescale: &rescale[first..],
                v: self.v,
            };
            match out.len() / registers {
                1 => rows.all::<1, V>(out, registers),
                2 => rows.all::<2, V>(out, registers),
                3 => rows.all::<3, V>(out, registers),
                _ => rows.all::<VALUE_ROWS, V>(out, registers),
            }
        }
    }
}

/// What [`Step::values`] adds up for a few rows.
struct Values<'a, S> {
    simd: S,
    /// `[keys / QUAD][row_quads][QUAD]`.
    weights: &'a [[f32; QUAD]],
    row_quads: usize,
    /// `[rows][QUAD]`.
    rescale: &'a [[f32; QUAD]],
    v: Vectors<'a>,
}

impl<S: Simd> Values<'_, S> {
    /// All registers of `R` rows, `V` at a time.
    #[inline(always)]
    fn all<const R: usize, const V: usize>(&self, out: &mut [S::f32s], registers: usize) {
        let mut first = 0;
        while first + V <= registers {
            self.some::<R, V>(out, registers, first);
            first += V;
        }
        while first < registers {
            self.some::<R, 1>(out, registers, first);
            first += 1;
        }
    }

    #[inline(always)]
    fn some<const R: usize, const V: usize>(&self, out: &mut [S::f32s], registers: usize, first: usize) {
        let simd = self.simd;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for r in 0..R {
            let rescale = simd.splat_f32s(self.rescale[r][0]);
            for i in 0..V {
                sums[r][i] = simd.mul_f32s(out[r * registers + first + i], rescale);
            }
        }
        let mut values = self.v.iter();
        for weights in self.weights.chunks(self.row_quads) {
            let weights = &weights[..R];
            #[expect(clippy::needless_range_loop, reason = "a count known here is unrolled")]
            for i in 0..QUAD {
                let Some(value) = values.next() else { break };
                let (value, _) = S::as_simd_f32s(&value[first * S::F32_LANES..][..V * S::F32_LANES]);
                for r in 0..R {
                    let weight = simd.splat_f32s(weights[r][i]);
                    for j in 0..V {
                        sums[r][j] = simd.mul_add_e_f32s(weight, value[j], sums[r][j]);
                    }
                }
            }
        }
        for r in 0..R {
            out[r * registers + first..][..V].copy_from_slice(&sums[r]);
        }
    }
}

/// These four elements in the lanes of every row.
#[inline(always)]
fn splat_quad<S: Simd>(simd: S, quad: [f32; QUAD]) -> S::f32s {
    bytemuck::cast(simd.splat_c64s(bytemuck::cast(quad)))
}

/// Lanes exchanged with their neighbours: 1 0 3 2.
#[inline(always)]
fn swap_one<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    bytemuck::cast(simd.swap_re_im_c32s(bytemuck::cast(x)))
}

/// Pairs of lanes exchanged: 2 3 0 1.
#[inline(always)]
fn swap_two<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    bytemuck::cast(simd.swap_re_im_c64s(bytemuck::cast(x)))
}

/// Lane `i` of each row: the sum of its four lanes in `x[i]`.
#[inline(always)]
fn sum_quads<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; QUAD]) -> S::f32s {
    let mask = |lanes: [f32; QUAD]| simd.greater_than_f32s(splat_quad(simd, lanes), simd.splat_f32s(0.0));
    let (even, low) = (mask([1.0, 0.0, 1.0, 0.0]), mask([1.0, 1.0, 0.0, 0.0]));
    // Kept where `x` stays and swapped where `y` would: each lane gets its own row's partner.
    let join = |x, y| {
        let other = swap_one(simd, simd.select_f32s(even, y, x));
        simd.add_f32s(simd.select_f32s(even, x, y), other)
    };
    let (ab, cd) = (join(a, b), join(c, d));
    let other = swap_two(simd, simd.select_f32s(low, cd, ab));
    simd.add_f32s(simd.select_f32s(low, ab, cd), other)
}
