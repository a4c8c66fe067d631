//! Our attention over the sweep of shapes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use onekv::{Keys, Problem, ProblemSpec, SharedKv, View, cpu};

use super::{KEYS, Line, Measured, OURS, ROWS};

const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
/// As long as the peers are measured.
const SECONDS: f64 = 0.3;

/// Prints the sweep as JSON.
pub fn print(threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut lines = Vec::new();
    for keys in KEYS {
        for rows in ROWS {
            lines.push(pool.install(|| line(rows, keys))?);
        }
    }
    println!("{}", serde_json::to_string(&Measured { torch: None, lines })?);
    Ok(())
}

fn line(rows: usize, keys: usize) -> Result<Line> {
    let problem = Problem::new(ProblemSpec {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: 1.0,
        softcap: None,
        row_offsets: vec![0, rows],
        keys: Keys::Packed { offsets: vec![0, keys] },
    })?;
    let width = HEADS * HEAD_DIM;
    let (q, k, v) = (noise(rows * width, 1), noise(keys * width, 2), noise(keys * width, 3));
    let mut out = vec![f32::NAN; rows * width];
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(SECONDS);
    cpu_attend(&problem, &q, &k, &v, &mut out)?;
    while times.len() < 5 || Instant::now() < end {
        let start = Instant::now();
        cpu_attend(&problem, &q, &k, &v, black_box(&mut out))?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(Line {
        system: OURS.to_string(),
        rows,
        keys,
        median_s: times[times.len() / 2],
        min_s: times[0],
        max_s: times[times.len() - 1],
        runs: times.len(),
    })
}

fn cpu_attend(problem: &Problem, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) -> Result<()> {
    Ok(cpu::attend(
        problem,
        View::contiguous(problem.query_shape(), q),
        SharedKv::contiguous(problem.kv_shape(), k, v),
        View::contiguous(problem.query_shape(), out),
        None,
    )?)
}

/// Numbers in -1..1 that do not repeat soon.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(step).collect()
}
