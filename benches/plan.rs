//! What planning costs on the CPU: `cargo bench --bench plan`.
//!
//! T5-base's heads in bf16 on an H200's facts: the search over kernels and splits, and a plan like one that there is.

mod common;

use std::hint::black_box;

use common::problem;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use onekv::DType;
use onekv::plan::{DeviceFacts, Plan, PlanOptions};

const H200: DeviceFacts = DeviceFacts {
    compute_capability: (9, 0),
    multiprocessors: 132,
    shared_bytes_per_block: 227 << 10,
    shared_bytes_per_multiprocessor: 228 << 10,
    threads_per_multiprocessor: 2048,
};

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    let ragged: Vec<usize> = (0..64).map(|b| 64 + b * 1237 % 4033).collect();
    let shapes = [
        ("1 x 512", vec![512]),
        ("8 x 4096", vec![4096; 8]),
        ("64 x 4096", vec![4096; 64]),
        ("64 x 64..4096", ragged),
    ];
    for (name, keys) in shapes {
        let problem = problem(30, &keys);
        let plan = |options: &PlanOptions| {
            Plan::new(&problem, DType::Bf16, &H200, options).expect("a kernel for the shape")
        };
        let full = PlanOptions::default();
        let like = PlanOptions::like(&plan(&full));
        for (search, options) in [("search", full), ("like", like)] {
            group.bench_function(BenchmarkId::new(search, name), |bencher| {
                bencher.iter(|| plan(black_box(&options)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, planning);
criterion_main!(benches);
