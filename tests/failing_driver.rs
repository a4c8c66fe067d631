//! A driver that fails: every call that the library makes is made to fail in turn, with the statuses that it may have. Nothing
//! panics, hangs or leaks, the error says which call it was, no result is claimed that is not there, and the same objects work
//! once the driver does.
//!
//! Work is done in steps, each of which can be repeated. A step is rehearsed, which shows its calls; then it is done with each
//! of them failing, and again with none.
#![cfg(feature = "cuda")]

mod common;

use std::sync::Arc;

use common::device::{Card, card, split};
use common::quantized::QuantizedCase;
use common::{Case, Operands, assert_out_close};
use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use half::bf16;
use onekv::cuda::{Grid, Kernels, Memory, Modules, Prepared, QuantizedKv, Queue, RawOperands, Recording};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Error, PartialState, Result, SharedKv, View};
use ptxsim_failing::{
    After, Failing, Live, STICKY, Table, Wrong, assert_named, assert_no_leak, base, calmly, is_told_later,
    picks, without_hanging,
};

/// What all steps have from the start: the caller's own context and streams, and what is expected.
struct Scene {
    card: &'static Card,
    failing: Failing,
    stream: Arc<CudaStream>,
    other: Arc<CudaStream>,
    /// Whose work no other's waits for.
    writers: [Arc<CudaStream>; 3],
    case: Case,
    small: Case,
    large: Case,
    operands: Operands<bf16>,
    small_operands: Operands<bf16>,
    large_operands: Operands<bf16>,
    quantized: QuantizedCase<bf16>,
    plan: Plan,
    small_plan: Plan,
    large_plan: Plan,
    quantized_plan: Plan,
}

impl Scene {
    /// Where the driver is the virtual one.
    fn open() -> Option<Self> {
        let failing = Failing::open()?;
        let card = card()?;
        let case = Case::packed(2, 2, 64, &[(5, 150), (3, 40)]);
        let small = Case::packed(2, 2, 64, &[(2, 100)]);
        let large = Case::packed(2, 2, 64, &[(5, 400), (3, 300)]);
        let quantized = QuantizedCase::<bf16>::new(&case, 1.0);
        let plan = |case: &Case, options: &PlanOptions| {
            Plan::new(&case.problem(), DType::Bf16, card.kernels.facts(), options).unwrap()
        };
        let (first, options) = (plan(&case, &split()), split());
        Some(Self {
            small_plan: plan(&small, &PlanOptions::like(&first)),
            large_plan: plan(&large, &options),
            quantized_plan: Plan::with_e4m3_kv(&case.problem(), DType::Bf16, card.kernels.facts(), &options)
                .unwrap(),
            plan: first,
            operands: Operands::new(&case),
            small_operands: Operands::new(&small),
            large_operands: Operands::new(&large),
            stream: card.context.new_stream().unwrap(),
            other: card.context.new_stream().unwrap(),
            writers: [(); 3].map(|()| card.context.new_stream().unwrap()),
            card,
            failing,
            case,
            small,
            large,
            quantized,
        })
    }

    fn context(&self) -> &Arc<CudaContext> {
        &self.card.context
    }
}

/// Memory of one problem's operands.
struct Placed {
    q: Memory<bf16>,
    k: Memory<bf16>,
    v: Memory<bf16>,
    out: Memory<bf16>,
}

impl Placed {
    fn new(queue: &Queue, operands: &Operands<bf16>) -> Result<Self> {
        let place = |data: &[bf16]| -> Result<Memory<bf16>> {
            let memory = queue.zeros::<bf16>(data.len())?;
            memory.write(data)?;
            Ok(memory)
        };
        let (q, k, v) = (place(&operands.q)?, place(&operands.k)?, place(&operands.v)?);
        let out = queue.zeros(operands.q.len())?;
        Ok(Self { q, k, v, out })
    }

    fn run(&self, prepared: &Prepared) -> Result<()> {
        let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
        let part = |memory: &Memory<bf16>, len| memory.slice(0..len);
        let kv = SharedKv::contiguous(keys, part(&self.k, keys.elements())?, part(&self.v, keys.elements())?);
        let [q, out] = [part(&self.q, rows.elements())?, part(&self.out, rows.elements())?];
        prepared.run(View::contiguous(rows, q), kv, View::contiguous(rows, out), None)
    }
}

/// Memory of the caller's, by cudarc, as a caller has it before a run.
struct Foreign {
    q: CudaSlice<bf16>,
    k: CudaSlice<bf16>,
    v: CudaSlice<bf16>,
    out: CudaSlice<bf16>,
}

/// Slices of the queue's stream. What is in them comes from a stream each.
fn written_by_others(scene: &Scene) -> Foreign {
    let Operands { q, k, v, .. } = &scene.operands;
    let place = |data: &[bf16], by: &Arc<CudaStream>| {
        let mut slice = scene.stream.alloc_zeros::<bf16>(data.len()).unwrap();
        by.memcpy_htod(data, &mut slice).unwrap();
        slice
    };
    let [of_q, of_k, of_v] = &scene.writers;
    let out = scene.stream.alloc_zeros(q.len()).unwrap();
    Foreign { q: place(q, of_q), k: place(k, of_k), v: place(v, of_v), out }
}

/// What the steps make.
#[derive(Default)]
struct State {
    queue: Option<Queue>,
    prepared: Option<Prepared>,
    placed: Option<Placed>,
    larger: Option<(Prepared, Placed)>,
    second: Option<(Queue, Prepared)>,
    quantized: Option<Box<dyn std::any::Any>>,
    foreign: Option<Foreign>,
    taken: Option<Memory<bf16>>,
    recording: Option<Recording>,
    loaded: Option<(Queue, Memory<f32>)>,
    modules: Option<(Modules, Memory<f32>)>,
    opened: Option<Arc<CudaContext>>,
    /// What a step has read.
    answer: Vec<bf16>,
}

impl State {
    fn queue(&self) -> &Queue {
        self.queue.as_ref().unwrap()
    }

    fn prepared(&mut self) -> &mut Prepared {
        self.prepared.as_mut().unwrap()
    }

    fn placed(&self) -> &Placed {
        self.placed.as_ref().unwrap()
    }

    /// Runs what was prepared on the caller's memory.
    fn run_foreign(&mut self) -> Result<()> {
        let prepared = self.prepared.as_ref().unwrap();
        let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
        let Foreign { q, k, v, out } = self.foreign.as_mut().unwrap();
        let kv = SharedKv::contiguous(keys, k.as_view(), v.as_view());
        prepared.run(View::contiguous(rows, q.as_view()), kv, View::contiguous(rows, out.as_view_mut()), None)
    }

    /// Runs what was prepared, and reads the first elements of the result.
    fn run_and_read(&mut self, operands: &Operands<bf16>) -> Result<()> {
        let (prepared, placed) = (self.prepared.as_ref().unwrap(), self.placed.as_ref().unwrap());
        placed.out.fill_zeros()?;
        placed.run(prepared)?;
        self.answer = placed.out.slice(0..operands.q.len())?.read()?;
        Ok(())
    }
}

fn right(got: &[bf16], operands: &Operands<bf16>, case: &Case) {
    assert_out_close(got, operands.reference(), case);
}

/// A part of the work.
struct Step {
    name: &'static str,
    /// What the caller does before it, by cudarc or not at all: none of it fails.
    arrange: fn(&Scene, &mut State),
    act: fn(&Scene, &mut State) -> Result<()>,
    /// The results, where it says that there are any.
    check: fn(&Scene, &State),
}

const STEPS: &[Step] = &[
    Step {
        name: "open a context",
        arrange: |_, state| state.opened = None,
        act: |_, state| {
            state.opened = Some(onekv::cuda::context(0)?);
            Ok(())
        },
        check: |_, _| (),
    },
    Step {
        name: "load kernels",
        arrange: |_, state| state.loaded = None,
        act: |scene, state| {
            let kernels = Kernels::new(scene.context())?;
            assert_eq!(kernels.facts(), scene.card.kernels.facts());
            let queue = Queue::new(&kernels, &scene.stream)?;
            let [part, out, lse] = [queue.zeros::<f32>(64)?, queue.zeros::<f32>(64)?, queue.zeros::<f32>(1)?];
            part.write(&[2.0; 64])?;
            let shape = onekv::Shape::from([1, 1, 64]);
            let states =
                [PartialState { out: View::contiguous(shape, part), lse: View::contiguous([1, 1], lse) }];
            queue.merge_states(&states, View::contiguous(shape, out.clone()), None)?;
            assert_eq!(out.read()?, [2.0; 64]);
            state.loaded = Some((queue, out));
            Ok(())
        },
        check: |_, _| (),
    },
    Step {
        name: "prepare",
        arrange: |_, state| (state.prepared, state.placed, state.queue) = (None, None, None),
        act: |scene, state| {
            let queue = Queue::new(&scene.card.kernels, &scene.stream)?;
            queue.reserve(64)?;
            state.prepared = Some(queue.prepare(&scene.plan)?);
            state.placed = Some(Placed::new(&queue, &scene.operands)?);
            state.queue = Some(queue);
            Ok(())
        },
        check: |_, _| (),
    },
    Step {
        name: "run",
        arrange: |_, _| (),
        act: |scene, state| state.run_and_read(&scene.operands),
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "run a caller's kernel",
        arrange: |_, state| state.modules = None,
        act: |scene, state| {
            let modules = own_modules(scene.context());
            let out = state.queue().zeros::<f32>(32)?;
            let function = modules.function("own", "set", 64 << 10)?;
            let at = out.at();
            let mut list = [std::ptr::from_ref(&at).cast_mut().cast()];
            // SAFETY: the kernel takes an address, and writes 32 floats there.
            unsafe { modules.launch(function, Grid::default(), scene.stream.cu_stream(), &mut list)? };
            assert_eq!(out.read()?, [7.0; 32]);
            state.modules = Some((modules, out));
            Ok(())
        },
        check: |_, _| (),
    },
    Step {
        name: "replan to less, and back",
        arrange: |_, _| (),
        act: |scene, state| {
            state.prepared().replan(&scene.small_plan)?;
            let rows = scene.small_operands.q.len();
            let placed = state.placed();
            placed.q.write(&scene.small_operands.q)?;
            placed.k.write(&scene.small_operands.k)?;
            placed.v.write(&scene.small_operands.v)?;
            state.run_and_read(&scene.small_operands)?;
            right(&state.answer[..rows], &scene.small_operands, &scene.small);
            state.prepared().replan(&scene.plan)?;
            let placed = state.placed();
            placed.q.write(&scene.operands.q)?;
            placed.k.write(&scene.operands.k)?;
            placed.v.write(&scene.operands.v)?;
            state.run_and_read(&scene.operands)
        },
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "prepare more, for which lists and workspace grow",
        arrange: |scene, state| {
            // Of a new queue, whose lists are short.
            state.larger = None;
            let queue = Queue::new(&scene.card.kernels, &scene.stream).unwrap();
            state.prepared = Some(queue.prepare(&scene.plan).unwrap());
            state.placed = Some(Placed::new(&queue, &scene.operands).unwrap());
            state.queue = Some(queue);
        },
        act: |scene, state| {
            let queue = state.queue().clone();
            let larger = queue.prepare(&scene.large_plan)?;
            let placed = Placed::new(&queue, &scene.large_operands)?;
            placed.run(&larger)?;
            state.answer = placed.out.read()?;
            right(&state.answer, &scene.large_operands, &scene.large);
            state.larger = Some((larger, placed));
            // The former has its own still.
            state.prepared().replan(&scene.plan)?;
            state.run_and_read(&scene.operands)
        },
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "run with operands of another stream",
        arrange: |scene, state| {
            let place = |data: &[bf16]| scene.other.clone_htod(data).unwrap();
            let Operands { q, k, v, .. } = &scene.operands;
            let out = scene.other.alloc_zeros(q.len()).unwrap();
            state.foreign = Some(Foreign { q: place(q), k: place(k), v: place(v), out });
        },
        act: |_, state| state.run_foreign(),
        check: |scene, state| {
            let out = &state.foreign.as_ref().unwrap().out;
            right(&scene.other.clone_dtoh(out).unwrap(), &scene.operands, &scene.case);
        },
    },
    Step {
        name: "run on slices of the queue's stream that others write, and another reads",
        arrange: |scene, state| state.foreign = Some(written_by_others(scene)),
        act: |_, state| state.run_foreign(),
        check: |scene, state| {
            // Which cudarc has wait for what wrote it, as far as it knows.
            let out = &state.foreign.as_ref().unwrap().out;
            right(&scene.other.clone_dtoh(out).unwrap(), &scene.operands, &scene.case);
        },
    },
    Step {
        name: "run with memory of the queue's stream that others write",
        arrange: |scene, state| (state.taken, state.foreign) = (None, Some(written_by_others(scene))),
        act: |_, state| {
            let Foreign { q, k, v, out } = state.foreign.take().unwrap();
            let queue = state.queue();
            let taken = queue.memory(q)?;
            let prepared = state.prepared.as_ref().unwrap();
            let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
            let kv = SharedKv::contiguous(keys, queue.memory(k)?, queue.memory(v)?);
            let out = queue.memory(out)?;
            prepared.run(
                View::contiguous(rows, taken.clone()),
                kv,
                View::contiguous(rows, out.clone()),
                None,
            )?;
            state.answer = out.read()?;
            state.taken = Some(taken);
            Ok(())
        },
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "run on a second queue",
        arrange: |_, state| state.second = None,
        act: |scene, state| {
            let queue = Queue::new(&scene.card.kernels, &scene.other)?;
            let prepared = queue.prepare(&scene.plan)?;
            let placed = state.placed();
            placed.out.fill_zeros()?;
            placed.run(&prepared)?;
            state.answer = placed.out.read()?;
            state.second = Some((queue, prepared));
            Ok(())
        },
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "run on e4m3",
        arrange: |_, state| state.quantized = None,
        act: |scene, state| {
            let queue = state.queue().clone();
            let prepared = queue.prepare(&scene.quantized_plan)?;
            let place = |data: &[u8]| -> Result<Memory<u8>> {
                let memory = queue.zeros(data.len())?;
                memory.write(data)?;
                Ok(memory)
            };
            let QuantizedCase { operands, k, v } = &scene.quantized;
            let codes = [place(&k.codes)?, place(&v.codes)?];
            let scales = [queue.zeros::<f32>(k.scales.len())?, queue.zeros::<f32>(v.scales.len())?];
            scales[0].write(&k.scales)?;
            scales[1].write(&v.scales)?;
            let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
            let (q, out) = (queue.zeros(operands.q.len())?, queue.zeros::<bf16>(operands.q.len())?);
            q.write(&operands.q)?;
            let [codes_k, codes_v] = codes.clone();
            let [k_scale, v_scale] = scales.clone();
            let kv = QuantizedKv { codes: SharedKv::contiguous(keys, codes_k, codes_v), k_scale, v_scale };
            prepared.run_e4m3(View::contiguous(rows, q), kv, View::contiguous(rows, out.clone()), None)?;
            state.answer = out.read()?;
            state.quantized = Some(Box::new((prepared, codes, scales)));
            Ok(())
        },
        check: |scene, state| {
            assert_out_close(&state.answer, scene.quantized.reference(), &scene.case);
        },
    },
    Step {
        name: "run on addresses",
        arrange: |_, _| (),
        act: |scene, state| {
            let (prepared, placed) = (state.prepared.as_ref().unwrap(), state.placed.as_ref().unwrap());
            placed.out.fill_zeros()?;
            let Placed { q, k, v, out } = placed;
            let operands = RawOperands::contiguous(&scene.operands.problem, q.at(), k.at(), v.at(), out.at());
            // SAFETY: the operands of this problem, in memory of the queue.
            unsafe { prepared.run_raw_checked(&operands)? };
            state.answer = out.read()?;
            Ok(())
        },
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "record and replay",
        arrange: |_, state| state.recording = None,
        act: |_, state| {
            let queue = state.queue();
            let (prepared, placed) = (state.prepared.as_ref().unwrap(), state.placed.as_ref().unwrap());
            let (rows, keys) = (prepared.recorded_query_shape(), prepared.recorded_kv_shape());
            let record = |recorder: &mut onekv::cuda::Recorder| {
                let kv = SharedKv::contiguous(keys, placed.k.clone(), placed.v.clone());
                let [q, out] = [&placed.q, &placed.out].map(|memory| View::contiguous(rows, memory.clone()));
                recorder.run(prepared, q, kv, out, None)
            };
            // One that comes to nothing.
            record(&mut queue.record()?)?;
            let mut recorder = queue.record()?;
            record(&mut recorder)?;
            let recording = recorder.finish()?;
            placed.out.fill_zeros()?;
            recording.replay()?;
            state.answer = placed.out.read()?;
            state.recording = Some(recording);
            Ok(())
        },
        check: |scene, state| right(&state.answer, &scene.operands, &scene.case),
    },
    Step {
        name: "copy",
        arrange: |_, _| (),
        act: |_, state| {
            let placed = state.placed();
            let copy = state.queue().zeros::<bf16>(placed.q.len())?;
            copy.copy_from(&placed.q)?;
            state.answer = copy.read()?;
            Ok(())
        },
        check: |scene, state| assert_eq!(state.answer, scene.operands.q),
    },
];

/// Kernels of a caller's own: one that writes, one that faults.
const OWN: &str = concat!(
    ".version 8.0\n.target sm_80\n.address_size 64\n",
    ".visible .entry set(.param .u64 to) {\n.reg .b64 %a<3>;\n.reg .b32 %r<3>;\n",
    "ld.param.u64 %a0, [to];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %a1, %r0, 4;\nadd.s64 %a0, %a0, %a1;\n",
    "mov.u32 %r1, 0x40e00000;\nst.global.u32 [%a0], %r1;\nret;\n}\n",
    ".visible .entry fault() {\ntrap;\nret;\n}\n\0"
);

fn own_modules(context: &Arc<CudaContext>) -> Modules {
    // SAFETY: PTX that ends with 0.
    unsafe { Modules::new(context, vec![("own", OWN.as_bytes())]) }
}

/// Calls of one name in a step that all fail in turn, where there are no more.
const ALL: usize = 12;

/// All that the steps make, and what is live then.
fn built(scene: &Scene, steps: &[Step]) -> (State, Live) {
    let mut state = State::default();
    for step in steps {
        (step.arrange)(scene, &mut state);
        (step.act)(scene, &mut state).unwrap_or_else(|error| panic!("{}: {error}", step.name));
        (step.check)(scene, &state);
    }
    (state, scene.failing.live())
}

/// Does a step with each of its calls failing.
fn inject(scene: &Scene, number: usize, table: &mut Table, wrong: &mut Wrong) {
    let (failing, step) = (&scene.failing, &STEPS[number]);
    let fresh = || {
        let (mut state, _) = built(scene, &STEPS[..number]);
        (step.arrange)(scene, &mut state);
        (state, failing.live())
    };
    let (mut state, mut before) = fresh();
    failing.none();
    (step.act)(scene, &mut state).unwrap_or_else(|error| panic!("{}: {error}", step.name));
    let calls = failing.calls();
    (step.check)(scene, &state);
    (step.arrange)(scene, &mut state);
    for (at, statuses) in picks(&calls, ALL) {
        let call = &calls[at];
        for status in statuses {
            let place = format!("{}, call {at} of {}, {call}: {status:?}", step.name, calls.len());
            let kept = wrong.unless(|| {
                failing.fail("*", at, status, false);
                let done = calmly(&place, || (step.act)(scene, &mut state));
                let fired = failing.failed();
                failing.none();
                assert_eq!(fired, 1, "{place}: the calls are others than in the rehearsal");
                let after = if done.is_ok() { After::Recovered } else { After::Error };
                table.note(call, status, after);
                assert!(done.is_err() || is_told_later(call), "{place}: it is not told");
                match STICKY.contains(&status) {
                    true => lost(&place, &state, done, call, status),
                    false => {
                        if let Err(error) = &done {
                            assert_named(&place, &error.to_string(), call, status);
                        }
                        works_again(scene, &place, step, &mut state, done);
                    }
                }
                // What cudarc has noted is the caller's to see, by its next call.
                let _ = scene.context().check_err();
                let now = failing.live();
                if !STICKY.contains(&status) {
                    assert_no_leak(&place, before, now, call);
                }
                before = now;
            });
            if STICKY.contains(&status) || !kept {
                failing.none();
                wrong.unless(|| calmly(&place, || state = State::default()));
                let _ = scene.context().check_err();
                failing.heal();
                (state, before) = fresh();
            }
        }
    }
}

/// What has failed is done again, with the same objects.
fn works_again(scene: &Scene, place: &str, step: &Step, state: &mut State, done: Result<()>) {
    if done.is_ok() {
        (step.check)(scene, state);
    }
    let _ = scene.context().check_err();
    (step.arrange)(scene, state);
    (step.act)(scene, state).unwrap_or_else(|error| panic!("{place}: again: {error}"));
    (step.check)(scene, state);
    (step.arrange)(scene, state);
}

/// The context is lost: all says so.
fn lost(place: &str, state: &State, done: Result<()>, call: &str, status: CUresult) {
    if let Err(error) = &done {
        assert_named(place, &error.to_string(), if is_told_later(call) { "cu" } else { call }, status);
        says_lost(place, error);
    }
    let Some(queue) = &state.queue else { return };
    let next = calmly(place, || queue.zeros::<f32>(4).and_then(|memory| memory.read()));
    says_lost(place, &next.expect_err("a lost context does nothing"));
}

#[track_caller]
fn says_lost(place: &str, error: &Error) {
    assert!(error.is_context_lost(), "{place}: {error}");
    assert!(error.to_string().contains("the context is lost"), "{place}: {error}");
}

/// Drops everything with each of the calls that this makes failing.
fn inject_into_drops(scene: &Scene, steps: &[Step], all: usize, table: &mut Table, wrong: &mut Wrong) {
    let failing = &scene.failing;
    failing.none();
    let empty = failing.live();
    let drop_all = |state: State| {
        failing.none();
        drop(state);
        failing.calls()
    };
    let calls = drop_all(built(scene, steps).0);
    assert_no_leak("drop", empty, failing.live(), "");
    let mut before = failing.live();
    // Nobody tells one from the other.
    let told = [CUDA_ERROR_UNKNOWN, CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_LAUNCH_FAILED];
    for (at, mut statuses) in picks(&calls, all) {
        let call = &calls[at];
        statuses.retain(|status| told.contains(status));
        for status in statuses {
            let place = format!("drop, call {at} of {}, {call}: {status:?}", calls.len());
            wrong.unless(|| {
                let (state, _) = built(scene, steps);
                failing.fail("*", at, status, false);
                calmly(&place, || drop(state));
                assert_eq!(failing.failed(), 1, "{place}: the calls are others than in the rehearsal");
                failing.none();
                table.note(call, status, After::Dropped);
                let now = failing.live();
                if !STICKY.contains(&status) {
                    assert_no_leak(&place, before, now, call);
                }
            });
            failing.none();
            let _ = scene.context().check_err();
            failing.heal();
            before = failing.live();
        }
    }
}

/// Functions that the sources of `src/cuda` name in their errors, or call themselves.
fn named_in_sources() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for (start, part) in [("cuda(\"", '"'), ("sys::cu", '(')] {
            for found in text.split(start).skip(1).filter_map(|rest| rest.split_once(part)) {
                let list =
                    format!("{}{}", start.trim_start_matches("cuda(\"").trim_start_matches("sys::"), found.0);
                let is_name = |word: &&str| {
                    word.starts_with("cu") && word.chars().nth(2).is_some_and(char::is_uppercase)
                };
                names.extend(list.split([' ', ',']).filter(is_name).map(|name| base(name).to_owned()));
            }
        }
    }
    names
}

#[test]
fn every_call_fails_in_turn() {
    let Some(scene) = Scene::open() else { return };
    let (mut table, mut wrong) = (Table::default(), Wrong::default());
    without_hanging(|| {
        // What the queues of the scene load and allocate once.
        drop(built(&scene, STEPS));
        (0..STEPS.len()).for_each(|number| inject(&scene, number, &mut table, &mut wrong));
        inject_into_drops(&scene, STEPS, 3, &mut table, &mut wrong);
        // Every call that kernels of their own take with them.
        inject_into_drops(&scene, &STEPS[..2], usize::MAX, &mut table, &mut wrong);
    });
    wrong.assert_nothing();
    table.tell("ONEKV_RELIABILITY", "failing-driver.json");
    let names = named_in_sources();
    assert!(names.len() > 20, "{names:?}");
    // Of cards without memory pools, which the virtual driver has not.
    for name in names.into_iter().filter(|name| name != "cuMemAlloc") {
        assert!(table.has(&name), "{name} is called by the library, and was never made to fail");
    }
}

/// Lists that are not known to be on the card are not run, those of before neither.
#[test]
fn a_replan_that_fails_is_undone_or_refuses_runs() {
    let Some(scene) = Scene::open() else { return };
    let failing = &scene.failing;
    let (mut state, _) = built(&scene, &STEPS[..4]);
    failing.none();
    state.prepared().replan(&scene.small_plan).unwrap();
    let calls = failing.calls();
    state.prepared().replan(&scene.plan).unwrap();
    let mut refused = 0;
    for (at, call) in calls.iter().enumerate() {
        let place = format!("call {at} of {}, {call}", calls.len());
        failing.fail("*", at, CUDA_ERROR_UNKNOWN, false);
        let done = state.prepared().replan(&scene.small_plan);
        failing.none();
        if let Err(error) = done {
            assert_named(&place, &error.to_string(), call, CUDA_ERROR_UNKNOWN);
            match state.run_and_read(&scene.operands) {
                Ok(()) => right(&state.answer, &scene.operands, &scene.case),
                Err(error) => {
                    assert_eq!(error, Error::ReplanFailed, "{place}");
                    refused += 1;
                }
            }
        }
        state.prepared().replan(&scene.plan).unwrap();
        state.run_and_read(&scene.operands).unwrap();
        right(&state.answer, &scene.operands, &scene.case);
    }
    assert!(refused > 0, "{calls:?}");
}

/// Memory of the card, of the host, and of both ends at each allocation in turn, and does not come back.
#[test]
fn memory_ends_at_each_allocation() {
    let Some(scene) = Scene::open() else { return };
    let failing = &scene.failing;
    without_hanging(|| {
        drop(built(&scene, STEPS));
        for (number, step) in STEPS.iter().enumerate() {
            let (mut state, _) = built(&scene, &STEPS[..number]);
            (step.arrange)(&scene, &mut state);
            let before = failing.live();
            for names in ["cuMemAllocAsync", "cuMemHostAlloc", "cuMemAllocAsync,cuMemHostAlloc"] {
                for nth in 0.. {
                    let place = format!("{}: {names} from number {nth} on", step.name);
                    failing.fail(names, nth, CUDA_ERROR_OUT_OF_MEMORY, true);
                    let done = calmly(&place, || (step.act)(&scene, &mut state));
                    let failed = failing.failed();
                    failing.none();
                    match &done {
                        Ok(()) => (step.check)(&scene, &state),
                        Err(error) => {
                            let text = error.to_string();
                            assert!(error.is_out_of_memory(), "{place}: {text}");
                            assert!(names.split(',').any(|name| text.contains(name)), "{place}: {text}");
                        }
                    }
                    (step.arrange)(&scene, &mut state);
                    (step.act)(&scene, &mut state).unwrap_or_else(|error| panic!("{place}: again: {error}"));
                    (step.check)(&scene, &state);
                    (step.arrange)(&scene, &mut state);
                    assert_no_leak(&place, before, failing.live(), "");
                    assert_eq!(done.is_err(), failed > 0, "{place}");
                    if failed == 0 {
                        break;
                    }
                }
            }
        }
    });
}

/// A caller's kernel faults on the queue's stream, before each step.
#[test]
fn a_fault_before_each_step_loses_the_context_and_no_more() {
    let Some(scene) = Scene::open() else { return };
    without_hanging(|| {
        for (number, step) in STEPS.iter().enumerate().skip(3) {
            let place = format!("a fault before: {}", step.name);
            let (mut state, _) = built(&scene, &STEPS[..number]);
            (step.arrange)(&scene, &mut state);
            let modules = own_modules(scene.context());
            let fault = modules.function("own", "fault", 0).unwrap();
            // SAFETY: a kernel without parameters.
            unsafe { modules.launch(fault, Grid::default(), scene.stream.cu_stream(), &mut []).unwrap() };
            // What only queues does not know of it yet.
            if let Err(error) = calmly(&place, || (step.act)(&scene, &mut state)) {
                says_lost(&place, &error);
            }
            let next = state.placed().out.read().expect_err("the context is lost");
            says_lost(&place, &next);
            calmly(&place, || drop((state, modules)));
            let _ = scene.context().check_err();
            scene.failing.heal();
        }
        drop(built(&scene, STEPS));
    });
}
