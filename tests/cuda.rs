//! Every kernel variant against the oracle, what CUDA calls refuse, and what the virtual card counts.
#![cfg(feature = "cuda")]

mod common;

use common::device::{Card, attend_with, card, fixed, upload};
use common::quantized::QuantizedCase;
use common::{Answer, Case, Operands, TestElement, assert_close, config};
use cudarc::driver::{CudaSlice, DevicePtrMut as _, DeviceRepr};
use half::{bf16, f16};
use onekv::cuda::{Grid, MAX_STATES, Modules, QuantizedKv};
use onekv::plan::{Architecture, Plan, PlanOptions, Variant, variants};
use onekv::{DType, Element, Error, Keys, PartialState, Shape, SharedKv, Strides, View, e4m3};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn run<E: TestElement>(case: &Case, options: &PlanOptions) -> (Answer, Plan) {
    let operands = Operands::<E>::new(case);
    let p = &operands.problem;
    let mut out = vec![E::from_f32(f32::NAN); p.total_rows() * p.heads() * p.head_dim()];
    let mut lse = vec![f32::NAN; p.total_rows() * p.heads()];
    let result = View::contiguous(p.query_shape(), &mut out[..]);
    let sums = Some(View::contiguous(p.lse_shape(), &mut lse[..]));
    let plan = attend_with(options, p, operands.queries(), operands.kv(), result, sums).unwrap();
    let answer = Answer::of(&out, lse);
    assert_close(E::DTYPE, &answer, &operands.reference(), case);
    (answer, plan)
}

fn of_variant(variant: &Variant, split_keys: usize) -> PlanOptions {
    PlanOptions::of(variant).with_split_keys(split_keys)
}

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
    variants::all().filter(move |v| v.fits(&facts))
}

fn on_tensor_cores(card: &Card) -> impl Iterator<Item = &'static Variant> {
    runnable(card).filter(|v| v.dtype != DType::F32)
}

/// Without f16's, which have bf16's instructions but for those of the type: for what does not depend on it.
fn one_of_each<'a>(variants: impl Iterator<Item = &'a Variant>) -> impl Iterator<Item = &'a Variant> {
    variants.filter(|variant| variant.dtype != DType::F16)
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
            prop::sample::select(variant.split_clusters()),
            prop::option::of(1.0f32..20.0),
            any::<u64>(),
        );
        let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..config(4) });
        runner
            .run(&shapes, |(rows, keys, split_keys, cluster, softcap, seed)| {
                let mut case = Case::packed(4, 2, variant.head_dim, &[(rows, keys), (1, 40)]);
                (case.magnitude, case.seed, case.spec.softcap) = (0.5, seed, softcap);
                let options = of_variant(variant, split_keys).with_split_cluster(cluster);
                let (_, plan) = run_variant(variant, &case, &options);
                assert_eq!(plan.combines().is_empty(), cluster > 1 || keys.max(40) <= split_keys);
                reached.borrow_mut().insert(plan.variant());
                Ok(())
            })
            .unwrap();
    }
    let reached = reached.into_inner();
    let missed: Vec<&Variant> = runnable(card).filter(|variant| !reached.contains(variant)).collect();
    assert!(missed.is_empty(), "no case reached {missed:?}");
}

/// With its split and tile fixed, an input has the same bits alone and among others, in any place, whatever stood in the
/// workspace, on every variant.
#[test]
fn bits_do_not_depend_on_the_batch() {
    let Some(card) = card() else { return };
    for variant in runnable(card) {
        let (rows, keys) = (variant.tile_rows / 2 + 3, variant.tile_keys);
        let case = Case::packed(1, 1, variant.head_dim, &[(rows, 2 * keys + 7)]);
        let (before, after) = ([(1, 9)], [(2, 3 * keys)]);
        for cluster in variant.split_clusters().iter().copied().filter(|cluster| [1, 4].contains(cluster)) {
            let options = of_variant(variant, keys).with_split_cluster(cluster);
            let [first, beside, again] = match (variant.dtype, variant.e4m3_kv()) {
                (DType::F16, true) => quantized_bits::<f16>(&case, &options, &before, &after),
                (_, true) => quantized_bits::<bf16>(&case, &options, &before, &after),
                (DType::F16, _) => bits::<f16>(&case, &options, &before, &after),
                (DType::Bf16, _) => bits::<bf16>(&case, &options, &before, &after),
                _ => bits::<f32>(&case, &options, &before, &after),
            };
            assert!(first == beside, "{}, cluster {cluster}: others changed its bits", variant.kernel());
            assert!(first == again, "{}, cluster {cluster}: another run changed its bits", variant.kernel());
        }
    }
}

type Lengths<'a> = &'a [(usize, usize)];

/// An input's bits: alone, among others that are NaN all over, alone again in the workspace that they left.
fn bits<E: TestElement>(
    case: &Case,
    options: &PlanOptions,
    before: Lengths,
    after: Lengths,
) -> [Vec<u32>; 3] {
    let alone = Operands::<E>::new(case);
    let (among, rows) = alone.among(case, before, after);
    let run = |operands: &Operands<E>, rows| {
        let answer = operands.run(|p, q, kv, out, lse| attend_with(options, p, q, kv, out, lse).map(|_| ()));
        answer.bits(&operands.problem, rows)
    };
    [run(&alone, 0..rows.len()), run(&among, rows.clone()), run(&alone, 0..rows.len())]
}

fn quantized_bits<E: TestElement>(
    case: &Case,
    options: &PlanOptions,
    before: Lengths,
    after: Lengths,
) -> [Vec<u32>; 3] {
    let alone = QuantizedCase::<E>::new(case, 1.0);
    let (among, rows) = alone.among(case, before, after);
    let run = |case: &QuantizedCase<E>, rows| case.run(options).0.bits(&case.operands.problem, rows);
    [run(&alone, 0..rows.len()), run(&among, rows.clone()), run(&alone, 0..rows.len())]
}

/// Rows, keys and heads further apart than 2^31 elements, on every variant. What kernels do not touch takes no memory on a virtual
/// card.
#[test]
fn strides_past_2_31_elements() {
    let Some(card) = card() else { return };
    far_apart::<f32>(card);
    far_apart::<f16>(card);
    far_apart::<bf16>(card);
}

const FAR: usize = (1 << 31) + 4096;

/// On every variant of a type, two tokens of two heads: either the tokens are far apart, or the heads.
fn far_apart<E: TestElement>(card: &Card) {
    let Card { stream, queue, kernels, .. } = card;
    // What the last type had is free.
    stream.synchronize().unwrap();
    // SAFETY: runs read what was copied there before.
    let memory = || unsafe { stream.alloc::<E>(FAR + 4096) }.unwrap();
    let (mut read, mut written) = (memory(), memory());
    // SAFETY: likewise.
    let mut codes = unsafe { stream.alloc::<u8>(FAR + 4096) }.unwrap();
    let variants = runnable(card).filter(|variant| variant.dtype == E::DTYPE);
    for (variant, heads_apart) in variants.flat_map(|variant| [(variant, false), (variant, true)]) {
        let dim = variant.head_dim;
        let strides = |heads_apart| if heads_apart { Strides::new(dim, FAR) } else { Strides::new(FAR, dim) };
        // Of keys and values those are apart that of queries are not.
        let (of_rows, of_keys) = (strides(heads_apart), strides(!heads_apart));
        let case = Case::packed(2, 2, dim, &[(2, 2)]);
        let quantized = QuantizedCase::<E>::new(&case, 1.0);
        let plain = Operands::<E>::new(&case);
        let near = if variant.e4m3_kv() { &quantized.operands } else { &plain };
        let (problem, options) = (&near.problem, of_variant(variant, variant.tile_keys));
        let (rows, keys) = (problem.query_shape(), problem.kv_shape());
        let mut lse = stream.alloc_zeros::<f32>(4).unwrap();

        scatter(card, &near.q, &mut read, 0, of_rows, dim);
        let out = View::strided(rows, of_rows, written.as_view_mut());
        let sums = Some(View::contiguous(problem.lse_shape(), lse.as_view_mut()));
        let want = if variant.e4m3_kv() {
            let plan = Plan::with_e4m3_kv(problem, E::DTYPE, kernels.facts(), &options).unwrap();
            scatter(card, &quantized.k.codes, &mut codes, 0, of_keys, dim);
            scatter(card, &quantized.v.codes, &mut codes, 1024, of_keys, dim);
            let [k_scale, v_scale] = [&quantized.k, &quantized.v].map(|t| upload(&t.scales, f32::NAN));
            let [k, v] = [0, 1024].map(|first| View::strided(keys, of_keys, codes.slice(first..)));
            let codes = SharedKv { k, v };
            let kv = QuantizedKv { codes, k_scale: k_scale.as_view(), v_scale: v_scale.as_view() };
            let q = View::strided(rows, of_rows, read.as_view());
            queue.prepare(&plan).unwrap().run_e4m3(q, kv, out, sums).unwrap();
            quantized.reference()
        } else {
            let plan = Plan::new(problem, E::DTYPE, kernels.facts(), &options).unwrap();
            scatter(card, &near.k, &mut read, 1024, of_keys, dim);
            scatter(card, &near.v, &mut read, 2048, of_keys, dim);
            let [k, v] = [1024, 2048].map(|first| View::strided(keys, of_keys, read.slice(first..)));
            let q = View::strided(rows, of_rows, read.as_view());
            queue.prepare(&plan).unwrap().run(q, SharedKv { k, v }, out, sums).unwrap();
            near.reference()
        };
        let vectors =
            places(of_rows).map(|place| stream.clone_dtoh(&written.slice(place..place + dim)).unwrap());
        let got = Answer::of(&vectors.concat(), stream.clone_dtoh(&lse).unwrap());
        assert_close(E::DTYPE, &got, &want, &case);
    }
}

/// Where two tokens' vectors of two heads are.
fn places(strides: Strides) -> [usize; 4] {
    [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(token, head)| common::at(strides, 0, token, head))
}

/// Copies them to memory on the card, from `first` on.
fn scatter<T: DeviceRepr + Copy>(
    card: &Card,
    near: &[T],
    memory: &mut CudaSlice<T>,
    first: usize,
    strides: Strides,
    dim: usize,
) {
    for (vector, place) in near.chunks(dim).zip(places(strides).map(|place| first + place)) {
        card.stream.memcpy_htod(vector, &mut memory.slice_mut(place..place + dim)).unwrap();
    }
}

/// Blocks of a cluster compute what blocks on their own do, bit for bit, in every run: a last tile without a partner,
/// inputs of different lengths, splits; with more tiles of keys than stages hold.
#[test]
fn clusters_change_no_bit() {
    let Some(card) = card() else { return };
    for variant in one_of_each(runnable(card)).filter(|v| v.cluster > 1) {
        let (rows, keys) = (variant.tile_rows, variant.tile_keys);
        let long = (2 * variant.stages + 1) * keys + 5;
        let case =
            Case::packed(2, 1, variant.head_dim, &[(rows + 9, long), (rows / 2, 3), (rows, keys), (3, 0)]);
        for split_keys in [long, 2 * keys] {
            let options = of_variant(variant, split_keys);
            let (answer, plan) = run_variant(variant, &case, &options);
            assert_eq!(plan.variant(), variant);
            // Three tiles of rows, one, two, one.
            let partners = plan.work().iter().filter(|w| w.tile_start >= w.rows).count();
            assert_eq!(partners, if split_keys == long { 3 } else { long.div_ceil(split_keys) + 2 });
            let (alone, plan) = run_variant(variant, &case, &options.with_cluster(1));
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

/// Blocks of a cluster that share out a tile's keys give, bit for bit, what splits in memory and a second launch do: parts
/// without keys, an input without any, rows that do not go round among the blocks, two tiles of rows; and again the same.
#[test]
fn clusters_join_splits_as_a_second_launch_does() {
    let Some(card) = card() else { return };
    for variant in one_of_each(runnable(card)).filter(|v| v.split_clusters().len() > 1) {
        let (rows, keys) = (variant.tile_rows, variant.tile_keys);
        for (i, cluster) in variant.split_clusters()[1..].iter().enumerate() {
            let split_keys = [3 * keys, 2 * keys, keys][i];
            let inputs = [(rows + 3, cluster * split_keys - 5), (5, split_keys + 1), (1, 7), (rows - 1, 0)];
            let mut case = Case::packed(1, 1, variant.head_dim, &inputs);
            (case.magnitude, case.seed, case.spec.softcap) = (0.5, i as u64, [None, Some(7.0)][i % 2]);
            let options = of_variant(variant, split_keys);
            let (apart, plan) = run_variant(variant, &case, &options.with_split_cluster(1));
            assert_eq!((plan.split_cluster(), plan.combines().is_empty()), (1, false));
            for again in 0..2 {
                let (joined, plan) = run_variant(variant, &case, &options.with_split_cluster(*cluster));
                assert_eq!((plan.split_cluster(), plan.workspace_len()), (*cluster, 0));
                let kernel = variant.kernel();
                assert_eq!(apart, joined, "{kernel} in clusters of {cluster}, run {again}");
            }
        }
    }
}

/// A row whose keys all score -inf is as one without keys, on every variant, whatever its values are: in one part, and in splits
/// that a second launch or a cluster joins.
#[test]
fn rows_whose_keys_all_weigh_nothing_are_0() {
    let Some(card) = card() else { return };
    for variant in one_of_each(runnable(card)) {
        let case =
            Case::packed(2, 1, variant.head_dim, &[(variant.tile_rows / 2 + 3, 2 * variant.tile_keys + 5)]);
        let splits = variant.split_clusters().iter().map(|cluster| (variant.tile_keys, *cluster));
        for (split_keys, cluster) in std::iter::once((1 << 20, 1)).chain(splits) {
            let options = of_variant(variant, split_keys).with_split_cluster(cluster);
            let answer = match variant.dtype {
                DType::F32 => of_infinite_values::<f32>(variant, &case, &options),
                _ => of_infinite_values::<bf16>(variant, &case, &options),
            };
            let what = format!("{}, splits of {split_keys} keys, cluster {cluster}", variant.kernel());
            assert!(answer.out.iter().all(|x| *x == 0.0), "{what}: {:?}", answer.out);
            assert!(answer.lse.iter().all(|x| *x == f32::NEG_INFINITY), "{what}: an LSE of {:?}", answer.lse);
        }
    }
}

/// Every score is -inf; every value is infinite, or NaN in e4m3, which has no infinity.
fn of_infinite_values<E: TestElement>(variant: &Variant, case: &Case, options: &PlanOptions) -> Answer {
    let mut quantized = QuantizedCase::<E>::new(case, 1.0);
    let Operands { q, k, v, .. } = &mut quantized.operands;
    q.fill(E::from_f32(f32::NEG_INFINITY));
    k.fill(E::from_f32(1.0));
    v.fill(E::from_f32(f32::INFINITY));
    if !variant.e4m3_kv() {
        return quantized
            .operands
            .run(|p, q, kv, out, lse| attend_with(options, p, q, kv, out, lse).map(drop));
    }
    quantized.k.codes.fill(e4m3::encode(1.0));
    quantized.v.codes.fill(e4m3::encode(f32::NAN));
    quantized.run(options).0
}

/// Every ring of K/V tiles is filled more than twice over, to a last tile that is short and has NaN behind it.
#[test]
fn every_ring_goes_round() {
    let Some(card) = card() else { return };
    for variant in one_of_each(runnable(card)) {
        let keys = (2 * variant.stages + 1) * variant.tile_keys + 5;
        let mut case = Case::packed(1, 1, variant.head_dim, &[(variant.tile_rows, keys)]);
        case.spec.keys = Keys::Padded { max_keys: keys + variant.tile_keys, lengths: vec![keys] };
        run_variant(variant, &case, &of_variant(variant, 1 << 20));
    }
}

/// Maxima that grow from tile to tile in some rows of a warp and not in others, by more and by less than a kernel puts up with
/// before it follows: to 2^207 times the first weights.
fn growing(variant: &Variant) -> Case {
    let keys = 9 * variant.key_warps * variant.tile_keys + 5;
    let mut case = Case::packed(1, 1, variant.head_dim, &[(variant.tile_rows, keys)]);
    (case.magnitude, case.trend, case.spec.scale) = (12.0, true, 1.0);
    case
}

#[test]
fn maxima_grow_row_by_row() {
    let Some(card) = card() else { return };
    for variant in on_tensor_cores(card) {
        run_variant(variant, &growing(variant), &of_variant(variant, 1 << 20));
    }
}

/// The exponential at every place of a tile gives an LSE that is right to 4e-7, those on the FMA pipes too; NaN stays NaN.
#[test]
fn every_exponential_of_a_tile_is_exact() {
    let Some(card) = card() else { return };
    for variant in one_of_each(runnable(card)).filter(|v| v.warpgroups && v.cluster == 1) {
        exponentials(variant);
    }
}

/// A head for each key of the first tile, which has scores of 0 to -1.5 by rows. One key of the second tile has a score of 0,
/// all others -inf: the LSE is log(1 + exp(score)). At last all scores are -inf.
fn exponentials(variant: &Variant) {
    let (keys, dim) = (variant.tile_keys, variant.head_dim);
    let mut case = Case::packed(keys, keys, dim, &[(64, 2 * keys)]);
    case.spec.scale = 1.0;
    let vector = |first: f32, second: f32| {
        let rest = std::iter::repeat_n(0.0, dim - 2);
        [first, second].into_iter().chain(rest).map(bf16::from_f32)
    };
    for value in [-1.5, f32::NAN, f32::NEG_INFINITY] {
        let mut operands = Operands::<bf16>::new(&case);
        operands.q = (0..64 * keys).flat_map(|i| vector((i / keys) as f32 / 64.0, 1.0)).collect();
        operands.k = (0..2 * keys * keys)
            .flat_map(|i| match (i / keys, i % keys) {
                _ if value == f32::NEG_INFINITY => vector(0.0, value),
                (key, head) if key == head => vector(value, 0.0),
                (key, _) if key == keys => vector(0.0, 0.0),
                _ => vector(0.0, f32::NEG_INFINITY),
            })
            .collect();
        let answer = operands.run(|problem, q, kv, out, lse| {
            attend_with(&of_variant(variant, 1 << 20), problem, q, kv, out, lse).map(|_| ())
        });
        for (i, got) in answer.lse.into_iter().enumerate() {
            let (row, head) = (i / keys, i % keys);
            let score = f64::from(value) * row as f64 / 64.0;
            let same = match value {
                f32::NEG_INFINITY => got == value,
                _ => (f64::from(got) - score.exp().ln_1p()).abs() < 4e-7 || got.is_nan() && value.is_nan(),
            };
            assert!(same, "{}, key {head}, score {score}: an LSE of {got}", variant.kernel());
        }
    }
}

/// More entries of work than blocks at once: blocks of warpgroups go on to a second and a third, longer and shorter, with
/// and without keys, and the rings go round from one to the next.
#[test]
fn blocks_go_on_to_further_work() {
    let Some(card) = card() else { return };
    let facts = card.kernels.facts();
    for variant in one_of_each(runnable(card)).filter(|v| v.warpgroups) {
        let at_once = variant.resident(facts) * facts.multiprocessors / variant.cluster;
        let keys = [1, 0, variant.tile_keys, 3 * variant.tile_keys - 1, variant.tile_keys + 1];
        let inputs: Vec<_> = (0..2 * at_once).map(|i| (1 + i % 3, keys[i % 5])).collect();
        let case = Case::packed(1, 1, variant.head_dim, &inputs);
        let (_, plan) = run_variant(variant, &case, &of_variant(variant, 2 * variant.tile_keys));
        assert!(plan.work().len() > 2 * at_once * variant.cluster, "{}", plan.explain());
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
        let options = fixed(split_keys, 32).with_split_cluster(1);
        let (first, plan) = run::<bf16>(&case, &options);
        assert_eq!(plan.partial_states(), if split_keys == 640 { 0 } else { 640usize.div_ceil(split_keys) });
        assert_eq!(first, run::<bf16>(&case, &options).0);
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
    assert!(text.contains("cuModuleGetFunction"), "{text}");
}

/// Partial states on the host.
struct States<P> {
    shape: Shape,
    strides: Strides,
    parts: Vec<(Vec<P>, Vec<f32>)>,
}

impl<P: Element> States<P> {
    /// Noise; some parts without keys, whose output is NaN.
    fn new(shape: Shape, count: usize, gap: usize, seed: u64) -> Self {
        let strides = Strides::new(shape.heads * shape.vector + gap * 8, shape.vector);
        let mut state = seed | 1;
        let mut noise = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let parts = (0..count).map(|_| {
            let empty = noise() > 0.6;
            let out = (0..shape.tokens * strides.row)
                .map(|_| P::from_f32(if empty { f32::NAN } else { noise() }))
                .collect();
            let lse = (0..shape.tokens * shape.heads)
                .map(|_| if empty { f32::NEG_INFINITY } else { 40.0 * noise() })
                .collect();
            (out, lse)
        });
        Self { shape, strides, parts: parts.collect() }
    }

    fn of<M, L>(&self, out: M, lse: L) -> PartialState<M, L> {
        let lse_shape = [self.shape.tokens, self.shape.heads];
        PartialState {
            out: View::strided(self.shape, self.strides, out),
            lse: View::contiguous(lse_shape, lse),
        }
    }
}

/// On the card as on the CPU.
fn merges_as_the_cpu<P: Element + DeviceRepr, E: Element + DeviceRepr>(states: &States<P>) {
    let Some(Card { stream, queue, .. }) = card() else { return };
    let len = states.shape.tokens * states.strides.row;
    let mut want = vec![E::from_f32(7.0); len];
    let mut want_lse = vec![7.0; states.shape.tokens * states.shape.heads];
    let parts: Vec<_> = states.parts.iter().map(|(out, lse)| states.of(&out[..], &lse[..])).collect();
    let PartialState { out, lse } = states.of(&mut want[..], &mut want_lse[..]);
    onekv::cpu::merge_states(&parts, out, Some(lse)).unwrap();

    let uploaded: Vec<_> = states
        .parts
        .iter()
        .map(|(out, lse)| (stream.clone_htod(out).unwrap(), stream.clone_htod(lse).unwrap()))
        .collect();
    let parts: Vec<_> = uploaded.iter().map(|(out, lse)| states.of(out.as_view(), lse.as_view())).collect();
    let mut got = stream.clone_htod(&vec![E::from_f32(7.0); len]).unwrap();
    let mut got_lse = stream.clone_htod(&vec![7.0f32; want_lse.len()]).unwrap();
    let PartialState { out, lse } = states.of(got.as_view_mut(), got_lse.as_view_mut());
    queue.merge_states(&parts, out, Some(lse)).unwrap();
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
        let shape = Shape::from([rows.max(1), heads, head_dim.next_multiple_of(8)]);
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
    let Some(Card { stream, queue, .. }) = card() else { return };
    let f16s = stream.alloc_zeros::<f16>(16).unwrap();
    let lse = stream.alloc_zeros::<f32>(2).unwrap();
    let mut out = stream.alloc_zeros::<bf16>(16).unwrap();
    let mut merge = |count: usize, head_dim: usize| {
        let shape = [2, 1, head_dim];
        let state = || PartialState::contiguous(shape, f16s.as_view(), lse.as_view());
        let states: Vec<_> = (0..count).map(|_| state()).collect();
        queue.merge_states(&states, View::contiguous(shape, out.as_view_mut()), None)
    };
    assert_eq!(merge(1, 8), Err(Error::WrongDType { value: DType::F16, planned: DType::Bf16 }));
    assert_eq!(merge(0, 8), Err(Error::NoStates));
    assert_eq!(merge(9, 8), Err(Error::TooLarge { field: "states", value: 9, max: 8 }));
    assert_eq!(merge(1, 0), Err(Error::Zero { field: "head_dim" }));
    let data = stream.alloc_zeros::<f32>(16).unwrap();
    let mut apart = stream.alloc_zeros::<f32>(16).unwrap();
    let mut merge = |shape: [usize; 3], data| {
        let state = PartialState::contiguous(shape, data, lse.as_view());
        queue.merge_states(&[state], View::contiguous([2, 1, 8], apart.as_view_mut()), None)
    };
    let short = merge([2, 1, 8], data.slice(..8));
    assert_eq!(short, Err(Error::TooShort { tensor: "states.out", value: 8, min: 16 }));
    let (value, allowed) = ([1, 1, 16].into(), [2, 1, 8].into());
    let other = merge([1, 1, 16], data.as_view());
    assert_eq!(other, Err(Error::WrongShape { tensor: "states.out", value, allowed }));
}

/// Every operand of a run whose memory, shape, type or card does not fit is named; nothing is launched.
#[test]
fn what_does_not_fit_is_refused() {
    let Some(Card { stream, kernels, queue, .. }) = card() else { return };
    let problem = Case::packed(4, 2, 64, &[(5, 100)]).problem();
    let (rows, keys) = (problem.query_shape(), problem.kv_shape());
    let plan = Plan::new(&problem, DType::Bf16, kernels.facts(), &PlanOptions::default()).unwrap();
    let prepared = queue.prepare(&plan).unwrap();
    let memory = stream.alloc_zeros::<bf16>(1 << 16).unwrap();
    let mut written = stream.alloc_zeros::<bf16>(1 << 16).unwrap();
    let mut sums = stream.alloc_zeros::<f32>(64).unwrap();
    let mut run = |q: (Shape, usize), k: Shape, v: (Shape, usize), out: Shape, lse: Shape| {
        prepared
            .run(
                View::contiguous(q.0, memory.slice(q.1..)),
                SharedKv {
                    k: View::contiguous(k, memory.as_view()),
                    v: View::contiguous(v.0, memory.slice(v.1..)),
                },
                View::contiguous(out, written.as_view_mut()),
                Some(View::contiguous(lse, sums.as_view_mut())),
            )
            .map_err(|error| error.to_string())
    };
    let lse = problem.lse_shape();
    assert_eq!(run((rows, 0), keys, (keys, 0), rows, lse), Ok(()));
    let mut refused = |q, k, v, out, lse, text: &str| assert_eq!(run(q, k, v, out, lse), Err(text.into()));
    let more = Shape { tokens: 160, ..keys };
    refused((rows, 0), more, (keys, 0), rows, lse, "k is [160, 2, 64], allowed: [100, 2, 64]");
    let heads = Shape { heads: 4, ..keys };
    refused((rows, 0), keys, (heads, 0), rows, lse, "v is [100, 4, 64], allowed: [100, 2, 64]");
    let slots = Shape { inputs: 2, ..keys };
    refused((rows, 0), slots, (keys, 0), rows, lse, "k is [2, 100, 2, 64], allowed: [100, 2, 64]");
    let fewer = Shape { tokens: 4, ..rows };
    refused((fewer, 0), keys, (keys, 0), rows, lse, "q is [4, 4, 64], allowed: [5, 4, 64]");
    refused((rows, 0), keys, (keys, 0), fewer, lse, "out is [4, 4, 64], allowed: [5, 4, 64]");
    let other = Shape::from([5, 5]);
    refused((rows, 0), keys, (keys, 0), rows, other, "lse is [5, 5, 1], allowed: [5, 4, 1]");
    let short = "v has 12736 elements, allowed: 12800 or more for its shape and strides";
    refused((rows, 0), keys, (keys, (1 << 16) - 12736), rows, lse, short);
    let text = run((rows, 4), keys, (keys, 0), rows, lse).unwrap_err();
    assert!(
        text.starts_with("q.data is ") && text.ends_with(" bytes, allowed: a multiple of 16 bytes"),
        "{text}"
    );

    let f32s = stream.alloc_zeros::<f32>(1 << 16).unwrap();
    let mut f32_out = stream.alloc_zeros::<f32>(1 << 16).unwrap();
    let refused = prepared.run(
        View::contiguous(rows, f32s.as_view()),
        SharedKv::contiguous(keys, f32s.as_view(), f32s.as_view()),
        View::contiguous(rows, f32_out.as_view_mut()),
        None,
    );
    assert_eq!(refused, Err(Error::WrongDType { value: DType::F32, planned: DType::Bf16 }));
    let codes = stream.alloc_zeros::<u8>(1 << 16).unwrap();
    let refused = prepared.run_e4m3(
        View::contiguous(rows, memory.as_view()),
        QuantizedKv {
            codes: SharedKv::contiguous(keys, codes.as_view(), codes.as_view()),
            k_scale: f32s.as_view(),
            v_scale: f32s.as_view(),
        },
        View::contiguous(rows, written.as_view_mut()),
        None,
    );
    assert_eq!(refused, Err(Error::WrongKv { value: "e4m3", planned: "in the type of q (run)" }));
}

/// Safe code cannot lend memory for reading and writing at once; an engine that wraps addresses of its own can, and clones
/// of one `Memory` do.
#[test]
fn memory_that_is_read_and_written_is_refused() {
    let Some(Card { stream, kernels, queue, .. }) = card() else { return };
    let problem = Case::packed(2, 2, 64, &[(5, 300)]).problem();
    let (rows, keys) = (problem.query_shape(), problem.kv_shape());
    let plan = Plan::new(&problem, DType::Bf16, kernels.facts(), &fixed(64, 16)).unwrap();
    let prepared = queue.prepare(&plan).unwrap();
    let memory = queue.zeros::<bf16>(keys.elements() + 2 * rows.elements()).unwrap();
    let run = |q: usize, out: usize| {
        let part = |at: usize, shape: Shape| {
            View::contiguous(shape, memory.slice(at..at + shape.elements()).unwrap())
        };
        let kv = SharedKv { k: part(0, keys), v: part(0, keys) };
        prepared.run(part(q, rows), kv, part(out, rows), None)
    };
    let behind = keys.elements();
    assert_eq!(run(behind, 0), Err(Error::Overlap { tensor: "out", other: "k" }));
    assert_eq!(run(behind, behind - 8), Err(Error::Overlap { tensor: "out", other: "q" }));
    // Side by side is not overlapping.
    run(behind, behind + rows.elements()).unwrap();
    stream.synchronize().unwrap();

    // SAFETY: an address that outlives the alias, which is leaked.
    let mut alias = unsafe { stream.upgrade_device_ptr::<bf16>(memory.at(), rows.elements()) };
    let refused = prepared.run(
        View::contiguous(rows, memory.slice(behind..behind + rows.elements()).unwrap()),
        SharedKv::contiguous(keys, memory.clone(), memory.clone()),
        View::contiguous(rows, alias.as_view_mut()),
        None,
    );
    assert_eq!(refused, Err(Error::Overlap { tensor: "out", other: "k" }));
    let _ = alias.leak();
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
    warp_instructions: u64,
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
            kv_bytes(1) + 2 * own + rows * HEADS * 4 + HEADS * 32,
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
        for variant in one_of_each(on_tensor_cores(card)) {
            for tiles in tiles {
                let case = Case::packed(2, 2, variant.head_dim, &[(tiles * variant.tile_rows, SHORT)]);
                run_variant(variant, &case, &of_variant(variant, SHORT));
            }
        }
    };
    let name = "every_variant_reads_keys_and_values_once_per_tile";
    let (Some(card), Some(launches)) = (card(), counted(name, work)) else { return };
    let all: Vec<_> =
        one_of_each(on_tensor_cores(card)).flat_map(|v| tiles.map(|tiles| (v, tiles))).collect();
    assert_eq!(launches.len(), all.len());
    for ((variant, tiles), launch) in all.into_iter().zip(launches) {
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
            kv_bytes(1) / 2 + 2 * own + rows as u64 * HEADS * 4 + HEADS * 32 + 2 * HEADS * 4,
            "{rows} rows"
        );
        assert_eq!(launch.bank_conflicts, 0, "{}", launch.kernel);
    }
}

/// A recording has the blocks of the largest batch: those that a shorter one leaves without work read their entry of the
/// list and end.
#[test]
fn blocks_without_work_end_at_once() {
    let plan = |card: &Card, variant: &Variant, rows: usize, keys: usize| {
        let problem = Case::packed(1, 1, variant.head_dim, &[(rows, keys)]).problem();
        let options = PlanOptions::of(variant).with_split_keys(1 << 20);
        Plan::new(&problem, variant.dtype, card.kernels.facts(), &options).unwrap()
    };
    let of_type = |v: &&Variant| v.dtype == DType::F16 && !v.e4m3_kv();
    let plans =
        |card, variant: &Variant| (plan(card, variant, 8 * variant.tile_rows, 3), plan(card, variant, 1, 3));
    let work = || {
        let Some(card) = card() else { return };
        for (most, least) in on_tensor_cores(card).filter(of_type).map(|v| plans(card, v)) {
            let mut prepared = card.queue.prepare(&most).unwrap();
            let (rows, keys) = (prepared.query_shape(), prepared.kv_shape());
            let zeros =
                |shape: Shape| View::contiguous(shape, card.queue.zeros::<f16>(shape.elements()).unwrap());
            let kv = SharedKv { k: zeros(keys), v: zeros(keys) };
            let mut recorder = card.queue.record().unwrap();
            recorder.run(&prepared, zeros(rows), kv.clone(), zeros(rows), None).unwrap();
            let recording = recorder.finish().unwrap();
            prepared.replan(&least).unwrap();
            let rows = prepared.query_shape();
            prepared.run(zeros(rows), kv, zeros(rows), None).unwrap();
            recording.replay().unwrap();
            card.stream.synchronize().unwrap();
        }
    };
    let (Some(card), Some(launches)) = (card(), counted("blocks_without_work_end_at_once", work)) else {
        return;
    };
    let variants: Vec<_> = on_tensor_cores(card).filter(of_type).collect();
    assert_eq!(launches.len(), 2 * variants.len());
    for (variant, both) in variants.into_iter().zip(launches.chunks(2)) {
        let (most, least) = plans(card, variant);
        let idle = ((most.work().len() - least.work().len()) * variant.threads) as u64;
        assert!(idle > 0);
        let more = both[1].warp_instructions - both[0].warp_instructions;
        assert!(more <= 22 * idle / 32, "{}: {more} instructions of {} warps", variant.kernel(), idle / 32);
        let more = both[1].global_load_bytes - both[0].global_load_bytes;
        assert!(more <= 32 * idle, "{}: {more} bytes by {idle} threads", variant.kernel());
    }
}

/// Every kernel of the table is there by its name, and takes the shared memory that the table says.
#[test]
fn all_kernels_are_loaded_ahead() {
    let Some(card) = card() else { return };
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        onekv::cuda::Kernels::new(&card.context).unwrap().preload(dtype).unwrap();
    }
}

/// Full tiles multiply what the cost model says.
#[test]
fn flops_are_the_cost_models() {
    let options = PlanOptions::default().with_tile_rows(32);
    let work = || drop(run::<bf16>(&Case::packed(12, 12, 64, &[(32, 512)]), &options));
    let Some(launches) = counted("flops_are_the_cost_models", work) else { return };
    // Q K^T and P V, a multiplication and an addition each: 4 U n d per head (tools/cost/src/work.rs).
    let model = (4 * 32 * KEYS * DIM * HEADS) as f64;
    let flops: u64 = launches.iter().map(|launch| launch.tensor_flops).sum();
    assert!((flops as f64 / model - 1.0).abs() < 0.1, "{flops} for {model}");
}

/// What the second of two recorded runs writes, which reads the first one's output: as Q, and as K where it is `fresh`.
/// `settled`: the recorder is promised that K and V were there before.
fn second_of_two(variant: &Variant, settled: bool, fresh: bool) -> onekv::Result<Vec<bf16>> {
    let card = card().expect("asked for only where there is a card");
    // As many rows as keys, so that the output can be K.
    let case = Case::packed(2, 2, variant.head_dim, &[(50, 50)]);
    let operands = Operands::<bf16>::new(&case);
    let options = PlanOptions::of(variant);
    let plan = Plan::new(&operands.problem, DType::Bf16, card.kernels.facts(), &options).unwrap();
    let prepared = card.queue.prepare(&plan).unwrap();
    let shape = prepared.query_shape();
    let zeros = || View::contiguous(shape, card.queue.zeros::<bf16>(shape.elements()).unwrap());
    let [q, k, v, first, second] = std::array::from_fn(|_| zeros());
    q.data.write(operands.queries().data)?;
    k.data.write(operands.kv().k.data)?;
    v.data.write(operands.kv().v.data)?;
    let mut recorder = card.queue.record()?;
    recorder.run(&prepared, q, SharedKv { k: k.clone(), v: v.clone() }, first.clone(), None)?;
    if settled {
        // SAFETY: nothing recorded writes K and V of the second run, unless they are fresh: to see that seen.
        unsafe { recorder.assume_kv_settled() };
    }
    let kv = SharedKv { k: if fresh { first.clone() } else { k }, v };
    recorder.run(&prepared, first, kv, second.clone(), None)?;
    recorder.finish()?.replay()?;
    second.data.read()
}

/// Where K and V are promised to be settled, they are fetched while the run before may still write: that changes no bit, and
/// the virtual card sees it when the promise is broken.
#[test]
fn settled_keys_and_values_do_not_wait() {
    const NAME: &str = "settled_keys_and_values_do_not_wait";
    const BROKEN: &str = "ONEKV_BROKEN_PROMISE";
    let Some(card) = card() else { return };
    let overlap =
        |v: &&Variant| v.dtype == DType::Bf16 && !v.e4m3_kv() && v.architecture != Architecture::Sm80;
    if let Ok(kernel) = std::env::var(BROKEN) {
        let variant = runnable(card).find(|v| v.kernel() == kernel).unwrap();
        // Without a promise it is no different from any other chain.
        second_of_two(variant, false, true).unwrap();
        return println!("broken: {:?}", second_of_two(variant, true, true).map(drop));
    }
    for variant in runnable(card).filter(overlap) {
        let kernel = variant.kernel();
        assert_eq!(second_of_two(variant, true, false), second_of_two(variant, false, false), "{kernel}");
        // No real card is asked to go wrong.
        if std::env::var_os("PTXSIM_DEVICE").is_some() {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args([NAME, "--exact", "--nocapture", "--test-threads=1"]).env(BROKEN, &kernel);
            let child = child.output().unwrap();
            let said = [child.stdout, child.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            assert!(said[0].contains("broken: Err(") && said[0].contains("1 passed"), "{kernel}: {said:?}");
            let seen = "read while the launch before may still store it: griddepcontrol.wait comes first";
            assert!(said[1].contains(seen) && said[1].contains(&kernel), "{kernel}: {said:?}");
        }
    }
}

/// Where no maximum grows by much, fewer outputs are rescaled: of the 9 tiles of a warp 3 at least are left out.
#[test]
fn outputs_are_rescaled_where_maxima_grow() {
    let work = || {
        let Some(card) = card() else { return };
        for variant in one_of_each(on_tensor_cores(card)) {
            let growing = growing(variant);
            let flat = Case { magnitude: 0.5, trend: false, ..growing.clone() };
            for case in [growing, flat] {
                run_variant(variant, &case, &of_variant(variant, 1 << 20));
            }
        }
    };
    let name = "outputs_are_rescaled_where_maxima_grow";
    let (Some(card), Some(launches)) = (card(), counted(name, work)) else { return };
    assert_eq!(launches.len(), 2 * one_of_each(on_tensor_cores(card)).count());
    for (variant, launches) in one_of_each(on_tensor_cores(card)).zip(launches.chunks(2)) {
        let products = variant.key_warps * variant.tile_rows * variant.head_dim / 32;
        let saved = launches[0].warp_instructions as i64 - launches[1].warp_instructions as i64;
        assert!(saved >= 3 * products as i64, "{} of {products} a tile: {saved}", launches[0].kernel);
    }
}

/// No variant has a bank conflict, in the loop or after it.
#[test]
fn no_variant_has_bank_conflicts() {
    let work = || {
        let Some(card) = card() else { return };
        for variant in one_of_each(runnable(card)) {
            for cluster in variant.split_clusters() {
                let case = Case::packed(2, 1, variant.head_dim, &[(variant.tile_rows, 130)]);
                let options = of_variant(variant, 1024).with_split_cluster(*cluster);
                run_variant(variant, &case, &options);
            }
        }
    };
    let Some(launches) = counted("no_variant_has_bank_conflicts", work) else { return };
    assert!(launches.len() >= 20);
    for launch in launches {
        assert_eq!(launch.bank_conflicts, 0, "{}", launch.kernel);
    }
}
