//! Embedding, norm, activation, the choice of the next token.

use onekv::DType;

use crate::arguments::Products;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::kernels;
use crate::backend::cuda::rows::Rows;
use crate::backend::{Backend as _, BatchRow, RowsSpec, overflow};
use crate::config::{Activated, Rules};
use crate::reference::{activated, product};
use crate::support::{
    ACTIVATIONS, DTYPES, assert_close, card, cards, dtypes, hopper, matrix, noise, poisoned, result, unit,
};

#[test]
fn embeddings_are_rows_of_the_table() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        for (words, width, ids) in
            [(5, 8, vec![4u32]), (300, 264, vec![0, 299, 7, 7, 131]), (2, 1000, vec![1, 0])]
        {
            let table = noise(words as u64, words * width, 2.0, dtype);
            let table_data = matrix(&mut cuda, &table, words, width, dtype);
            let mut out = poisoned(&mut cuda, ids.len(), width, DType::F32);
            let ids_data = cuda.pool.upload(&ids).unwrap();
            let list = kernels::Ids::List(&ids_data);
            kernels::embed(&cuda.driver, &table_data, list, &mut out, None).unwrap();
            let want: Vec<f64> = ids
                .iter()
                .flat_map(|id| table[*id as usize * width..][..width].iter().map(|x| f64::from(*x)))
                .collect();
            assert_close("embedding", &result(&cuda, &out), &want, 0.0, 0.0);
        }
    }
}

#[test]
fn norms_are_by_token() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        for (tokens, width, magnitude) in
            [(1, 8, 1.0), (3, 40, 1e-3), (2, 256, 30.0), (1, 1032, 1e4), (2, 2056, 1.0), (1, 4200, 1.0)]
        {
            let (x, weight) = (
                noise(width as u64, tokens * width, magnitude, DType::F32),
                noise(7, width, 2.0, DType::F32),
            );
            let x_data = matrix(&mut cuda, &x, tokens, width, DType::F32);
            let mut out = poisoned(&mut cuda, tokens, width, dtype);
            let weight_data = cuda.pool.upload(&weight).unwrap();
            kernels::rms_norm(&cuda.driver, &x_data, &weight_data, 1e-6, &mut out).unwrap();
            let want: Vec<f64> = x
                .chunks_exact(width)
                .flat_map(|x| {
                    let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let factor = 1.0 / (squares / width as f64 + 1e-6).sqrt();
                    x.iter().zip(&weight).map(move |(x, w)| f64::from(*x) * factor * f64::from(*w))
                })
                .collect();
            assert_close(&format!("{dtype} {width}"), &result(&cuda, &out), &want, unit(dtype) + 1e-6, 1e-2);
        }
    }
}

#[test]
fn activations_are_gated_by_the_left_half() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        for (tokens, width) in [(1, 8), (3, 40), (2, 128), (5, 264)] {
            for (activation, gated) in ACTIVATIONS.into_iter().flat_map(|a| [(a, false), (a, true)]) {
                let columns = if gated { 2 * width } else { width };
                let h = noise(width as u64, tokens * columns, 6.0, dtype);
                let h_data = matrix(&mut cuda, &h, tokens, columns, dtype);
                let mut out = poisoned(&mut cuda, tokens, width, dtype);
                kernels::activate(&cuda.driver, &h_data, Activated { activation, gated }, &mut out).unwrap();
                let want: Vec<f64> = h
                    .chunks_exact(columns)
                    .flat_map(|h| {
                        let factor = move |i: usize| if gated { f64::from(h[width + i]) } else { 1.0 };
                        (0..width).map(move |i| activated(activation, f64::from(h[i])) * factor(i))
                    })
                    .collect();
                // What GELU leaves of large negative numbers is a difference.
                assert_close(
                    &format!("{dtype} {activation:?} {gated}"),
                    &result(&cuda, &out),
                    &want,
                    unit(dtype) + 1e-6,
                    1.0,
                );
            }
        }
    }
}

/// Numbers far from 0 do not become NaN, and NaN does not become a number.
#[test]
fn activations_pass_nan_on() {
    let Some(mut cuda) = card() else { return };
    let h = [f32::NAN, f32::INFINITY, 6e4, 100.0, 0.0, -100.0, -6e4, -0.0];
    for dtype in DTYPES {
        let h_data = matrix(&mut cuda, &h, 1, 8, dtype);
        for activation in ACTIVATIONS {
            let mut out = poisoned(&mut cuda, 1, 8, dtype);
            let activated = Activated { activation, gated: false };
            kernels::activate(&cuda.driver, &h_data, activated, &mut out).unwrap();
            let got = result(&cuda, &out);
            assert!(got[0].is_nan(), "{dtype} {activation:?}: NaN is {}", got[0]);
            assert_eq!(got[1], f32::INFINITY, "{dtype} {activation:?}");
            for (got, x) in got.iter().zip(&h).skip(2) {
                let close = (got - x.max(0.0)).abs() <= 0.01 * x.abs();
                assert!(close, "{dtype} {activation:?}: {x} is {got}");
            }
        }
    }
}

/// The first of equals wherever it lies, NaN and infinities, EOS, the end of the output; rows that have finished
/// keep still, also where others have left the batch; one that begins in a slot begins from nothing.
#[test]
fn the_next_token_is_the_first_of_the_largest() {
    let Some(mut cuda) = card() else { return };
    for vocab in [2, 31, 1024, 1025, 3000] {
        let spec = RowsSpec {
            slots: 4,
            most_tokens: 1,
            max_new_tokens: 3,
            rules: Rules { ends: vec![1], ..Rules::default() },
            ..RowsSpec::default()
        };
        let mut rows = cuda.rows(spec, Vec::new()).unwrap();
        let begins = |slot| BatchRow { slot, begins: Some(&[0]) };
        let goes_on = |slot| BatchRow { slot, begins: None };
        cuda.seat(&mut rows, &[0, 1, 2, 3].map(begins)).unwrap();
        let choose = |cuda: &mut Cuda, rows: &mut _, logits: Vec<Vec<f32>>| {
            let data = matrix(cuda, &logits.concat(), logits.len(), vocab, DType::F32);
            cuda.choose(data, rows).unwrap();
            (cuda.outputs(rows).unwrap(), cuda.left(rows).unwrap())
        };
        let peaks = |places: &[usize], height: f32| {
            let mut row = noise(vocab as u64, vocab, 1.0, DType::F32);
            places.iter().for_each(|at| row[*at] = height);
            row
        };
        let last = vocab - 1;
        let mut lowest = vec![f32::NEG_INFINITY; vocab];
        lowest[0] = f32::MIN;
        let mut with_nan = peaks(&[last], 3.0);
        with_nan[0] = f32::NAN;
        let first = vec![peaks(&[last, vocab / 2], 2.0), peaks(&[1, last], f32::INFINITY), lowest, with_nan];
        let (outputs, left) = choose(&mut cuda, &mut rows, first);
        let want = [vocab / 2, 1, 0, last].map(|id| vec![id as u32]);
        assert_eq!(outputs, want, "{vocab}");
        assert_eq!(left, want.clone().map(|ids| if ids[0] == 1 { 0 } else { 2 }), "{vocab}");
        if vocab == 2 {
            continue;
        }
        // Row 1 has finished: it takes nothing more. Then it and row 2 leave.
        let all = |at: usize| vec![peaks(&[at], 5.0); 4];
        let (outputs, left) = choose(&mut cuda, &mut rows, all(last));
        let (first, last_id) = (vocab as u32 / 2, last as u32);
        assert_eq!(outputs, [vec![first, last_id], vec![1], vec![0, last_id], vec![last_id; 2]]);
        assert_eq!(left, [1, 0, 1, 1]);
        cuda.seat(&mut rows, &[3, 0].map(goes_on)).unwrap();
        let mut out = poisoned(&mut cuda, 2, 8, DType::F32);
        let table = noise(3, vocab * 8, 1.0, DType::F32);
        let table_data = matrix(&mut cuda, &table, vocab, 8, DType::F32);
        kernels::embed(&cuda.driver, &table_data, kernels::Ids::Next(&rows), &mut out, None).unwrap();
        assert_eq!(result(&cuda, &out), [&table[last * 8..], &table[last * 8..]].concat());
        for step in 0..3 {
            let logits = vec![peaks(&[2 + step], 5.0), peaks(&[3 + step], 5.0)];
            choose(&mut cuda, &mut rows, logits);
        }
        assert_eq!(cuda.outputs(&rows).unwrap(), [[last_id, last_id, 2], [first, last_id, 3]], "{vocab}");
        assert_eq!(cuda.left(&rows).unwrap(), [0, 0]);
        // Another begins where row 1 was, before row 0, which goes on.
        cuda.seat(&mut rows, &[begins(1), goes_on(0)]).unwrap();
        assert_eq!(cuda.left(&rows).unwrap(), [3, 0]);
        let (outputs, left) = choose(&mut cuda, &mut rows, vec![peaks(&[5], 5.0); 2]);
        assert_eq!((outputs, left), (vec![vec![5], vec![first, last_id, 3]], vec![2, 0]), "{vocab}");
    }
}

/// What a row begins with, the ids that it likes best at every step, and what it must produce.
type Expected<'a> = (&'a [u32], &'a [&'a [u32]], &'a [u32]);

/// Logits that are highest at these ids, in their order.
fn likes(vocab: usize, ids: &[u32]) -> Vec<f32> {
    let mut logits = noise(vocab as u64, vocab, 1.0, DType::F32);
    for (place, id) in ids.iter().enumerate() {
        logits[*id as usize] = 20.0 - place as f32;
    }
    logits
}

/// Rows of one batch under the same rules, in slots of another order.
#[track_caller]
fn check_rules(cuda: &mut Cuda, vocab: usize, rules: &Rules, max_new_tokens: usize, rows: &[Expected<'_>]) {
    let spec = RowsSpec {
        slots: rows.len(),
        most_tokens: 3,
        max_new_tokens,
        rules: rules.clone(),
        ..RowsSpec::default()
    };
    let mut on_card = cuda.rows(spec, Vec::new()).unwrap();
    let slots = (0..rows.len()).rev();
    let batch: Vec<BatchRow<'_>> =
        slots.zip(rows).map(|(slot, row)| BatchRow { slot, begins: Some(row.0) }).collect();
    cuda.seat(&mut on_card, &batch).unwrap();
    for step in 0..max_new_tokens {
        let logits: Vec<f32> = rows.iter().flat_map(|row| likes(vocab, row.1[step])).collect();
        let logits = matrix(cuda, &logits, rows.len(), vocab, DType::F32);
        cuda.choose(logits, &mut on_card).unwrap();
        let left = cuda.left(&on_card).unwrap();
        for (left, (_, _, want)) in left.iter().zip(rows) {
            let goes_on = step + 1 < want.len();
            assert_eq!(*left, if goes_on { max_new_tokens - step - 1 } else { 0 }, "{rules:?}, step {step}");
        }
    }
    let want: Vec<&[u32]> = rows.iter().map(|row| row.2).collect();
    assert_eq!(cuda.outputs(&on_card).unwrap(), want, "{rules:?}");
}

/// By hand: ids are liked in an order, and the rules leave the first that they allow, or say which.
#[test]
fn rules_are_obeyed() {
    let Some(mut cuda) = card() else { return };
    for vocab in [9, 3000] {
        let mut check = |rules: &Rules, max_new, rows: &[Expected<'_>]| {
            check_rules(&mut cuda, vocab, rules, max_new, rows);
        };
        let (alone, prompt): (&[u32], &[u32]) = (&[0], &[0, 8]);
        let rules = Rules { ends: vec![1, 4, 6], ..Rules::default() };
        check(
            &rules,
            3,
            &[
                (alone, &[&[2], &[6], &[3]], &[2, 6]),
                (alone, &[&[4], &[2], &[2]], &[4]),
                (prompt, &[&[1], &[2], &[2]], &[1]),
                (prompt, &[&[2], &[3], &[5]], &[2, 3, 5]),
            ],
        );
        // One of them twice.
        let suppressed = Rules { suppressed: vec![7, 2, 7], ..Rules::default() };
        let rows: [Expected<'_>; 2] =
            [(alone, &[&[2, 7, 3], &[7, 2, 5]], &[3, 5]), (prompt, &[&[7, 3], &[5, 7]], &[3, 5])];
        check(&suppressed, 2, &rows);
        let last = vocab as u32 - 1;
        let all_but_one = Rules { suppressed: (0..last).collect(), ..Rules::default() };
        check(&all_but_one, 1, &[(alone, &[&[2, 7, 3]], &[last])]);
        // At the first new id, with or without a prompt.
        let only_first = Rules { suppressed_first: vec![3], ..Rules::default() };
        let liked: [&[u32]; 2] = [&[3, 2]; 2];
        check(&only_first, 2, &[(alone, &liked, &[2, 3]), (prompt, &liked, &[2, 3])]);
        let not_first = Rules { suppressed_first: vec![3, 2], ..suppressed };
        let liked: [&[u32]; 3] = [&[3, 7, 5]; 3];
        check(&not_first, 3, &[(alone, &liked, &[5, 3, 3]), (prompt, &liked, &[5, 3, 3])]);
        // Where the first is forced, at the second.
        let forced = Rules { forced_first: Some(6), ..not_first.clone() };
        check(&forced, 3, &[(alone, &liked, &[6, 5, 3]), (prompt, &liked, &[5, 3, 3])]);
        // A forced id is an end like any other.
        let ends = Rules { ends: vec![6, 4], ..forced };
        check(&ends, 3, &[(alone, &liked, &[6]), (prompt, &liked, &[5, 3, 3])]);
        let forced_last = Rules { ends: vec![4], forced_last: Some(1), ..not_first };
        let liked: [&[u32]; 3] = [&[2, 5], &[5, 4], &[5, 4]];
        let ended: [&[u32]; 3] = [&[2, 5], &[4, 5], &[5, 4]];
        check(
            &forced_last,
            3,
            &[(alone, &liked, &[5, 5, 1]), (alone, &ended, &[5, 4]), (prompt, &liked, &[5, 5, 1])],
        );
        let both = Rules { forced_first: Some(6), ..forced_last };
        check(&both, 1, &[(alone, &liked, &[1]), (prompt, &liked, &[1])]);
        check(&both, 2, &[(alone, &liked, &[6, 1]), (prompt, &liked, &[5, 1])]);
    }
}

/// Which ids the rules name is known before anything is written.
#[test]
fn rules_of_another_vocabulary_are_refused() {
    let Some(mut cuda) = card() else { return };
    let rules = Rules { suppressed: vec![9], ..Rules::default() };
    let spec = RowsSpec { slots: 1, most_tokens: 1, max_new_tokens: 1, rules, ..RowsSpec::default() };
    let mut rows = cuda.rows(spec, Vec::new()).unwrap();
    cuda.seat(&mut rows, &[BatchRow { slot: 0, begins: Some(&[0]) }]).unwrap();
    let logits = matrix(&mut cuda, &[0.0; 9], 1, 9, DType::F32);
    let error = cuda.choose(logits, &mut rows).unwrap_err().to_string();
    assert_eq!(error, "logits are of 9 words, allowed: at least 10, which the rules name");
}

/// A row whose logits are no numbers is an error, until it leaves; one finite logit is enough, also where it is suppressed.
#[test]
fn rows_without_a_finite_logit_have_overflowed() {
    let Some(mut cuda) = card() else { return };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for vocab in [9, 3000] {
        let begins = |slot| BatchRow { slot, begins: Some(&[0]) };
        let rules = Rules { ends: vec![1], suppressed: vec![3], ..Rules::default() };
        let start = |cuda: &mut Cuda| {
            let spec = RowsSpec {
                slots: 2,
                most_tokens: 1,
                max_new_tokens: 4,
                rules: rules.clone(),
                ..RowsSpec::default()
            };
            let mut rows = cuda.rows(spec, Vec::new()).unwrap();
            cuda.seat(&mut rows, &[0, 1].map(begins)).unwrap();
            rows
        };
        let choose = |cuda: &mut Cuda, rows: &mut Rows, logits: [Vec<f32>; 2]| {
            let logits = matrix(cuda, &logits.concat(), 2, vocab, DType::F32);
            cuda.choose(logits, rows).unwrap();
            (cuda.outputs(rows).unwrap(), cuda.left(rows).map_err(|error| error.to_string()))
        };
        let overflow = Err(overflow().to_string());
        let mixed = |other: f32| (0..vocab).map(|i| if i % 3 == 0 { nan } else { other }).collect::<Vec<_>>();
        for bad in [vec![nan; vocab], vec![inf; vocab], vec![-inf; vocab], mixed(inf), mixed(-inf)] {
            let mut rows = start(&mut cuda);
            let good = likes(vocab, &[5]);
            let (outputs, left) = choose(&mut cuda, &mut rows, [good.clone(), good.clone()]);
            assert_eq!((outputs, left), (vec![vec![5]; 2], Ok(vec![3; 2])), "{vocab} {bad:?}");
            let (outputs, left) = choose(&mut cuda, &mut rows, [good.clone(), bad.clone()]);
            assert_eq!((outputs, left), (vec![vec![5; 2], vec![5]], overflow.clone()), "{vocab} {bad:?}");
            // What comes later changes nothing, and a row that has ended may have any logits.
            let (outputs, left) = choose(&mut cuda, &mut rows, [likes(vocab, &[1]), good.clone()]);
            assert_eq!((outputs, left), (vec![vec![5, 5, 1], vec![5]], overflow.clone()), "{vocab} {bad:?}");
            cuda.seat(&mut rows, &[BatchRow { slot: 0, begins: None }]).unwrap();
            assert_eq!(cuda.left(&rows).unwrap(), [0]);
            cuda.seat(&mut rows, &[BatchRow { slot: 0, begins: None }, begins(1)]).unwrap();
            let (outputs, left) = choose(&mut cuda, &mut rows, [bad.clone(), good]);
            assert_eq!((outputs, left), (vec![vec![5, 5, 1], vec![5]], Ok(vec![0, 3])), "{vocab} {bad:?}");
        }
        let last = vocab - 1;
        let one = |mut logits: Vec<f32>, at: usize| {
            logits[at] = -7.0;
            logits
        };
        // The finite one, unless it is suppressed; infinity is larger than it.
        for (logits, want) in [
            (one(vec![nan; vocab], last), last),
            (one(vec![nan; vocab], 0), 0),
            (one(vec![-inf; vocab], last), last),
            (one(mixed(-inf), 4), 4),
            (one(mixed(inf), 4), 1),
            (one(vec![-inf; vocab], 3), 0),
            (one(vec![nan; vocab], 3), 3),
        ] {
            let mut rows = start(&mut cuda);
            let (outputs, left) = choose(&mut cuda, &mut rows, [likes(vocab, &[5]), logits]);
            let left_of_it = if want == 1 { 0 } else { 3 };
            assert_eq!(
                (outputs, left),
                (vec![vec![5], vec![want as u32]], Ok(vec![3, left_of_it])),
                "{vocab}"
            );
        }
    }
}

#[test]
fn the_last_token_of_every_row_is_taken() {
    let Some(mut cuda) = card() else { return };
    let spec = RowsSpec { slots: 3, most_tokens: 5, max_new_tokens: 1, ..RowsSpec::default() };
    let mut rows = cuda.rows(spec, Vec::new()).unwrap();
    let tokens = [0; 5];
    let batch = [(2, 3), (0, 1), (1, 5)].map(|(slot, n)| BatchRow { slot, begins: Some(&tokens[..n]) });
    cuda.seat(&mut rows, &batch).unwrap();
    let x = noise(1, 9 * 264, 1.0, DType::F32);
    let x_data = matrix(&mut cuda, &x, 9, 264, DType::F32);
    let mut out = poisoned(&mut cuda, 3, 264, DType::F32);
    kernels::last_tokens(&cuda.driver, &x_data, &rows, &mut out).unwrap();
    let want: Vec<f64> =
        [2, 3, 8].iter().flat_map(|t| x[t * 264..][..264].iter().map(|x| f64::from(*x))).collect();
    assert_close("last", &result(&cuda, &out), &want, 0.0, 0.0);
}

/// A norm that is begun where the residual stream is written and ended by the product behind it is what the kernel for
/// norms makes of it, but for where it rounds. Widths of one tile of columns, of several, with a rest; k undivided and
/// divided; rows of one tile and of more, plain, activated and gated.
#[test]
fn norms_are_begun_and_ended_by_neighbours() {
    let Some(mut cuda) = hopper() else { return };
    let dtype = DType::Bf16;
    for (tokens, width, multiprocessors) in
        [(1, 8, 1), (3, 128, 132), (30, 264, 132), (70, 520, 132), (5, 2056, 1)]
    {
        cuda.driver.multiprocessors = multiprocessors;
        let (inputs, outputs, words) = (192, 40, 9);
        // Norms of 1 and of thousands: bf16 has the range.
        let mut table = noise(1, words * width, 1.0, dtype);
        table[..width].iter_mut().for_each(|x| *x *= 4096.0);
        let weights = [2, 3].map(|seed| noise(seed, width, 2.0, DType::F32));
        let norms = weights.clone().map(|w| cuda.norm(w).unwrap());
        let ids: Vec<u32> = (0..tokens as u32).map(|token| token % words as u32).collect();
        let table_data = matrix(&mut cuda, &table, words, width, dtype);
        let y = noise(4, tokens * inputs, 1.0, dtype);
        let into = noise(5, width * inputs, 1.0, dtype);
        let out = noise(6, 2 * outputs * width, 1.0, dtype);
        let y_data = matrix(&mut cuda, &y, tokens, inputs, dtype);
        let into_data = matrix(&mut cuda, &into, width, inputs, dtype);
        let out_data = matrix(&mut cuda, &out, 2 * outputs, width, dtype);
        let mut stream: Vec<f64> = ids
            .iter()
            .flat_map(|id| table[*id as usize * width..][..width].iter().map(|x| f64::from(*x)))
            .collect();
        let mut x = cuda.embed(&table_data, &ids, &norms[0]).unwrap();
        for (norm, weight) in norms.iter().zip(&weights) {
            assert!(x.begun.is_some());
            if norm.at() == norms[1].at() {
                cuda.add(&mut x, &y_data, &into_data, norm).unwrap();
                let before: Vec<f32> = stream.iter().map(|x| *x as f32).collect();
                stream = product(&y, &into, &before, width, inputs);
                let got = cuda.to_host(&x.sum).unwrap();
                assert_close("stream", &got, &stream, 1e-4, 1.0);
            }
            let normed: Vec<f32> = stream
                .chunks_exact(width)
                .flat_map(|x| {
                    let factor = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-6).sqrt();
                    x.iter().zip(weight).map(move |(x, w)| (x * factor * f64::from(*w)) as f32)
                })
                .collect();
            let want = product(&normed, &out, &vec![0.0; 2 * tokens * outputs], 2 * outputs, width);
            // Each element of the norm is rounded once: errors add up like a walk, of steps of the size of the elements.
            let least = (width as f64).sqrt();
            let begun = cuda.rms_norm(&mut x, norm, 1e-6).unwrap();
            assert!(x.begun.is_none() && begun.squares.is_some());
            let got = cuda.logits(&begun, &out_data).unwrap();
            let what = format!("{tokens} x {width}");
            assert_close(&what, &cuda.to_host(&got).unwrap(), &want, 4.0 * unit(dtype), least);
            // The same by its kernel.
            let apart = cuda.rms_norm(&mut x, norm, 1e-6).unwrap();
            assert!(apart.squares.is_none());
            let got = cuda.logits(&apart, &out_data).unwrap();
            assert_close(&what, &cuda.to_host(&got).unwrap(), &want, 4.0 * unit(dtype), least);
            let gated = Activated { activation: ACTIVATIONS[0], gated: true };
            let got = cuda.linear_activated(&begun, &out_data, gated).unwrap();
            let gate = |i: usize| want[i / outputs * 2 * outputs + i % outputs].max(0.0);
            let gated: Vec<f64> = (0..tokens * outputs)
                .map(|i| gate(i) * want[i / outputs * 2 * outputs + outputs + i % outputs])
                .collect();
            let size = least * least * 8.0;
            assert_close(&what, &cuda.to_host(&got).unwrap(), &gated, 8.0 * unit(dtype), size);
            // Another norm than the one that was begun is computed from the stream.
            let nothing = matrix(&mut cuda, &vec![0.0; tokens * inputs], tokens, inputs, dtype);
            cuda.add(&mut x, &nothing, &into_data, norm).unwrap();
        }
        assert!(cuda.rms_norm(&mut x, &norms[0], 1e-6).unwrap().squares.is_none());
    }
}

/// f16 has not the range for a stream that is not divided yet, and only Hopper's own products divide.
#[test]
fn norms_are_begun_where_they_can_be_ended() {
    for (products, mut cuda) in cards() {
        for &dtype in dtypes(products) {
            let table = matrix(&mut cuda, &[1.0; 16], 2, 8, dtype);
            let norm = cuda.norm(vec![1.0; 8]).unwrap();
            let mut x = cuda.embed(&table, &[1, 0, 1], &norm).unwrap();
            let begins = products == Products::Own && dtype == DType::Bf16;
            assert_eq!(x.begun.is_some(), begins, "{products:?}, {dtype}");
            let x = cuda.rms_norm(&mut x, &norm, 1e-6).unwrap();
            if let Some(library) = card().filter(|_| begins) {
                let error = library.logits(&x, &table).err().unwrap().to_string();
                assert_eq!(error, "x is a norm that was begun, allowed: one that has ended");
            }
        }
    }
}
