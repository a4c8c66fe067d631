//! How fast a kernel like attention runs: 4 heads, 64 rows x 512 keys x 64, mma.sync and cp.async.
//!
//! Throughput is in thread instructions; `checked` has every check on.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use half::bf16;
use ptxsim::Options;
use support::{Gpu, config, noise};

fn attention(criterion: &mut Criterion) {
    let (heads, n) = (4, 512);
    let mut gpu = Gpu::new("a100", include_str!("../tests/kernels/tensor80.ptx"));
    let halves = |n, seed| noise(n, seed).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let q = gpu.halves(&halves(heads * 64 * 64, 1));
    let (k, v) = (gpu.halves(&halves(heads * n * 64, 2)), gpu.halves(&halves(heads * n * 64, 3)));
    let out = gpu.space(2 * (heads * 64 * 64) as u64);
    let shape = config(heads as u32, 128);
    let counters = gpu.run("attention", &shape, &[&q, &k, &v, &out, &(n as i32)]);

    let mut group = criterion.benchmark_group("attention, 4 heads, 64 rows x 512 keys x 64");
    group.throughput(Throughput::Elements(counters.thread_instructions)).sampling_mode(SamplingMode::Flat);
    group.sample_size(10);
    let unchecked =
        Options { check_written: false, check_races: false, check_asynchronous: false, ..Options::default() };
    for (name, options) in [
        ("checked, one thread", Options { threads: 1, ..Options::default() }),
        ("unchecked, one thread", Options { threads: 1, ..unchecked }),
        ("checked, all cores", Options::default()),
    ] {
        gpu.options = options;
        group.bench_function(name, |b| {
            b.iter(|| gpu.run("attention", &shape, &[&q, &k, &v, &out, &(n as i32)]))
        });
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
