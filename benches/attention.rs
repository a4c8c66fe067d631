//! CPU attention over prompts U and input length n, and PID's shared K/V against PIE's copies.
//!
//! `cargo bench --bench attention`; peers on the same work: `cargo xtask peers cpu`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use onekv::{Keys, Problem, ProblemSpec, SharedKv, View, cpu};

const HEADS: usize = 12;
const HEAD_DIM: usize = 64;

/// `inputs` inputs of `rows` query rows over `keys` keys each, T5-base heads, in f32.
struct Bench {
    problem: Problem,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
}

impl Bench {
    fn new(inputs: usize, rows: usize, keys: usize) -> Self {
        let problem = Problem::new(ProblemSpec {
            heads: HEADS,
            kv_heads: HEADS,
            head_dim: HEAD_DIM,
            scale: 1.0,
            softcap: None,
            row_offsets: (0..=inputs).map(|b| b * rows).collect(),
            keys: Keys::Packed { offsets: (0..=inputs).map(|b| b * keys).collect() },
        })
        .expect("a valid shape");
        let noise = |tokens: usize, seed: usize| {
            let element = |i: usize| ((i * 7919 + seed * 104_729) % 8191) as f32 / 4095.5 - 1.0;
            (0..tokens * HEADS * HEAD_DIM).map(element).collect::<Vec<f32>>()
        };
        let (q, k, v) = (noise(inputs * rows, 1), noise(inputs * keys, 2), noise(inputs * keys, 3));
        let out = vec![f32::NAN; q.len()];
        Self { problem, q, k, v, out }
    }

    fn run(&mut self) {
        cpu::attend(
            &self.problem,
            View::contiguous(self.problem.query_shape(), &self.q[..]),
            SharedKv::contiguous(self.problem.kv_shape(), &self.k[..], &self.v[..]),
            View::contiguous(self.problem.query_shape(), black_box(&mut self.out[..])),
            None,
        )
        .expect("a valid call");
    }

    /// Multiplications and additions of scores and values.
    fn flops(&self) -> u64 {
        let pairs: usize = self.problem.inputs().iter().map(|i| i.rows.len() * i.keys.len()).sum();
        (4 * pairs * HEADS * HEAD_DIM) as u64
    }
}

fn sweep(c: &mut Criterion) {
    for keys in [128, 512, 2048, 4096] {
        let mut group = c.benchmark_group(format!("shared, {keys} keys"));
        for rows in [1, 2, 4, 8, 16, 30, 64, 128, 256] {
            let mut bench = Bench::new(1, rows, keys);
            group.throughput(Throughput::Elements(bench.flops()));
            group.bench_function(BenchmarkId::from_parameter(rows), |b| b.iter(|| bench.run()));
        }
    }
}

fn pid_against_pie(c: &mut Criterion) {
    let (prompts, keys) = (30, 512);
    let mut group = c.benchmark_group("30 prompts, 512 keys");
    for (name, mut bench) in [
        ("PID, one K/V", Bench::new(1, prompts, keys)),
        ("PIE, a K/V per prompt", Bench::new(prompts, 1, keys)),
    ] {
        group.throughput(Throughput::Elements(bench.flops()));
        group.bench_function(name, |b| b.iter(|| bench.run()));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = sweep, pid_against_pie
}
criterion_main!(benches);
