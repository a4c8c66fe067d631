//! Steps of the CPU backend, as callgrind counts them.

use std::ops::Range;

use anyhow::Result;
use onekv::{Problem, SharedKv, View, cpu};

/// What K and V do not stay in until the next step: 4 times the last level of the caches that callgrind plays (count.py).
const BEYOND_CACHES: usize = 4 << 20;
const LINE_BYTES: usize = 64;

/// K and V of [`BEYOND_CACHES`] and more take turns, as those of a decoder's layers do: a step finds nothing of its own in the
/// caches.
pub fn run(problem: &Problem, steps: usize) -> Result<()> {
    let (q_len, kv_len) = (problem.query_shape().elements(), problem.kv_shape().elements());
    let sets = BEYOND_CACHES.div_ceil(2 * kv_len * size_of::<f32>());
    let q = noise(q_len, 1);
    let kv: Vec<[Vec<f32>; 2]> = (0..sets).map(|_| [noise(kv_len, 2), noise(kv_len, 3)]).collect();
    let mut out = noise(q_len, 4);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build()?;
    for [k, v] in kv.iter().cycle().take(steps) {
        let out_lines = lines(&out, q_len);
        pool.install(|| {
            cpu::attend(
                problem,
                View::contiguous(problem.query_shape(), &q[lines(&q, q_len)]),
                SharedKv::contiguous(problem.kv_shape(), &k[lines(k, kv_len)], &v[lines(v, kv_len)]),
                View::contiguous(problem.query_shape(), &mut out[out_lines]),
                None,
            )
        })?;
    }
    Ok(())
}

/// `len` numbers in -1..1 and room to begin at a line. They repeat: to make them must not take longer than to read them.
fn noise(len: usize, seed: usize) -> Vec<f32> {
    let period: Vec<f32> = (0..8191).map(|i| ((i * 7919 + seed) % 8191) as f32 / 4095.5 - 1.0).collect();
    period.repeat((len + LINE_BYTES).div_ceil(period.len()))
}

/// The first `len` from the begin of a line on: callgrind takes an access to two lines for one miss.
fn lines(numbers: &[f32], len: usize) -> Range<usize> {
    let begin = numbers.as_ptr().align_offset(LINE_BYTES);
    begin..begin + len
}
