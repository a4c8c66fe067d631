//! Blocks of query rows against tiles of keys (picture in the parent module).

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::Zeroable;
use pulp::{Arch, Scalar128b, Simd, WithSimd};

use super::math::Score;
use super::tile::{KeyTiles, Line, TILE_KEYS, Vectors};
use super::widen::{register, widen};
use crate::dtype::{DType, Element};
use crate::view::MAX_HEAD_DIM;

/// Lanes of each row where an input's rows, a lane each, would leave too many of a register's empty.
const QUAD: usize = 4;
/// Rows of an input up to which each has whole registers. More of them are quicker with four lanes each, of which there are
/// fewer to add up; but K and V of 16 bits are widened in whole registers where they are used, and need no copy.
const OWN_ROWS: usize = 2;
/// Rows up to which tiles of V with gaps are read where they are.
const IN_PLACE_ROWS: usize = 24;
/// The most registers of rows in a block.
const MOST_REGISTERS: usize = 4;
/// Distances between lanes, for reductions over all of a row's lanes.
const STEPS: [usize; 4] = [8, 4, 2, 1];
/// Rows whose outputs are summed at once.
const VALUE_ROWS: usize = 4;

thread_local! {
    /// Scratch memory of blocks and tiles, kept for the next task: to allocate it takes as long as a small task does.
    static ROOM: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Attention of `rows` (each `[head_dim]`), as many for each of `heads`, over the keys of one task, on the registers of `arch`;
/// `of_input` are all rows that a head has of this input. Each row's place in `rows`, LSE and output go to `done`.
pub(super) fn attend<E: Element>(
    arch: Arch,
    rows: &[&[E]],
    of_input: usize,
    heads: &[KeyTiles<'_, E>],
    keys: Range<usize>,
    score: Score,
    done: &mut dyn FnMut(usize, f32, &[f32]),
) {
    ROOM.with_borrow_mut(|room| arch.dispatch(Attend { rows, of_input, heads, keys, score, room, done }));
}

struct Attend<'a, E> {
    rows: &'a [&'a [E]],
    of_input: usize,
    heads: &'a [KeyTiles<'a, E>],
    keys: Range<usize>,
    score: Score,
    room: &'a mut Vec<Line>,
    done: &'a mut dyn FnMut(usize, f32, &[f32]),
}

impl<E: Element> WithSimd for Attend<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            4 | 8 | 16 => self.over_keys(simd),
            _ => self.over_keys(Scalar128b),
        }
    }
}

impl<E: Element> Attend<'_, E> {
    #[inline(always)]
    fn over_keys<S: Simd>(self, simd: S) {
        let Self { rows, of_input, heads, keys, score, room, done } = self;
        let dim = heads.first().map_or(0, |tiles| tiles.k.dim);
        let rows_per_head = rows.len() / heads.len().max(1);
        let halves =
            E::DTYPE != DType::F32 && heads.iter().all(|of| of.k.in_place::<S>() && of.v.in_place::<S>());
        // Without an instruction for it, f16 takes too long to widen once for every block.
        let own_rows = match (S::F32_LANES, E::DTYPE) {
            (16, _) if halves => 6,
            (8, DType::Bf16) if halves => 4,
            _ => OWN_ROWS,
        };
        let own = of_input <= own_rows;
        let cuts = Cut::all::<S>(rows_per_head, of_input, own);

        let width = dim.next_multiple_of(S::F32_LANES);
        let tile = lines(TILE_KEYS * width);
        let most_weights = cuts.iter().map(|cut| cut.weight_lines::<S>()).max().unwrap_or(0);
        let per_head: usize =
            cuts.iter().map(|cut| cut.q_lines::<S>(dim) + lines(cut.rows.len() * width)).sum();
        let all = 2 * tile + most_weights + heads.len() * per_head;
        if room.len() < all {
            room.resize(all, Line::zeroed());
        }
        let (k_tile, room) = room.split_at_mut(tile);
        let (v_tile, room) = room.split_at_mut(tile);
        let (weights, mut room) = room.split_at_mut(most_weights);
        // What stands past the elements of a key is multiplied by 0, which NaN survives.
        if width > dim {
            k_tile.fill(Line::zeroed());
        }

        let mut blocks = Vec::with_capacity(heads.len() * cuts.len());
        for rows in rows.chunks_exact(rows_per_head.max(1)) {
            for cut in &cuts {
                let (q, rest) = room.split_at_mut(cut.q_lines::<S>(dim));
                let (out, rest) = rest.split_at_mut(lines(cut.rows.len() * width));
                room = rest;
                blocks.push(Block::new(simd, cut, &rows[cut.rows.clone()], dim, q, out));
            }
        }

        // Tile by tile through the keys, and within a tile through the heads.
        for start in keys.clone().step_by(TILE_KEYS) {
            let range = start..keys.end.min(start + TILE_KEYS);
            for (tiles, blocks) in heads.iter().zip(blocks.chunks_mut(cuts.len().max(1))) {
                let count = range.len();
                if halves && own {
                    let (k, v) = (tiles.k.as_they_lie(&range), tiles.v.as_they_lie(&range));
                    for block in blocks {
                        simd.meet(Step { block, weights, k, v, score, count });
                    }
                } else {
                    // A block reads each key once, but each value for every few rows.
                    let k = tiles.k.tile(simd, &range, false, k_tile);
                    let v = tiles.v.tile(simd, &range, rows_per_head > IN_PLACE_ROWS, v_tile);
                    for block in blocks {
                        simd.meet(Step { block, weights, k, v, score, count });
                    }
                }
            }
        }

        let mut first = 0;
        for block in &mut blocks {
            let rows = block.rows;
            block.finish(simd, score, &mut |r, lse, out| done(first + r, lse, out));
            first += rows;
        }
    }
}

/// Some of the rows of a head, and how they stand in registers.
struct Cut {
    rows: Range<usize>,
    /// Lanes that each row has in a register, each for keys of its own.
    lanes: usize,
    registers: usize,
}

impl Cut {
    /// Cuts of all `rows` of a task. The lanes of a row follow from the rows `of_input`, not from the task's: the order in which a
    /// row is summed does not depend on its place.
    #[inline(always)]
    fn all<S: Simd>(rows: usize, of_input: usize, own: bool) -> Vec<Self> {
        let filled = |lanes: usize| (of_input * lanes).next_multiple_of(S::F32_LANES);
        // Four lanes are added up at the end, in about a seventh of the time of the products.
        let lanes = match own {
            true => S::F32_LANES,
            _ if 7 * QUAD * filled(1) <= 8 * filled(QUAD) => 1,
            _ => QUAD,
        };
        let most = match (S::F32_LANES, lanes) {
            (8, 1 | 8) => 2,
            (16, 16) => 4,
            _ => 3,
        };
        let rows_of = S::F32_LANES / lanes;
        let registers = rows.div_ceil(rows_of);
        let blocks = registers.div_ceil(most);
        let mut cuts = Vec::with_capacity(blocks);
        for i in 0..blocks {
            let (first, end) = (i * registers / blocks, (i + 1) * registers / blocks);
            let rows = first * rows_of..rows.min(end * rows_of);
            cuts.push(Self { rows, lanes, registers: end - first });
        }
        cuts
    }

    fn q_lines<S: Simd>(&self, dim: usize) -> usize {
        lines(dim.next_multiple_of(self.lanes.max(QUAD)) / self.lanes * self.registers * S::F32_LANES)
    }

    /// Memory for the weights of a tile.
    fn weight_lines<S: Simd>(&self) -> usize {
        lines(TILE_KEYS / self.lanes * self.registers * S::F32_LANES)
    }
}

/// Lines that hold this many elements.
fn lines(elements: usize) -> usize {
    elements.div_ceil(16)
}

/// Rows and their running softmax.
struct Block<'a> {
    rows: usize,
    dim: usize,
    lanes: usize,
    registers: usize,
    /// `[dim / lanes][registers]` of `[rows][lanes]`; what is past the rows or past `dim` is 0.
    q: &'a [Line],
    /// `[rows][dim]`, in whole registers, not yet divided by `sum`.
    out: &'a mut [Line],
    /// `[registers]`: maximum of the capped dot products so far, the same in all lanes of a row unless one is NaN.
    max: [Line; MOST_REGISTERS],
    /// `[registers]`: sum of the weights so far, each lane's keys by themselves.
    sum: [Line; MOST_REGISTERS],
}

impl<'a> Block<'a> {
    #[inline(always)]
    fn new<S: Simd, E: Element>(
        simd: S,
        cut: &Cut,
        rows: &[&[E]],
        dim: usize,
        q: &'a mut [Line],
        out: &'a mut [Line],
    ) -> Self {
        let Cut { lanes, registers, .. } = *cut;
        q.fill(Line::zeroed());
        out.fill(Line::zeroed());
        let (to, _) = bytemuck::cast_slice_mut::<_, f32>(q).as_chunks_mut::<QUAD>();
        let mut elements = [[0.0; QUAD]; MAX_HEAD_DIM / QUAD];
        let elements = &mut elements[..dim.div_ceil(QUAD)];
        let per_register = S::F32_LANES / QUAD;
        for (r, row) in rows.iter().enumerate() {
            widen(simd, row, &mut elements.as_flattened_mut()[..dim]);
            if lanes > QUAD {
                for (c, quads) in elements.chunks(per_register).enumerate() {
                    to[(c * registers + r) * per_register..][..quads.len()].copy_from_slice(quads);
                }
                continue;
            }
            // Rows of one lane: four that follow each other in as many registers, for `transpose`.
            let (register, place) = match lanes {
                QUAD => (r / per_register, r % per_register),
                _ => (r % QUAD * registers + r / S::F32_LANES, r % S::F32_LANES / QUAD),
            };
            let to = to[register * per_register + place..].iter_mut();
            for (to, quad) in to.step_by(QUAD / lanes * registers * per_register).zip(&*elements) {
                *to = *quad;
            }
        }
        if lanes == 1 {
            for quad in registers_mut::<S>(q).chunks_exact_mut(QUAD * registers) {
                for g in 0..registers {
                    let at = [0, 1, 2, 3].map(|i| i * registers + g);
                    let columns = transpose(simd, at.map(|at| quad[at]));
                    for i in 0..QUAD {
                        quad[at[i]] = columns[i];
                    }
                }
            }
        }
        Self {
            rows: rows.len(),
            dim,
            lanes,
            registers,
            q,
            out,
            max: [Line([f32::NEG_INFINITY; 16]); MOST_REGISTERS],
            sum: [Line::zeroed(); MOST_REGISTERS],
        }
    }

    /// Divides by the sums: each row's place in the block, natural-log LSE and output go to `done`.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, score: Score, done: &mut dyn FnMut(usize, f32, &[f32])) {
        for sum in registers_mut::<S>(&mut self.sum) {
            for step in STEPS.into_iter().filter(|step| *step < self.lanes) {
                *sum = simd.add_f32s(*sum, exchange(simd, step, *sum));
            }
        }
        for max in registers_mut::<S>(&mut self.max) {
            *max = score.shift(simd, *max);
        }
        let shift: &[f32] = bytemuck::cast_slice(&self.max);
        let sum: &[f32] = bytemuck::cast_slice(&self.sum);
        let registers = self.dim.div_ceil(S::F32_LANES);
        for (r, out) in registers_mut::<S>(self.out).chunks_exact_mut(registers).take(self.rows).enumerate() {
            let (sum, shift) = (sum[r * self.lanes], shift[r * self.lanes]);
            if sum == 0.0 {
                // Nothing has any weight, which infinite values times 0 would not show.
                out.fill(simd.splat_f32s(0.0));
            } else {
                let factor = simd.splat_f32s(sum.recip());
                out.iter_mut().for_each(|out| *out = simd.mul_f32s(*out, factor));
            }
            done(r, score.lse(sum, shift), &bytemuck::cast_slice(out)[..self.dim]);
        }
    }
}

/// A block meets a K/V tile of `count` keys: scores, softmax, values.
struct Step<'a, 'b, E> {
    block: &'a mut Block<'b>,
    /// Scratch memory.
    weights: &'a mut [Line],
    k: Vectors<'a, E>,
    v: Vectors<'a, E>,
    score: Score,
    count: usize,
}

/// A method of the registers: of each type the compiler makes a unit by itself, and compiles them side by side. Most of the
/// time that the library takes to compile goes here.
trait Meet: Simd {
    /// As many keys and values at a time as there are registers for.
    #[inline(never)]
    fn meet<E: Element>(self, step: Step<'_, '_, E>) {
        let Block { lanes, registers, .. } = *step.block;
        let halves = E::DTYPE != DType::F32;
        match (Self::F32_LANES, lanes, registers) {
            (16, 16, 1) => self.vectorize(Shaped::<E, 16, 1, 1, 4>(step)),
            (16, 16, 2) => self.vectorize(Shaped::<E, 16, 2, 1, 4>(step)),
            (16, 16, 3) if halves => self.vectorize(Shaped::<E, 16, 3, 1, 4>(step)),
            (16, 16, 4) if halves => self.vectorize(Shaped::<E, 16, 4, 1, 4>(step)),
            (8, 8, 1) => self.vectorize(Shaped::<E, 8, 1, 1, 8>(step)),
            (8, 8, 2) => self.vectorize(Shaped::<E, 8, 2, 1, 4>(step)),
            (4, QUAD, 1) => self.vectorize(Shaped::<E, QUAD, 1, 2, 4>(step)),
            (4, QUAD, 2) => self.vectorize(Shaped::<E, QUAD, 2, 2, 4>(step)),
            _ if halves => unreachable!("{lanes} lanes, {registers} registers of halves"),
            (8, QUAD, 1) => self.vectorize(Shaped::<E, QUAD, 1, 2, 2>(step)),
            (8, QUAD, 2) => self.vectorize(Shaped::<E, QUAD, 2, 1, 2>(step)),
            (8, QUAD, _) => self.vectorize(Shaped::<E, QUAD, 3, 1, 2>(step)),
            (8, _, 1) => self.vectorize(Shaped::<E, 1, 1, 8, 2>(step)),
            (8, ..) => self.vectorize(Shaped::<E, 1, 2, 4, 2>(step)),
            (16, QUAD, 1) => self.vectorize(Shaped::<E, QUAD, 1, 2, 4>(step)),
            (16, QUAD, 2) => self.vectorize(Shaped::<E, QUAD, 2, 2, 4>(step)),
            (_, QUAD, _) => self.vectorize(Shaped::<E, QUAD, 3, 2, 4>(step)),
            (_, _, 1) => self.vectorize(Shaped::<E, 1, 1, 8, 4>(step)),
            (_, _, 2) => self.vectorize(Shaped::<E, 1, 2, 8, 4>(step)),
            _ => self.vectorize(Shaped::<E, 1, 3, 8, 4>(step)),
        }
    }
}

impl<S: Simd> Meet for S {}

/// A step whose block has `G` registers of rows with `L` lanes each; `N` and `V` as of [`Step::block`]. A function each: without
/// optimisation, all in one would need more stack than a thread has.
struct Shaped<'a, 'b, E, const L: usize, const G: usize, const N: usize, const V: usize>(Step<'a, 'b, E>);

impl<E: Element, const L: usize, const G: usize, const N: usize, const V: usize> WithSimd
    for Shaped<'_, '_, E, L, G, N, V>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.block::<S, L, G, N, V>(simd);
    }
}

impl<E: Element> Step<'_, '_, E> {
    /// `G` registers of rows that have `L` lanes each against `N` times `L` keys, `L` elements of them at a time; then `V`
    /// registers of values at a time.
    #[inline(always)]
    fn block<S: Simd, const L: usize, const G: usize, const N: usize, const V: usize>(self, simd: S) {
        let Self { block, weights, k, v, score, count } = self;
        let (weights, _) = registers_mut::<S>(weights).as_chunks_mut::<G>();
        let q = &S::as_simd_f32s(bytemuck::cast_slice(block.q)).0.as_chunks::<G>().0[..block.dim.div_ceil(L)];
        let mut keys = Keys { vectors: k.iter(), last: &[], chunks: q.len() };
        let used = count.div_ceil(L);
        for scores in &mut weights.as_chunks_mut::<N>().0[..used.div_ceil(N)] {
            *scores = self::scores::<S, E, L, G, N>(simd, q, &mut keys);
        }
        let weights = &mut weights[..used];
        let (max, sum) = (registers_mut::<S>(&mut block.max), registers_mut::<S>(&mut block.sum));
        let rescale = softmax::<S, L, G>(simd, score, count, max, sum, weights);

        let (rescale, _) = bytemuck::cast_slice::<_, f32>(&rescale).as_chunks::<L>();
        let (weights, _) = bytemuck::cast_slice::<_, f32>(weights).as_chunks::<L>();
        let registers = block.dim.div_ceil(S::F32_LANES);
        let out = &mut registers_mut::<S>(block.out)[..block.rows * registers];
        for (i, out) in out.chunks_mut(VALUE_ROWS * registers).enumerate() {
            let first = i * VALUE_ROWS;
            let row_slots = G * S::F32_LANES / L;
            let rows = Values { simd, weights: &weights[first..], row_slots, rescale: &rescale[first..], v };
            match out.len() / registers {
                1 => rows.all::<1, V>(out, registers),
                2 => rows.all::<2, V>(out, registers),
                3 => rows.all::<3, V>(out, registers),
                _ => rows.all::<VALUE_ROWS, V>(out, registers),
            }
        }
    }
}

/// The next vectors, cut into chunks of `W` elements, `chunks` of them; past the last, that one again.
struct Keys<'k, I, E, const W: usize> {
    vectors: I,
    last: &'k [[E; W]],
    chunks: usize,
}

impl<'k, I: Iterator<Item = &'k [E]>, E, const W: usize> Keys<'k, I, E, W> {
    #[inline(always)]
    fn next<const K: usize, const N: usize>(&mut self) -> [[&'k [[E; W]]; K]; N] {
        let mut keys = [[self.last; K]; N];
        for key in keys.as_flattened_mut() {
            if let Some(vector) = self.vectors.next() {
                // Of the same length for all the compiler knows, so that it need not look at each element's place.
                self.last = &vector.as_chunks().0[..self.chunks];
            }
            *key = self.last;
        }
        keys
    }
}

/// Dot products of the next `N` times `L` keys.
#[inline(always)]
fn scores<'k, S: Simd, E: Element, const L: usize, const G: usize, const N: usize>(
    simd: S,
    q: &[[S::f32s; G]],
    keys: &mut Keys<'k, impl Iterator<Item = &'k [E]>, E, L>,
) -> [[S::f32s; G]; N] {
    let mut scores = [[simd.splat_f32s(0.0); G]; N];
    match (L, G) {
        (1, _) => {
            let sums = products::<S, E, L, 1, G, N>(simd, q, keys.next());
            for n in 0..N {
                scores[n] = sums[n][0];
            }
        }
        (QUAD, _) => {
            let sums = products::<S, E, L, QUAD, G, N>(simd, q, keys.next());
            for n in 0..N {
                scores[n] = add_quads(simd, sums[n]);
            }
        }
        (16, ..=2) | (8, 1) => {
            for scores in &mut scores {
                *scores = own_scores::<S, E, L, G, 2>(simd, q, keys);
            }
        }
        _ => {
            for scores in &mut scores {
                *scores = own_scores::<S, E, L, G, 1>(simd, q, keys);
            }
        }
    }
    scores
}

/// Dot products of the next `L` keys with rows that have a register of as many lanes each; `M` times four keys at a time.
#[inline(always)]
fn own_scores<'k, S: Simd, E: Element, const L: usize, const G: usize, const M: usize>(
    simd: S,
    q: &[[S::f32s; G]],
    keys: &mut Keys<'k, impl Iterator<Item = &'k [E]>, E, L>,
) -> [S::f32s; G] {
    let mut parts = [[simd.splat_f32s(0.0); G]; 4];
    for parts in parts[..L / QUAD].chunks_mut(M) {
        let sums = products::<S, E, L, QUAD, G, M>(simd, q, keys.next());
        for (part, sums) in parts.iter_mut().zip(sums) {
            *part = add_quads(simd, sums);
        }
    }
    add_parts(simd, parts)
}

/// Each lane's sum over its elements of `N` times `K` keys, `W` lanes to a row.
#[inline(always)]
fn products<S: Simd, E: Element, const W: usize, const K: usize, const G: usize, const N: usize>(
    simd: S,
    q: &[[S::f32s; G]],
    keys: [[&[[E; W]]; K]; N],
) -> [[[S::f32s; G]; K]; N] {
    let mut sums = [[[simd.splat_f32s(0.0); G]; K]; N];
    for (c, q) in q.iter().enumerate() {
        for n in 0..N {
            for i in 0..K {
                let elements = splat(simd, &keys[n][i][c]);
                for g in 0..G {
                    sums[n][i][g] = simd.mul_add_e_f32s(q[g], elements, sums[n][i][g]);
                }
            }
        }
    }
    sums
}

/// Turns the scores of `count` keys into weights; returns the factors on what was summed before.
#[inline(always)]
fn softmax<S: Simd, const L: usize, const G: usize>(
    simd: S,
    score: Score,
    count: usize,
    maxima: &mut [S::f32s],
    sums: &mut [S::f32s],
    weights: &mut [[S::f32s; G]],
) -> [S::f32s; G] {
    for s in weights.iter_mut() {
        score.cap(simd, s);
    }
    // Keys past the last weigh nothing; -inf would not survive the cap.
    if let (Some(last), used @ 1..) = (weights.last_mut(), count % L) {
        for row in bytemuck::cast_slice_mut::<_, f32>(last).chunks_exact_mut(L) {
            row[used..].fill(f32::NEG_INFINITY);
        }
    }
    let before: [S::f32s; G] = std::array::from_fn(|g| maxima[g]);
    let mut max = before;
    for s in weights.iter() {
        for g in 0..G {
            max[g] = simd.max_f32s(max[g], s[g]);
        }
    }
    let mut shift = max;
    let mut rescale = max;
    for g in 0..G {
        for step in STEPS.into_iter().filter(|step| *step < L) {
            max[g] = simd.max_f32s(max[g], exchange(simd, step, max[g]));
        }
        shift[g] = score.shift(simd, max[g]);
        rescale[g] = score.weight(simd, before[g], shift[g]);
    }
    let mut sum = [simd.splat_f32s(0.0); G];
    for s in weights.iter_mut() {
        for g in 0..G {
            s[g] = score.weight(simd, s[g], shift[g]);
            sum[g] = simd.add_f32s(sum[g], s[g]);
        }
    }
    for g in 0..G {
        sums[g] = simd.mul_add_e_f32s(sums[g], rescale[g], sum[g]);
        maxima[g] = max[g];
    }
    rescale
}

/// A few rows' `out = rescale * out + P V`.
struct Values<'a, S, E, const L: usize> {
    simd: S,
    /// `[keys / L][row_slots]`.
    weights: &'a [[f32; L]],
    row_slots: usize,
    /// `[rows]`.
    rescale: &'a [[f32; L]],
    v: Vectors<'a, E>,
}

impl<S: Simd, E: Element, const L: usize> Values<'_, S, E, L> {
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
        let mut vectors = self.v.iter();
        for weights in self.weights.chunks(self.row_slots) {
            let weights = &weights[..R];
            #[expect(clippy::needless_range_loop, reason = "a count known here is unrolled")]
            for i in 0..L {
                let Some(value) = vectors.next() else { break };
                let value = &value[first * S::F32_LANES..][..V * S::F32_LANES];
                let mut values = [simd.splat_f32s(0.0); V];
                for j in 0..V {
                    values[j] = register(simd, &value[j * S::F32_LANES..][..S::F32_LANES]);
                }
                for r in 0..R {
                    let weight = simd.splat_f32s(weights[r][i]);
                    for j in 0..V {
                        sums[r][j] = simd.mul_add_e_f32s(weight, values[j], sums[r][j]);
                    }
                }
            }
        }
        for r in 0..R {
            out[r * registers + first..][..V].copy_from_slice(&sums[r]);
        }
    }
}

#[inline(always)]
fn registers_mut<S: Simd>(lines: &mut [Line]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(bytemuck::cast_slice_mut(lines)).0
}

/// These elements in the lanes of every row.
#[inline(always)]
fn splat<S: Simd, E: Element, const W: usize>(simd: S, elements: &[E; W]) -> S::f32s {
    match E::as_f32(elements) {
        Some([element]) => simd.splat_f32s(*element),
        Some(elements) if W == QUAD => {
            bytemuck::cast(simd.splat_c64s(bytemuck::pod_read_unaligned(bytemuck::cast_slice(elements))))
        }
        _ => register(simd, elements),
    }
}

/// The `i`th group of four lanes of the result: the sum of all such groups of `x[i]`.
#[inline(always)]
fn add_parts<S: Simd, const G: usize>(simd: S, x: [[S::f32s; G]; 4]) -> [S::f32s; G] {
    let mut sums = x[0];
    for (g, sum) in sums.iter_mut().enumerate() {
        *sum = join(simd, 4, x[0][g], x[1][g]);
        if S::F32_LANES == 16 {
            *sum = join(simd, 8, *sum, join(simd, 4, x[2][g], x[3][g]));
        }
    }
    sums
}

/// Lane `i` of each row's four in the result: the sum of the row's lanes of `x[i]`.
#[inline(always)]
fn add_quads<S: Simd, const G: usize>(simd: S, x: [[S::f32s; G]; QUAD]) -> [S::f32s; G] {
    let mut sums = x[0];
    for (g, sum) in sums.iter_mut().enumerate() {
        let (ab, cd) = (join(simd, 1, x[0][g], x[1][g]), join(simd, 1, x[2][g], x[3][g]));
        *sum = join(simd, 2, ab, cd);
    }
    sums
}

/// Of each two groups of `step` lanes, the first holds the sum of both groups of `x`, the second that of `y`.
#[inline(always)]
fn join<S: Simd>(simd: S, step: usize, x: S::f32s, y: S::f32s) -> S::f32s {
    let first = mask(simd, step);
    let other = exchange(simd, step, simd.select_f32s(first, y, x));
    simd.add_f32s(simd.select_f32s(first, x, y), other)
}

/// Groups of 1 or 2 lanes exchanged with their neighbours; of 4 or 8 lanes, each gets the next group's.
#[inline(always)]
fn exchange<S: Simd>(simd: S, step: usize, x: S::f32s) -> S::f32s {
    match step {
        1 => bytemuck::cast(simd.swap_re_im_c32s(bytemuck::cast(x))),
        2 => bytemuck::cast(simd.swap_re_im_c64s(bytemuck::cast(x))),
        _ => simd.rotate_left_f32s(x, step),
    }
}

/// The first of each two groups of `step` lanes.
#[inline(always)]
fn mask<S: Simd>(simd: S, step: usize) -> S::m32s {
    let mut lanes = [0.0; 16];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = if i & step == 0 { 1.0 } else { 0.0 };
    }
    simd.greater_than_f32s(register(simd, &lanes[..S::F32_LANES]), simd.splat_f32s(0.0))
}

/// Lane `j` of each four lanes of `x[i]` becomes lane `i` of those of the `j`th.
#[inline(always)]
fn transpose<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; QUAD]) -> [S::f32s; QUAD] {
    let ((a, b), (c, d)) = (trade(simd, 1, a, b), trade(simd, 1, c, d));
    let ((a, c), (b, d)) = (trade(simd, 2, a, c), trade(simd, 2, b, d));
    [a, b, c, d]
}

/// Of each two groups of `step` lanes, the second of `x` and the first of `y` change places.
#[inline(always)]
fn trade<S: Simd>(simd: S, step: usize, x: S::f32s, y: S::f32s) -> (S::f32s, S::f32s) {
    let first = mask(simd, step);
    let (x_second, y_first) = (exchange(simd, step, x), exchange(simd, step, y));
    (simd.select_f32s(first, x, y_first), simd.select_f32s(first, x_second, y))
}
