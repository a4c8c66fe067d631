//! Embedding, norm, activation, the choice of the next token.

use onekv::DType;

use crate::backend::cuda::kernels::{self, Activated};
use crate::backend::{Backend as _, BatchRow, RowsSpec};
use crate::config::Activation;
use crate::reference::gelu_tanh;
use crate::support::{DTYPES, assert_close, card, linear, matrix, noise, poisoned, result, unit};

#[test]
fn embeddings_are_rows_of_the_table() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        for (words, width, ids) in
            [(5, 8, vec![4u32]), (300, 264, vec![0, 299, 7, 7, 131]), (2, 1000, vec![1, 0])]
        {
            let table = noise(words as u64, words * width, 2.0, dtype);
            let table_data = linear(&mut cuda, &table, words, width, dtype);
            let mut out = poisoned(&mut cuda, ids.len(), width, DType::F32);
            kernels::embed(&cuda.driver, &table_data, &cuda.pool.upload(&ids).unwrap(), &mut out).unwrap();
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
            for (gelu, gated) in [(false, false), (false, true), (true, false), (true, true)] {
                let columns = if gated { 2 * width } else { width };
                let h = noise(width as u64, tokens * columns, 6.0, dtype);
                let h_data = matrix(&mut cuda, &h, tokens, columns, dtype);
                let mut out = poisoned(&mut cuda, tokens, width, dtype);
                let activation = if gelu { Activation::GeluTanh } else { Activation::Relu };
                kernels::activate(&cuda.driver, &h_data, Activated { activation, gated }, &mut out).unwrap();
                let act = |x: f64| if gelu { gelu_tanh(x) } else { x.max(0.0) };
                let want: Vec<f64> = h
                    .chunks_exact(columns)
                    .flat_map(|h| {
                        let factor = move |i: usize| if gated { f64::from(h[width + i]) } else { 1.0 };
                        (0..width).map(move |i| act(f64::from(h[i])) * factor(i))
                    })
                    .collect();
                // What GELU leaves of large negative numbers is a difference.
                assert_close(
                    &format!("{dtype} {gelu} {gated}"),
                    &result(&cuda, &out),
                    &want,
                    unit(dtype) + 1e-6,
                    1.0,
                );
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
        let spec = RowsSpec { slots: 4, most_tokens: 1, max_new_tokens: 3, eos: Some(1) };
        let mut rows = cuda.rows(spec).unwrap();
        let begins = |slot| BatchRow { slot, begins: Some(&[0]) };
        let goes_on = |slot| BatchRow { slot, begins: None };
        cuda.seat(&mut rows, &[0, 1, 2, 3].map(begins)).unwrap();
        let choose = |cuda: &mut crate::backend::cuda::Cuda, rows: &mut _, logits: Vec<Vec<f32>>| {
            let data = matrix(cuda, &logits.concat(), logits.len(), vocab, DType::F32);
            cuda.choose(&data, rows).unwrap();
            (cuda.outputs(rows).unwrap(), cuda.left(rows).unwrap())
        };
        let peaks = |places: &[usize], height: f32| {
            let mut row = noise(vocab as u64, vocab, 1.0, DType::F32);
            places.iter().for_each(|at| row[*at] = height);
            row
        };
        let last = vocab - 1;
        let mut with_nan = peaks(&[last], 3.0);
        with_nan[0] = f32::NAN;
        let first = vec![
            peaks(&[last, vocab / 2], 2.0),
            peaks(&[1, last], f32::INFINITY),
            vec![f32::NEG_INFINITY; vocab],
            with_nan,
        ];
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
        let table_data = linear(&mut cuda, &table, vocab, 8, DType::F32);
        kernels::embed_rows(&cuda.driver, &table_data, &rows, &mut out).unwrap();
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

#[test]
fn the_last_token_of_every_row_is_taken() {
    let Some(mut cuda) = card() else { return };
    let spec = RowsSpec { slots: 3, most_tokens: 5, max_new_tokens: 1, eos: None };
    let mut rows = cuda.rows(spec).unwrap();
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
