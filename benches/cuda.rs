//! Attention on this machine's card, for users: `cargo bench --features cuda --bench cuda`.
//!
//! T5-base's cross-attention in bf16, one input, the combination of split keys included. K and V stay in the L2 cache where they fit. The
//! tables come from `benches/card`, which rotates them.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use cudarc::driver::sys::CUevent_flags;
use half::bf16;
use onekv::cuda::{Kernels, Queue};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec, SharedKv, View};

const HEADS: usize = 12;
const DIM: usize = 64;

fn attention(criterion: &mut Criterion) {
    let context = match onekv::cuda::context(0) {
        Ok(context) => context,
        Err(error) => return println!("{error}; this benchmark needs a card"),
    };
    let stream = context.new_stream().expect("a stream");
    let kernels = Kernels::new(&context).expect("the kernels");
    let queue = Queue::new(&kernels, &stream).expect("a queue");
    let memory = |len: usize| queue.zeros::<bf16>(len).expect("room on the card");
    let noise = |len: usize| {
        let values = (0..len).map(|i| bf16::from_f32((i * 7919 % 8191) as f32 / 4095.5 - 1.0));
        let noise = memory(len);
        noise.write(&values.collect::<Vec<_>>()).expect("a copy");
        noise
    };
    let mut group = criterion.benchmark_group("attention on the card");
    for keys in [512, 4096] {
        for rows in [1, 30, 128, 512] {
            let problem = Problem::new(ProblemSpec {
                heads: HEADS,
                kv_heads: HEADS,
                head_dim: DIM,
                scale: 1.0,
                softcap: None,
                row_offsets: vec![0, rows],
                keys: Keys::Packed { offsets: vec![0, keys] },
            })
            .expect("a sound problem");
            let plan = Plan::new(&problem, DType::Bf16, kernels.facts(), &PlanOptions::default());
            let prepared = queue.prepare(&plan.expect("a plan")).expect("room on the card");
            let q = View::contiguous(problem.query_shape(), noise(rows * HEADS * DIM));
            let [k, v] = [(); 2].map(|()| noise(keys * HEADS * DIM));
            let kv = SharedKv::contiguous(problem.kv_shape(), k, v);
            let out = View::contiguous(problem.query_shape(), memory(rows * HEADS * DIM));
            // Clones of `Memory` are the same memory: nothing is copied.
            let run = || prepared.run(q.clone(), kv.clone(), out.clone(), None).expect("a launch");
            // Read once: K, V and Q; written once: the output.
            group.throughput(Throughput::Bytes((2 * (keys + rows) * HEADS * DIM * 2) as u64));
            let id = BenchmarkId::new(format!("{keys} keys"), format!("{rows} rows"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|runs| {
                    let event =
                        || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("an event");
                    let start = event();
                    (0..runs).for_each(|_| run());
                    let end = event();
                    end.synchronize().expect("the runs end");
                    Duration::from_secs_f32(start.elapsed_ms(&end).expect("a time") / 1e3)
                });
            });
        }
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
