//! Matrix products `x W^T` for any number of rows of x, with W packed once.
//!
//! Decoding multiplies few rows: the weights have to stream through memory, once.
//!
//! ```text
//!                 32 outputs, in registers
//!                +-----------+
//!    W^T         |   panel   | inputs          in memory as it is read: an element of each output, then the next ones
//!                +-----------+
//!   +---------+  +-----------+
//!   | x, rows |  | row block |                 accumulators; elements of x are broadcast
//!   +---------+  +-----------+
//! ```
//!
//! A panel comes from memory for the first block of rows and from the cache for the others, which meanwhile fetch the
//! next panel. Every output is the sum over the inputs in the same order, however many rows there are: the bits of a row
//! do not depend on the rows beside it.
//!
//! Of the crates that multiply matrices, `gemm`, `matrixmultiply` and `rten-gemm` (W packed once) were measured on 2 to 24
//! rows: they reach 15 to 25 %, 6 % and 23 to 52 % of the memory's speed. None takes 16-bit weights with f32 rows.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use self::row::{Bf16Row, F16Row, F32Row, PANEL, PanelRow};

mod row;

/// Inputs per pass over a panel: 128 kB of it, which several blocks of rows read, fit a core's cache.
const INPUTS: usize = 1024;
/// Tasks per thread, so that none waits long for the last: as many as have [`WORTH`] products of a panel and a block, and
/// no more than these.
const TASKS: usize = 16;
const WORTH: usize = 8;
/// Row blocks that fetch the next panel between them.
const FETCHING: usize = 4;
/// Row blocks worth a task to arrange them.
const BLOCKS: usize = 4;

/// Row-major `[rows, cols]` whose rows are `stride` apart.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl<'a> View<'a> {
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.cols]
    }
}

/// Weights `[outputs, inputs]`, in the smallest type that holds them all exactly: a checkpoint of 16 bits takes half of
/// the memory and of its time. Arithmetic is f32 with each.
pub struct Packed {
    panels: Panels,
    inputs: usize,
    outputs: usize,
}

/// The first outputs and inputs of a [`Packed`].
#[derive(Clone, Copy)]
pub struct Leading<'a> {
    of: &'a Packed,
    outputs: usize,
    inputs: usize,
}

/// `[panels][inputs]`; outputs past the last are 0.
enum Panels {
    F32(Vec<F32Row>),
    Bf16(Vec<Bf16Row>),
    F16(Vec<F16Row>),
}

impl Packed {
    /// Row-major `[outputs, inputs]`.
    pub fn new(weights: &[f32], inputs: usize) -> Self {
        let rows = View { data: weights, rows: weights.len() / inputs, cols: inputs, stride: inputs };
        let panels = if weights.par_iter().all(|w| Bf16Row::holds(*w)) {
            Panels::Bf16(pack(rows))
        } else if weights.par_iter().all(|w| F16Row::holds(*w)) {
            Panels::F16(pack(rows))
        } else {
            Panels::F32(pack(rows))
        };
        Self { panels, inputs, outputs: rows.rows }
    }

    /// Activations `[outputs, inputs]`.
    pub fn f32(rows: View<'_>) -> Self {
        Self { panels: Panels::F32(pack(rows)), inputs: rows.cols, outputs: rows.rows }
    }

    /// Activations `[inputs, outputs]`.
    pub fn f32_transposed(rows: View<'_>) -> Self {
        let mut panels = vec![F32Row::default(); rows.cols.div_ceil(PANEL) * rows.rows];
        for (first, panel) in (0..).step_by(PANEL).zip(panels.chunks_exact_mut(rows.rows.max(1))) {
            let columns = first..rows.cols.min(first + PANEL);
            for (input, to) in panel.iter_mut().enumerate() {
                to.copy_from(&rows.row(input)[columns.clone()]);
            }
        }
        Self { panels: Panels::F32(panels), inputs: rows.rows, outputs: rows.cols }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// All of them.
    pub fn all(&self) -> Leading<'_> {
        self.leading(self.outputs, self.inputs)
    }

    /// The first `outputs` and `inputs`.
    pub fn leading(&self, outputs: usize, inputs: usize) -> Leading<'_> {
        assert!(outputs <= self.outputs && inputs <= self.inputs, "more than there are");
        Leading { of: self, outputs, inputs }
    }

    /// Bytes of a weight.
    pub fn element_bytes(&self) -> usize {
        match self.panels {
            Panels::F32(_) => 4,
            Panels::Bf16(_) | Panels::F16(_) => 2,
        }
    }
}

/// `[outputs, inputs]` in panels.
fn pack<R: PanelRow>(weights: View<'_>) -> Vec<R> {
    let inputs = weights.cols;
    let mut panels = vec![R::default(); weights.rows.div_ceil(PANEL) * inputs];
    panels.par_chunks_mut(inputs.max(1)).enumerate().for_each(|(i, panel)| {
        for (column, output) in (i * PANEL..weights.rows.min((i + 1) * PANEL)).enumerate() {
            panel.iter_mut().zip(weights.row(output)).for_each(|(row, weight)| row.set(column, *weight));
        }
    });
    panels
}

/// `out = x W^T`, or `out += x W^T` with `add`; `out` is row-major `[x.rows, outputs]`. On `threads` threads of the current
/// rayon pool.
pub fn product(arch: Arch, out: &mut [f32], x: View<'_>, w: Leading<'_>, add: bool, threads: usize) {
    assert_eq!(x.cols, w.inputs, "inner dimensions differ");
    assert_eq!(out.len(), x.rows * w.outputs, "the product has another size");
    if out.is_empty() {
        return;
    }
    let most = arch.dispatch(MostRows);
    let count = x.rows.div_ceil(most);
    let block = |i| RowBlock::new(x, even(x.rows, count, i));
    let blocks: Vec<RowBlock> = match threads {
        1 => (0..count).map(block).collect(),
        _ => (0..count).into_par_iter().with_min_len(BLOCKS).map(block).collect(),
    };
    let panels = w.outputs.div_ceil(PANEL);
    let count = match threads {
        1 => 1,
        _ => (threads * (panels * blocks.len() / (WORTH * threads)).clamp(1, TASKS)).min(panels),
    };
    let mut tasks: Vec<Task<'_, '_>> = (0..count)
        .map(|task| even(panels, count, task))
        .map(|panels| Task { w, blocks: &blocks, first: panels.start, out: Vec::with_capacity(x.rows), add })
        .collect();
    for mut row in out.chunks_exact_mut(w.outputs) {
        for (i, task) in tasks.iter_mut().enumerate() {
            let columns = (even(panels, count, i).len() * PANEL).min(row.len());
            task.out.extend(row.split_off_mut(..columns));
        }
    }
    let run = |task| arch.dispatch(task);
    match &mut tasks[..] {
        [_] => tasks.into_iter().for_each(run),
        _ => tasks.into_par_iter().with_max_len(1).for_each(run),
    }
}

/// Part `i` of `0..n` in `parts` parts whose sizes differ by 1 at most.
fn even(n: usize, parts: usize, i: usize) -> std::ops::Range<usize> {
    i * n / parts..(i + 1) * n / parts
}

/// The most rows of a block: with 32 outputs each, their accumulators leave registers for the operands.
struct MostRows;

impl WithSimd for MostRows {
    type Output = usize;

    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        if S::F32_LANES == 16 { 8 } else { 3 }
    }
}

/// Rows of x as they are read: `[inputs][rows]`.
struct RowBlock {
    rows: std::ops::Range<usize>,
    elements: Vec<f32>,
}

impl RowBlock {
    fn new(x: View<'_>, rows: std::ops::Range<usize>) -> Self {
        let count = rows.len();
        let mut elements = vec![0.0; count * x.cols];
        for (r, row) in rows.clone().enumerate() {
            elements[r..].iter_mut().step_by(count).zip(x.row(row)).for_each(|(to, from)| *to = *from);
        }
        Self { rows, elements }
    }
}

/// Some panels against all rows.
struct Task<'a, 'o> {
    w: Leading<'a>,
    blocks: &'a [RowBlock],
    /// The first panel.
    first: usize,
    /// Columns of all rows of the product.
    out: Vec<&'o mut [f32]>,
    add: bool,
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { w, blocks, first, mut out, add } = self;
        let panel = w.of.inputs;
        let from = first * panel;
        match &w.of.panels {
            Panels::F32(rows) => panels(simd, &rows[from..], panel, w.inputs, blocks, &mut out, add),
            Panels::Bf16(rows) => panels(simd, &rows[from..], panel, w.inputs, blocks, &mut out, add),
            Panels::F16(rows) => panels(simd, &rows[from..], panel, w.inputs, blocks, &mut out, add),
        }
    }
}

/// `out` against the first `inputs` of the panels that begin with `weights` and are `stride` apart.
#[inline(always)]
fn panels<S: Simd, R: PanelRow>(
    simd: S,
    weights: &[R],
    stride: usize,
    inputs: usize,
    blocks: &[RowBlock],
    out: &mut [&mut [f32]],
    add: bool,
) {
    let columns = out[0].len();
    for (panel, column) in (0..columns).step_by(PANEL).enumerate() {
        let columns = column..columns.min(column + PANEL);
        for from in (0..inputs).step_by(INPUTS) {
            let to = inputs.min(from + INPUTS);
            let at = panel * stride;
            let (weights, next) = weights[at + from..].split_at(to - from);
            for (i, block) in blocks.iter().enumerate() {
                // A single block waits for the panel itself: the processor sees that stream.
                let fetching = blocks.len().min(FETCHING);
                let ahead = if i < fetching && fetching > 1 {
                    &next[even(weights.len().min(next.len()), fetching, i)]
                } else {
                    &[]
                };
                let x = &block.elements[from * block.rows.len()..to * block.rows.len()];
                let out = &mut out[block.rows.clone()];
                let add = add || from > 0;
                // Registers per panel by the lanes of one, and how many rows of accumulators go with them.
                macro_rules! tile {
                    ($($lanes:literal x $registers:literal: $($rows:literal)*;)*) => {
                        match (S::F32_LANES, out.len()) {
                            $($(($lanes, $rows) => tile::<S, R, $registers, $rows>(simd, weights, ahead, x, out, columns.clone(), add),)*)*
                            (lanes, rows) => unreachable!("{rows} rows in blocks for {lanes} lanes"),
                        }
                    };
                }
                tile!(16 x 2: 1 2 3 4 5 6 7 8; 8 x 4: 1 2 3; 4 x 8: 1 2 3; 1 x 32: 1 2 3;);
            }
        }
    }
}

/// A block of `N` rows against some inputs of a panel: `out[..][columns] = x W^T`, or with `add` `+=`. Fetches `ahead` into the cache.
#[inline(always)]
fn tile<S: Simd, R: PanelRow, const V: usize, const N: usize>(
    simd: S,
    weights: &[R],
    ahead: &[R],
    x: &[f32],
    out: &mut [&mut [f32]],
    columns: std::ops::Range<usize>,
    add: bool,
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; N];
    let step = size_of_val(ahead).div_ceil(weights.len().max(1));
    let mut fetched = ahead.as_ptr();
    for (w, x) in weights.iter().zip(x.chunks_exact(N)) {
        if step > 0 {
            fetch(fetched);
            fetched = fetched.wrapping_byte_add(step);
        }
        let w: [S::f32s; V] = w.widen(simd);
        for (x, sums) in x.iter().zip(&mut sums) {
            let x = simd.splat_f32s(*x);
            for (w, sum) in w.iter().zip(sums) {
                *sum = simd.mul_add_e_f32s(*w, x, *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        let sums: &[f32] = bytemuck::cast_slice(sums);
        let out = &mut out[columns.clone()];
        if add {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        } else {
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// Has the cache line at `place` brought into the L2 cache.
#[inline(always)]
fn fetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and faults at no address (Intel SDM, PREFETCHh; AMD64
    // manual 3, PREFETCHlevel). SSE, which has it, is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
