//! Self-attention of the encoder and of the decoder.

use onekv::DType;

use crate::backend::cuda::kernels;
use crate::backend::cuda::rows::SelfCache;
use crate::backend::{Backend as _, BatchRow, RowsSpec};
use crate::reference::{attend, part};
use crate::support::{DTYPES, assert_close, bias, card, matrix, noise, poisoned, result, unit};

/// Errors of a softmax average over values of up to 1: its rounding, that of weights, and of scores of up to `top`.
fn tolerance(dtype: DType, top: f64) -> f64 {
    2.0 * unit(dtype) + 8.0 * (top + 1.0) * unit(DType::F32)
}

/// Inputs of unlike length around the edges of tiles (16 and 64 rows, 32 and 64 keys), every head with a bias of its
/// own, tokens between the inputs that belong to none.
#[test]
fn the_encoder_attends_within_each_input() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        for (heads, dim, lengths) in
            [(3, 64, vec![1, 17, 64]), (1, 64, vec![65, 31, 130]), (2, 128, vec![33, 70])]
        {
            let tokens: usize = lengths.iter().sum();
            let longest = lengths.iter().max().copied().unwrap();
            let qkv = noise(tokens as u64, tokens * 3 * heads * dim, 0.7, dtype);
            // More offsets than the longest input needs.
            let (zero, span) = (longest + 4, 2 * longest + 9);
            let biases = noise(9, heads * span, 3.0, DType::F32);
            let mut tiles = Vec::new();
            let mut start = 0;
            for length in &lengths {
                let end = start + length;
                for first in (start..end).step_by(kernels::tile_rows(dtype)) {
                    tiles.push([start as i32, end as i32, first as i32, 0]);
                }
                start = end;
            }
            let qkv_data = matrix(&mut cuda, &qkv, tokens, 3 * heads * dim, dtype);
            let bias_data = bias(&cuda, &biases, heads, zero);
            let tiles_data = cuda.pool.upload(&tiles).unwrap();
            let mut out = poisoned(&mut cuda, tokens, heads * dim, dtype);
            kernels::attend_encoder(
                &cuda.driver,
                &qkv_data,
                (&tiles_data, tiles.len()),
                &bias_data,
                &mut out,
            )
            .unwrap();
            let mut want = Vec::new();
            let mut start = 0;
            for length in &lengths {
                for row in 0..*length {
                    for head in 0..heads {
                        let of = |token: usize, which| part(&qkv, heads, dim, start + token, which, head);
                        let keys: Vec<_> = (0..*length).map(|key| (of(key, 1), of(key, 2))).collect();
                        let bias = |key: usize| biases[head * span + zero + key - row];
                        want.extend(attend(of(row, 0), &keys, bias));
                    }
                }
                start += length;
            }
            let top = f64::from(0.7f32 * 0.7) * dim as f64 + 3.0;
            let what = format!("{dtype} {heads} x {dim} {lengths:?}");
            assert_close(&what, &result(&cuda, &out), &want, tolerance(dtype, top), 1.0);
        }
    }
}

/// A prefill of prompts of unlike length, then steps of one token; then a row leaves, another begins in its slot, and
/// the others go on. The cache is poison where nothing was appended.
#[test]
fn the_decoder_attends_to_all_before() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        for (heads, dim, counts) in [(5, 64, vec![3, 1, 34]), (1, 128, vec![1, 2]), (4, 64, vec![1])] {
            let (inner, steps) = (heads * dim, 6);
            let most_tokens = *counts.iter().max().unwrap();
            let spec =
                RowsSpec { slots: counts.len(), most_tokens, max_new_tokens: steps, ..RowsSpec::default() };
            let (capacity, tokens) = (spec.longest(), vec![0; most_tokens]);
            let mut rows = cuda.rows(spec, Vec::new()).unwrap();
            let poison = vec![f32::NAN; counts.len() * capacity * 2 * inner];
            let data = matrix(&mut cuda, &poison, 1, poison.len(), dtype).data;
            let cache = SelfCache { data, slots: counts.len(), capacity, inner };
            let biases = noise(5, heads * capacity, 3.0, DType::F32);
            let bias_data = bias(&cuda, &biases, heads, capacity - 1);
            // By slot, the qkv so far of its row.
            let mut history: Vec<Vec<f32>> = vec![Vec::new(); counts.len()];
            let mut live: Vec<usize> = (0..counts.len()).collect();
            for step in 0..steps {
                let begins = |slot: usize| match step {
                    0 => Some(counts[slot]),
                    4 if slot == 0 => Some(2.min(most_tokens)),
                    _ => None,
                };
                if [0, 2, 4].contains(&step) {
                    match step {
                        2 if live.len() > 1 => live.retain(|slot| *slot != 0),
                        4 if !live.contains(&0) => live.push(0),
                        _ => {}
                    }
                    let row =
                        |slot: &usize| BatchRow { slot: *slot, begins: begins(*slot).map(|n| &tokens[..n]) };
                    cuda.seat(&mut rows, &live.iter().map(row).collect::<Vec<_>>()).unwrap();
                    live.iter()
                        .filter(|slot| begins(**slot).is_some())
                        .for_each(|slot| history[*slot].clear());
                }
                let counts: Vec<usize> = live.iter().map(|slot| begins(*slot).unwrap_or(1)).collect();
                let total: usize = counts.iter().sum();
                let qkv = noise((step * 100 + total) as u64, total * 3 * inner, 0.7, dtype);
                let qkv_data = matrix(&mut cuda, &qkv, total, 3 * inner, dtype);
                let mut out = poisoned(&mut cuda, total, inner, dtype);
                kernels::attend_self(&cuda.driver, &qkv_data, &cache, &rows, &bias_data, &mut out).unwrap();
                let mut rest = &qkv[..];
                let mut want = Vec::new();
                for (row, count) in live.iter().zip(&counts) {
                    let history = &mut history[*row];
                    history.extend_from_slice(rest.split_off(..count * 3 * inner).unwrap());
                    let length = history.len() / (3 * inner);
                    for token in length - count..length {
                        for head in 0..heads {
                            let of = |token: usize, which| part(history, heads, dim, token, which, head);
                            let keys: Vec<_> = (0..=token).map(|key| (of(key, 1), of(key, 2))).collect();
                            let bias = |key: usize| biases[head * capacity + capacity - 1 + key - token];
                            want.extend(attend(of(token, 0), &keys, bias));
                        }
                    }
                }
                let top = f64::from(0.7f32 * 0.7) * dim as f64 + 3.0;
                let what = format!("{dtype} {heads} x {dim} step {step}");
                assert_close(&what, &result(&cuda, &out), &want, tolerance(dtype, top), 1.0);
                let logits = matrix(&mut cuda, &vec![0.0; live.len() * 8], live.len(), 8, DType::F32);
                cuda.choose(logits, &mut rows).unwrap();
            }
        }
    }
}

/// Values are read eight rows at a time, the last of them again behind the end: an infinite one counts once.
#[test]
fn an_infinite_value_stays_infinite() {
    let Some(mut cuda) = card() else { return };
    for dtype in DTYPES {
        let (heads, dim) = (1, 64);
        let spec = RowsSpec { slots: 1, most_tokens: 3, max_new_tokens: 1, ..RowsSpec::default() };
        let capacity = spec.longest();
        let mut rows = cuda.rows(spec, Vec::new()).unwrap();
        cuda.seat(&mut rows, &[BatchRow { slot: 0, begins: Some(&[0; 3]) }]).unwrap();
        let mut qkv = noise(1, 3 * 3 * dim, 0.7, dtype);
        // One column of the last token's V.
        let column = 5;
        qkv[8 * dim + column] = f32::INFINITY;
        let qkv = matrix(&mut cuda, &qkv, 3, 3 * dim, dtype);
        let data = matrix(&mut cuda, &vec![0.0; capacity * 2 * dim], 1, capacity * 2 * dim, dtype).data;
        let cache = SelfCache { data, slots: 1, capacity, inner: dim };
        let biases = bias(&cuda, &vec![0.0; capacity], heads, capacity - 1);
        let mut out = poisoned(&mut cuda, 3, dim, dtype);
        kernels::attend_self(&cuda.driver, &qkv, &cache, &rows, &biases, &mut out).unwrap();
        for (i, x) in result(&cuda, &out).into_iter().enumerate() {
            let infinite = i == 2 * dim + column;
            assert!(if infinite { x == f32::INFINITY } else { x.is_finite() }, "{dtype}: element {i} is {x}");
        }
    }
}
