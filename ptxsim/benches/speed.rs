//! How fast kernels run, in thread instructions. `strict` has every check on; `checked` those that are
//! on by default.
//!
//! Attention: 4 heads, 64 rows x 512 keys x 64, mma.sync and cp.async. Matrix product: 64 x 64 x 4096 by TMA
//! and wgmma.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ptxsim::{Checks, Counters, Options, TensorMap};
use support::{Gpu, config, halves, tensor_map};

fn attention(criterion: &mut Criterion) {
    let (heads, n) = (4, 512);
    let gpu = Gpu::new("a100", include_str!("../tests/kernels/tensor80.ptx"));
    let q = gpu.halves(&halves(heads * 64 * 64, 1));
    let (k, v) = (gpu.halves(&halves(heads * n * 64, 2)), gpu.halves(&halves(heads * n * 64, 3)));
    let out = gpu.space(2 * (heads * 64 * 64) as u64);
    let shape = config(heads as u32, 128);
    let run = |gpu: &Gpu| gpu.run("attention", &shape, &[&q, &k, &v, &out, &(n as i32)]);
    measure(criterion, "attention, 4 heads, 64 rows x 512 keys x 64", gpu, run);
}

fn matmul(criterion: &mut Criterion) {
    let k = 4096;
    let gpu = Gpu::new("h200", include_str!("../tests/kernels/tensor90.ptx"));
    let of = |seed| {
        let address = gpu.halves(&halves(64 * k as usize, seed));
        TensorMap { swizzle: 3, ..tensor_map(9, address, &[k, 64], &[64, 64]) }.to_bytes()
    };
    let (a, b, c) = (of(1), of(2), gpu.space(4 * 64 * 64));
    let run = |gpu: &Gpu| gpu.run("matmul", &config(1, 160), &[&a, &b, &c, &(k as i32)]);
    measure(criterion, "matrix product by TMA and wgmma, 64 x 64 x 4096", gpu, run);
}

fn measure(criterion: &mut Criterion, name: &str, mut gpu: Gpu, run: impl Fn(&Gpu) -> Counters) {
    let counters = run(&gpu);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(counters.thread_instructions)).sampling_mode(SamplingMode::Flat);
    group.sample_size(10);
    let unchecked = Options { checks: Checks::NONE, ..Options::default() };
    for (name, options) in [
        ("strict, one thread", Options { threads: 1, checks: Checks::ALL, ..Options::default() }),
        ("checked, one thread", Options { threads: 1, ..Options::default() }),
        ("unchecked, one thread", Options { threads: 1, ..unchecked }),
        ("checked, all cores", Options::default()),
    ] {
        gpu.options = options;
        group.bench_function(name, |b| b.iter(|| run(&gpu)));
    }
    group.finish();
}

criterion_group!(benches, attention, matmul);
criterion_main!(benches);
