//! K and V in e4m3 on the card, against the oracle on what the codes stand for.
#![cfg(feature = "cuda")]

mod common;

use common::device::{Card, card, fixed};
use common::quantized::QuantizedCase;
use common::{Case, Operands, TestElement, assert_close, cases, config};
use half::{bf16, f16};
use onekv::cuda::{Prepared, QuantizedKv};
use onekv::plan::{Plan, PlanOptions, variants};
use onekv::{DType, Error, SharedKv, Strides, View, e4m3};
use proptest::prelude::*;

/// The card, if it has kernels for e4m3; of others, that they refuse such a plan.
fn capable() -> Option<&'static Card> {
    let card = card()?;
    if card.kernels.facts().compute_capability >= (9, 0) {
        return Some(card);
    }
    let problem = Case::packed(2, 2, 64, &[(3, 40)]).problem();
    let facts = card.kernels.facts();
    let refused = Plan::with_e4m3_kv(&problem, DType::Bf16, facts, &PlanOptions::default()).unwrap_err();
    assert!(matches!(refused, Error::NoKernel { e4m3_kv: true, .. }), "{refused}");
    None
}

fn equals_the_reference_as<E: TestElement>(case: &Case, q_factor: f32) {
    let quantized = QuantizedCase::<E>::new(case, q_factor);
    let want = quantized.reference();
    for options in [PlanOptions::default(), fixed(64, 16), fixed(96, 32)] {
        assert_close(E::DTYPE, &quantized.run(&options).0, &want, case);
    }
}

/// Ragged inputs, groups, softcaps, strides of K and V.
fn supported(max_rows: usize, max_keys: usize) -> impl Strategy<Value = Case> {
    let dim = prop::sample::select(variants::E4M3_HEAD_DIMS.to_vec());
    (cases(max_rows, max_keys), dim).prop_map(|(mut case, dim)| {
        case.spec.head_dim = dim;
        case.magnitude = case.magnitude.min(2.0);
        case
    })
}

proptest! {
    #![proptest_config(config(24))]

    /// Q of every size that bf16 has: K's scales make up for it.
    #[test]
    fn equals_the_reference(case in supported(40, 300), power in prop::sample::select(vec![-115, -20, 0, 20, 115])) {
        if capable().is_some() {
            equals_the_reference_as::<f16>(&case, 1.0);
            equals_the_reference_as::<bf16>(&case, 2f32.powi(power));
        }
    }

    /// NaN codes in K and V, NaN and infinities in Q: the oracle's rows have them and no others.
    #[test]
    fn nan_and_inf_stay_in_the_rows_that_read_them(
        rows in 1..40usize, keys in 1..150usize, at: prop::sample::Index, what in 0..5usize, seed: u64,
    ) {
        if capable().is_none() {
            return Ok(());
        }
        let mut case = Case::packed(4, 2, 64, &[(rows, keys), (rows, keys)]);
        case.seed = seed;
        let mut quantized = QuantizedCase::<bf16>::new(&case, 1.0);
        let nan_code = if seed % 2 == 0 { 0x7f } else { 0xff };
        let Operands { q, .. } = &mut quantized.operands;
        let at_q = at.index(q.len());
        match what {
            0 => q[at_q] = bf16::NAN,
            1 => q[at_q] = bf16::INFINITY,
            2 => q[at_q] = bf16::NEG_INFINITY,
            3 => quantized.k.codes[at.index(keys * 256)] = nan_code,
            _ => quantized.v.codes[at.index(keys * 256)] = nan_code,
        }
        let want = quantized.reference();
        for options in [PlanOptions::default(), fixed(64, 16)] {
            let (got, _) = quantized.run(&options);
            for (i, (g, w)) in got.out.iter().zip(&want.out).enumerate() {
                prop_assert_eq!(g.is_finite(), w.is_finite(), "out[{}] is {}, the oracle has {}", i, g, w);
            }
        }
    }
}

/// Every code, at every place of sixteen columns and keys, in K and in V.
#[test]
fn every_code_means_its_value() {
    if capable().is_none() {
        return;
    }
    for head_dim in variants::E4M3_HEAD_DIMS {
        let mut case = Case::packed(1, 1, head_dim, &[(16, 64)]);
        // Weights that differ little, so that every key counts.
        case.spec.scale = 1e-3 / (head_dim as f32).sqrt();
        let mut quantized = QuantizedCase::<f16>::new(&case, 1.0);
        for (i, (k, v)) in quantized.k.codes.iter_mut().zip(&mut quantized.v.codes).enumerate() {
            // A multiplier without small factors in common with the strides; NaN codes become zeros.
            let code = (i * 37 + i / head_dim * 11) as u8;
            (*k, *v) = if code & 0x7f == 0x7f { (0, 0) } else { (code, code ^ 0x55) };
            *v = if *v & 0x7f == 0x7f { 0 } else { *v };
        }
        (quantized.k.scales, quantized.v.scales) = (vec![1.0], vec![1.0 / 128.0]);
        assert_close(DType::F16, &quantized.run(&fixed(1024, 16)).0, &quantized.reference(), &case);
    }
}

/// A scale of 0, as naive quantisation gives a head of zeros: its keys weigh the same, its values are 0.
#[test]
fn a_scale_of_zero_is_a_head_of_zeros() {
    if capable().is_none() {
        return;
    }
    // Small rows of Q as well, over whole tiles of keys too, and rows so large that their dot products with the codes are too
    // large for a float.
    let large = 2f32.powi(115);
    for (softcap, q_factor, keys) in [
        (None, 1.0, 70),
        (Some(5.0), 1.0, 70),
        (None, 1e-3, 70),
        (None, 1e-3, 64),
        (None, large, 70),
        (Some(5.0), large, 70),
    ] {
        let mut case = Case::packed(4, 2, 64, &[(5, keys)]);
        case.spec.softcap = softcap;
        let mut quantized = QuantizedCase::<bf16>::new(&case, q_factor);
        (quantized.k.scales[0], quantized.v.scales[1]) = (0.0, 0.0);
        assert_close(DType::Bf16, &quantized.run(&fixed(64, 16)).0, &quantized.reference(), &case);
    }
}

/// What the library quantises, the library's card attends to; the whole way of a user, and how near it comes.
#[test]
fn quantised_tensors_come_near_the_16_bit_answer() {
    let Some(Card { stream, kernels, queue, .. }) = capable() else { return };
    let case = Case::packed(4, 2, 128, &[(7, 200), (3, 90)]);
    let operands = Operands::<bf16>::new(&case);
    let problem = &operands.problem;
    let plan = Plan::with_e4m3_kv(problem, DType::Bf16, kernels.facts(), &PlanOptions::default()).unwrap();
    let prepared = queue.prepare(&plan).unwrap();
    let upload =
        |t: e4m3::Quantized| (stream.clone_htod(&t.codes).unwrap(), stream.clone_htod(&t.scales).unwrap());
    let (k, k_scale) = upload(e4m3::quantize(problem, operands.kv().k).unwrap());
    let (v, v_scale) = upload(e4m3::quantize(problem, operands.kv().v).unwrap());
    let q = stream.clone_htod(&operands.q).unwrap();
    let mut out = stream.alloc_zeros::<bf16>(q.len()).unwrap();
    let kv = QuantizedKv {
        codes: SharedKv::contiguous(problem.kv_shape(), k.as_view(), v.as_view()),
        k_scale: k_scale.as_view(),
        v_scale: v_scale.as_view(),
    };
    let q = View::contiguous(problem.query_shape(), q.as_view());
    let result = View::contiguous(problem.query_shape(), out.as_view_mut());
    prepared.run_e4m3(q, kv, result, None).unwrap();
    let want = operands.reference().out;
    let got = stream.clone_dtoh(&out).unwrap();
    let (error, norm) = got
        .iter()
        .zip(&want)
        .fold((0.0, 0.0), |(error, norm), (g, w)| (error + (g.to_f32() - w).powi(2), norm + w.powi(2)));
    // Values are rounded to 2^-4 of themselves at most, 2^-5.8 in the mean, and so is the average of independent ones.
    let relative = (error / norm).sqrt();
    assert!((1e-3..0.05).contains(&relative), "relative error {relative}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(Card { stream, kernels, queue, .. }) = capable() else { return };
    let facts = kernels.facts();
    let case = Case::packed(4, 2, 64, &[(5, 300)]);
    let problem = case.problem();
    let options = PlanOptions::default();
    let refused = |dtype, options: &PlanOptions| {
        Plan::with_e4m3_kv(&problem, dtype, facts, options).unwrap_err().to_string()
    };
    assert!(refused(DType::F32, &options).starts_with("no kernel for f32 with e4m3 K/V, head_dim 64"));
    assert!(refused(DType::Bf16, &fixed(64, 64)).contains("tile_rows 64"));
    let odd = Case::packed(4, 2, 96, &[(5, 300)]).problem();
    let refused = Plan::with_e4m3_kv(&odd, DType::Bf16, facts, &options).unwrap_err();
    assert!(matches!(refused, Error::UnsupportedHeadDim { value: 96, .. }));

    let plan = Plan::with_e4m3_kv(&problem, DType::Bf16, facts, &options).unwrap();
    let prepared = queue.prepare(&plan).unwrap();
    let codes = stream.alloc_zeros::<u8>(300 * 2 * 64 + 300 * 8).unwrap();
    let scales = stream.alloc_zeros::<f32>(2).unwrap();
    let q = stream.alloc_zeros::<bf16>(5 * 4 * 64).unwrap();
    let mut out = stream.alloc_zeros::<bf16>(5 * 4 * 64).unwrap();
    let mut run = |prepared: &Prepared, row: usize, v_scales: usize| {
        let codes = || View::strided(problem.kv_shape(), Strides::new(row, 64), codes.as_view());
        let codes = SharedKv { k: codes(), v: codes() };
        let kv = QuantizedKv { codes, k_scale: scales.as_view(), v_scale: scales.slice(..v_scales) };
        let out = View::contiguous(problem.query_shape(), out.as_view_mut());
        prepared.run_e4m3(View::contiguous(problem.query_shape(), q.as_view()), kv, out, None)
    };
    assert_eq!(run(&prepared, 128, 2), Ok(()));
    assert_eq!(run(&prepared, 128, 1), Err(Error::TooShort { tensor: "v_scale", value: 1, min: 2 }));
    let misaligned = Error::Misaligned { tensor: "k", part: "strides.row", value: 136, align: 16 };
    assert_eq!(run(&prepared, 136, 2), Err(misaligned));

    // Plans of the one format do not run operands of the other.
    let plain = Plan::new(&problem, DType::Bf16, facts, &options).unwrap();
    let plain = queue.prepare(&plain).unwrap();
    let wrong = run(&plain, 128, 2).unwrap_err().to_string();
    assert_eq!(wrong, "K and V are e4m3, allowed: in the type of q (run), which the plan is for");
    let operands = Operands::<bf16>::new(&case);
    let kv = stream.clone_htod(&operands.k).unwrap();
    let mut result = stream.alloc_zeros::<bf16>(operands.q.len()).unwrap();
    let wrong = prepared.run(
        View::contiguous(problem.query_shape(), q.as_view()),
        SharedKv::contiguous(problem.kv_shape(), kv.as_view(), kv.as_view()),
        View::contiguous(problem.query_shape(), result.as_view_mut()),
        None,
    );
    assert_eq!(wrong, Err(Error::WrongKv { value: "in the type of q", planned: "e4m3 (run_e4m3)" }));
}
