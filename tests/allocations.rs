//! What is done for every batch and layer allocates nothing on the host.
#![cfg(feature = "cuda")]

mod common;

use common::device::without_kernels;
use half::bf16;
use onekv::cuda::{Kernels, Queue};
use onekv::plan::{Architecture, Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec, SharedKv, View};

/// T5-base's heads, 30 prompts for each of 64 inputs.
fn problem(keys: impl Fn(usize) -> usize) -> Problem {
    let mut offsets = vec![0];
    offsets.extend((0..INPUTS).scan(0, |end, input| {
        *end += keys(input);
        Some(*end)
    }));
    let row_offsets = (0..=INPUTS).map(|input| input * ROWS).collect();
    let keys = Keys::Packed { offsets };
    let shape =
        ProblemSpec { heads: 12, kv_heads: 12, head_dim: 64, scale: 1.0, softcap: None, row_offsets, keys };
    Problem::new(shape).unwrap()
}

const INPUTS: usize = 64;
const ROWS: usize = 30;
const KEYS: std::ops::RangeInclusive<usize> = 512..=4096;

/// In both of cudarc's modes, by each kind of kernel that the card has, with splits and without, joined in clusters and by a
/// second launch, with LSE and without.
#[test]
fn replan_and_run_allocate_nothing() {
    without_kernels("replan_and_run_allocate_nothing", || {
        let mut tried = 0;
        for tracking in [true, false] {
            for architecture in
                [Architecture::Sm80, Architecture::Sm90, Architecture::Sm90a, Architecture::Sm120]
            {
                for (split_keys, cluster) in [(*KEYS.start(), 1), (*KEYS.start(), 8), (*KEYS.end(), 1)] {
                    let options = PlanOptions::default().with_split_keys(split_keys);
                    let options = options.with_split_cluster(cluster).with_architecture(architecture);
                    tried += usize::from(rounds(tracking, &options));
                }
            }
        }
        assert!(tried >= 4, "{tried}");
    });
}

/// Whether the card has kernels for these options.
fn rounds(tracking: bool, options: &PlanOptions) -> bool {
    let context = onekv::cuda::context(0).unwrap();
    if !tracking {
        // SAFETY: all is on one stream.
        unsafe { context.disable_event_tracking() };
    }
    let kernels = Kernels::new(&context).unwrap();
    let stream = context.new_stream().unwrap();
    let plan =
        |problem: &Problem, options: &PlanOptions| Plan::new(problem, DType::Bf16, kernels.facts(), options);
    let Ok(most) = plan(&problem(|_| *KEYS.end()), options) else { return false };
    let launches_once = most.split_cluster() > 1 || options.split_keys == Some(*KEYS.end());
    assert_eq!(most.combines().is_empty(), launches_once, "{}", most.explain());
    let queue = Queue::new(&kernels, &stream).unwrap();
    let mut prepared = queue.prepare(&most).unwrap();
    let (rows, keys) = (most.problem().query_shape(), most.problem().kv_shape());
    // SAFETY: nobody asks what comes of it: any bytes are a bf16.
    let memory = |len: usize| unsafe { stream.alloc::<bf16>(len) }.unwrap();
    let (q, mut out) = (memory(rows.elements()), memory(rows.elements()));
    let (k, v) = (memory(keys.elements()), memory(keys.elements()));
    let mut lse = stream.alloc_zeros::<f32>(rows.tokens * rows.heads).unwrap();
    let like = PlanOptions::like(&most);
    for round in 0..10 {
        let problem = problem(|input| KEYS.start() + (input + round) * 1237 % (KEYS.end() - KEYS.start()));
        let plan = plan(&problem, &like).unwrap();
        let mut run = |with_lse: bool, plan: Option<&Plan>| {
            let counted = allocation_counter::measure(|| {
                if let Some(plan) = plan {
                    prepared.replan(plan).unwrap();
                }
                prepared
                    .run(
                        View::contiguous(rows, q.as_view()),
                        SharedKv::contiguous(problem.kv_shape(), k.as_view(), v.as_view()),
                        View::contiguous(rows, out.as_view_mut()),
                        with_lse.then(|| View::contiguous(problem.lse_shape(), lse.as_view_mut())),
                    )
                    .unwrap();
            });
            counted.count_total
        };
        let counted = [run(false, Some(&plan)), run(true, None), run(false, None)];
        // The first find the driver's functions.
        assert!(round < 2 || counted == [0; 3], "{counted:?} allocations in round {round}, {options:?}");
    }
    true
}
