//! The CPU backend: packed weights for matrix products, onekv for cross-attention, rayon for the rest.

pub mod elementwise;
mod kept;
pub mod product;

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use kept::Kept;
use onekv::{Problem, SharedKv, Strides};
use product::{Packed, View, product};
use pulp::Arch;
use rayon::prelude::*;

use super::{Backend, BatchRow, DeviceMemory, Facts, RowsSpec, Step, overflow};
use crate::config::{Activated, Config, Rules};

/// Query rows of a sequence's self-attention per task: their scores stay in the L2 cache.
const BLOCK_ROWS: usize = 64;
/// Tokens from which on a prompt's self-attention is one of matrix products.
const LONG_PROMPT: usize = 32;

/// The CPU, on the threads of the current rayon pool.
pub struct Cpu {
    arch: Arch,
    kept: Arc<Kept>,
}

/// Row-major `[rows, cols]`.
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
    /// Where `data` goes afterwards.
    kept: Option<Arc<Kept>>,
}

impl Drop for Matrix {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            kept.keep(std::mem::take(&mut self.data));
        }
    }
}

impl Matrix {
    fn view(&self) -> View<'_> {
        View { data: &self.data, rows: self.rows, cols: self.cols, stride: self.cols }
    }

    fn take_rows(&self, rows: &[usize]) -> Self {
        let mut data = Vec::with_capacity(rows.len() * self.cols);
        for &row in rows {
            data.extend_from_slice(&self.data[row * self.cols..][..self.cols]);
        }
        Self { rows: rows.len(), cols: self.cols, data, kept: None }
    }
}

/// A row that is being decoded.
#[derive(Clone, Default)]
struct Row {
    next: Vec<u32>,
    /// Nothing, where the next tokens are the first.
    output: Vec<u32>,
    finished: bool,
    /// Whether it began with the start token alone.
    bare: bool,
}

impl Row {
    fn begins(&self) -> bool {
        self.output.is_empty()
    }

    fn is_long(&self) -> bool {
        self.next.len() >= LONG_PROMPT
    }
}

/// Which tokens of its sequence a token sees.
#[derive(Clone, Copy)]
enum Sees {
    All,
    /// And itself.
    Earlier,
}

/// Rows by slot.
pub struct Rows {
    rows: Vec<Row>,
    /// K and V of every layer's self-attention, by slot.
    caches: Vec<Vec<RowCache>>,
    biases: Vec<Bias>,
    /// Slots of the rows in the batch.
    batch: Vec<usize>,
    max_new_tokens: usize,
    rules: Rules,
}

impl Rows {
    fn batch(&self) -> impl Iterator<Item = &Row> {
        self.batch.iter().map(|slot| &self.rows[*slot])
    }

    /// The next tokens of each, as rows of a matrix of all of them.
    fn tokens(&self) -> impl Iterator<Item = Range<usize>> {
        self.batch().scan(0, |end, row| {
            let start = *end;
            *end += row.next.len();
            Some(start..*end)
        })
    }
}

/// K and V of one row, `[tokens, inner]` each.
#[derive(Clone, Default)]
struct RowCache {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Cross-attention K/V of one layer, `[keys, 2, inner]`.
pub struct CrossKv {
    data: Vec<f32>,
    inner: usize,
}

/// Bias by head and offset.
pub struct Bias {
    values: Vec<Vec<f32>>,
    zero: usize,
}

impl Cpu {
    pub fn new() -> Self {
        Self { arch: Arch::new(), kept: Arc::default() }
    }

    /// Numbers that are to be written.
    fn matrix(&self, rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: self.kept.take(rows * cols), kept: Some(Arc::clone(&self.kept)) }
    }

    /// Applies `f` to the rows of `x` on all threads.
    fn each_row(&self, x: &mut Matrix, f: impl Fn(usize, &mut [f32]) + Sync) {
        x.data.par_chunks_mut(x.cols).with_min_len(8).enumerate().for_each(|(i, row)| f(i, row));
    }

    /// `out = x W^T`, or `out += x W^T` with `add`, on all threads of the pool.
    fn product(&self, out: &mut [f32], x: &Matrix, weights: &Packed, add: bool) {
        product(self.arch, out, x.view(), weights.all(), add, rayon::current_num_threads());
    }

    /// Attention of sequences, which are rows of `qkv`, to themselves, into the same rows of `out`; by matrix products,
    /// which are worth their packing for long ones.
    fn attend_sequences(
        &self,
        out: &mut Matrix,
        qkv: &Matrix,
        sequences: &[Range<usize>],
        bias: &Bias,
        sees: Sees,
    ) {
        let (inner, heads) = (out.cols, bias.values.len());
        let dim = inner / heads;
        let part = |which: usize, head: usize, tokens: Range<usize>| {
            let data = &qkv.data[tokens.start * qkv.cols + which * inner + head * dim..];
            View { data, rows: tokens.len(), cols: dim, stride: qkv.cols }
        };
        let packed: Vec<(Range<usize>, usize, Packed, Packed)> = sequences
            .iter()
            .flat_map(|tokens| (0..heads).map(move |head| (tokens.clone(), head)))
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(tokens, head)| {
                let k = Packed::f32(part(1, head, tokens.clone()));
                let v = Packed::f32_transposed(part(2, head, tokens.clone()));
                (tokens, head, k, v)
            })
            .collect();
        let blocks: Vec<(Vec<f32>, usize, usize)> = packed
            .par_iter()
            .flat_map_iter(|head| head.0.clone().step_by(BLOCK_ROWS).map(move |first| (first, head)))
            .map(|(first, (tokens, head, k, v))| {
                let (rows, position) = (BLOCK_ROWS.min(tokens.end - first), first - tokens.start);
                let seen_by = |position| match sees {
                    Sees::All => tokens.len(),
                    Sees::Earlier => position + 1,
                };
                let keys = seen_by(position + rows - 1);
                let q = part(0, *head, first..first + rows);
                let mut scores = vec![0.0; rows * keys];
                product(self.arch, &mut scores, q, k.leading(keys, dim), false, 1);
                for (scores, position) in scores.chunks_exact_mut(keys).zip(position..) {
                    let (scores, unseen) = scores.split_at_mut(seen_by(position));
                    // Offsets of key against query run from -(position of the query) up.
                    let bias = &bias.values[*head][bias.zero - position..][..scores.len()];
                    elementwise::softmax(self.arch, scores, bias);
                    unseen.fill(0.0);
                }
                let mut out = vec![0.0; rows * dim];
                let weights = View { data: &scores, rows, cols: keys, stride: keys };
                product(self.arch, &mut out, weights, v.leading(dim, keys), false, 1);
                (out, first, *head)
            })
            .collect();
        for (block, first, head) in blocks {
            for (i, row) in block.chunks_exact(dim).enumerate() {
                out.data[(first + i) * inner + head * dim..][..dim].copy_from_slice(row);
            }
        }
    }
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Stream = Matrix;
    type Linear = Packed;
    type Norm = Vec<f32>;
    type Bias = Bias;
    type Rows = Rows;
    type CrossKv = CrossKv;
    type Cross = Problem;
    type Recording = ();

    // Looking costs nothing, and dropping a row only its number.
    const STEPS_PER_LOOK: usize = 1;
    const DROP_AT: f64 = 1.0;

    fn facts(&self) -> Facts {
        let name = format!("cpu, f32, {} threads", rayon::current_num_threads());
        Facts { name, element_bytes: size_of::<f32>(), roofline: None }
    }

    fn head_dim(&self, config: &Config) -> Result<usize> {
        Ok(config.d_kv)
    }

    fn memory(&self) -> Result<Option<DeviceMemory>> {
        Ok(None)
    }

    fn release(&self) -> Result<()> {
        self.kept.clear();
        Ok(())
    }

    fn trim(&self) {}

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn linear_weights(&self, data: Vec<f32>, inputs: usize) -> Result<Packed> {
        Ok(Packed::new(&data, inputs))
    }

    fn table(&self, data: Vec<f32>, width: usize) -> Result<Matrix> {
        Ok(Matrix { rows: data.len() / width, cols: width, data, kept: None })
    }

    fn norm(&self, weights: Vec<f32>) -> Result<Vec<f32>> {
        Ok(weights)
    }

    fn bias(&self, values: Vec<Vec<f32>>, zero: usize) -> Result<Bias> {
        Ok(Bias { values, zero })
    }

    fn embed(&self, table: &Matrix, ids: &[u32], _next: &Vec<f32>) -> Result<Matrix> {
        let rows: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        Ok(table.take_rows(&rows))
    }

    fn rms_norm(&self, x: &mut Matrix, weight: &Vec<f32>, epsilon: f32) -> Result<Matrix> {
        let mut out = self.matrix(x.rows, x.cols);
        self.each_row(&mut out, |i, row| {
            let x = &x.data[i * x.cols..][..x.cols];
            elementwise::rms_norm(self.arch, x, weight, epsilon, row);
        });
        Ok(out)
    }

    fn linear(&self, x: &Matrix, weights: &Packed) -> Result<Matrix> {
        let mut out = self.matrix(x.rows, weights.outputs());
        self.product(&mut out.data, x, weights, false);
        Ok(out)
    }

    fn add(&self, x: &mut Matrix, y: &Matrix, weights: &Packed, _next: &Vec<f32>) -> Result<()> {
        self.product(&mut x.data, y, weights, true);
        Ok(())
    }

    fn logits(&self, x: &Matrix, weights: &Packed) -> Result<Matrix> {
        self.linear(x, weights)
    }

    fn linear_activated(&self, x: &Matrix, w: &Packed, by: Activated) -> Result<Matrix> {
        let mut h = self.linear(x, w)?;
        if !by.gated {
            self.each_row(&mut h, |_, row| elementwise::activate(self.arch, row, by.activation));
            return Ok(h);
        }
        let mut out = self.matrix(h.rows, h.cols / 2);
        self.each_row(&mut out, |i, row| {
            let (gate, linear) = h.data[i * h.cols..][..h.cols].split_at(row.len());
            row.copy_from_slice(gate);
            elementwise::activate(self.arch, row, by.activation);
            row.iter_mut().zip(linear).for_each(|(g, x)| *g *= x);
        });
        Ok(out)
    }

    fn to_host(&self, x: &Matrix) -> Result<Vec<f32>> {
        Ok(x.data.clone())
    }

    fn attend_inputs(&self, qkv: &Matrix, starts: &[usize], bias: &Bias) -> Result<Matrix> {
        let inputs: Vec<Range<usize>> = starts.windows(2).map(|w| w[0]..w[1]).collect();
        let mut out = self.matrix(qkv.rows, qkv.cols / 3);
        self.attend_sequences(&mut out, qkv, &inputs, bias, Sees::All);
        Ok(out)
    }

    fn cross_kv(&self, keys: usize, inner: usize) -> Result<CrossKv> {
        Ok(CrossKv { data: vec![0.0; keys * 2 * inner], inner })
    }

    fn project(&self, kv: &mut CrossKv, at: usize, x: &Matrix, weights: &Packed) -> Result<()> {
        let out = &mut kv.data[at * 2 * kv.inner..][..x.rows * 2 * kv.inner];
        self.product(out, x, weights, false);
        Ok(())
    }

    fn copy(&self, of: &CrossKv, keys: Range<usize>, to: &mut CrossKv, at: usize) -> Result<()> {
        let key = 2 * of.inner;
        let copied = &of.data[keys.start * key..keys.end * key];
        to.data[at * key..][..copied.len()].copy_from_slice(copied);
        Ok(())
    }

    fn cross_kv_bytes(&self, kv: &CrossKv) -> usize {
        kv.data.len() * size_of::<f32>()
    }

    fn plan_cross(&self, problem: &Problem) -> Result<Problem> {
        Ok(problem.clone())
    }

    fn attend_cross(&self, q: &Matrix, kv: &CrossKv, problem: &Problem) -> Result<Matrix> {
        let mut out = self.matrix(q.rows, q.cols);
        let strides = Strides::new(2 * kv.inner, problem.head_dim());
        let of = |data| onekv::View::strided(problem.kv_shape(), strides, data);
        let v = kv.data.get(kv.inner..).unwrap_or_default();
        onekv::cpu::attend(
            problem,
            onekv::View::contiguous(problem.query_shape(), &q.data[..]),
            SharedKv { k: of(&kv.data[..]), v: of(v) },
            onekv::View::contiguous(problem.query_shape(), &mut out.data[..]),
            None,
        )?;
        Ok(out)
    }

    fn rows(&self, spec: RowsSpec, biases: Vec<Bias>) -> Result<Rows> {
        Ok(Rows {
            rows: vec![Row::default(); spec.slots],
            caches: vec![vec![RowCache::default(); spec.slots]; spec.layers],
            biases,
            batch: Vec::new(),
            max_new_tokens: spec.max_new_tokens,
            rules: spec.rules,
        })
    }

    fn seat(&self, rows: &mut Rows, batch: &[BatchRow<'_>]) -> Result<()> {
        rows.batch = batch.iter().map(|row| row.slot).collect();
        for row in batch {
            if let Some(tokens) = row.begins {
                rows.rows[row.slot] =
                    Row { next: tokens.to_vec(), bare: tokens.len() == 1, ..Row::default() };
            }
        }
        Ok(())
    }

    fn embed_next(&self, table: &Matrix, rows: &Rows, norm: &Vec<f32>) -> Result<Matrix> {
        let next: Vec<u32> = rows.batch().flat_map(|row| &row.next).copied().collect();
        self.embed(table, &next, norm)
    }

    fn attend_rows(&self, qkv: &Matrix, layer: usize, rows: &mut Rows) -> Result<Matrix> {
        let inner = qkv.cols / 3;
        let mut out = self.matrix(qkv.rows, inner);
        // Taken out while they are worked on: the batch has its rows in any order of slots.
        let take = |slot: &usize| std::mem::take(&mut rows.caches[layer][*slot]);
        let mut caches: Vec<RowCache> = rows.batch.iter().map(take).collect();
        let bias = &rows.biases[layer % rows.biases.len()];
        let dim = inner / bias.values.len();
        let long =
            rows.batch().zip(rows.tokens()).filter_map(|(row, tokens)| row.is_long().then_some(tokens));
        let long: Vec<Range<usize>> = long.collect();
        self.attend_sequences(&mut out, qkv, &long, bias, Sees::Earlier);
        let (mut qkv_rest, mut out_rest) = (&qkv.data[..], &mut out.data[..]);
        let mut parts = Vec::with_capacity(caches.len());
        for (row, cache) in rows.batch().zip(&mut caches) {
            let tokens = qkv_rest.split_off(..row.next.len() * qkv.cols).unwrap_or_default();
            let out = out_rest.split_off_mut(..row.next.len() * inner).unwrap_or_default();
            parts.push((row, cache, tokens, out));
        }
        parts.into_par_iter().for_each(|(row, cache, tokens, out)| {
            if row.begins() {
                cache.k.clear();
                cache.v.clear();
            }
            let mut scores = Vec::new();
            for (token, out) in tokens.chunks_exact(qkv.cols).zip(out.chunks_exact_mut(inner)) {
                cache.k.extend_from_slice(&token[inner..2 * inner]);
                cache.v.extend_from_slice(&token[2 * inner..]);
                if row.is_long() {
                    continue;
                }
                let keys = cache.k.len() / inner;
                for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                    let at = head * dim;
                    let q = &token[at..][..dim];
                    // The newest key is at offset 0, the oldest lies furthest back.
                    let bias = &bias.values[head][bias.zero + 1 - keys..][..keys];
                    elementwise::attend(self.arch, q, &cache.k, &cache.v, inner, at, bias, &mut scores, out);
                }
            }
        });
        rows.batch.iter().zip(caches).for_each(|(slot, row)| rows.caches[layer][*slot] = row);
        Ok(out)
    }

    fn last_tokens(&self, x: Matrix, rows: &Rows) -> Result<Matrix> {
        if x.rows == rows.batch.len() {
            return Ok(x);
        }
        let last: Vec<usize> = rows.tokens().map(|tokens| tokens.end - 1).collect();
        Ok(x.take_rows(&last))
    }

    fn choose(&self, mut logits: Matrix, rows: &mut Rows) -> Result<()> {
        let (rules, last) = (&rows.rules, rows.max_new_tokens - 1);
        let next = |(logits, row): (&mut [f32], &Row)| {
            let produced = row.output.len();
            let forced_first = rules.forced_first.filter(|_| row.bare);
            let free_from = usize::from(forced_first.is_some());
            let not_first = if produced == free_from { &rules.suppressed_first[..] } else { &[] };
            let numbers = logits.iter().any(|x| x.is_finite());
            rules.suppressed.iter().chain(not_first).for_each(|id| logits[*id as usize] = f32::NEG_INFINITY);
            let forced_last = rules.forced_last.filter(|_| produced == last);
            let forced = forced_last.or(forced_first.filter(|_| produced == 0));
            let likeliest = || elementwise::argmax(self.arch, logits) as u32;
            numbers.then(|| forced.unwrap_or_else(likeliest))
        };
        let of_batch: Vec<&Row> = rows.batch().collect();
        let ids: Vec<Option<u32>> = logits.data.par_chunks_mut(logits.cols).zip(of_batch).map(next).collect();
        for (slot, id) in rows.batch.iter().zip(ids) {
            let row = &mut rows.rows[*slot];
            if !row.finished {
                let id = id.ok_or_else(overflow)?;
                row.finished = rows.rules.ends.contains(&id) || row.output.len() == last;
                row.output.push(id);
                row.next = vec![id];
            }
        }
        Ok(())
    }

    fn left(&self, rows: &Rows) -> Result<Vec<usize>> {
        let left = |row: &Row| if row.finished { 0 } else { rows.max_new_tokens - row.output.len() };
        Ok(rows.batch().map(left).collect())
    }

    fn outputs(&self, rows: &Rows) -> Result<Vec<Vec<u32>>> {
        Ok(rows.batch().map(|row| row.output.clone()).collect())
    }

    fn repeat(&self, _recording: &mut Option<()>, times: usize, step: Step<'_>) -> Result<()> {
        (0..times).try_for_each(|_| step())
    }
}
