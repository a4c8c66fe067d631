//! What a call costs on the host: `cargo bench --features cuda --bench host`.
//!
//! T5-base's heads in bf16, 30 prompts for each of b inputs of 512 to 4096 keys. A few rounds are queued at a time, and
//! the card is waited for while no clock runs: neither its time nor a full queue is in these figures. On the virtual
//! card, with PTXSIM_KERNELS=0, the driver's own part is the simulator's; on a card it is NVIDIA's.

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::problem;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use half::bf16;
use onekv::cuda::{Kernels, Prepared, Queue};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Problem, SharedKv, View};

const ROWS: usize = 30;
const KEYS: std::ops::RangeInclusive<usize> = 512..=4096;
/// No more lists than may be on their way before a replan waits.
const ROUNDS: u64 = 4;

/// Where the calls go, in words; `None` where the times would be a simulator's.
fn driver(context: &CudaContext) -> Option<String> {
    let name = context.name().expect("a name");
    match std::env::var("PTXSIM_KERNELS").as_deref() {
        _ if !name.starts_with("ptxsim") => Some(name),
        Ok("0") => Some("ptxsim, kernels not executed".to_owned()),
        _ => None,
    }
}

/// Batches of `inputs`: the largest, then two that come in turn.
fn problems(inputs: usize) -> [Problem; 3] {
    let ragged = |seed: usize| {
        (0..inputs)
            .map(|b| KEYS.start() + (b + seed) * 1237 % (KEYS.end() - KEYS.start()))
            .collect::<Vec<_>>()
    };
    [vec![*KEYS.end(); inputs], ragged(0), ragged(1)].map(|keys| problem(ROWS, &keys))
}

struct Operands {
    q: CudaSlice<bf16>,
    k: CudaSlice<bf16>,
    v: CudaSlice<bf16>,
    out: CudaSlice<bf16>,
}

impl Operands {
    /// As large as `most` asks for.
    fn new(stream: &Arc<CudaStream>, most: &Problem) -> Self {
        // SAFETY: nobody asks what comes of it: any bytes are a bf16.
        let memory = |len: usize| unsafe { stream.alloc::<bf16>(len) }.expect("room on the card");
        let (rows, keys) = (most.query_shape().elements(), most.kv_shape().elements());
        Self { q: memory(rows), k: memory(keys), v: memory(keys), out: memory(rows) }
    }

    fn run(&mut self, prepared: &Prepared) {
        let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
        prepared
            .run(
                View::contiguous(rows, self.q.as_view()),
                SharedKv::contiguous(keys, self.k.as_view(), self.v.as_view()),
                View::contiguous(rows, self.out.as_view_mut()),
                None,
            )
            .expect("a run");
    }
}

/// Times `round`, which is told its number, while it queues.
fn queueing(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    stream: &CudaStream,
    mut round: impl FnMut(u64),
) {
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for first in (0..rounds).step_by(ROUNDS as usize) {
                stream.synchronize().expect("what was queued has run");
                let start = Instant::now();
                (first..rounds.min(first + ROUNDS)).for_each(&mut round);
                spent += start.elapsed();
            }
            spent
        });
    });
}

fn host(criterion: &mut Criterion) {
    let context = match onekv::cuda::context(0) {
        Ok(context) => context,
        Err(error) => return println!("{error}; this benchmark needs a driver"),
    };
    let Some(driver) = driver(&context) else {
        return println!("a virtual card that runs kernels has no times; set PTXSIM_KERNELS=0");
    };
    let mut group = criterion.benchmark_group(format!("host, {driver}"));
    for tracking in [false, true] {
        let context = onekv::cuda::context(0).expect("it was there");
        if !tracking {
            // SAFETY: everything is on the one stream that is made below.
            unsafe { context.disable_event_tracking() };
        }
        let kernels = Kernels::new(&context).expect("the kernels");
        let stream = context.new_stream().expect("a stream");
        let queue = Queue::new(&kernels, &stream).expect("a queue");
        for inputs in [1, 8, 64] {
            let [most, problems @ ..] = problems(inputs);
            let plan = |problem: &Problem, options: &PlanOptions| {
                Plan::new(problem, DType::Bf16, kernels.facts(), options).expect("a plan")
            };
            let full = PlanOptions::default();
            let largest = plan(&most, &full);
            let like = PlanOptions::like(&largest);
            let plans = problems.each_ref().map(|problem| plan(problem, &like));
            let in_turn = |round: u64| round as usize % 2;
            let mut prepared = queue.prepare(&largest).expect("room on the card");
            prepared.replan(&plans[0]).expect("it fits");
            let mut operands = Operands::new(&stream, &most);
            let id = |name: &str| {
                BenchmarkId::new(
                    if tracking { format!("{name}, events tracked") } else { name.to_owned() },
                    inputs,
                )
            };
            queueing(&mut group, id("run"), &stream, |_| operands.run(&prepared));
            queueing(&mut group, id("replan"), &stream, |round| {
                prepared.replan(&plans[in_turn(round)]).expect("it fits");
            });
            queueing(&mut group, id("replan + run"), &stream, |round| {
                prepared.replan(&plans[in_turn(round)]).expect("it fits");
                operands.run(&prepared);
            });
            queueing(&mut group, id("plan like + replan + run"), &stream, |round| {
                prepared.replan(&plan(&problems[in_turn(round)], &like)).expect("it fits");
                operands.run(&prepared);
            });
            queueing(&mut group, id("prepare"), &stream, |round| {
                drop(queue.prepare(&plans[in_turn(round)]).expect("room on the card"));
            });
            if !tracking {
                group.bench_function(id("plan, full"), |bencher| {
                    bencher.iter(|| plan(black_box(&problems[0]), &full));
                });
                group.bench_function(id("plan, like"), |bencher| {
                    bencher.iter(|| plan(black_box(&problems[0]), &like));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, host);
criterion_main!(benches);
