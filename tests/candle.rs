//! Attention on candle's tensors: the CPU's, and those of the machine's card.

mod common;

use std::sync::Arc;

use candle_core::{Device, IndexOp as _, Tensor, Var, WithDType};
use common::{Answer, Case, Operands, TestElement, assert_close, config};
use half::f16;
use onekv::interop::candle::{Attention, KEPT_PLANS, Planned};
use onekv::plan::PlanOptions;
use onekv::{Element, Keys, Problem, ProblemSpec};
use proptest::prelude::*;

/// The CPU, and the card if there is one; with `ONEKV_REQUIRE_CUDA` there must be.
fn devices() -> Vec<Device> {
    #[allow(unused_mut, reason = "only CUDA adds to it")]
    let mut devices = vec![Device::Cpu];
    #[cfg(feature = "candle-cuda")]
    match onekv::cuda::context(0) {
        Ok(_) => devices.push(Device::new_cuda(0).unwrap()),
        Err(error) if std::env::var_os("ONEKV_REQUIRE_CUDA").is_none() => {
            println!("candle on CUDA is not tested: {error}");
        }
        Err(error) => panic!("CUDA is required: {error}"),
    }
    assert!(devices.len() > 1 || std::env::var_os("ONEKV_REQUIRE_CUDA").is_none(), "CUDA is required");
    devices
}

/// How a tensor stands in its memory.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Contiguous,
    /// Between other heads, as of one projection for q, k and v.
    BetweenHeads,
    /// Each vector is a part of a longer one.
    PartOfVectors,
    /// Between other rows; with a dimension for inputs, each in a larger slot.
    BetweenRows,
    /// `[.., heads, tokens, head_dim]`, transposed.
    HeadMajor,
    /// `[.., heads, capacity, head_dim]`, transposed, a part of the capacity.
    HeadMajorBetweenRows,
    /// `[heads, .., tokens, head_dim]`, permuted.
    HeadsFirst,
}

const LAYOUTS: [Layout; 7] = [
    Layout::Contiguous,
    Layout::BetweenHeads,
    Layout::PartOfVectors,
    Layout::BetweenRows,
    Layout::HeadMajor,
    Layout::HeadMajorBetweenRows,
    Layout::HeadsFirst,
];

/// Types that candle has too.
trait Both: TestElement + WithDType {}
impl<E: TestElement + WithDType> Both for E {}

/// `values` as a tensor `[.., tokens, heads, dim]`; what lies between them is NaN.
fn tensor<E: Both>(values: &[E], dims: &[usize], layout: Layout, on: &Device) -> Tensor {
    let plain = Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    let rows = dims.len() - 3;
    // NaN on both sides along a dimension, and what is in the middle of that.
    let between = |tensor: &Tensor, dim: usize, before: usize, behind: usize| {
        let nan = |count: usize| {
            let mut dims = tensor.dims().to_vec();
            dims[dim] = count;
            Tensor::full(<E as Element>::from_f32(f32::NAN), dims, &Device::Cpu).unwrap()
        };
        let whole = Tensor::cat(&[&nan(before), tensor, &nan(behind)], dim).unwrap();
        assert!(whole.is_contiguous());
        whole.narrow(dim, before, tensor.dims()[dim]).unwrap()
    };
    let head_major = || plain.transpose(rows, rows + 1).unwrap().contiguous().unwrap();
    let tensor = match layout {
        Layout::Contiguous => plain,
        Layout::BetweenHeads => between(&plain, rows + 1, 2, 1),
        Layout::PartOfVectors => between(&plain, rows + 2, 8, 8),
        Layout::BetweenRows => between(&plain, rows, 2, 3),
        Layout::HeadMajor => head_major().transpose(rows, rows + 1).unwrap(),
        Layout::HeadMajorBetweenRows => {
            between(&head_major(), rows + 1, 2, 3).transpose(rows, rows + 1).unwrap()
        }
        // The heads to the front and back, past rows and inputs.
        Layout::HeadsFirst => {
            let there = (0..=rows).rev().fold(plain, |t, dim| t.transpose(dim, dim + 1).unwrap());
            (0..=rows).fold(there.contiguous().unwrap(), |t, dim| t.transpose(dim, dim + 1).unwrap())
        }
    };
    // With its memory and strides.
    tensor.to_device(on).unwrap()
}

fn planned<E: Both>(problem: &Problem, device: &Device) -> Planned {
    let attention = Attention::new(device).unwrap().with_padding();
    attention.plan(problem, <E as WithDType>::DTYPE, &PlanOptions::default()).unwrap()
}

fn values<E: Both>(tensor: &Tensor) -> Vec<f32> {
    let all: Vec<E> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    all.into_iter().map(Element::to_f32).collect()
}

fn equals_the_reference<E: Both>(case: &Case, layouts: [Layout; 3], apart: bool, device: &Device) {
    let operands = Operands::<E>::new(case);
    let p = &operands.problem;
    // One dimension for rows or packed keys, or, as in a model, two, at one distance from row to row.
    let folded = |data: &[E], tokens: usize, heads: usize, layout: Layout| {
        let (dims, layout) = match apart && tokens.is_multiple_of(2) {
            true => (vec![2, tokens / 2, heads, p.head_dim()], LAYOUTS[layout as usize % 3]),
            false => (vec![tokens, heads, p.head_dim()], layout),
        };
        tensor(data, &dims, layout, device)
    };
    let kv = |data: &[E], layout| match case.spec.keys {
        Keys::Packed { .. } => folded(data, p.key_positions(), p.kv_heads(), layout),
        Keys::Padded { max_keys, .. } => {
            let dims = [p.inputs().len(), max_keys, p.kv_heads(), p.head_dim()];
            tensor(data, &dims, layout, device)
        }
    };
    let q = folded(&operands.q, p.total_rows(), p.heads(), layouts[0]);
    let (k, v) = (kv(&operands.k, layouts[1]), kv(&operands.v, layouts[2]));
    let planned = planned::<E>(p, device);
    println!("{}", planned.explain());
    let (out, lse) = planned.run_with_lse(&q, &k, &v).unwrap();
    assert_eq!(out.dims(), q.dims());
    assert!(out.is_contiguous());
    assert_eq!(lse.dims(), &q.dims()[..q.dims().len() - 1]);
    let got = Answer { out: values::<E>(&out), lse: values::<f32>(&lse) };
    assert_close(<E as Element>::DTYPE, &got, &operands.reference(), case);
    // Without the LSE, the same.
    assert_eq!(values::<E>(&planned.run(&q, &k, &v).unwrap()), got.out);
}

/// Cases that CUDA takes too: memory of no bytes does not exist there.
fn cases() -> impl Strategy<Value = Case> {
    let inputs = prop::collection::vec((1..20usize, 1..150usize), 1..4);
    let heads = prop::sample::select(vec![(1, 1), (2, 2), (4, 1), (6, 2)]);
    // Those of kernels, and those that are padded.
    let dim = prop::sample::select(vec![64usize, 128, 32, 96, 5, 80, 192]);
    (inputs, heads, dim, prop::option::of(0..20usize), any::<u64>()).prop_map(
        |(inputs, (heads, kv_heads), dim, padding, seed)| {
            let mut case = Case::packed(heads, kv_heads, dim, &inputs);
            case.seed = seed;
            if let Some(padding) = padding {
                case.pad(padding);
            }
            case
        },
    )
}

/// Cuts the keys of one input in parts, each a view of the whole K and V, and joins the results of all rows but the first.
fn parts_join_to_the_whole<E: Both>(case: &Case, cuts: &[usize], device: &Device) {
    let operands = Operands::<E>::new(case);
    let p = &operands.problem;
    let of = |data: &[E], tokens, heads, layout| tensor(data, &[tokens, heads, p.head_dim()], layout, device);
    let q = of(&operands.q, p.total_rows(), p.heads(), Layout::BetweenHeads).unsqueeze(0).unwrap();
    let [k, v] =
        [&operands.k, &operands.v].map(|data| of(data, p.key_positions(), p.kv_heads(), Layout::BetweenRows));
    let parts: Vec<(Tensor, Tensor)> = cuts
        .windows(2)
        .map(|part| {
            let keys = part[1] - part[0];
            let mut spec = case.spec.clone();
            spec.keys = Keys::Packed { offsets: vec![0, keys] };
            let [k, v] = [&k, &v].map(|whole| whole.narrow(0, part[0], keys).unwrap());
            planned::<E>(&Problem::new(spec).unwrap(), device).run_with_lse(&q, &k, &v).unwrap()
        })
        .collect();
    let rows = p.total_rows() - 1;
    let later = |tensor: &Tensor| tensor.narrow(1, 1, rows).unwrap();
    let parts: Vec<(Tensor, Tensor)> = parts.iter().map(|(out, lse)| (later(out), later(lse))).collect();
    let states: Vec<(&Tensor, &Tensor)> = parts.iter().map(|(out, lse)| (out, lse)).collect();
    let (out, lse) = Attention::new(device).unwrap().merge_states(&states).unwrap();
    assert_eq!(out.dims(), [1, rows, p.heads(), p.head_dim()]);
    assert_eq!(lse.dims(), [1, rows, p.heads()]);
    let got = Answer { out: values::<E>(&out), lse: values::<f32>(&lse) };
    let mut want = operands.reference();
    want.out.drain(..p.heads() * p.head_dim());
    want.lse.drain(..p.heads());
    assert_close(<E as Element>::DTYPE, &got, &want, case);
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn merged_parts_equal_the_whole(
        rows in 2..20usize, cuts in prop::collection::btree_set(1..150usize, 1..4), gqa: bool, seed: u64,
    ) {
        let cuts: Vec<usize> = std::iter::once(0).chain(cuts).collect();
        let mut case = Case::packed(4, if gqa { 2 } else { 4 }, 64, &[(rows, *cuts.last().unwrap())]);
        case.seed = seed;
        for device in devices() {
            for_each_dtype!(parts_join_to_the_whole(&case, &cuts, &device));
        }
    }

    #[test]
    fn every_layout_equals_the_reference(
        case in cases(), layouts in prop::array::uniform3(prop::sample::select(LAYOUTS.to_vec())), apart: bool,
    ) {
        for device in devices() {
            for_each_dtype!(equals_the_reference(&case, layouts, apart, &device));
        }
    }
}

/// Two inputs of 5 keys, three rows each, 4 heads of 64 in f32.
struct Small {
    planned: Planned,
    q: Tensor,
    kv: Tensor,
}

impl Small {
    fn new(device: &Device) -> Self {
        let problem = Case::packed(4, 4, 64, &[(3, 5), (3, 5)]).problem();
        let zeros = |tokens| Tensor::zeros((tokens, 4, 64), candle_core::DType::F32, device).unwrap();
        Self { planned: planned::<f32>(&problem, device), q: zeros(6), kv: zeros(10) }
    }

    #[track_caller]
    fn refuses(&self, [q, k, v]: [&Tensor; 3], why: &str) {
        let error = self.planned.run(q, k, v).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    for device in devices() {
        let small = Small::new(&device);
        let (q, kv) = (&small.q, &small.kv);
        assert_eq!(small.planned.run(q, kv, kv).unwrap().dims(), [6, 4, 64]);

        let half = Tensor::zeros((10, 4, 64), candle_core::DType::F16, &device).unwrap();
        small.refuses([q, &half, kv], "k is f16, allowed: f32");
        let shape = "q is [3, 4, 64], allowed: [.., 4, 64] with 6 rows in the leading dimensions";
        small.refuses([&q.i(..3).unwrap(), kv, kv], shape);
        small.refuses([&q.reshape((6, 2, 128)).unwrap(), kv, kv], "q is [6, 2, 128], allowed: [.., 4, 64]");
        small.refuses([q, kv, &kv.flatten_all().unwrap()], "v is [2560], allowed: [.., 4, 64] with 10 rows");

        let by_dim = Tensor::zeros((10, 64, 4), candle_core::DType::F32, &device).unwrap();
        let by_dim = by_dim.transpose(1, 2).unwrap();
        small.refuses([q, &by_dim, kv], "k has the stride 4 along head_dim, allowed: 1");
        // The inputs' heads, each with its keys: two distances from key to key.
        let by_input = Tensor::zeros((2, 4, 5, 64), candle_core::DType::F32, &device).unwrap();
        let by_input = by_input.transpose(1, 2).unwrap();
        let why = "v is [2, 5, 4, 64] with the strides [1280, 64, 320, 1], allowed: leading dimensions at one distance";
        small.refuses([q, kv, &by_input], why);
        // Copies for every prompt, for every head: those of K and V are not needed.
        let expanded = kv.i(..5).unwrap().unsqueeze(0).unwrap().expand((2, 5, 4, 64)).unwrap();
        let why = "k is [2, 5, 4, 64] with the strides [0, 256, 64, 1], allowed: memory for each vector (pass the one there \
                   is, `narrow(0, 0, 1)`, to a problem that shares it)";
        small.refuses([q, &expanded, kv], why);
        let expanded = kv.narrow(1, 0, 1).unwrap().expand((10, 4, 64)).unwrap();
        small.refuses(
            [q, kv, &expanded],
            "v is [10, 4, 64] with the strides [256, 0, 1], allowed: memory for",
        );
        small.refuses([q, kv, &expanded], "`narrow(1, 0, 1)`");
        let expanded = q.i(..1).unwrap().expand((6, 4, 64)).unwrap();
        let why = "q is [6, 4, 64] with the strides [0, 64, 1], allowed: memory for each vector (`contiguous()` makes it so)";
        small.refuses([&expanded, kv, kv], why);
        let huge = kv.i(..1).unwrap().unsqueeze(0).unwrap().expand((1 << 40, 1 << 40, 4, 64)).unwrap();
        small.refuses([q, kv, &huge], "`narrow(0, 0, 1)`");
        let wide = Tensor::zeros((10, 4, 65), candle_core::DType::F32, &device).unwrap();
        small.refuses(
            [q, kv, &wide.narrow(2, 1, 64).unwrap()],
            "v begins 1 elements into its memory, allowed: a multiple of 4",
        );
        let var = Var::zeros((10, 4, 64), candle_core::DType::F32, &device).unwrap();
        small.refuses([q, kv, var.as_tensor()], "v records gradients, allowed: a tensor that does not");
        assert!(small.planned.run(q, kv, &var.as_tensor().detach()).is_ok());

        let attention = Attention::new(&device).unwrap();
        let problem = Case::packed(1, 1, 64, &[(1, 1)]).problem();
        let error = attention.plan(&problem, candle_core::DType::U8, &PlanOptions::default()).err().unwrap();
        assert!(error.to_string().starts_with("dtype is u8, allowed: f32, f16, bf16"), "{error}");
    }
}

/// K and V of slots: the dimensions are the problem's, one by one.
#[test]
fn slots_that_do_not_fit_are_named() {
    for device in devices() {
        let mut case = Case::packed(4, 4, 64, &[(3, 5), (3, 5)]);
        case.pad(0);
        let small = Small { planned: planned::<f32>(&case.problem(), &device), ..Small::new(&device) };
        let (q, flat) = (&small.q, &small.kv);
        let kv = &flat.reshape((2, 5, 4, 64)).unwrap();
        small.planned.run(q, kv, kv).unwrap();
        small.refuses([q, flat, kv], "k is [10, 4, 64], allowed: [2, 5, 4, 64]");
        // The same number of vectors, in other places.
        let by_key = flat.reshape((5, 2, 4, 64)).unwrap();
        small.refuses([q, kv, &by_key], "v is [5, 2, 4, 64], allowed: [2, 5, 4, 64]");
        let by_head = kv.transpose(1, 2).unwrap();
        small.refuses([q, kv, &by_head], "v is [2, 4, 5, 64], allowed: [2, 5, 4, 64]");
        let larger = Tensor::zeros((2, 6, 4, 64), candle_core::DType::F32, &device).unwrap();
        small.refuses([q, &larger, kv], "k is [2, 6, 4, 64], allowed: [2, 5, 4, 64]");
        assert!(small.planned.run(q, &larger.narrow(1, 0, 5).unwrap(), kv).is_ok());
        let shared = kv.i(..1).unwrap().expand((2, 5, 4, 64)).unwrap();
        let why = "k is [2, 5, 4, 64] with the strides [0, 256, 64, 1], allowed: memory for each vector (pass the one there \
                   is, `narrow(0, 0, 1)`";
        small.refuses([q, &shared, kv], why);
    }
}

/// A cache as engines have it, `[inputs, kv_heads, capacity, head_dim]` for more inputs and keys than there are: the views
/// that it gives are attended to where they stand.
#[test]
fn caches_are_taken_as_they_are() {
    for device in devices() {
        for_each_dtype!(cache_equals_the_reference(&device));
    }
}

fn cache_equals_the_reference<E: Both>(device: &Device) {
    let (inputs, kv_heads, capacity, dim) = (3, 2, 100, 64);
    let mut case = Case::packed(4, kv_heads, dim, &[(3, 90), (20, 1), (2, 70)]);
    case.spec.keys = Keys::Padded { max_keys: capacity, lengths: vec![90, 1, 70] };
    let operands = Operands::<E>::new(&case);
    let q = tensor(&operands.q, &[25, 4, dim], Layout::Contiguous, device);
    let [k, v] = [&operands.k, &operands.v].map(|data| {
        let used = tensor(data, &[inputs, capacity, kv_heads, dim], Layout::Contiguous, &Device::Cpu);
        let used = used.transpose(1, 2).unwrap().contiguous().unwrap();
        let nan = Tensor::full(<E as Element>::from_f32(f32::NAN), used.dims(), &Device::Cpu).unwrap();
        let cache = Tensor::cat(&[&nan, &used, &nan], 0).unwrap().to_device(device).unwrap();
        cache.narrow(0, inputs, inputs).unwrap().transpose(1, 2).unwrap()
    });
    let reads = |max_keys: usize| {
        let mut case = case.clone();
        case.spec.keys = Keys::Padded { max_keys, lengths: vec![90, 1, 70] };
        let [k, v] = [&k, &v].map(|cache| cache.narrow(1, 0, max_keys).unwrap());
        let (out, lse) = planned::<E>(&case.problem(), device).run_with_lse(&q, &k, &v).unwrap();
        let got = Answer { out: values::<E>(&out), lse: values::<f32>(&lse) };
        assert_close(<E as Element>::DTYPE, &got, &operands.reference(), &case);
    };
    reads(capacity);
    reads(90);
}

/// K and V that are padded once give what those give that every run pads, lengths may change, and where there is nothing to
/// pad nothing is copied.
#[test]
fn keys_and_values_are_padded_once() {
    for device in devices() {
        let case = Case::packed(4, 2, 80, &[(3, 50)]);
        let operands = Operands::<f16>::new(&case);
        let of = |data, tokens, heads| tensor::<f16>(data, &[tokens, heads, 80], Layout::Contiguous, &device);
        let (q, k, v) = (of(&operands.q, 3, 4), of(&operands.k, 50, 2), of(&operands.v, 50, 2));
        let mut planned = planned::<f16>(&operands.problem, &device);
        let (padded_k, padded_v) = (planned.pad(&k).unwrap(), planned.pad(&v).unwrap());
        let is_cpu = matches!(device, Device::Cpu);
        assert_eq!(padded_k.dims(), [50, 2, if is_cpu { 80 } else { 96 }]);
        assert!(!is_cpu || padded_k.id() == k.id());
        let out = planned.run(&q, &padded_k, &padded_v).unwrap();
        assert_eq!(out.dims(), q.dims());
        assert_eq!(values::<f16>(&out), values::<f16>(&planned.run(&q, &k, &v).unwrap()));
        // A shorter one.
        let shorter = Case::packed(4, 2, 80, &[(2, 30)]);
        planned.replan(&shorter.problem()).unwrap();
        let part = |tensor: &Tensor, tokens| tensor.narrow(0, 0, tokens).unwrap();
        let (out, lse) =
            planned.run_with_lse(&part(&q, 2), &part(&padded_k, 30), &part(&padded_v, 30)).unwrap();
        let mut want = Operands::<f16>::new(&shorter);
        want.q.copy_from_slice(&operands.q[..2 * 4 * 80]);
        want.k.copy_from_slice(&operands.k[..30 * 2 * 80]);
        want.v.copy_from_slice(&operands.v[..30 * 2 * 80]);
        let got = Answer { out: values::<f16>(&out), lse: values::<f32>(&lse) };
        assert_close(onekv::DType::F16, &got, &want.reference(), &shorter);

        // What is refused of heads that kernels have is refused of these.
        let refuses = |q: &Tensor, k: &Tensor, why: &str| {
            let error = planned.run(q, k, &part(&v, 30)).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        };
        let expanded = part(&k, 1).expand((30, 2, 80)).unwrap();
        refuses(&part(&q, 2), &expanded, "pass the one there is, `narrow(0, 0, 1)`");
        let narrow = part(&q, 2).narrow(2, 0, 64).unwrap();
        refuses(&narrow, &part(&k, 30), "q is [2, 4, 64], allowed: [.., 4, 80] with 2 rows");
    }
}

/// Nobody's heads are padded who did not ask for it.
#[test]
fn without_padding_other_heads_are_refused() {
    for device in devices().into_iter().filter(Device::is_cuda) {
        let refused = |attention: Attention, head_dim| {
            let problem = Case::packed(4, 2, head_dim, &[(3, 50)]).problem();
            let planned = attention.plan(&problem, candle_core::DType::F16, &PlanOptions::default());
            planned.err().expect("should be refused").to_string()
        };
        let error = refused(Attention::new(&device).unwrap(), 80);
        assert!(
            error.contains("head_dim is 80, allowed on CUDA: 32, 64, 96, 128, 256; Q, K and V padded"),
            "{error}"
        );
        let error = refused(Attention::new(&device).unwrap().with_padding(), 300);
        assert!(error.contains("head_dim is 300, allowed on CUDA: 32, 64, 96, 128, 256"), "{error}");
    }
}

#[test]
fn states_that_do_not_fit_are_named() {
    for device in devices() {
        let attention = Attention::new(&device).unwrap();
        let refuses = |states: &[(&Tensor, &Tensor)], why: &str| {
            let error = attention.merge_states(states).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        };
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &device).unwrap();
        let (out, lse) = (zeros(&[2, 3, 4, 64]), zeros(&[2, 3, 4]));
        let merged = attention.merge_states(&[(&out, &lse), (&out, &lse)]).unwrap();
        assert_eq!((merged.0.dims(), merged.1.dims()), (out.dims(), lse.dims()));

        refuses(&[], "states is empty, allowed: at least one");
        refuses(
            &[(&out, &lse), (&zeros(&[6, 4, 32]), &lse)],
            "states.out is [6, 4, 32], allowed: [2, 3, 4, 64]",
        );
        refuses(&[(&out, &zeros(&[2, 3, 5]))], "states.lse is [2, 3, 5], allowed: [2, 3, 4], as");
        refuses(&[(&lse.flatten_all().unwrap(), &lse)], "states.out is [24], allowed: [.., heads, head_dim]");
        let half = Tensor::zeros((2, 3, 4, 64), candle_core::DType::F16, &device).unwrap();
        refuses(&[(&out, &lse), (&half, &lse)], "states.out is f16, allowed: f32");
        let halved = Tensor::zeros((2, 3, 4), candle_core::DType::F16, &device).unwrap();
        refuses(&[(&out, &halved)], "states.lse is f16, allowed: f32");
        if device.is_cuda() {
            refuses(&[(&out, &lse); 100], "states is 100, allowed: at most");
        }
    }
}

/// No rows, no keys: also where a view of nothing begins behind the end of its memory.
#[test]
fn empty_tensors_are_taken() {
    for device in devices() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &device).unwrap();
        let (q, kv) = (zeros(&[6, 4, 64]), zeros(&[2, 5, 4, 64]));
        let none = kv.narrow(0, 2, 0).unwrap().narrow(1, 1, 4).unwrap();
        let no_keys = planned::<f32>(&Case::packed(4, 4, 64, &[(6, 0)]).problem(), &device);
        let (out, lse) = no_keys.run_with_lse(&q, &none, &none).unwrap();
        assert_eq!(values::<f32>(&out), [0.0; 6 * 4 * 64]);
        assert_eq!(values::<f32>(&lse), [f32::NEG_INFINITY; 6 * 4]);

        let mut no_slots = Case::packed(4, 4, 64, &[(3, 0), (3, 0)]);
        no_slots.pad(0);
        let no_slots = planned::<f32>(&no_slots.problem(), &device);
        let mut none = vec![kv.narrow(1, 0, 0).unwrap()];
        // A card has no memory of no bytes.
        none.extend(device.is_cpu().then(|| zeros(&[2, 0, 4, 64])));
        for none in none {
            assert_eq!(values::<f32>(&no_slots.run(&q, &none, &none).unwrap()), [0.0; 6 * 4 * 64]);
        }

        let no_rows = planned::<f32>(&Case::packed(4, 4, 64, &[(0, 10)]).problem(), &device);
        let (out, lse) = no_rows.run_with_lse(&q.narrow(0, 6, 0).unwrap(), &kv, &kv).unwrap();
        assert_eq!((out.dims(), lse.dims()), (&[0, 4, 64][..], &[0, 4][..]));
        let merged = Attention::new(&device).unwrap().merge_states(&[(&out, &lse), (&out, &lse)]).unwrap();
        assert_eq!((merged.0.dims(), merged.1.dims()), (out.dims(), lse.dims()));
    }
}

/// A writer may wait for memory that K and V share: reading it is over all the same.
#[test]
fn a_writer_of_shared_memory_does_not_stop_it() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &Device::Cpu).unwrap();
        let (q, kv, new) = (zeros(&[6, 4, 64]), zeros(&[2, 10, 4, 64]), zeros(&[2, 1, 4, 64]));
        let attention = Attention::new(&Device::Cpu).unwrap();
        let planned = planned::<f32>(&Case::packed(4, 4, 64, &[(6, 10)]).problem(), &Device::Cpu);
        let (k, v) = (kv.i(0).unwrap(), kv.i(1).unwrap());
        let lse = zeros(&[10, 4]);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    kv.slice_set(&new, 1, 3).unwrap();
                }
            });
            for _ in 0..500 {
                planned.run(&q, &k, &v).unwrap();
                attention.merge_states(&[(&k, &lse), (&v, &lse)]).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        done.send(()).unwrap();
    });
    finished.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for ever");
}

/// One plan for several threads, on a device whose stream is each thread's own and on one with a stream for all. Tensors and
/// plan are gone while they are used.
#[test]
fn threads_share_a_plan() {
    #[allow(unused_mut, reason = "only CUDA adds to it")]
    let mut devices = devices();
    #[cfg(feature = "candle-cuda")]
    if devices.len() > 1 {
        devices.push(Device::new_cuda_with_stream(0).unwrap());
    }
    for device in &devices {
        let case = Case::packed(2, 1, 64, &[(4, 300)]);
        let split = PlanOptions::default().with_split_keys(64);
        let attention = Attention::new(device).unwrap();
        let dtype = candle_core::DType::F32;
        let planned = Arc::new(attention.plan(&case.problem(), dtype, &split).unwrap());
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (planned, mut case) = (planned.clone(), case.clone());
                scope.spawn(move || {
                    case.seed = seed;
                    let operands = Operands::<f32>::new(&case);
                    let of = |data: &[f32], tokens, heads| {
                        tensor(data, &[tokens, heads, 64], Layout::Contiguous, device)
                    };
                    let q = of(&operands.q, 4, 2);
                    let (k, v) = (of(&operands.k, 300, 1), of(&operands.v, 300, 1));
                    let (out, lse) = planned.run_with_lse(&q, &k, &v).unwrap();
                    drop((planned, q, k, v));
                    let got = Answer { out: values::<f32>(&out), lse: values::<f32>(&lse) };
                    assert_close(onekv::DType::F32, &got, &operands.reference(), &case);
                });
            }
            drop((attention, planned));
        });
    }
}

/// A plan is asked for again by what makes it: each alone differs in one thing.
#[test]
fn a_plan_is_kept_for_all_that_makes_it() {
    for device in devices() {
        let attention = Attention::new(&device).unwrap();
        let padded = |lengths: [usize; 2]| Keys::Padded { max_keys: 10, lengths: lengths.into() };
        let spec = Case::packed(4, 2, 64, &[(3, 5), (3, 5)]).spec;
        let packed = |offsets: [usize; 3]| Keys::Packed { offsets: offsets.into() };
        let specs = [
            spec.clone(),
            ProblemSpec { scale: spec.scale * 2.0, ..spec.clone() },
            ProblemSpec { softcap: Some(30.0), ..spec.clone() },
            ProblemSpec { heads: 8, ..spec.clone() },
            ProblemSpec { kv_heads: 4, ..spec.clone() },
            ProblemSpec { head_dim: 128, ..spec.clone() },
            ProblemSpec { row_offsets: vec![0, 2, 6], ..spec.clone() },
            ProblemSpec { keys: packed([0, 4, 10]), ..spec.clone() },
            ProblemSpec { keys: padded([5, 5]), ..spec.clone() },
            ProblemSpec { keys: padded([5, 6]), ..spec.clone() },
        ];
        let (f32, f16) = (candle_core::DType::F32, candle_core::DType::F16);
        let (free, split) = (PlanOptions::default(), PlanOptions::default().with_split_keys(64));
        let mut asked: Vec<(ProblemSpec, candle_core::DType, PlanOptions)> =
            specs.into_iter().map(|spec| (spec, f32, free)).collect();
        asked.extend([(spec.clone(), f16, free), (spec, f32, split)]);
        let all = || {
            let planned = asked.iter().map(|(spec, dtype, options)| {
                let problem = Problem::new(spec.clone()).unwrap();
                (attention.planned(&problem, *dtype, options).unwrap(), problem)
            });
            planned.collect::<Vec<_>>()
        };
        let (first, again) = (all(), all());
        for (i, (planned, problem)) in first.iter().enumerate() {
            let same = again.iter().map(|(other, _)| Arc::ptr_eq(planned, other));
            assert!(same.enumerate().all(|(j, same)| same == (i == j)), "{:?}", asked[i]);
            // It is the plan of what was asked.
            let (dims, of) = (problem.query_shape(), asked[i].1);
            let q = Tensor::zeros((dims.tokens, dims.heads, dims.vector), of, &device).unwrap();
            let kv = problem.kv_shape();
            let dims = match kv.inputs {
                1 => vec![kv.tokens, kv.heads, kv.vector],
                _ => vec![kv.inputs, kv.tokens, kv.heads, kv.vector],
            };
            let kv = Tensor::zeros(dims, of, &device).unwrap();
            assert_eq!(planned.run(&q, &kv, &kv).unwrap().dims(), q.dims());
        }
        // What another attention plans is its own.
        let other = Attention::new(&device).unwrap();
        assert!(!Arc::ptr_eq(&first[0].0, &other.planned(&first[0].1, f32, &free).unwrap()));
        let error = attention.planned(&first[0].1, candle_core::DType::U8, &free).err().unwrap();
        assert!(error.to_string().starts_with("dtype is u8, allowed: f32, f16, bf16"), "{error}");
    }
}

/// Of more plans than are kept the one that was not asked for the longest leaves; who holds it runs it still.
#[test]
fn plans_leave_in_the_order_of_their_use() {
    for device in devices() {
        let attention = Attention::new(&device).unwrap();
        let ask = |rows: usize| {
            let problem = Case::packed(1, 1, 64, &[(rows, 1)]).problem();
            attention.planned(&problem, candle_core::DType::F32, &PlanOptions::default()).unwrap()
        };
        let kept: Vec<Arc<Planned>> = (1..=KEPT_PLANS).map(ask).collect();
        assert!(kept.iter().all(|planned| Arc::strong_count(planned) == 2));
        // The second is now the oldest.
        assert!(Arc::ptr_eq(&kept[0], &ask(1)));
        let further = ask(KEPT_PLANS + 1);
        assert_eq!(Arc::strong_count(&kept[1]), 1, "it is kept beyond the bound");
        assert!(
            kept.iter().skip(2).chain([&kept[0], &further]).all(|planned| Arc::strong_count(planned) == 2)
        );
        let zeros = |rows: usize| Tensor::zeros((rows, 1, 64), candle_core::DType::F32, &device).unwrap();
        kept[1].run(&zeros(2), &zeros(1), &zeros(1)).unwrap();
        assert!(!Arc::ptr_eq(&kept[1], &ask(2)));
        drop(attention);
        further.run(&zeros(KEPT_PLANS + 1), &zeros(1), &zeros(1)).unwrap();
    }
}

/// Threads that ask for the same at once get the same, and their answers are right.
#[test]
fn threads_get_the_same_plan() {
    for device in devices() {
        let attention = Attention::new(&device).unwrap();
        let cases: Vec<Case> = (1..=8).map(|rows| Case::packed(2, 1, 64, &[(rows, 40)])).collect();
        let start = std::sync::Barrier::new(2);
        let ask = || {
            start.wait();
            let planned = cases.iter().map(|case| {
                let options = PlanOptions::default();
                let planned = attention.planned(&case.problem(), candle_core::DType::F32, &options).unwrap();
                let operands = Operands::<f32>::new(case);
                let of = |data: &[f32], tokens, heads| {
                    tensor(data, &[tokens, heads, 64], Layout::Contiguous, &device)
                };
                let q = of(&operands.q, operands.problem.total_rows(), 2);
                let (k, v) = (of(&operands.k, 40, 1), of(&operands.v, 40, 1));
                let (out, lse) = planned.run_with_lse(&q, &k, &v).unwrap();
                let got = Answer { out: values::<f32>(&out), lse: values::<f32>(&lse) };
                assert_close(onekv::DType::F32, &got, &operands.reference(), case);
                planned
            });
            planned.collect::<Vec<_>>()
        };
        let (one, other) = std::thread::scope(|scope| {
            let (one, other) = (scope.spawn(ask), scope.spawn(ask));
            (one.join().unwrap(), other.join().unwrap())
        });
        assert!(one.iter().zip(&other).all(|(one, other)| Arc::ptr_eq(one, other)));
    }
}

/// Views of a cache are read where they stand: nothing as large as K, or as one head of it, is allocated.
#[test]
fn views_of_a_cache_are_not_copied() {
    let (inputs, heads, capacity, dim) = (2, 4, 1024, 64);
    let cache = |inputs: usize| {
        let nan = Tensor::full(f32::NAN, (inputs, heads, capacity, dim), &Device::Cpu).unwrap();
        nan.slice_set(
            &Tensor::ones((inputs, heads, 900, dim), candle_core::DType::F32, &Device::Cpu).unwrap(),
            2,
            0,
        )
        .unwrap();
        nan.transpose(1, 2).unwrap()
    };
    let one = cache(1);
    // As projected, one of several inputs, between others' heads.
    let rows = Tensor::ones((3, 900, 2 * heads, dim), candle_core::DType::F32, &Device::Cpu).unwrap();
    let rows = rows.narrow(0, 1, 1).unwrap().narrow(2, 2, heads).unwrap();
    let packed = Keys::Packed { offsets: vec![0, 900] };
    let padded = |inputs: usize, max_keys| Keys::Padded { max_keys, lengths: vec![900; inputs] };
    for (inputs, keys, kv) in [
        (1, packed.clone(), one.narrow(1, 0, 900).unwrap()),
        (1, packed.clone(), one.i(0).unwrap().narrow(0, 0, 900).unwrap()),
        (1, padded(1, capacity), one),
        (1, packed, rows),
        (inputs, padded(inputs, capacity), cache(inputs)),
        (inputs, padded(inputs, 950), cache(inputs).narrow(1, 0, 950).unwrap()),
        (inputs, padded(inputs, capacity), cache(inputs + 3).narrow(0, 2, inputs).unwrap()),
    ] {
        let row_offsets = (0..=inputs).collect();
        let (kv_heads, head_dim, scale, softcap) = (heads, dim, 1.0, None);
        let spec = ProblemSpec { heads, kv_heads, head_dim, scale, softcap, row_offsets, keys };
        let planned = planned::<f32>(&Problem::new(spec).unwrap(), &Device::Cpu);
        let q = Tensor::ones((inputs, heads, dim), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut out = None;
        let held = allocation_counter::measure(|| out = Some(planned.run(&q, &kv, &kv).unwrap())).bytes_max;
        assert!(held < (900 * dim * size_of::<f32>()) as u64, "{held} bytes for {:?}", kv.layout());
        let out = out.unwrap();
        assert!(values::<f32>(&out).iter().all(|x| (x - 1.0).abs() < 1e-5));
    }
}

/// What an engine would expand for its prompts is to be passed once, whatever has been done to it.
#[test]
fn expanded_caches_are_advised_to_be_shared() {
    for device in devices() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &device).unwrap();
        let (one, cache) = (zeros(&[1, 4, 8, 64]), zeros(&[2, 4, 8, 64]));
        let (by_prompt, by_key) = ((3, 8, 4, 64), (3, 8, 2, 4, 64));
        let shared =
            |dim| format!("allowed: memory for each vector (pass the one there is, `narrow({dim}, 0, 1)`");
        // 30 prompts on one input, 3 inputs: as [.., keys, kv_heads, head_dim].
        let expanded = [
            (one.transpose(1, 2).unwrap().expand(by_prompt).unwrap(), 0),
            (one.expand((3, 4, 8, 64)).unwrap().transpose(1, 2).unwrap(), 0),
            (one.narrow(1, 0, 1).unwrap().expand((1, 4, 8, 64)).unwrap().transpose(1, 2).unwrap(), 2),
            (cache.narrow(2, 0, 1).unwrap().expand((2, 4, 8, 64)).unwrap().transpose(1, 2).unwrap(), 1),
            (cache.unsqueeze(1).unwrap().expand((2, 3, 4, 8, 64)).unwrap().transpose(2, 3).unwrap(), 1),
            (
                cache
                    .i(..1)
                    .unwrap()
                    .transpose(1, 2)
                    .unwrap()
                    .unsqueeze(2)
                    .unwrap()
                    .expand((1, 8, 2, 4, 64))
                    .unwrap(),
                2,
            ),
            (one.transpose(1, 2).unwrap().unsqueeze(2).unwrap().expand(by_key).unwrap(), 0),
        ];
        let mut slots = Case::packed(4, 4, 64, &[(3, 8), (3, 8)]);
        slots.pad(0);
        for case in [Case::packed(4, 4, 64, &[(3, 8)]), slots] {
            let planned = planned::<f32>(&case.problem(), &device);
            let q = zeros(&[case.problem().total_rows(), 4, 64]);
            for (kv, dim) in &expanded {
                let error = planned.run(&q, kv, &cache).expect_err("expanded").to_string();
                assert!(error.starts_with("k is") && error.contains(&shared(*dim)), "{error}");
            }
        }
        // What the advice leads to.
        let planned = planned::<f32>(&Case::packed(4, 4, 64, &[(3, 8)]).problem(), &device);
        let kv = expanded[1].0.narrow(0, 0, 1).unwrap();
        planned.run(&zeros(&[3, 4, 64]), &kv, &kv).unwrap();
    }
}

/// A cache that grows in place between runs: one plan and one tensor, other lengths. What is not written yet is NaN.
#[test]
fn a_cache_grows_between_runs() {
    for device in devices() {
        for_each_dtype!(growing_cache_equals_the_reference(&device));
    }
}

fn growing_cache_equals_the_reference<E: Both>(device: &Device) {
    let (inputs, kv_heads, capacity, dim) = (2, 2, 40, 64);
    let mut case = Case::packed(4, kv_heads, dim, &[(3, capacity), (5, capacity)]);
    case.spec.keys = Keys::Padded { max_keys: capacity, lengths: vec![capacity; inputs] };
    let mut operands = Operands::<E>::new(&case);
    let mut planned = planned::<E>(&operands.problem, device);
    let q = tensor(&operands.q, &[8, 4, dim], Layout::Contiguous, device);
    let nan = <E as Element>::from_f32(f32::NAN);
    let nan = || Tensor::full(nan, (inputs, kv_heads, capacity, dim), &Device::Cpu).unwrap();
    let caches = [nan(), nan()];
    let mut written = 0;
    for lengths in [[1, 1], [2, 1], [33, 17], [40, 40], [7, 40]] {
        case.spec.keys = Keys::Padded { max_keys: capacity, lengths: lengths.to_vec() };
        operands.problem = case.problem();
        let longest = lengths[0].max(lengths[1]);
        for (cache, data) in caches.iter().zip([&operands.k, &operands.v]).filter(|_| longest > written) {
            let all = tensor(data, &[inputs, capacity, kv_heads, dim], Layout::Contiguous, &Device::Cpu);
            let new = all.transpose(1, 2).unwrap().narrow(2, written, longest - written).unwrap();
            cache.slice_set(&new.contiguous().unwrap(), 2, written).unwrap();
        }
        written = written.max(longest);
        planned.replan(&operands.problem).unwrap();
        // On the CPU the same memory. A card has a copy: what writes there is candle's kernels, which not every test has.
        let [k, v] = [&caches[0], &caches[1]].map(|cache| {
            let there = cache.to_device(device).unwrap();
            there.transpose(1, 2).unwrap()
        });
        let (out, lse) = planned.run_with_lse(&q, &k, &v).unwrap();
        let got = Answer { out: values::<E>(&out), lse: values::<f32>(&lse) };
        assert_close(<E as Element>::DTYPE, &got, &operands.reference(), &case);
    }
}

/// Lengths alone are replanned.
#[test]
fn replans_that_do_not_fit_are_named() {
    for device in devices() {
        let spec = Case::packed(4, 2, 64, &[(3, 5)]).spec;
        let mut planned = planned::<f32>(&Problem::new(spec.clone()).unwrap(), &device);
        let mut refuses = |spec: ProblemSpec, why: &str| {
            let error = planned.replan(&Problem::new(spec).unwrap()).expect_err(why).to_string();
            assert!(error.starts_with(why), "{error}");
        };
        refuses(
            ProblemSpec { heads: 8, ..spec.clone() },
            "heads of the problem is 8, allowed: 4, as planned",
        );
        refuses(ProblemSpec { kv_heads: 4, ..spec.clone() }, "kv_heads of the problem is 4, allowed: 2");
        refuses(ProblemSpec { head_dim: 128, ..spec.clone() }, "head_dim of the problem is 128, allowed: 64");
        refuses(ProblemSpec { scale: 2.0, ..spec.clone() }, "scale of the problem is 2, allowed: ");
        refuses(
            ProblemSpec { softcap: Some(9.0), ..spec.clone() },
            "softcap of the problem is 9, allowed: none",
        );
        if device.is_cuda() {
            let longer = Keys::Packed { offsets: vec![0, 6] };
            refuses(
                ProblemSpec { keys: longer, ..spec.clone() },
                "the plan has 6 keys of a slot, allowed: at most 5",
            );
        }
        // All is as before.
        let zeros =
            |tokens, heads| Tensor::zeros((tokens, heads, 64), candle_core::DType::F32, &device).unwrap();
        planned.run(&zeros(3, 4), &zeros(5, 2), &zeros(5, 2)).unwrap();
        let shorter =
            ProblemSpec { row_offsets: vec![0, 2], keys: Keys::Packed { offsets: vec![0, 4] }, ..spec };
        planned.replan(&Problem::new(shorter).unwrap()).unwrap();
        planned.run(&zeros(2, 4), &zeros(4, 2), &zeros(4, 2)).unwrap();
        let error = planned.run(&zeros(3, 4), &zeros(5, 2), &zeros(5, 2)).unwrap_err().to_string();
        assert!(error.contains("with 2 rows in the leading dimensions"), "{error}");
    }
}

/// An engine keeps them where its threads reach them.
#[test]
fn threads_may_share_it() {
    fn shared<T: Send + Sync>() {}
    shared::<Attention>();
    shared::<Planned>();
}

/// Two devices of one card, each with its stream.
#[cfg(feature = "candle-cuda")]
#[test]
fn tensors_of_another_stream_are_refused() {
    if devices().len() < 2 {
        return;
    }
    let (own, other) = (Device::new_cuda(0).unwrap(), Device::new_cuda_with_stream(0).unwrap());
    let (own, other) = (Small::new(&own), Small::new(&other));
    other.refuses([&own.q, &own.kv, &own.kv], "q is on Cuda { gpu_id: 0 }, allowed: the device and stream");
    own.refuses([&own.q, &own.kv, &other.kv], "v is on Cuda { gpu_id: 0 }, allowed: the device and stream");
    // The same stream, but another device, with its own account of memory.
    let again = Small::new(&Device::new_cuda(0).unwrap());
    own.refuses([&own.q, &again.kv, &own.kv], "k is on Cuda { gpu_id: 0 }, allowed: the device and stream");
}

/// Two devices, where there are two.
#[test]
fn tensors_of_another_device_are_refused() {
    let devices = devices();
    let [cpu, card] = &devices[..] else { return };
    let (on_cpu, on_card) = (Small::new(cpu), Small::new(card));
    let (q, kv) = (&on_cpu.q, &on_cpu.kv);
    on_cpu.refuses([q, &on_card.kv, kv], "k is on Cuda { gpu_id: 0 }, allowed: the CPU, which");
    on_card.refuses([q, &on_card.kv, &on_card.kv], "q is on Cpu, allowed: CUDA, which");
}

/// With split and tile fixed an input has the same bits alone and among others, through candle's tensors too; on the CPU on one
/// thread.
#[test]
fn bits_do_not_depend_on_the_batch() {
    let options = PlanOptions::default().with_split_keys(64).with_tile_rows(16);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for device in devices() {
        let attention = Attention::new(&device).unwrap();
        let bits = |operands: &Operands<half::bf16>, rows: std::ops::Range<usize>| {
            let problem = &operands.problem;
            let planned = attention.planned(problem, candle_core::DType::BF16, &options).unwrap();
            let of = |data: &[half::bf16], tokens, heads| {
                tensor(data, &[tokens, heads, 64], Layout::Contiguous, &device)
            };
            let q = of(&operands.q, problem.total_rows(), 2);
            let [k, v] = [&operands.k, &operands.v].map(|data| of(data, problem.key_positions(), 1));
            let (out, lse) = planned.run_with_lse(&q, &k, &v).unwrap();
            let out = values::<half::bf16>(&out).iter().map(|x| x.to_f32()).collect();
            Answer { out, lse: values::<f32>(&lse) }.bits(problem, rows)
        };
        let case = Case::packed(2, 1, 64, &[(9, 700)]);
        let alone = Operands::<half::bf16>::new(&case);
        let (among, rows) = alone.among(&case, &[(3, 40)], &[(20, 900)]);
        let (want, got) = pool.install(|| (bits(&alone, 0..9), bits(&among, rows)));
        assert!(want == got, "{:?}", device.location());
    }
}
