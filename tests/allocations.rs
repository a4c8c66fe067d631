//! What is done for every batch and layer allocates nothing on the host.
#![cfg(feature = "cuda")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;

use common::device::without_kernels;
use half::bf16;
use onekv::cuda::{Kernels, Queue};
use onekv::plan::{Architecture, Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec, SharedKv, View};

/// The system's allocator, which tells where a thread allocates that said it would not.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    if WATCHED.replace(false) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        println!("{bytes} bytes are allocated:\n{}", Backtrace::force_capture());
        WATCHED.set(true);
    }
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, bytes) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Allocations of this thread while `body` runs, where they are watched.
fn allocations(watched: bool, body: impl FnOnce()) -> usize {
    ALLOCATIONS.set(0);
    WATCHED.set(watched);
    body();
    WATCHED.set(false);
    ALLOCATIONS.get()
}

#[test]
fn the_watch_sees_this_threads_allocations() {
    let one = allocations(true, || drop(std::hint::black_box(Box::new(1))));
    let none = allocations(true, || {
        std::hint::black_box(1);
    });
    assert_eq!((one, none), (1, 0));
}

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
            // The first find the driver's functions.
            allocations(round >= 2, || {
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
            })
        };
        let counted = [run(false, Some(&plan)), run(true, None), run(false, None)];
        assert_eq!(counted, [0; 3], "allocations of round {round}, {options:?}");
    }
    true
}
