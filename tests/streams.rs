//! Streams, lifetimes and graphs: what safe code may do in any order. On the virtual card nothing runs before somebody waits
//! for it, and then no more than that needs: memory that is freed too early is gone when its reader runs.
//!
//! Each test opens contexts of its own, with cudarc's event tracking and without.
#![cfg(feature = "cuda")]

mod common;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::device::{Card, card, split};
use common::{Answer, Case, Operands, assert_close, assert_out_close, config};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr as _};
use half::bf16;
use onekv::cuda::{Kernels, Memory, Prepared, Queue, RawOperands, Recording};
use onekv::plan::{DeviceFacts, Plan, PlanOptions};
use onekv::{DType, Error, Keys, PartialState, Problem, Shape, SharedKv, View};
use proptest::prelude::*;

/// A context with nothing on it, and the kernels in it.
struct Fresh {
    context: Arc<CudaContext>,
    kernels: Arc<Kernels>,
}

impl Fresh {
    fn new(tracking: bool) -> Self {
        let context = onekv::cuda::context(0).unwrap();
        if !tracking {
            // SAFETY: that nothing here relies on it is what these tests show.
            unsafe { context.disable_event_tracking() };
        }
        let kernels = Kernels::new(&context).unwrap();
        Self { context, kernels }
    }

    fn queue(&self, stream: &Arc<CudaStream>) -> Queue {
        Queue::new(&self.kernels, stream).unwrap()
    }

    fn plan(&self, problem: &Problem, options: &PlanOptions) -> Plan {
        Plan::new(problem, DType::Bf16, self.kernels.facts(), options).unwrap()
    }
}

/// One test at a time: a context that gets its first stream is waited for by cudarc, which fails while another test records.
fn alone() -> Option<(&'static Card, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    Some((card()?, ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// In both of cudarc's modes, where there is a card.
fn in_both_modes(test: impl Fn(Fresh)) {
    if let Some((_, _alone)) = alone() {
        [true, false].into_iter().for_each(|tracking| test(Fresh::new(tracking)));
    }
}

fn case() -> Case {
    Case::packed(2, 2, 64, &[(5, 150), (3, 40)])
}

/// Operands on the card.
struct OnCard {
    q: View<CudaSlice<bf16>>,
    kv: SharedKv<CudaSlice<bf16>>,
}

impl OnCard {
    /// Q, K and V on a stream each.
    fn new(operands: &Operands<bf16>, streams: [&Arc<CudaStream>; 3]) -> Self {
        let on = |view: View<&[bf16]>, stream: &Arc<CudaStream>| view.map(|x| stream.clone_htod(x).unwrap());
        let kv = operands.kv();
        let kv = SharedKv { k: on(kv.k, streams[1]), v: on(kv.v, streams[2]) };
        Self { q: on(operands.queries(), streams[0]), kv }
    }

    fn run(&self, prepared: &Prepared, out: &mut CudaSlice<bf16>) -> onekv::Result<()> {
        let out = View::contiguous(prepared.query_shape(), out.as_view_mut());
        prepared.run(self.q.as_view(), self.kv.as_view(), out, None)
    }
}

fn check(got: &[bf16], operands: &Operands<bf16>, case: &Case) {
    assert_out_close(got, operands.reference(), case);
}

/// cudarc keeps one event for all reads of a slice: the last one's. Its free must wait for the first as well.
#[test]
fn a_reader_behind_long_work_is_waited_for() {
    in_both_modes(|fresh| {
        let [home, first, second] = [(); 3].map(|()| fresh.context.new_stream().unwrap());
        let (case, operands) = (case(), Operands::<bf16>::new(&case()));
        let plan = fresh.plan(&operands.problem, &split());
        let on_card = OnCard::new(&operands, [&home, &home, &home]);
        let mut outs = [&first, &second].map(|stream| stream.alloc_zeros::<bf16>(8 * 128).unwrap());
        for (stream, out) in [&first, &second].into_iter().zip(&mut outs) {
            on_card.run(&fresh.queue(stream).prepare(&plan).unwrap(), out).unwrap();
        }
        drop(on_card);
        // What the second needs, and the free; not the first.
        second.synchronize().unwrap();
        home.synchronize().unwrap();
        for (stream, out) in [first, second].iter().zip(&outs) {
            check(&stream.clone_dtoh(out).unwrap(), &operands, &case);
        }
    });
}

/// Without its last created stream cudarc no longer orders what the default stream frees.
#[test]
fn memory_of_the_default_stream_outlives_runs_of_a_stream_that_is_gone() {
    in_both_modes(|fresh| {
        let default = fresh.context.default_stream();
        let (case, operands) = (case(), Operands::<bf16>::new(&case()));
        let on_card = OnCard::new(&operands, [&default, &default, &default]);
        let mut out = default.alloc_zeros::<bf16>(8 * 128).unwrap();
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let prepared = queue.prepare(&fresh.plan(&operands.problem, &split())).unwrap();
        on_card.run(&prepared, &mut out).unwrap();
        // The queue outlives what it prepared: it waits for the stream, and the test must not.
        std::mem::forget(queue);
        drop((prepared, stream));
        drop(on_card);
        default.synchronize().unwrap();
        check(&default.clone_dtoh(&out).unwrap(), &operands, &case);
    });
}

/// The accounts of another `CudaContext` of the same card know nothing of this one's streams.
#[test]
fn another_context_is_named() {
    in_both_modes(|fresh| {
        let other = onekv::cuda::context(0).unwrap();
        let stream = fresh.context.new_stream().unwrap();
        let refused = Queue::new(&fresh.kernels, &other.default_stream());
        assert_eq!(refused.map(drop), Err(Error::WrongContext { tensor: "stream" }));
        names_foreign_operands(&fresh, &stream, &other.default_stream());
    });
}

/// Each operand of `foreign` in a run on `stream`.
fn names_foreign_operands(fresh: &Fresh, stream: &Arc<CudaStream>, foreign: &Arc<CudaStream>) {
    let operands = Operands::<bf16>::new(&case());
    let queue = fresh.queue(stream);
    let prepared = queue.prepare(&fresh.plan(&operands.problem, &split())).unwrap();
    for (at, tensor) in ["q", "k", "v", "out", "lse"].into_iter().enumerate() {
        let of = |i: usize| if i == at { foreign } else { stream };
        let on_card = OnCard::new(&operands, [of(0), of(1), of(2)]);
        let mut out = of(3).alloc_zeros::<bf16>(8 * 128).unwrap();
        let mut lse = of(4).alloc_zeros::<f32>(16).unwrap();
        let refused = prepared.run(
            on_card.q.as_view(),
            on_card.kv.as_view(),
            View::contiguous(operands.problem.query_shape(), out.as_view_mut()),
            Some(View::contiguous(operands.problem.lse_shape(), lse.as_view_mut())),
        );
        assert_eq!(refused, Err(Error::WrongContext { tensor }));
    }
    let slice = foreign.alloc_zeros::<f32>(4).unwrap();
    assert_eq!(queue.memory(slice).map(drop), Err(Error::WrongContext { tensor: "slice" }));
}

/// So it is with another card's.
#[test]
fn another_cards_operand_is_named() {
    if card().is_none() {
        return;
    }
    if CudaContext::device_count().unwrap() < 2 {
        println!("one card: another's memory is not tested");
        return;
    }
    in_both_modes(|fresh| {
        let other = onekv::cuda::context(1).unwrap();
        let stream = fresh.context.new_stream().unwrap();
        names_foreign_operands(&fresh, &stream, &other.new_stream().unwrap());
        // Default streams of all contexts have one handle.
        let homes = [&fresh.context, &other].map(|context| context.default_stream());
        let kernels = [fresh.kernels.clone(), Kernels::new(&other).unwrap()];
        let queues = [0, 1].map(|i| Queue::new(&kernels[i], &homes[i]).unwrap());
        let memory = queues.each_ref().map(|queue| queue.zeros::<f32>(4).unwrap());
        assert_eq!(memory[0].copy_from(&memory[1]), Err(Error::WrongContext { tensor: "from" }));
        let (case, operands) = (case(), Operands::<bf16>::new(&case()));
        let prepared = queues[0].prepare(&fresh.plan(&operands.problem, &split())).unwrap();
        let mut out = homes[0].alloc_zeros::<bf16>(8 * 128).unwrap();
        let on_card = OnCard::new(&operands, [&homes[0], &homes[0], &homes[0]]);
        on_card.run(&prepared, &mut out).unwrap();
        other.bind_to_thread().unwrap();
        drop((prepared, memory));
        other.synchronize().unwrap();
        fresh.context.bind_to_thread().unwrap();
        check(&homes[0].clone_dtoh(&out).unwrap(), &operands, &case);
        drop((queues, kernels));
        // Each card by itself.
        let kernels = Kernels::new(&other).unwrap();
        for fresh in [fresh, Fresh { context: other, kernels }] {
            let stream = fresh.context.new_stream().unwrap();
            let (case, operands) = (self::case(), Operands::<bf16>::new(&self::case()));
            let prepared = fresh.queue(&stream).prepare(&fresh.plan(&operands.problem, &split())).unwrap();
            let mut out = stream.alloc_zeros::<bf16>(8 * 128).unwrap();
            OnCard::new(&operands, [&stream, &stream, &stream]).run(&prepared, &mut out).unwrap();
            check(&stream.clone_dtoh(&out).unwrap(), &operands, &case);
        }
    });
}

/// The handle of a thread's own default stream is another stream where memory is freed by another thread.
#[test]
fn a_threads_own_stream_is_named() {
    in_both_modes(|fresh| {
        let own = fresh.context.per_thread_stream();
        assert_eq!(
            Queue::new(&fresh.kernels, &own).map(drop),
            Err(Error::PerThreadStream { what: "stream" })
        );
        let operands = Operands::<bf16>::new(&case());
        let stream = fresh.context.new_stream().unwrap();
        let prepared = fresh.queue(&stream).prepare(&fresh.plan(&operands.problem, &split())).unwrap();
        let mut out = stream.alloc_zeros::<bf16>(8 * 128).unwrap();
        let refused = OnCard::new(&operands, [&stream, &own, &stream]).run(&prepared, &mut out);
        assert_eq!(refused, Err(Error::PerThreadStream { what: "k" }));
    });
}

/// What a recording is made of: memory, with handles to it.
struct Recorded {
    recording: Recording,
    prepared: Prepared,
    q: Memory<bf16>,
    k: Memory<bf16>,
    v: Memory<bf16>,
    out: Memory<bf16>,
    lse: Memory<f32>,
}

impl Recorded {
    fn new(queue: &Queue, plan: &Plan) -> Self {
        Self::of(queue.prepare(plan).unwrap(), queue, plan)
    }

    /// Of what was prepared with `plan`.
    fn of(prepared: Prepared, queue: &Queue, plan: &Plan) -> Self {
        let (rows, keys) = (plan.problem().query_shape(), plan.problem().kv_shape());
        let memory = |len: usize| queue.zeros::<bf16>(len).unwrap();
        let (q, out) = (memory(rows.elements()), memory(rows.elements()));
        let (k, v) = (memory(keys.elements()), memory(keys.elements()));
        let lse = queue.zeros::<f32>(rows.tokens * rows.heads).unwrap();
        let mut recorder = queue.record().unwrap();
        let kv = SharedKv::contiguous(keys, k.clone(), v.clone());
        let sums = View::contiguous(plan.problem().lse_shape(), lse.clone());
        let result = View::contiguous(rows, out.clone());
        recorder.run(&prepared, View::contiguous(rows, q.clone()), kv, result, Some(sums)).unwrap();
        Self { recording: recorder.finish().unwrap(), prepared, q, k, v, out, lse }
    }

    fn write(&self, operands: &Operands<bf16>) {
        for (memory, data) in [(&self.q, &operands.q), (&self.k, &operands.k), (&self.v, &operands.v)] {
            memory.write(data).unwrap();
        }
    }
}

/// A recording replays when everything that it was made of is dropped.
#[test]
fn a_recording_keeps_what_it_uses() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let (case, operands) = (case(), Operands::<bf16>::new(&case()));
        let recorded = {
            let queue = fresh.queue(&stream);
            Recorded::new(&queue, &fresh.plan(&operands.problem, &split()))
        };
        recorded.write(&operands);
        let Recorded { recording, prepared, q, k, v, out, lse } = recorded;
        drop((prepared, q, k, v, lse));
        let later = stream.alloc_zeros::<bf16>(4096).unwrap();
        for _ in 0..3 {
            recording.replay().unwrap();
        }
        drop(recording);
        check(&out.read().unwrap(), &operands, &case);
        drop(later);
    });
}

/// One recording, 200 times other lengths: rows, inputs, keys, splits or none.
#[test]
fn a_recording_replays_with_other_lengths() {
    replays_with_other_lengths(&split(), 2, 200);
}

/// The same where clusters join splits, fewer than these at first and more later.
#[test]
fn a_recording_of_clusters_replays_with_other_lengths() {
    if alone().is_some_and(|(card, _)| card.kernels.facts().compute_capability >= (9, 0)) {
        replays_with_other_lengths(&split().with_split_keys(96).with_split_cluster(2), 2, 60);
        replays_with_other_lengths(&split().with_split_cluster(4), 2, 60);
    }
}

/// And where blocks go on to further work, of which there is more than the card holds blocks, or none.
#[test]
fn a_recording_of_blocks_that_go_on_replays_with_other_lengths() {
    if alone().is_some_and(|(card, _)| card.kernels.facts().compute_capability == (9, 0)) {
        let options = PlanOptions::default().with_split_keys(200).with_tile_rows(64);
        replays_with_other_lengths(&options, 120, 12);
    }
}

fn replays_with_other_lengths(options: &PlanOptions, kv_heads: usize, times: u32) {
    let Some((card, _alone)) = alone() else { return };
    let lengths = |rows: [usize; 3], keys: [usize; 3]| {
        let mut case = Case::packed(
            2 * kv_heads,
            kv_heads,
            64,
            &[(rows[0], keys[0]), (rows[1], keys[1]), (rows[2], keys[2])],
        );
        case.spec.keys = Keys::Padded { max_keys: 200, lengths: keys.to_vec() };
        case
    };
    let most = Operands::<bf16>::new(&lengths([9, 7, 8], [200; 3]));
    let plan = Plan::new(&most.problem, DType::Bf16, card.kernels.facts(), options).unwrap();
    let like = PlanOptions::like(&plan);
    // It is recorded when there is little to do, and has room for all.
    let mut prepared = card.queue.prepare(&plan).unwrap();
    let least = lengths([1, 0, 0], [3, 0, 0]).problem();
    prepared.replan(&Plan::new(&least, DType::Bf16, card.kernels.facts(), &like).unwrap()).unwrap();
    let mut recorded = Recorded::of(prepared, &card.queue, &plan);
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { failure_persistence: None, ..config(times) });
    let strategy = ((0..=9usize, 0..=7usize, 0..=8usize), prop::array::uniform3(0..=200usize), any::<u64>());
    let recorded = std::cell::RefCell::new(&mut recorded);
    runner
        .run(&strategy, |(rows, keys, seed)| {
            let mut recorded = recorded.borrow_mut();
            let mut case = lengths([rows.0, rows.1, rows.2], keys);
            case.seed = seed;
            let operands = Operands::<bf16>::new(&case);
            let plan = Plan::new(&operands.problem, DType::Bf16, card.kernels.facts(), &like).unwrap();
            recorded.prepared.replan(&plan).unwrap();
            recorded.write(&operands);
            recorded.recording.replay().unwrap();
            let rows = operands.problem.total_rows();
            let out = &recorded.out.read().unwrap()[..rows * 2 * kv_heads * 64];
            let lse = recorded.lse.read().unwrap()[..rows * 2 * kv_heads].to_vec();
            let answer = Answer::of(out, lse);
            assert_close(DType::Bf16, &answer, &operands.reference(), &case);
            Ok(())
        })
        .unwrap();
}

/// Runs that are queued before a replan have the lengths of before, those after it the new ones.
#[test]
fn replans_follow_the_order_of_the_stream() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let cases = [150, 20, 64, 0, 149, 3].map(|keys| Case::packed(2, 2, 64, &[(5, keys)]));
        let operands = cases.each_ref().map(Operands::<bf16>::new);
        let first = fresh.plan(&operands[0].problem, &split());
        let mut prepared = queue.prepare(&first).unwrap();
        let mut outs = Vec::new();
        for operands in &operands {
            prepared.replan(&fresh.plan(&operands.problem, &PlanOptions::like(&first))).unwrap();
            let padded = |data: &[bf16]| stream.clone_htod(&[data, &[bf16::ZERO]].concat()).unwrap();
            let (k, v) = (operands.kv().k.map(padded), operands.kv().v.map(padded));
            let on_card = OnCard { q: operands.queries().map(padded), kv: SharedKv { k, v } };
            let mut out = stream.alloc_zeros::<bf16>(5 * 128).unwrap();
            on_card.run(&prepared, &mut out).unwrap();
            outs.push(out);
        }
        drop(prepared);
        for ((out, operands), case) in outs.iter().zip(&operands).zip(&cases) {
            check(&stream.clone_dtoh(out).unwrap(), operands, case);
        }
    });
}

/// A plan of another kind, or a larger one, is named.
#[test]
fn a_replan_that_does_not_fit_is_refused() {
    let Some((card, _alone)) = alone() else { return };
    let plan = |case: &Case, options: &PlanOptions| {
        Plan::new(&case.problem(), DType::Bf16, card.kernels.facts(), options).unwrap()
    };
    let base = Case::packed(4, 2, 64, &[(5, 150), (3, 40)]);
    let first = plan(&base, &split());
    let mut prepared = card.queue.prepare(&first).unwrap();
    let like = PlanOptions::like(&first);
    let mut refused = |case: &Case, options: &PlanOptions| prepared.replan(&plan(case, options));
    assert_eq!(refused(&base, &like), Ok(()));
    let over = |field, value, max| Err(Error::OverPrepared { field, value, max });
    assert_eq!(refused(&Case::packed(4, 2, 64, &[(6, 150), (3, 40)]), &like), over("rows", 9, 8));
    assert_eq!(
        refused(&Case::packed(4, 2, 64, &[(5, 151), (3, 40)]), &like),
        over("keys of a slot", 191, 190)
    );
    assert_eq!(refused(&Case::packed(4, 2, 64, &[(5, 30), (3, 160)]), &like), Ok(()));
    let more = Case::packed(4, 2, 64, &[(4, 95), (4, 95)]);
    assert_eq!(refused(&more, &like), over("combines", 4, 2));
    let mut padded = base.clone();
    padded.pad(0);
    assert_eq!(refused(&padded, &like), over("slots of K and V", 2, 1));
    let mut other = |case: &Case, options: &PlanOptions| refused(case, options).unwrap_err().to_string();
    let text = other(&base, &like.with_tile_rows(32));
    assert!(text.starts_with("kernel of the plan is onekv_") && text.contains("PlanOptions::like"), "{text}");
    if card.kernels.facts().compute_capability >= (9, 0) {
        let text = other(&base, &like.with_split_cluster(2));
        assert!(text.starts_with("split_cluster of the plan is 2, allowed: 1, as prepared"), "{text}");
    }
    let text = other(&Case::packed(4, 4, 64, &[(5, 100)]), &like);
    assert_eq!(text, "kv_heads of the plan is 4, allowed: 2, as prepared (Queue::prepare takes others)");
    let text = other(&Case::packed(2, 2, 64, &[(5, 100)]), &like);
    assert!(text.starts_with("heads of the plan is 2, allowed: 4, "), "{text}");
    let mut scaled = base.clone();
    scaled.spec.scale *= 2.0;
    let text = other(&scaled, &like);
    assert!(text.starts_with("scale of the plan is 0.25, allowed: 0.125, "), "{text}");
    let mut capped = base.clone();
    capped.spec.softcap = Some(1.0);
    let text = other(&capped, &like);
    assert!(text.starts_with("softcap of the plan is 1, allowed: none, "), "{text}");
}

/// What is captured by other means is refused, with what to do; and what is dropped meanwhile is not freed by each replay.
#[test]
fn a_captured_stream_is_refused_and_frees_nothing() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let operands = Operands::<bf16>::new(&case());
        let plan = fresh.plan(&operands.problem, &split());
        let mut prepared = queue.prepare(&plan).unwrap();
        let on_card = OnCard::new(&operands, [&stream, &stream, &stream]);
        let mut out = stream.alloc_zeros::<bf16>(8 * 128).unwrap();
        on_card.run(&prepared, &mut out).unwrap();
        let memory = queue.zeros::<f32>(64).unwrap();
        let recording = Recorded::new(&queue, &plan).recording;
        let slice = stream.alloc_zeros::<f32>(4).unwrap();
        stream.synchronize().unwrap();

        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        stream.begin_capture(mode).unwrap();
        let captured = Err(Error::Captured { what: "the queue's stream" });
        assert_eq!(on_card.run(&prepared, &mut out), captured);
        assert_eq!(prepared.replan(&plan), captured);
        assert_eq!(queue.prepare(&plan).map(drop), captured);
        assert_eq!(recording.replay(), captured);
        assert_eq!(queue.memory(slice).map(drop), captured);
        let of_memory = Err(Error::Captured { what: "the memory's stream" });
        assert_eq!(memory.write(&[1.0]), of_memory);
        assert_eq!(memory.read().map(drop), of_memory);
        assert_eq!(memory.fill_zeros(), of_memory);
        assert_eq!(memory.copy_from(&memory.slice(0..2).unwrap()), of_memory);
        let text = on_card.run(&prepared, &mut out).unwrap_err().to_string();
        assert!(text.contains("Queue::record") && text.contains("run_raw"), "{text}");
        // Operands of a captured stream are no better.
        let other = fresh.context.new_stream().unwrap();
        let elsewhere = fresh.queue(&other).prepare(&plan).unwrap();
        assert_eq!(on_card.run(&elsewhere, &mut out), Err(Error::Captured { what: "q" }));
        drop((prepared, memory, recording));
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
        // Whatever was captured frees nothing, however often it runs.
        if let Some(graph) = graph {
            (0..3).for_each(|_| graph.launch().unwrap());
        }
        let prepared = queue.prepare(&plan).unwrap();
        on_card.run(&prepared, &mut out).unwrap();
        check(&stream.clone_dtoh(&out).unwrap(), &operands, &case());
    });
}

/// A queue's workspace is one for all its runs, from whatever thread: attention and merge of a run stay together.
#[test]
fn threads_share_a_queue() {
    let Some((card, _alone)) = alone() else { return };
    let stream = card.context.new_stream().unwrap();
    let queue = Queue::new(&card.kernels, &stream).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (queue, stream) = (queue.clone(), &stream);
            scope.spawn(move || {
                let mut case = Case::packed(2, 1, 64, &[(4 + seed as usize, 200)]);
                case.seed = seed;
                let operands = Operands::<bf16>::new(&case);
                let plan = Plan::new(&operands.problem, DType::Bf16, card.kernels.facts(), &split()).unwrap();
                let prepared = queue.prepare(&plan).unwrap();
                let on_card = OnCard::new(&operands, [stream, stream, stream]);
                let out = || stream.alloc_zeros::<bf16>(operands.q.len()).unwrap();
                let mut outs: Vec<_> = (0..80).map(|_| out()).collect();
                for out in &mut outs {
                    on_card.run(&prepared, out).unwrap();
                }
                for out in &outs {
                    check(&stream.clone_dtoh(out).unwrap(), &operands, &case);
                }
            });
        }
    });
}

/// A workspace that has grown leaves the smaller one to what was prepared with it.
#[test]
fn a_workspace_grows() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        assert_eq!(queue.workspace_len(), 0);
        let cases = [Case::packed(2, 2, 64, &[(3, 130)]), Case::packed(2, 2, 64, &[(20, 400)])];
        let operands = cases.each_ref().map(Operands::<bf16>::new);
        let plans = operands.each_ref().map(|operands| fresh.plan(&operands.problem, &split()));
        let prepared = plans.each_ref().map(|plan| queue.prepare(plan).unwrap());
        assert_eq!(queue.workspace_len(), plans[1].workspace_len());
        queue.reserve(plans[0].workspace_len()).unwrap();
        assert_eq!(queue.workspace_len(), plans[1].workspace_len());
        queue.reserve(1 << 16).unwrap();
        assert_eq!(queue.workspace_len(), 1 << 16);
        for ((prepared, operands), case) in prepared.iter().zip(&operands).zip(&cases) {
            let mut out = stream.alloc_zeros::<bf16>(operands.q.len()).unwrap();
            OnCard::new(operands, [&stream, &stream, &stream]).run(prepared, &mut out).unwrap();
            check(&stream.clone_dtoh(&out).unwrap(), operands, case);
        }
    });
}

/// cudarc keeps the error of a drop for whichever call comes next. It is not ours to fail by, least of all half-way.
#[test]
fn errors_that_others_left_change_nothing() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let cases = [Case::packed(2, 2, 64, &[(5, 150)]), Case::packed(2, 2, 64, &[(2, 20)])];
        let operands = cases.each_ref().map(Operands::<bf16>::new);
        let first = fresh.plan(&operands[0].problem, &split());
        let mut prepared = queue.prepare(&first).unwrap();
        let next = fresh.plan(&operands[1].problem, &PlanOptions::like(&first));
        let on_card = OnCard::new(&operands[1], [&stream, &stream, &stream]);
        let mut out = stream.alloc_zeros::<bf16>(2 * 128).unwrap();
        let leave = || {
            let error = CUresult::CUDA_ERROR_INVALID_CONTEXT;
            fresh.context.record_err::<()>(Err(cudarc::driver::DriverError(error)));
        };
        leave();
        prepared.replan(&next).unwrap();
        on_card.run(&prepared, &mut out).unwrap();
        // It is still there, for those that it is of.
        let _ = fresh.context.check_err();
        check(&stream.clone_dtoh(&out).unwrap(), &operands[1], &cases[1]);

        // Whether a stream is captured is asked of the driver, too.
        let memory = queue.zeros::<f32>(64).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
        leave();
        drop(memory);
        let _ = fresh.context.check_err();
        if let Some(graph) = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap() {
            (0..3).for_each(|_| graph.launch().unwrap());
        }
        on_card.run(&prepared, &mut out).unwrap();
        check(&stream.clone_dtoh(&out).unwrap(), &operands[1], &cases[1]);
    });
}

/// A recording whose run was refused is none; one that was not ended goes without a trace, when all else has gone.
#[test]
fn recordings_that_failed_or_were_not_ended() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let plan = fresh.plan(&case().problem(), &split());
        let prepared = queue.prepare(&plan).unwrap();
        let (rows, keys) = (prepared.recorded_query_shape(), prepared.recorded_kv_shape());
        let zeros = |shape: Shape| View::contiguous(shape, queue.zeros::<bf16>(shape.elements()).unwrap());
        let kv = || SharedKv { k: zeros(keys), v: zeros(keys) };
        let mut recorder = queue.record().unwrap();
        recorder.run(&prepared, zeros(rows), kv(), zeros(rows), None).unwrap();
        let refused = recorder.run(&prepared, zeros(keys), kv(), zeros(rows), None);
        assert!(matches!(refused, Err(Error::WrongShape { tensor: "q", .. })), "{refused:?}");
        assert_eq!(recorder.finish().map(drop), Err(Error::NotRecorded));
        let mut recorder = queue.record().unwrap();
        recorder.run(&prepared, zeros(rows), kv(), zeros(rows), None).unwrap();
        drop((prepared, queue, plan));
        drop(fresh);
        drop(recorder);
        stream.synchronize().unwrap();
    });
}

/// More than there is an address for; and a plan of another card.
#[test]
fn what_no_card_has_is_refused() {
    let Some((card, _alone)) = alone() else { return };
    let too_much = Error::Overflow { field: "device memory" };
    for len in [usize::MAX, (1 << 62) + 4] {
        assert_eq!(card.queue.zeros::<f32>(len).map(drop), Err(too_much.clone()));
        assert_eq!(card.queue.reserve(len), Err(too_much.clone()));
    }
    let memory = card.queue.zeros::<f32>(4).unwrap();
    assert_eq!(memory.slice(3..5).map(drop), Err(Error::Range { start: 3, end: 5, len: 4 }));
    let problem = case().problem();
    let facts = DeviceFacts { shared_bytes_per_block: 1 << 30, ..*card.kernels.facts() };
    // Kernels of 8.0 run on every card, those of others not everywhere.
    for (capability, runs) in [((8, 0), true), ((9, 0), false), ((12, 0), false)] {
        let runs = runs || capability.0 == facts.compute_capability.0;
        let other = DeviceFacts { compute_capability: capability, ..facts };
        // Warpgroups where there are any.
        let options = PlanOptions::default().with_tile_rows(if capability.0 == 9 { 64 } else { 16 });
        let plan = Plan::new(&problem, DType::Bf16, &other, &options).unwrap();
        match card.queue.prepare(&plan) {
            Ok(_) => assert!(runs, "{capability:?}"),
            Err(error) => assert!(!runs && matches!(error, Error::WrongCard { .. }), "{error}"),
        }
    }
}

/// What is shared between threads may be.
#[test]
fn types_go_to_other_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Recording>();
    send::<Prepared>();
    sync::<Prepared>();
    send::<Queue>();
    sync::<Queue>();
    send::<Memory<bf16>>();
    sync::<Memory<bf16>>();
}

/// Memory that ran out, and a context that is lost, are told apart; the queue goes on after the one.
#[test]
fn out_of_memory_is_told_apart() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let error = queue.zeros::<f32>(1 << 45).unwrap_err();
        assert!(error.is_out_of_memory() && !error.is_context_lost(), "{error}");
        assert_eq!(error.to_string(), "CUDA: cuMemAllocAsync: CUDA_ERROR_OUT_OF_MEMORY");
        assert!(queue.reserve(1 << 45).unwrap_err().is_out_of_memory());
        assert_eq!(queue.zeros::<f32>(3).unwrap().read(), Ok(vec![0.0; 3]));
    });
}

/// By addresses, checked or not, and captured by other means; what an address shows to be wrong is named.
#[test]
fn runs_on_addresses() {
    in_both_modes(|fresh| {
        let stream = fresh.context.new_stream().unwrap();
        let queue = fresh.queue(&stream);
        let (case, operands) = (case(), Operands::<bf16>::new(&case()));
        let prepared = queue.prepare(&fresh.plan(&operands.problem, &split())).unwrap();
        let OnCard { q, kv } = OnCard::new(&operands, [&stream, &stream, &stream]);
        let outs = [(); 4].map(|()| stream.alloc_zeros::<bf16>(8 * 128).unwrap());
        let at = |slice: &CudaSlice<bf16>| slice.device_ptr(&stream).0;
        let [q, k, v] = [&q.data, &kv.k.data, &kv.v.data].map(at);
        let raw = |out| RawOperands::contiguous(&operands.problem, q, k, v, out);
        let addresses = outs.each_ref().map(at);
        // SAFETY: memory of this stream, for the plan's shapes without gaps, that is dropped after it was waited for.
        unsafe {
            prepared.run_raw(&raw(addresses[0])).unwrap();
            prepared.run_raw_checked(&raw(addresses[1])).unwrap();
            stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
            prepared.run_raw(&raw(addresses[2])).unwrap();
            prepared.run_raw_checked(&raw(addresses[3])).unwrap();
        }
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        for out in &outs {
            check(&stream.clone_dtoh(out).unwrap(), &operands, &case);
        }
        let mut none = raw(addresses[0]);
        none.q = 0;
        let mut gaps = raw(addresses[0]);
        gaps.k_strides.head = 32;
        let mut short = raw(addresses[0]);
        short.lens.out = 8 * 128 - 1;
        for (operands, error) in [
            (none, Error::Null { tensor: "q" }),
            (raw(k), Error::Overlap { tensor: "out", other: "k" }),
            (gaps, Error::StrideTooSmall { tensor: "k", stride: "head", value: 32, min: 64 }),
            (short, Error::TooShort { tensor: "out", value: 8 * 128 - 1, min: 8 * 128 }),
        ] {
            // SAFETY: refused before anything is queued.
            assert_eq!(unsafe { prepared.run_raw_checked(&operands) }, Err(error));
        }
        // SAFETY: as above.
        let refused = unsafe { prepared.run_raw_checked(&raw(addresses[0] + 2)) };
        assert!(matches!(refused, Err(Error::Misaligned { tensor: "out", .. })), "{refused:?}");
    });
}

/// Two merged halves, recorded and not.
#[test]
fn merges_are_recorded() {
    let Some((Card { queue, .. }, _alone)) = alone() else { return };
    let shape = [2, 1, 8];
    let part = |value: f32, lse: f32| {
        let (out, sums) = (queue.zeros::<f32>(16).unwrap(), queue.zeros::<f32>(2).unwrap());
        out.write(&[value; 16]).unwrap();
        sums.write(&[lse; 2]).unwrap();
        PartialState::contiguous(shape, out, sums)
    };
    let states = [part(1.0, 0.0), part(4.0, f32::ln(2.0))];
    let (recorded, at_once) = (queue.zeros::<f32>(16).unwrap(), queue.zeros::<f32>(16).unwrap());
    let mut recorder = queue.record().unwrap();
    recorder.merge_states(&states, View::contiguous(shape, recorded.clone()), None).unwrap();
    let recording = recorder.finish().unwrap();
    queue.merge_states(&states, View::contiguous(shape, at_once.clone()), None).unwrap();
    drop(states);
    assert_eq!(recorded.read().unwrap(), [0.0; 16]);
    recording.replay().unwrap();
    for out in [recorded, at_once] {
        assert!(out.read().unwrap().iter().all(|x| (x - 3.0).abs() < 1e-6));
    }
}

/// A recording takes what is of its queue's stream only.
#[test]
fn a_recording_of_another_streams_memory_is_refused() {
    in_both_modes(|fresh| {
        let [one, two] = [(); 2].map(|()| fresh.queue(&fresh.context.new_stream().unwrap()));
        let problem = case().problem();
        let plan = fresh.plan(&problem, &split());
        let prepared = [&one, &two].map(|queue| queue.prepare(&plan).unwrap());
        let (rows, keys) = (problem.query_shape(), problem.kv_shape());
        let memory = |queue: &Queue, len: usize| queue.zeros::<bf16>(len).unwrap();
        let run = |at: &Prepared, k_of: &Queue| {
            let q = View::contiguous(rows, memory(&one, rows.elements()));
            let (k, v) = (memory(k_of, keys.elements()), memory(&one, keys.elements()));
            let out = View::contiguous(rows, memory(&one, rows.elements()));
            one.record().unwrap().run(at, q, SharedKv::contiguous(keys, k, v), out, None)
        };
        assert_eq!(run(&prepared[0], &one), Ok(()));
        assert_eq!(run(&prepared[0], &two), Err(Error::WrongStream { what: "k" }));
        assert_eq!(run(&prepared[1], &one), Err(Error::WrongQueue));
        let slice = two.stream().alloc_zeros::<f32>(4).unwrap();
        assert_eq!(one.memory(slice).map(drop), Err(Error::WrongStream { what: "slice" }));
        let ours = one.zeros::<f32>(4).unwrap();
        assert_eq!(ours.copy_from(&two.zeros(4).unwrap()), Err(Error::WrongStream { what: "from" }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..config(24) })]

    /// Operands on any streams, runs on two queues, dropped in any order: outputs are right, and nothing faults.
    #[test]
    fn any_order_of_drops(
        tracking: bool,
        homes in prop::array::uniform5(0..4usize),
        runs in prop::collection::vec((0..2usize, 0..2usize), 1..6),
        order in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle(),
        seed: u64,
    ) {
        let Some(_alone) = alone() else { return Ok(()) };
        let fresh = Fresh::new(tracking);
        let mut case = case();
        case.seed = seed;
        let operands = Operands::<bf16>::new(&case);
        let mut streams = vec![fresh.context.default_stream()];
        streams.extend((0..3).map(|_| fresh.context.new_stream().unwrap()));
        let at = |i: usize| &streams[homes[i]];
        let OnCard { q, kv: SharedKv { k, v } } = OnCard::new(&operands, [at(0), at(1), at(2)]);
        let mut outs = [at(3), at(4)].map(|stream| stream.alloc_zeros::<bf16>(8 * 128).unwrap());
        let queues = [1, 2].map(|i: usize| fresh.queue(&streams[i]));
        let plan = fresh.plan(&operands.problem, &split());
        let prepared = queues.each_ref().map(|queue| queue.prepare(&plan).unwrap());
        let mut written = [false; 2];
        for (queue, out) in runs {
            let result = View::contiguous(operands.problem.query_shape(), outs[out].as_view_mut());
            let kv = SharedKv { k: k.as_view(), v: v.as_view() };
            prepared[queue].run(q.as_view(), kv, result, None).unwrap();
            written[out] = true;
        }
        // Queues wait when the last owner goes; these do not go before the outputs are read.
        let kept = queues.clone();
        let [first, second] = prepared;
        let [one, two] = queues;
        let mut parts: Vec<Option<Box<dyn std::any::Any>>> = vec![
            Some(Box::new(q)), Some(Box::new(k)), Some(Box::new(v)), Some(Box::new(first)), Some(Box::new(second)),
            Some(Box::new(one)), Some(Box::new(two)),
        ];
        order.into_iter().for_each(|i| drop(parts[i].take()));
        // Each home waits on its own: no stream hides what another forgot.
        for home in &streams {
            home.synchronize().unwrap();
        }
        for (out, written) in outs.iter().zip(written) {
            if written {
                check(&out.stream().clone_dtoh(out).unwrap(), &operands, &case);
            }
        }
        drop(kept);
    }
}
