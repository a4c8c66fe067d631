//! Every backend against the f64 oracle.

mod common;

use common::{Answer, Attend, Case, Layout, Operands, TestElement, assert_close, cases, config};
use onekv::cpu::merge_states;
use onekv::{Keys, PartialState, SharedKv, View, cpu};
use proptest::prelude::*;

/// The backends of this machine that take this head_dim. A further backend joins every test by a line here.
fn backends<E: TestElement>(head_dim: usize) -> Vec<(&'static str, Attend<E>)> {
    #[allow(unused_mut, reason = "only CUDA adds to it")]
    let mut found: Vec<(&'static str, Attend<E>)> = vec![("cpu", cpu::attend::<E>)];
    #[cfg(feature = "cuda")]
    if common::device::card().is_some() && onekv::plan::variants::HEAD_DIMS.contains(&head_dim) {
        found.push(("cuda", common::device::attend::<E>));
        found.push((FIXED, common::device::attend_fixed::<E>));
    }
    let _ = head_dim;
    found
}

/// CUDA with fixed splits.
#[cfg(feature = "cuda")]
const FIXED: &str = "cuda, fixed splits";

fn matches_reference<E: TestElement>(case: &Case) {
    let operands = Operands::<E>::new(case);
    let want = operands.reference();
    for (name, attend) in backends(case.spec.head_dim) {
        println!("{name} {case:?}");
        assert_close(E::DTYPE, &operands.run(attend), &want, case);
    }
}

proptest! {
    // On a virtual card they take some thirty times as long.
    #![proptest_config(config(if cfg!(feature = "cuda") { 24 } else { 48 }))]

    #[test]
    fn equals_the_reference(case in cases(40, 300)) {
        for_each_dtype!(matches_reference(&case));
    }

    #[test]
    fn merging_any_split_of_the_keys_equals_not_splitting(
        rows in 1..40usize, keys in 0..200usize, cuts in prop::collection::vec(0..200usize, 0..4), seed: u64,
    ) {
        let mut case = Case::packed(4, 2, 64, &[(rows, keys)]);
        case.seed = seed;
        let mut bounds: Vec<usize> = cuts.iter().map(|c| c.min(&keys)).copied().chain([0, keys]).collect();
        bounds.sort();
        for_each_dtype!(merge_equals_whole(&case, &bounds));
    }

    #[test]
    fn permuting_rows_permutes_outputs(rows in 2..80usize, keys in 1..150usize, seed: u64) {
        let mut case = Case::packed(2, 2, 64, &[(rows, keys)]);
        case.seed = seed;
        let operands = Operands::<f32>::new(&case);
        let width = operands.q_strides.row;
        let mut rotated = Operands::<f32>::new(&case);
        rotated.q.rotate_left(width);
        for (_, attend) in backends(64) {
            let mut straight = operands.run(attend);
            straight.out.rotate_left(width);
            straight.lse.rotate_left(2);
            prop_assert_eq!(&straight, &rotated.run(attend));
        }
    }

    #[test]
    fn neighbours_do_not_matter(
        rows in 1..80usize, keys in 1..150usize, others in prop::collection::vec((0..5usize, 0..100usize), 0..4), seed: u64,
    ) {
        let mut case = Case::packed(2, 1, 64, &[(rows, keys)]);
        case.seed = seed;
        let alone = Operands::<f32>::new(&case);
        let (before, after) = others.split_at(others.len() / 2);
        let (among, there) = alone.among(&case, before, after);
        for (name, attend) in backends(64) {
            // Its splits depend on the batch; so do the CPU's, from 256 keys on where there are several threads.
            if name == "cuda" {
                continue;
            }
            let want = alone.run(attend).bits(&alone.problem, 0..rows);
            prop_assert_eq!(want, among.run(attend).bits(&among.problem, there.clone()), "{}", name);
        }
    }

    #[test]
    fn nan_and_inf_stay_in_the_rows_that_read_them(
        rows in 1..40usize, keys in 1..150usize, at: prop::sample::Index, what in 0..3usize, seed: u64,
    ) {
        let value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][seed as usize % 3];
        let mut case = Case::packed(2, 2, 64, &[(rows, keys), (rows, keys)]);
        case.seed = seed;
        let mut operands = Operands::<f32>::new(&case);
        let tensor = match what {
            0 => &mut operands.q,
            1 => &mut operands.k,
            _ => &mut operands.v,
        };
        let at = at.index(tensor.len());
        tensor[at] = value;
        let want = operands.reference();
        for (_, attend) in backends(64) {
            let got = operands.run(attend);
            for (i, (g, w)) in got.out.iter().zip(&want.out).enumerate() {
                prop_assert_eq!(g.is_finite(), w.is_finite(), "out[{}] is {}, the oracle has {}", i, g, w);
            }
            for (i, (g, w)) in got.lse.iter().zip(&want.lse).enumerate() {
                prop_assert_eq!(g.is_nan(), w.is_nan(), "lse[{}] is {}, the oracle has {}", i, g, w);
            }
        }
    }
}

fn merge_equals_whole<E: TestElement>(case: &Case, bounds: &[usize]) {
    let operands = Operands::<E>::new(case);
    let p = &operands.problem;
    let (rows, heads, dim) = (p.total_rows(), p.heads(), p.head_dim());
    for (_, attend) in backends::<E>(dim) {
        let parts: Vec<Answer> = bounds
            .windows(2)
            .map(|w| {
                let mut part = Operands::<E>::new(case);
                let mut spec = case.spec.clone();
                spec.keys = Keys::Packed { offsets: vec![0, w[1] - w[0]] };
                part.problem = onekv::Problem::new(spec).unwrap();
                part.k.drain(..w[0] * part.k_strides.row);
                part.v.drain(..w[0] * part.v_strides.row);
                part.run(attend)
            })
            .collect();
        let shape = p.query_shape();
        let states: Vec<PartialState<&[f32], &[f32]>> =
            parts.iter().map(|a| PartialState::contiguous(shape, &a.out[..], &a.lse[..])).collect();
        let mut merged =
            Answer { out: vec![f32::NAN; rows * heads * dim], lse: vec![f32::NAN; rows * heads] };
        merge_states(
            &states,
            View::contiguous(shape, &mut merged.out[..]),
            Some(View::contiguous(p.lse_shape(), &mut merged.lse[..])),
        )
        .unwrap();
        assert_close(E::DTYPE, &merged, &operands.reference(), case);
    }
}

/// Row counts on both sides of every change of path, against one and many tiles of keys.
#[test]
fn tile_edges() {
    for rows in [1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 255, 256, 257] {
        for keys in [1, 2, 63, 64, 65, 128, 129] {
            matches_reference::<f32>(&Case::packed(1, 1, 64, &[(rows, keys)]));
        }
    }
    for dim in [1, 2, 3, 7, 8, 9, 31, 64, 65, 100, 128, 256, 511, 512] {
        for_each_dtype!(matches_reference(&Case::packed(2, 1, dim, &[(3, 70), (20, 70)])));
    }
}

#[test]
fn empty_inputs() {
    for inputs in [vec![], vec![(0, 0)], vec![(3, 0)], vec![(0, 5)], vec![(2, 0), (9, 4), (0, 0), (40, 0)]] {
        let case = Case::packed(2, 2, 64, &inputs);
        for_each_dtype!(matches_reference(&case));
    }
    let answer = Operands::<f32>::new(&Case::packed(2, 2, 64, &[(3, 0)])).run(cpu::attend);
    assert!(answer.out.iter().all(|x| *x == 0.0));
    assert!(answer.lse.iter().all(|x| *x == f32::NEG_INFINITY));
}

/// Scores of +-1e4: far over where exp overflows.
#[test]
fn extreme_scores() {
    for (scale, softcap) in [(1e4, None), (1e4, Some(50.0)), (-1.0, None)] {
        for rows in [1, 5, 30] {
            let mut case = Case::packed(2, 2, 64, &[(rows, 200)]);
            let mut operands = Operands::<f32>::new(&case);
            // One-hot queries make the scores exact: they pick one element of each key.
            case.spec.scale = f32::abs(scale);
            case.spec.softcap = softcap;
            operands.problem = case.problem();
            // The score of a one-hot query is one product, not a sum of 64.
            case.magnitude = 0.1;
            for (i, q) in operands.q.chunks_exact_mut(64).enumerate() {
                q.fill(0.0);
                q[i % 64] = scale.signum();
            }
            // Multiples of 1/256 times 1e4 are exact in f32, and so are their differences.
            operands.k.iter_mut().for_each(|k| *k = (*k * 256.0).round() / 256.0);
            let want = operands.reference();
            for (_, attend) in backends(64) {
                assert_close(onekv::DType::F32, &operands.run(attend), &want, &case);
            }
        }
    }
}

/// Scores of up to 1e37, whose rounding errors alone are far over where exp overflows.
#[test]
fn huge_scores() {
    for (magnitude, softcap) in [(1e9, None), (1e12, None), (1e37, None), (1e37, Some(30.0))] {
        for rows in [1, 5, 30] {
            let mut case = Case::packed(2, 2, 64, &[(rows, 200)]);
            case.spec.scale = 1.0;
            case.spec.softcap = softcap;
            let mut operands = Operands::<f32>::new(&case);
            operands.q.chunks_exact_mut(64).enumerate().for_each(|(i, q)| {
                q.fill(0.0);
                q[i % 64] = 1.0;
            });
            operands.k.iter_mut().for_each(|k| *k *= magnitude);
            let want = operands.reference();
            // One-hot queries: scores are exact, though huge.
            case.magnitude = 0.1;
            for (name, attend) in backends(64) {
                println!("{name} {magnitude} {softcap:?} {rows} rows");
                // The kernels fuse the scale into the difference to the maximum: the product's
                // rounding error must stay below 2^7, which it does up to scores of 2^30.
                if name != "cpu" && magnitude > 1e9 {
                    continue;
                }
                assert_close(onekv::DType::F32, &operands.run(attend), &want, &case);
            }
        }
    }
}

/// K/V caches of engines: room for more keys behind those in use, of K and V in orders of their own.
#[test]
fn caches_with_room_for_more() {
    for (k, v) in [(Layout::PLAIN, Layout::HEAD_MAJOR), (Layout::HEAD_MAJOR, Layout::PLAIN)] {
        let mut case = Case::packed(4, 2, 64, &[(3, 90), (20, 1), (0, 130), (2, 0), (30, 129)]);
        case.pad(0);
        // 50 keys of two heads between slots.
        let roomy = |layout| Layout { gaps: [50 * 2 * 64 / 8, 0, 0], ..layout };
        (case.layouts[1], case.layouts[2]) = (roomy(k), roomy(v));
        for_each_dtype!(matches_reference(&case));
        // As a part of each slot.
        (case.layouts[1], case.layouts[2]) = (k, v);
        case.pad(50);
        for_each_dtype!(matches_reference(&case));
    }
}

/// Any number of threads on the CPU: other tiles, other splits of the keys.
#[test]
fn every_number_of_threads() {
    for threads in [1, 2, 3, 5, 16] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for (rows, keys) in [(1, 700), (3, 300), (30, 500), (300, 130)] {
            let mut case = Case::packed(6, 3, 64, &[(rows, keys), (2, 70), (0, 9), (rows, 0)]);
            case.layouts = [Layout::HEAD_MAJOR; 4];
            let operands = Operands::<f32>::new(&case);
            let got = pool.install(|| operands.run(cpu::attend));
            assert_close(onekv::DType::F32, &got, &operands.reference(), &case);
        }
    }
}

/// Keys of score -inf weigh nothing, even before any other key was seen, and all of them together nothing either, whatever their
/// values are.
#[test]
fn keys_of_minus_infinity() {
    fn check<E: TestElement>() {
        for rows in [1, 5, 30] {
            for hidden in [70, 200] {
                let case = Case::packed(2, 2, 64, &[(rows, 200)]);
                let mut operands = Operands::<E>::new(&case);
                operands.q.iter_mut().for_each(|q| *q = E::from_f32(q.to_f32().abs() + 0.01));
                operands.k[..hidden * 128].fill(E::from_f32(f32::NEG_INFINITY));
                if hidden == 200 {
                    let values = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY].into_iter().cycle();
                    operands.v.iter_mut().zip(values).for_each(|(v, value)| *v = E::from_f32(value));
                }
                let want = operands.reference();
                for (name, attend) in backends(64) {
                    println!("{name} {} {rows} rows, {hidden} keys hidden", E::DTYPE);
                    assert_close(E::DTYPE, &operands.run(attend), &want, &case);
                }
            }
        }
    }
    for_each_dtype!(check());
}

#[test]
fn the_same_bits_twice() {
    let operands = Operands::<f32>::new(&Case::packed(3, 1, 64, &[(30, 500), (1, 700)]));
    for (_, attend) in backends(64) {
        assert_eq!(operands.run(attend), operands.run(attend));
    }
}

/// A slice of the host is aligned to its elements and no more: where it begins changes no bit on the CPU.
#[test]
fn host_memory_begins_anywhere() {
    fn check<E: TestElement>() {
        for rows in [1, 2, 6, 30] {
            let operands = Operands::<E>::new(&Case::packed(2, 1, 80, &[(rows, 150)]));
            let want = operands.run(cpu::attend);
            for first in 1..16 / size_of::<E>() {
                let behind = |data: &[E]| [&vec![E::from_f32(f32::NAN); first], data].concat();
                let [q, k, v] = [&operands.q, &operands.k, &operands.v].map(|data| behind(data));
                let got = operands.run(|problem, of_q, of_kv, out, lse| {
                    let mut moved = behind(out.data);
                    cpu::attend(
                        problem,
                        of_q.map(|_| &q[first..]),
                        SharedKv { k: of_kv.k.map(|_| &k[first..]), v: of_kv.v.map(|_| &v[first..]) },
                        View { data: &mut moved[first..], shape: out.shape, strides: out.strides },
                        lse,
                    )?;
                    out.data.copy_from_slice(&moved[first..]);
                    Ok(())
                });
                assert_eq!(got, want, "{} behind {first} elements, {rows} rows", E::DTYPE);
            }
        }
    }
    for_each_dtype!(check());
}

/// On one thread no keys are split, and a row's bits depend on its input alone, however many keys it has.
#[test]
fn one_thread_is_batch_invariant() {
    fn check<E: TestElement>() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        for rows in [1, 2, 5, 30, 300] {
            let case = Case::packed(2, 1, 64, &[(rows, 1500)]);
            let alone = Operands::<E>::new(&case);
            let (among, there) = alone.among(&case, &[(3, 700), (0, 9)], &[(40, 2000)]);
            let run = |operands: &Operands<E>| pool.install(|| operands.run(cpu::attend));
            let want = run(&alone).bits(&alone.problem, 0..rows);
            assert!(want == run(&among).bits(&among.problem, there), "{} {rows} rows", E::DTYPE);
        }
    }
    for_each_dtype!(check());
}

/// A single key has all the weight: its value comes out as it is, be it denormal, the largest there is, infinite or NaN.
#[test]
fn one_key_gives_its_value() {
    fn check<E: TestElement>(values: &[f32]) {
        let inputs = values.len().div_ceil(256);
        let mut operands = Operands::<E>::new(&Case::packed(1, 1, 256, &vec![(1, 1); inputs]));
        // 12288 stands for what was not written.
        for (v, value) in operands.v.iter_mut().zip(values.iter().filter(|value| **value != 12288.0).cycle())
        {
            *v = E::from_f32(*value);
        }
        for (name, attend) in backends(256) {
            let got = operands.run(attend);
            for (got, v) in got.out.iter().zip(&operands.v) {
                let want = v.to_f32();
                // On cards the weight is 1 but for the rounding of a score, and so is the sum that it is divided by.
                let near =
                    (got - want).abs() <= 2f32.powi(-22) * want.abs() && (name != "cpu" || *got == want);
                assert!(near || *got == want || got.is_nan() && want.is_nan(), "{name}: {want} became {got}");
            }
        }
    }
    let every = |of: fn(u16) -> f32| (0..=u16::MAX).map(of).collect::<Vec<f32>>();
    check::<half::f16>(&every(|bits| half::f16::from_bits(bits).to_f32()));
    check::<half::bf16>(&every(|bits| half::bf16::from_bits(bits).to_f32()));
    check::<f32>(&every(|bits| f32::from_bits(u32::from(bits) << 16 | 0x5a5a)));
}

/// Scores that are all the same, next to nothing or large: a mean, and the logarithm of how many there are.
#[test]
fn equal_scores_give_the_mean() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    // Keys are split where there are more threads than tasks.
    let (one, many) = (pool(1), pool(16));
    for keys in [1, 2, 63, 65, 257, 1000] {
        for score in [1e-40f32, -3e4] {
            let mut case = Case::packed(2, 2, 64, &[(3, keys), (20, keys)]);
            case.spec.scale = 1.0;
            let mut operands = Operands::<f32>::new(&case);
            operands.q.chunks_mut(64).for_each(|q| (q.fill(0.0), q[7] = 1.0).0);
            operands.k.fill(score);
            operands
                .v
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = if i / 128 % 2 == 0 { 3.0 } else { -1.0 });
            // Each input begins with the 3 where it has an even number of keys before it; both have as many.
            let mean = |first: usize| {
                let threes = (first..first + keys).filter(|key| key % 2 == 0).count() as f32;
                (3.0 * threes - (keys as f32 - threes)) / keys as f32
            };
            // Splits are joined by their LSE, which is as exact as scores are.
            let split = 2f32.powi(-21) * score.abs();
            let mut answers = vec![
                ("cpu, whole", 0.0, one.install(|| operands.run(cpu::attend))),
                ("cpu, split", split, many.install(|| operands.run(cpu::attend))),
            ];
            let cards = backends(64).into_iter().filter(|(name, _)| *name != "cpu");
            answers.extend(cards.map(|(name, attend)| (name, split, operands.run(attend))));
            for (name, by_lse, got) in answers {
                for (row, out) in got.out.chunks(128).enumerate() {
                    let want = mean(if row < 3 { 0 } else { keys });
                    let close = |x: &f32| (x - want).abs() <= 2e-6 + by_lse;
                    assert!(
                        out.iter().all(close),
                        "{name}: {keys} keys of {score}, row {row}: {out:?}, not {want}"
                    );
                }
                let lse = score + (keys as f32).ln();
                let close = |x: &f32| (x - lse).abs() <= 1e-6 * lse.abs().max(1.0);
                assert!(got.lse.iter().all(close), "{name}: {keys} keys of {score}: {:?}", &got.lse[..4]);
            }
        }
    }
}

/// On cards the bits of a plan do not depend on the stream, or on what runs beside it. Here, as the virtual card changes the order
/// of streams with a seed.
#[cfg(feature = "cuda")]
#[test]
fn bits_do_not_depend_on_the_stream() {
    use common::device::{Card, card};
    use half::bf16;
    use onekv::plan::{Plan, PlanOptions};

    let Some(Card { context, stream, queue, kernels }) = card() else { return };
    let operands = Operands::<bf16>::new(&Case::packed(2, 1, 64, &[(40, 700), (3, 300)]));
    let problem = &operands.problem;
    let options = PlanOptions::default().with_split_keys(128).with_tile_rows(16);
    let plan = Plan::new(problem, onekv::DType::Bf16, kernels.facts(), &options).unwrap();
    let run = |stream: &std::sync::Arc<cudarc::driver::CudaStream>, queue: &onekv::cuda::Queue| {
        let own = |data: &[bf16]| stream.clone_htod(data).unwrap();
        let (q, k, v) = (own(&operands.q), own(&operands.k), own(&operands.v));
        let mut out = stream.alloc_zeros::<bf16>(operands.q.len()).unwrap();
        let kv = SharedKv {
            k: View::strided(problem.kv_shape(), operands.k_strides, k.as_view()),
            v: View::strided(problem.kv_shape(), operands.v_strides, v.as_view()),
        };
        let q = View::strided(problem.query_shape(), operands.q_strides, q.as_view());
        let result = View::contiguous(problem.query_shape(), out.as_view_mut());
        queue.prepare(&plan).unwrap().run(q, kv, result, None).unwrap();
        out
    };
    let want = stream.clone_dtoh(&run(stream, queue)).unwrap();
    let streams = [(); 3].map(|()| context.new_stream().unwrap());
    // All are queued before the first is waited for.
    let ran = streams
        .each_ref()
        .map(|stream| (stream, run(stream, &onekv::cuda::Queue::new(kernels, stream).unwrap())));
    for (stream, out) in ran {
        assert!(stream.clone_dtoh(&out).unwrap() == want);
    }
}

/// Sums over a million keys.
#[test]
fn a_million_keys() {
    let mut case = Case::packed(1, 1, 8, &[(2, 1_000_000), (30, 300_000)]);
    case.magnitude = 2.0;
    let operands = Operands::<f32>::new(&case);
    assert_close(onekv::DType::F32, &operands.run(cpu::attend), &operands.reference(), &case);
}

/// Rows, keys and heads further apart than 2^31 elements. Memory that nothing touches takes none.
#[cfg(target_pointer_width = "64")]
#[test]
fn strides_past_2_31_elements() {
    const FAR: usize = (1 << 31) + 8;
    let case = Case::packed(2, 2, 8, &[(2, 2)]);
    let near = Operands::<half::bf16>::new(&case);
    let place = |heads_apart: bool, tensor: &[half::bf16]| {
        let strides = if heads_apart { onekv::Strides::new(8, FAR) } else { onekv::Strides::new(FAR, 8) };
        let mut memory = vec![0u16; FAR + 16];
        let far: &mut [half::bf16] = bytemuck::cast_slice_mut(&mut memory);
        for (token, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let vector = &tensor[common::at(onekv::Strides::new(16, 8), 0, token, head)..][..8];
            far[common::at(strides, 0, token, head)..][..8].copy_from_slice(vector);
        }
        (memory, strides)
    };
    let want = near.run(cpu::attend);
    let [(q, q_strides), (k, k_strides), (v, v_strides)] =
        [place(true, &near.q), place(false, &near.k), place(true, &near.v)];
    let got = near.run(|problem, _, _, out, lse| {
        let (rows, keys) = (problem.query_shape(), problem.kv_shape());
        let kv = SharedKv {
            k: View::strided(keys, k_strides, bytemuck::cast_slice(&k)),
            v: View::strided(keys, v_strides, bytemuck::cast_slice(&v)),
        };
        cpu::attend(problem, View::strided(rows, q_strides, bytemuck::cast_slice(&q)), kv, out, lse)
    });
    assert_eq!(got, want);
}
