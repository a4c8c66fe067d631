//! Decoder-only models: many sequences share a prefix (a system prompt, a document) and go on on their own.
//! Attention over the prefix is shared cross-attention; attention over each suffix is its own; the two are joined
//! by their LSE and equal attention over everything.
//!
//! `cargo run --release --example shared_prefix`

use onekv::cpu::{attend, merge_states};
use onekv::{Keys, PartialState, Problem, ProblemSpec, SharedKv, View};

const SEQUENCES: usize = 16;
const HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const PREFIX: usize = 700;
/// Keys that each sequence has behind the prefix.
const SUFFIX: usize = 40;
const TOKEN: usize = HEADS * HEAD_DIM;

/// One new token of every sequence: `rows_per_input` of them share an input of `keys_per_input` keys.
fn attend_over(
    q: &[f32],
    kv: (&[f32], &[f32]),
    rows_per_input: usize,
    keys_per_input: usize,
) -> onekv::Result<(Vec<f32>, Vec<f32>)> {
    let inputs = SEQUENCES / rows_per_input;
    let problem = Problem::new(ProblemSpec {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: 0.125,
        softcap: None,
        row_offsets: (0..=inputs).map(|input| input * rows_per_input).collect(),
        keys: Keys::Packed { offsets: (0..=inputs).map(|input| input * keys_per_input).collect() },
    })?;
    let (mut out, mut lse) = (vec![0.0; SEQUENCES * TOKEN], vec![0.0; SEQUENCES * HEADS]);
    attend(
        &problem,
        View::contiguous(problem.query_shape(), q),
        SharedKv::contiguous(problem.kv_shape(), kv.0, kv.1),
        View::contiguous(problem.query_shape(), &mut out[..]),
        Some(View::contiguous(problem.lse_shape(), &mut lse[..])),
    )?;
    Ok((out, lse))
}

fn main() -> onekv::Result<()> {
    let noise = |tokens: usize, seed: usize| {
        (0..tokens * TOKEN).map(|i| ((i * 7919 + seed) % 8191) as f32 / 4095.5 - 1.0).collect::<Vec<f32>>()
    };
    let q = noise(SEQUENCES, 1);
    let (prefix_k, prefix_v) = (noise(PREFIX, 2), noise(PREFIX, 3));
    let (suffix_k, suffix_v) = (noise(SEQUENCES * SUFFIX, 4), noise(SEQUENCES * SUFFIX, 5));

    // One input with all rows; then one input per sequence.
    let (prefix_out, prefix_lse) = attend_over(&q, (&prefix_k, &prefix_v), SEQUENCES, PREFIX)?;
    let (suffix_out, suffix_lse) = attend_over(&q, (&suffix_k, &suffix_v), 1, SUFFIX)?;
    let shape = [SEQUENCES, HEADS, HEAD_DIM];
    let mut merged = vec![0.0f32; q.len()];
    merge_states(
        &[
            PartialState::contiguous(shape, &prefix_out[..], &prefix_lse[..]),
            PartialState::contiguous(shape, &suffix_out[..], &suffix_lse[..]),
        ],
        View::contiguous(shape, &mut merged[..]),
        None,
    )?;

    // The same without sharing: every sequence has a copy of the prefix in front of its suffix.
    let copies = |prefix: &[f32], suffix: &[f32]| -> Vec<f32> {
        suffix.chunks(SUFFIX * TOKEN).flat_map(|own| [prefix, own].concat()).collect()
    };
    let (k, v) = (copies(&prefix_k, &suffix_k), copies(&prefix_v, &suffix_v));
    let (full, _) = attend_over(&q, (&k, &v), 1, PREFIX + SUFFIX)?;
    let worst = merged.iter().zip(&full).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    println!(
        "{SEQUENCES} sequences, a prefix of {PREFIX} keys, {SUFFIX} keys each: the shared prefix reads {} keys, copies \
         read {}",
        PREFIX + SEQUENCES * SUFFIX,
        SEQUENCES * (PREFIX + SUFFIX),
    );
    println!("largest difference from attention over everything: {worst:.1e}");
    assert!(worst < 1e-5, "the merge is not attention over everything");
    Ok(())
}
