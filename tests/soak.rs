//! A long run keeps its size, on the host and on the card.
#![cfg(feature = "cuda")]

mod common;

use common::device::{split, without_kernels};
use cudarc::driver::CudaStream;
use half::bf16;
use onekv::cuda::{Kernels, Prepared, Queue};
use onekv::plan::Plan;
use onekv::{DType, Problem, SharedKv, View};
use std::sync::Arc;

const ROUNDS: usize = 100_000;
/// After these everything has the size that it keeps.
const WARM_UP: usize = 5_000;
/// What they may grow by, in bytes a round: the host's allocator does not give all back, the card's memory is exact.
const GROWTH: [(&str, usize); 2] = [("host", 8), ("card", 1)];

#[test]
fn a_long_run_keeps_its_size_where_events_are_tracked() {
    without_kernels("a_long_run_keeps_its_size_where_events_are_tracked", || soak(true));
}

#[test]
fn a_long_run_keeps_its_size_where_events_are_not_tracked() {
    without_kernels("a_long_run_keeps_its_size_where_events_are_not_tracked", || soak(false));
}

/// New lengths and new operands every round; now and then another plan is prepared, and another recording made.
fn soak(tracking: bool) {
    let context = onekv::cuda::context(0).unwrap();
    if !tracking {
        // SAFETY: all is on one stream.
        unsafe { context.disable_event_tracking() };
    }
    let kernels = Kernels::new(&context).unwrap();
    let stream = context.new_stream().unwrap();
    let queue = Queue::new(&kernels, &stream).unwrap();
    let plans = plans(&kernels);
    let mut prepared = queue.prepare(&plans[0]).unwrap();
    let mut before = [0; 2];
    for round in 0..=ROUNDS {
        if round == WARM_UP {
            before = in_use(&stream);
        }
        let plan = &plans[round % plans.len()];
        prepared.replan(plan).unwrap();
        run(&prepared, plan.problem(), &stream);
        if round % 100 == 0 {
            record(&queue, &queue.prepare(plan).unwrap(), plan.problem());
        }
    }
    let after = in_use(&stream);
    println!(
        "bytes in use on the host and on the card: {before:?} after {WARM_UP} rounds, {after:?} at the end"
    );
    for ((what, per_round), (before, after)) in GROWTH.into_iter().zip(before.into_iter().zip(after)) {
        let (growth, max) = (after.saturating_sub(before), per_round * (ROUNDS - WARM_UP));
        assert!(growth < max, "the {what}'s memory grew by {growth} bytes in {ROUNDS} rounds");
    }
}

/// The largest first; all split.
fn plans(kernels: &Arc<Kernels>) -> Vec<Plan> {
    let plan = |keys: [usize; 2]| {
        let case = common::Case::packed(2, 2, 64, &[(5, keys[0]), (3, keys[1])]);
        Plan::new(&case.problem(), DType::Bf16, kernels.facts(), &split()).unwrap()
    };
    (0..8).map(|i| plan([150 - 9 * i, 80 - 2 * i])).collect()
}

/// With operands that are gone before it has run.
fn run(prepared: &Prepared, problem: &Problem, stream: &Arc<CudaStream>) {
    let (rows, keys) = (problem.query_shape(), problem.kv_shape());
    // SAFETY: nobody asks what comes of it: any bytes are a bf16.
    let memory = |len: usize| unsafe { stream.alloc::<bf16>(len) }.unwrap();
    let (q, mut out) = (memory(rows.elements()), memory(rows.elements()));
    let (k, v) = (memory(keys.elements()), memory(keys.elements()));
    let out = View::contiguous(rows, out.as_view_mut());
    let kv = SharedKv::contiguous(keys, k.as_view(), v.as_view());
    prepared.run(View::contiguous(rows, q.as_view()), kv, out, None).unwrap();
}

/// A recording, replayed once.
fn record(queue: &Queue, prepared: &Prepared, problem: &Problem) {
    let (rows, keys) = (problem.query_shape(), problem.kv_shape());
    let memory = |len: usize| queue.zeros::<bf16>(len).unwrap();
    let (q, out) = (memory(rows.elements()), memory(rows.elements()));
    let kv = SharedKv::contiguous(keys, memory(keys.elements()), memory(keys.elements()));
    let mut recorder = queue.record().unwrap();
    recorder.run(prepared, View::contiguous(rows, q), kv, View::contiguous(rows, out), None).unwrap();
    recorder.finish().unwrap().replay().unwrap();
}

/// Bytes of this process and of the card, when nothing is on its way. /proc/self/statm is off by some pages per core.
fn in_use(stream: &Arc<CudaStream>) -> [usize; 2] {
    stream.synchronize().unwrap();
    let (free, total) = stream.context().mem_get_info().unwrap();
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let kib: usize = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    [kib << 10, total - free]
}
