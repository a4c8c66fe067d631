//! What is particular to CUDA: every kernel variant, streams, graphs, refusals, exact counts.
#![cfg(feature = "cuda")]

mod common;

use std::sync::{Arc, Mutex};

use common::device::{Card, attend_with, card};
use common::quantized::QuantizedCase;
use common::{Answer, Case, Operands, TestElement, assert_close, config};
use cudarc::driver::sys::CUgraphInstantiate_flags;
use cudarc::driver::{CudaStream, DevicePtr as _, DevicePtrMut as _, DeviceRepr};
use half::{bf16, f16};
use onekv::cpu::PartialState;
use onekv::cuda::{
    DeviceKv, DeviceLse, DeviceOutput, DeviceQueries, DeviceState, Grid, Launch, MAX_STATES, Modules,
};
use onekv::plan::{Plan, PlanOptions, Variant, variants};
use onekv::{DType, Element, Error, Keys, Lse, Output, StateShape, Strides};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn run<E: TestElement>(case: &Case, options: &PlanOptions) -> (Answer, Plan) {
    let operands = Operands::<E>::new(case);
    let p = &operands.problem;
    let mut out = vec![E::from_f32(f32::NAN); p.total_rows() * p.heads() * p.head_dim()];
    let mut lse = vec![f32::NAN; p.total_rows() * p.heads()];
    let result = Output::contiguous(p, &mut out);
    let plan = attend_with(
        options,
        p,
        operands.queries(),
        operands.kv(),
        result,
        Some(Lse::contiguous(p, &mut lse)),
    )
    .unwrap();
    assert_close(
        E::DTYPE,
        &Answer { out: out.iter().map(|x| x.to_f32()).collect(), lse: lse.clone() },
        &operands.reference(),
        case,
    );
    (Answer { out: out.iter().map(|x| x.to_f32()).collect(), lse }, plan)
}

fn fixed(split_keys: usize, tile_rows: usize) -> PlanOptions {
    PlanOptions { split_keys: Some(split_keys), tile_rows: Some(tile_rows), ..PlanOptions::default() }
}

/// This variant and no other.
fn of_variant(variant: &Variant, split_keys: usize) -> PlanOptions {
    PlanOptions {
        architecture: Some(variant.architecture),
        cluster: Some(variant.cluster),
        ..fixed(split_keys, variant.tile_rows)
    }
}

/// In a variant's types.
fn run_variant(variant: &Variant, case: &Case, options: &PlanOptions) -> (Answer, Plan) {
    match (variant.dtype, variant.e4m3_kv()) {
        (DType::F16, true) => run_e4m3::<f16>(case, options),
        (_, true) => run_e4m3::<bf16>(case, options),
        (DType::F16, _) => run::<f16>(case, options),
        (DType::Bf16, _) => run::<bf16>(case, options),
        _ => run::<f32>(case, options),
    }
}

fn run_e4m3<E: TestElement>(case: &Case, options: &PlanOptions) -> (Answer, Plan) {
    let quantized = QuantizedCase::<E>::new(case, 1.0);
    let (answer, plan) = quantized.run(options);
    assert_close(E::DTYPE, &answer, &quantized.reference(), case);
    (answer, plan)
}

/// The variants that the card can run.
fn runnable(card: &Card) -> impl Iterator<Item = &'static Variant> {
    let facts = *card.kernels.facts();
    variants::all().filter(move |v| {
        v.architecture.runs_on(facts.compute_capability) && v.shared_bytes <= facts.shared_bytes_per_block
    })
}

fn on_tensor_cores(card: &Card) -> impl Iterator<Item = &'static Variant> {
    runnable(card).filter(|v| v.dtype != DType::F32)
}

/// Every variant that the card can run on rows around its tile's edge, keys around the edges of K/V tiles and splits,
/// grouped heads and softcaps. Fails for a variant that nothing reached.
#[test]
fn every_variant_equals_the_reference() {
    let Some(card) = card() else { return };
    let reached = std::cell::RefCell::new(std::collections::HashSet::new());
    for variant in runnable(card) {
        let (tile, keys) = (variant.tile_rows, variant.tile_keys);
        let shapes = (
            prop_oneof![1..=tile / 2 + 3, Just(tile / 2), Just(tile)],
            prop_oneof![1..=3 * keys + 1, Just(keys), Just(2 * keys)],
            prop_oneof![Just(keys), Just(2 * keys), Just(1 << 20)],
            prop::option::of(1.0f32..20.0),
            any::<u64>(),
        );
        let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..config(4) });
        runner
            .run(&shapes, |(rows, keys, split_keys, softcap, seed)| {
                let mut case = Case::packed(4, 2, variant.head_dim, &[(rows, keys), (1, 40)]);
                (case.magnitude, case.seed, case.spec.softcap) = (0.5, seed, softcap);
                let (_, plan) = run_variant(variant, &case, &of_variant(variant, split_keys));
                assert_eq!(plan.merges().is_empty(), keys.max(40) <= split_keys);
                reached.borrow_mut().insert(plan.variant().kernel());
                Ok(())
            })
            .unwrap();
    }
    let reached = reached.into_inner();
    let missed: Vec<String> =
        runnable(card).map(|v| v.kernel()).filter(|name| !reached.contains(name)).collect();
    assert!(missed.is_empty(), "no case reached {missed:?}");
}

/// Blocks of a cluster compute what blocks on their own do, bit for bit, in every run: a last tile without a partner,
/// inputs of different lengths, splits; with more tiles of keys than stages hold.
#[test]
fn clusters_change_no_bit() {
    let Some(card) = card() else { return };
    for variant in runnable(card).filter(|v| v.cluster > 1) {
        let (rows, keys) = (variant.tile_rows, variant.tile_keys);
        let long = (2 * variant.stages + 1) * keys + 5;
        let case =
            Case::packed(2, 1, variant.head_dim, &[(rows + 9, long), (rows / 2, 3), (rows, keys), (3, 0)]);
        for split_keys in [long, 2 * keys] {
            let options = of_variant(variant, split_keys);
            let (answer, plan) = run_variant(variant, &case, &options);
            assert_eq!(plan.variant(), variant);
            // Three tiles of rows, one, two, one.
            let partners = plan.work().iter().filter(|w| w.tile >= w.rows).count();
            assert_eq!(partners, if split_keys == long { 3 } else { long.div_ceil(split_keys) + 2 });
            let (alone, plan) = run_variant(variant, &case, &PlanOptions { cluster: Some(1), ..options });
            assert_eq!((plan.variant().tile_keys, plan.variant().cluster), (keys, 1));
            assert!(answer == alone, "{} differs from {}", variant.kernel(), plan.variant().kernel());
            assert!(
                answer == run_variant(variant, &case, &options).0,
                "{} differs from itself",
                variant.kernel()
            );
        }
    }
}

/// Every ring of K/V tiles is filled more than twice over, to a last tile that is short and has NaN behind it.
#[test]
fn every_ring_goes_round() {
    let Some(card) = card() else { return };
    for variant in runnable(card) {
        let keys = (2 * variant.stages + 1) * variant.tile_keys + 5;
        let mut case = Case::packed(1, 1, variant.head_dim, &[(variant.tile_rows, keys)]);
        case.spec.keys = Keys::Padded { max_keys: keys + variant.tile_keys, lengths: vec![keys] };
        run_variant(variant, &case, &of_variant(variant, 1 << 20));
    }
}

/// Splits of every size give the same result, within rounding, and the same bits when run again.
#[test]
fn every_number_of_splits_equals_the_reference() {
    if card().is_none() {
        return;
    }
    let case = Case::packed(2, 1, 64, &[(9, 640)]);
    for split_keys in (64..=640).step_by(64) {
        let options = fixed(split_keys, 32);
        let (first, plan) = run::<bf16>(&case, &options);
        assert_eq!(plan.slots(), if split_keys == 640 { 0 } else { 640usize.div_ceil(split_keys) });
        assert_eq!(first, run::<bf16>(&case, &options).0);
    }
}

/// A problem on the device: operands, workspace, launch.
struct OnDevice {
    launch: Launch,
    q: cudarc::driver::CudaSlice<bf16>,
    k: cudarc::driver::CudaSlice<bf16>,
    v: cudarc::driver::CudaSlice<bf16>,
    out: cudarc::driver::CudaSlice<bf16>,
    workspace: cudarc::driver::CudaSlice<f32>,
}

impl OnDevice {
    /// Everything belongs to `stream`: cudarc orders the use of memory on other streams by events, which a
    /// capture cannot take in.
    fn new(card: &Card, stream: &Arc<CudaStream>, operands: &Operands<bf16>, options: &PlanOptions) -> Self {
        let plan = Plan::new(&operands.problem, DType::Bf16, card.kernels.facts(), options).unwrap();
        let launch = Launch::new(&card.kernels, plan, stream).unwrap();
        Self {
            q: stream.clone_htod(&operands.q).unwrap(),
            k: stream.clone_htod(&operands.k).unwrap(),
            v: stream.clone_htod(&operands.v).unwrap(),
            out: stream.alloc_zeros(operands.q.len()).unwrap(),
            workspace: stream.alloc_zeros(launch.plan().workspace_len().max(1)).unwrap(),
            launch,
        }
    }

    fn run(&mut self, stream: &Arc<CudaStream>) -> onekv::Result<()> {
        let problem = self.launch.plan().problem().clone();
        self.launch.run(
            stream,
            DeviceQueries::contiguous(&problem, self.q.as_view()),
            DeviceKv::contiguous(&problem, self.k.as_view(), self.v.as_view()),
            DeviceOutput::contiguous(&problem, self.out.as_view_mut()),
            None,
            &mut self.workspace.as_view_mut(),
        )
    }

    fn result(&self, stream: &Arc<CudaStream>) -> Vec<f32> {
        stream.clone_dtoh(&self.out).unwrap().iter().map(|x| x.to_f32()).collect()
    }
}

fn without_lse(answer: &Answer) -> Answer {
    Answer { out: answer.out.clone(), lse: Vec::new() }
}

/// A context cannot be waited for while a stream of it is captured.
static CAPTURE: Mutex<()> = Mutex::new(());

/// Of a thread's own default stream nothing says, when the work list is freed, whether another thread's runs have ended.
#[test]
fn a_launch_waits_for_runs_on_threads_own_streams() {
    let Some(card) = card() else { return };
    let stream = card.context.per_thread_stream();
    let operands = Operands::<bf16>::new(&Case::packed(2, 2, 64, &[(3, 200)]));
    let mut device = OnDevice::new(card, &stream, &operands, &PlanOptions::default());
    device.run(&stream).unwrap();
    let event = stream.record_event(None).unwrap();
    let _no_capture = CAPTURE.lock();
    drop(device.launch);
    assert!(event.is_complete(), "its work list is freed while it runs");
}

/// Captured once, replayed with new data in the same memory: the split plan too, whose merge follows.
#[test]
fn a_captured_graph_replays_with_new_data() {
    let Some(card) = card() else { return };
    let stream = card.context.new_stream().unwrap();
    let mut case = Case::packed(2, 2, 64, &[(5, 300)]);
    let options = fixed(64, 16);
    let first = Operands::<bf16>::new(&case);
    let mut device = OnDevice::new(card, &stream, &first, &options);
    let _capture = CAPTURE.lock();
    stream.begin_capture(cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    device.run(&stream).unwrap();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("a graph was captured");
    for seed in [3, 4] {
        case.seed = seed;
        let operands = Operands::<bf16>::new(&case);
        stream.memcpy_htod(&operands.q, &mut device.q).unwrap();
        stream.memcpy_htod(&operands.k, &mut device.k).unwrap();
        stream.memcpy_htod(&operands.v, &mut device.v).unwrap();
        graph.launch().unwrap();
        let got = Answer { out: device.result(&stream), lse: Vec::new() };
        assert_close(DType::Bf16, &got, &without_lse(&operands.reference()), &case);
    }
}

/// A kernel that writes its block's number.
const NUMBERS: &[u8] = b"
.version 7.0
.target sm_80
.address_size 64
.visible .entry numbers(.param .u64 out) {
    .reg .b64 %at<3>;
    .reg .b32 %block;
    ld.param.u64 %at0, [out];
    cvta.to.global.u64 %at0, %at0;
    mov.u32 %block, %ctaid.x;
    mul.wide.u32 %at1, %block, 4;
    add.u64 %at2, %at0, %at1;
    st.global.u32 [%at2], %block;
    ret;
}
\0";

/// A caller's own kernels are launched as the library's are; what is not there, or too much, is named.
#[test]
fn kernels_of_a_callers_own() {
    let Some(card) = card() else { return };
    // SAFETY: the text above ends with 0.
    let modules = unsafe { Modules::new(&card.context, vec![("own", NUMBERS)]) };
    let function = modules.function("own", "numbers", 0).unwrap();
    assert_eq!(function.compiled_for(), 80);
    let mut out = card.stream.clone_htod(&[9u32; 6]).unwrap();
    let at = out.device_ptr_mut(&card.stream).0;
    let run = |x, y| {
        let grid = Grid { x, y, threads: 1, ..Grid::default() };
        let mut parameters = [std::ptr::from_ref(&at).cast_mut().cast()];
        // SAFETY: the kernel's one parameter is an address, of memory for six numbers; no more than five blocks run.
        unsafe { modules.launch(function, grid, card.stream.cu_stream(), &mut parameters) }
    };
    run(5, 1).unwrap();
    run(0, 1).unwrap();
    run(1, 0).unwrap();
    assert_eq!(card.stream.clone_dtoh(&out).unwrap(), [0, 1, 2, 3, 4, 9]);
    let text = run(1, 1 << 16).unwrap_err().to_string();
    assert!(text.contains("1 x 65536 blocks, allowed: 2147483647 x 65535"), "{text}");
    let text = modules.function("other", "numbers", 0).unwrap_err().to_string();
    assert!(text.contains("no module `other`"), "{text}");
    let text = modules.function("own", "letters", 0).unwrap_err().to_string();
    assert!(text.contains("finding a kernel"), "{text}");
}

/// One launch object, two streams and two threads, a workspace each.
#[test]
fn streams_and_threads_share_the_kernels() {
    let Some(card) = card() else { return };
    let options = fixed(64, 16);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let options = &options;
            scope.spawn(move || {
                let stream = card.context.new_stream().unwrap();
                let mut case = Case::packed(2, 1, 64, &[(4, 200)]);
                case.seed = seed;
                let operands = Operands::<bf16>::new(&case);
                let mut device = OnDevice::new(card, &stream, &operands, options);
                for _ in 0..3 {
                    device.run(&stream).unwrap();
                }
                let got = Answer { out: device.result(&stream), lse: Vec::new() };
                assert_close(DType::Bf16, &got, &without_lse(&operands.reference()), &case);
            });
        }
    });
}

/// Partial states on the host.
struct States<P> {
    shape: StateShape,
    strides: Strides,
    parts: Vec<(Vec<P>, Vec<f32>)>,
}

impl<P: Element> States<P> {
    /// Noise; some parts without keys, whose output is NaN.
    fn new(shape: StateShape, count: usize, gap: usize, seed: u64) -> Self {
        let strides = Strides { row: shape.heads * shape.head_dim + gap * 8, head: shape.head_dim };
        let mut state = seed | 1;
        let mut noise = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let parts = (0..count).map(|_| {
            let empty = noise() > 0.6;
            let out = (0..shape.rows * strides.row)
                .map(|_| P::from_f32(if empty { f32::NAN } else { noise() }))
                .collect();
            let lse = (0..shape.rows * shape.heads)
                .map(|_| if empty { f32::NEG_INFINITY } else { 40.0 * noise() })
                .collect();
            (out, lse)
        });
        Self { shape, strides, parts: parts.collect() }
    }
}

/// On the card as on the CPU.
fn merges_as_the_cpu<P: Element + DeviceRepr, E: Element + DeviceRepr>(states: &States<P>) {
    let Some(Card { stream, kernels, .. }) = card() else { return };
    let (shape, strides) = (states.shape, states.strides);
    let lse_strides = Strides::contiguous(shape.heads, 1);
    let len = shape.rows * strides.row;
    let (mut want, mut want_lse) = (vec![E::from_f32(7.0); len], vec![7.0; shape.rows * shape.heads]);
    let parts: Vec<_> = states
        .parts
        .iter()
        .map(|(out, lse)| PartialState { out, out_strides: strides, lse, lse_strides })
        .collect();
    let lse = Lse { data: &mut want_lse, strides: lse_strides };
    onekv::cpu::merge_states(shape, &parts, Output { data: &mut want, strides }, Some(lse)).unwrap();

    let uploaded: Vec<_> = states
        .parts
        .iter()
        .map(|(out, lse)| (stream.clone_htod(out).unwrap(), stream.clone_htod(lse).unwrap()))
        .collect();
    let parts: Vec<_> = uploaded
        .iter()
        .map(|(out, lse)| DeviceState {
            out: out.as_view(),
            out_strides: strides,
            lse: lse.as_view(),
            lse_strides,
        })
        .collect();
    let mut got = stream.clone_htod(&vec![E::from_f32(7.0); len]).unwrap();
    let mut got_lse = stream.clone_htod(&vec![7.0f32; want_lse.len()]).unwrap();
    onekv::cuda::merge_states(
        kernels,
        stream,
        shape,
        &parts,
        DeviceOutput { data: got.as_view_mut(), strides },
        Some(DeviceLse { data: got_lse.as_view_mut(), strides: lse_strides }),
    )
    .unwrap();
    let (got, got_lse) = (stream.clone_dtoh(&got).unwrap(), stream.clone_dtoh(&got_lse).unwrap());
    let tolerance = match E::DTYPE {
        DType::Bf16 => 2f32.powi(-7),
        DType::F16 => 2f32.powi(-10),
        _ => 2e-6,
    };
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let (g, w) = (g.to_f32(), w.to_f32());
        assert!((g - w).abs() <= tolerance * w.abs().max(0.1), "out[{i}] is {g}, the CPU has {w}");
    }
    for (i, (g, w)) in got_lse.iter().zip(&want_lse).enumerate() {
        assert!(g == w || (g - w).abs() <= 4e-6 * w.abs().max(1.0), "lse[{i}] is {g}, the CPU has {w}");
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn merging_states_equals_the_cpu(
        rows in 0..20usize, heads in 1..4usize, head_dim in prop_oneof![1..100usize, Just(128), Just(256)],
        count in 1..=MAX_STATES, gap in 0..2usize, seed: u64,
    ) {
        let shape = StateShape { rows: rows.max(1), heads, head_dim: head_dim.next_multiple_of(8) };
        let states = States::<f32>::new(shape, count, gap, seed);
        merges_as_the_cpu::<f32, f32>(&states);
        merges_as_the_cpu::<f32, f16>(&states);
        merges_as_the_cpu::<f32, bf16>(&states);
        merges_as_the_cpu::<f16, f16>(&States::new(shape, count, gap, seed));
        merges_as_the_cpu::<bf16, bf16>(&States::new(shape, count, gap, seed));
    }
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let Some(Card { stream, kernels, .. }) = card() else { return };
    let shape = StateShape { rows: 2, heads: 1, head_dim: 8 };
    let f16s = stream.alloc_zeros::<f16>(16).unwrap();
    let lse = stream.alloc_zeros::<f32>(2).unwrap();
    let mut out = stream.alloc_zeros::<bf16>(16).unwrap();
    let mut merge = |count: usize, head_dim: usize| {
        let shape = StateShape { head_dim, ..shape };
        let states: Vec<_> =
            (0..count).map(|_| DeviceState::contiguous(shape, f16s.as_view(), lse.as_view())).collect();
        let strides = Strides::contiguous(1, head_dim);
        let out = DeviceOutput { data: out.as_view_mut(), strides };
        onekv::cuda::merge_states(kernels, stream, shape, &states, out, None)
    };
    assert_eq!(merge(1, 8), Err(Error::WrongDType { value: DType::F16, planned: DType::Bf16 }));
    assert_eq!(merge(0, 8), Err(Error::NoStates));
    assert_eq!(merge(9, 8), Err(Error::TooLarge { field: "states", value: 9, max: 8 }));
    assert_eq!(merge(1, 0), Err(Error::Zero { field: "head_dim" }));
    let data = stream.alloc_zeros::<f32>(16).unwrap();
    let short = DeviceState::contiguous(shape, data.slice(..8), lse.as_view());
    let mut apart = stream.alloc_zeros::<f32>(16).unwrap();
    let strides = Strides::contiguous(1, 8);
    let result = DeviceOutput { data: apart.as_view_mut(), strides };
    let refused = onekv::cuda::merge_states(kernels, stream, shape, &[short], result, None);
    assert_eq!(refused, Err(Error::TooShort { tensor: "states.out", value: 8, min: 16 }));
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(card) = card() else { return };
    let case = Case::packed(2, 2, 64, &[(5, 300)]);
    let operands = Operands::<bf16>::new(&case);
    let options = fixed(64, 16);
    let mut device = OnDevice::new(card, &card.stream, &operands, &options);
    let problem = operands.problem.clone();
    let needed = device.launch.plan().workspace_len();
    assert_eq!(needed, 2 * 5 * 16 * 65, "2 heads, 5 splits, tiles of 16 rows");

    let mut small = card.stream.alloc_zeros::<f32>(needed - 1).unwrap();
    let refused = device.launch.run(
        &card.stream,
        DeviceQueries::contiguous(&problem, device.q.as_view()),
        DeviceKv::contiguous(&problem, device.k.as_view(), device.v.as_view()),
        DeviceOutput::contiguous(&problem, device.out.as_view_mut()),
        None,
        &mut small.as_view_mut(),
    );
    assert_eq!(refused, Err(Error::Workspace { value: needed - 1, min: needed }));

    let mut shifted = card.stream.alloc_zeros::<f32>(needed + 1).unwrap();
    let refused = device.launch.run(
        &card.stream,
        DeviceQueries::contiguous(&problem, device.q.as_view()),
        DeviceKv::contiguous(&problem, device.k.as_view(), device.v.as_view()),
        DeviceOutput::contiguous(&problem, device.out.as_view_mut()),
        None,
        &mut shifted.slice_mut(1..),
    );
    assert!(matches!(refused, Err(Error::Misaligned { tensor: "workspace", .. })), "{refused:?}");

    let refused = device.launch.run(
        &card.stream,
        DeviceQueries::contiguous(&problem, device.q.as_view()),
        DeviceKv::contiguous(&problem, device.k.as_view(), device.v.slice(64..)),
        DeviceOutput::contiguous(&problem, device.out.as_view_mut()),
        None,
        &mut device.workspace.as_view_mut(),
    );
    assert!(matches!(refused, Err(Error::TooShort { tensor: "v", .. })), "{refused:?}");

    let refused = device.launch.run(
        &card.stream,
        DeviceQueries::contiguous(&problem, device.q.slice(4..)),
        DeviceKv::contiguous(&problem, device.k.as_view(), device.v.as_view()),
        DeviceOutput::contiguous(&problem, device.out.as_view_mut()),
        None,
        &mut device.workspace.as_view_mut(),
    );
    assert!(matches!(
        refused,
        Err(Error::TooShort { tensor: "q", .. } | Error::Misaligned { tensor: "q", .. })
    ));

    let f32s = card.stream.alloc_zeros::<f32>(operands.k.len()).unwrap();
    let mut f32_out = card.stream.alloc_zeros::<f32>(operands.q.len()).unwrap();
    let refused = device.launch.run(
        &card.stream,
        DeviceQueries::contiguous(&problem, f32s.as_view()),
        DeviceKv::contiguous(&problem, f32s.as_view(), f32s.as_view()),
        DeviceOutput::contiguous(&problem, f32_out.as_view_mut()),
        None,
        &mut device.workspace.as_view_mut(),
    );
    assert_eq!(refused, Err(Error::WrongDType { value: DType::F32, planned: DType::Bf16 }));
}

/// Safe code cannot lend memory for reading and writing at once; an engine that wraps addresses of its own can.
#[test]
fn memory_that_is_read_and_written_is_refused() {
    let Some(card) = card() else { return };
    let case = Case::packed(2, 2, 64, &[(5, 300)]);
    let operands = Operands::<bf16>::new(&case);
    let mut device = OnDevice::new(card, &card.stream, &operands, &fixed(64, 16));
    let problem = operands.problem.clone();
    let (at, _) = device.k.device_ptr(&card.stream);
    for (name, offset, other) in [("out", 0, "k"), ("out", 1024, "k")] {
        // SAFETY: the address is that of K, which outlives the alias; it is leaked below, so K is freed once.
        let mut alias = unsafe { card.stream.upgrade_device_ptr::<bf16>(at + 2 * offset, operands.q.len()) };
        let refused = device.launch.run(
            &card.stream,
            DeviceQueries::contiguous(&problem, device.q.as_view()),
            DeviceKv::contiguous(&problem, device.k.as_view(), device.v.as_view()),
            DeviceOutput::contiguous(&problem, alias.as_view_mut()),
            None,
            &mut device.workspace.as_view_mut(),
        );
        assert_eq!(refused, Err(Error::Overlap { tensor: name, other }));
        let _ = alias.leak();
    }
    // Side by side is not overlapping.
    let size = operands.q.len();
    let mut memory = card.stream.alloc_zeros::<bf16>(2 * size).unwrap();
    let (q, out) = memory.split_at_mut(size);
    device
        .launch
        .run(
            &card.stream,
            DeviceQueries::contiguous(&problem, q.as_view()),
            DeviceKv::contiguous(&problem, device.k.as_view(), device.v.as_view()),
            DeviceOutput::contiguous(&problem, out),
            None,
            &mut device.workspace.as_view_mut(),
        )
        .unwrap();
}

/// A program of a machine without a driver gets an error, not a panic.
#[test]
fn without_a_driver_there_is_an_error() {
    const ASK: &str = "ONEKV_ASK_FOR_A_DRIVER";
    if std::env::var_os(ASK).is_some() {
        match onekv::cuda::context(0) {
            Ok(_) => println!("a driver of the system's"),
            Err(error) => println!("refused: {error}"),
        }
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["without_a_driver_there_is_an_error", "--exact", "--nocapture"])
        .env(ASK, "1")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}");
    let said = ["refused: CUDA: loading the driver: libcuda was not found", "a driver of the system's"];
    assert!(said.iter().any(|said| text.contains(said)), "{text}");
}

/// The driver is asked for its release before anything is loaded. In a process of its own: the virtual driver's is of the
/// environment, a real one's is not.
#[test]
fn a_driver_that_is_too_old_is_named() {
    const RELEASE: &str = "PTXSIM_CUDA";
    if std::env::var_os(RELEASE).is_some() {
        let context = onekv::cuda::context(0).unwrap();
        match onekv::cuda::Kernels::new(&context) {
            Ok(_) => println!("loaded"),
            Err(error) => println!("refused: {error}"),
        }
        return;
    }
    let Some(card) = card() else { return };
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["a_driver_that_is_too_old_is_named", "--exact", "--nocapture"])
        .env(RELEASE, "11.8")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}");
    let simulated = card.context.name().unwrap().starts_with("ptxsim");
    let said =
        if simulated { "refused: CUDA: loading the kernels: the driver is of CUDA 11.8" } else { "loaded" };
    assert!(text.contains(said), "{text}");
}

/// What the virtual card counted of one launch.
#[derive(serde::Deserialize)]
struct Counted {
    kernel: String,
    /// By loads, and by the copy engine: multicast ones once.
    global_load_bytes: u64,
    distinct_bytes: u64,
    tensor_flops: u64,
    bank_conflicts: u64,
}

const REPORT: &str = "PTXSIM_REPORT";

/// Runs `name` again in a process of its own, with the virtual card's report; what it counted. `None` where the
/// card is a real one, or in that process.
fn counted(name: &str, work: impl FnOnce()) -> Option<Vec<Counted>> {
    if std::env::var_os(REPORT).is_some() {
        work();
        return None;
    }
    card()?;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.jsonl");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--test-threads=1"])
        .env(REPORT, &report)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let Ok(text) = std::fs::read_to_string(&report) else {
        println!("{name}: a real card counts nothing");
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

const HEADS: u64 = 12;
const KEYS: u64 = 512;
const DIM: u64 = 64;

fn kv_bytes(inputs: u64) -> u64 {
    inputs * 2 * HEADS * KEYS * DIM * 2
}

/// Prompts of one input in one tile.
const PROMPTS: [usize; 5] = [1, 8, 16, 30, 32];

/// K and V are read once however many prompts share them, and U times when every prompt has its own copy.
#[test]
fn keys_and_values_are_read_once() {
    let options = fixed(512, 32);
    let work = || {
        for rows in PROMPTS {
            run::<bf16>(&Case::packed(12, 12, 64, &[(rows, 512)]), &options);
        }
        // The same 30 prompts, each with its own copy of K and V.
        run::<bf16>(&Case::packed(12, 12, 64, &[(1, 512); 30]), &options);
    };
    let Some(launches) = counted("keys_and_values_are_read_once", work) else { return };
    let (shared, replicated) = launches.split_at(PROMPTS.len());
    for (launch, rows) in shared.iter().zip(PROMPTS) {
        let rows = rows as u64;
        let own = rows * HEADS * DIM * 2;
        // Beside K, V and Q, every thread reads its block's work item.
        let work_items = HEADS * 128 * 32;
        let loaded = kv_bytes(1) + own;
        assert!(
            (loaded..=loaded + work_items).contains(&launch.global_load_bytes),
            "{rows}: {}",
            launch.global_load_bytes
        );
        // K, V, Q, output, LSE, work items.
        assert_eq!(
            launch.distinct_bytes,
            kv_bytes(1) + 2 * own + rows * HEADS * 4 + HEADS * 28,
            "{rows} rows"
        );
        assert_eq!(launch.bank_conflicts, 0, "{}", launch.kernel);
    }
    let [replicated] = replicated else { panic!("{} launches", replicated.len()) };
    let ratio = replicated.global_load_bytes as f64 / shared[3].global_load_bytes as f64;
    assert!((28.0..=31.0).contains(&ratio), "replicated reads {ratio:.1} times as much for 30 prompts");
}

/// The floor, for every variant on tensor cores: one tile of rows reads K and V once, two tiles twice; two tiles of a
/// cluster once.
#[test]
fn every_variant_reads_keys_and_values_once_per_tile() {
    const SHORT: usize = 256;
    let tiles = [1, 2];
    let work = || {
        let Some(card) = card() else { return };
        for variant in on_tensor_cores(card) {
            for tiles in tiles {
                let case = Case::packed(2, 2, variant.head_dim, &[(tiles * variant.tile_rows, SHORT)]);
                run_variant(variant, &case, &of_variant(variant, SHORT));
            }
        }
    };
    let name = "every_variant_reads_keys_and_values_once_per_tile";
    let (Some(card), Some(launches)) = (card(), counted(name, work)) else { return };
    let all = on_tensor_cores(card).flat_map(|v| tiles.map(|tiles| (v, tiles)));
    assert_eq!(launches.len(), on_tensor_cores(card).count() * tiles.len());
    for ((variant, tiles), launch) in all.zip(launches) {
        let vector = variant.head_dim * variant.kv_bytes;
        let rows = 2 * tiles * variant.tile_rows * variant.head_dim * variant.dtype.size_bytes();
        let clusters = tiles.div_ceil(variant.cluster);
        // Beside K, V and Q, every thread reads its block's work item, or a warp does for its threads, and scales.
        let least = clusters * 2 * 2 * SHORT * vector + rows;
        let most = least + 2 * clusters * variant.cluster * variant.threads * 40;
        let read = launch.global_load_bytes as usize;
        assert!((least..=most).contains(&read), "{}: {read} of {least} to {most}", launch.kernel);
    }
}

/// With e4m3 K and V half of the bytes are read, and a scale of each per head.
#[test]
fn e4m3_halves_the_bytes_of_keys_and_values() {
    if !card().is_some_and(|card| runnable(card).any(Variant::e4m3_kv)) {
        return;
    }
    let options = fixed(512, 32);
    let work = || {
        for rows in PROMPTS {
            QuantizedCase::<bf16>::new(&Case::packed(12, 12, 64, &[(rows, 512)]), 1.0).run(&options);
        }
    };
    let Some(launches) = counted("e4m3_halves_the_bytes_of_keys_and_values", work) else { return };
    for (launch, rows) in launches.iter().zip(PROMPTS) {
        let own = rows as u64 * HEADS * DIM * 2;
        let loaded = kv_bytes(1) / 2 + own;
        let beside = HEADS * 128 * 40;
        assert!((loaded..=loaded + beside).contains(&launch.global_load_bytes), "{rows} rows");
        assert_eq!(
            launch.distinct_bytes,
            kv_bytes(1) / 2 + 2 * own + rows as u64 * HEADS * 4 + HEADS * 28 + 2 * HEADS * 4,
            "{rows} rows"
        );
        assert_eq!(launch.bank_conflicts, 0, "{}", launch.kernel);
    }
}

/// Full tiles multiply what the cost model says.
#[test]
fn flops_are_the_cost_models() {
    let options = PlanOptions { tile_rows: Some(32), ..PlanOptions::default() };
    let work = || drop(run::<bf16>(&Case::packed(12, 12, 64, &[(32, 512)]), &options));
    let Some(launches) = counted("flops_are_the_cost_models", work) else { return };
    // Q K^T and P V, a multiplication and an addition each: 4 U n d per head (examples/t5/src/cost.rs).
    let model = (4 * 32 * KEYS * DIM * HEADS) as f64;
    let flops: u64 = launches.iter().map(|launch| launch.tensor_flops).sum();
    assert!((flops as f64 / model - 1.0).abs() < 0.1, "{flops} for {model}");
}

/// No variant has a bank conflict, in the loop or after it.
#[test]
fn no_variant_has_bank_conflicts() {
    let work = || {
        let Some(card) = card() else { return };
        for variant in runnable(card) {
            let case = Case::packed(2, 1, variant.head_dim, &[(variant.tile_rows, 130)]);
            run_variant(variant, &case, &of_variant(variant, 1024));
        }
    };
    let Some(launches) = counted("no_variant_has_bank_conflicts", work) else { return };
    assert!(launches.len() >= 20);
    for launch in launches {
        assert_eq!(launch.bank_conflicts, 0, "{}", launch.kernel);
    }
}
