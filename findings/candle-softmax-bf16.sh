#!/usr/bin/env bash
# candle's softmax on the CPU in bf16: over 1000 equal scores the weights add up to 3.9, and the attention is 3.9 times too large.
#
# Versions: candle-core and candle-nn 0.11.1, on the CPU: Tensor::sum, mean, log_sum_exp; ops::softmax, softmax_last_dim.
# One would expect: sums of 16-bit floats are taken in f32 and rounded once, as candle itself does in matmul,
#   cumsum and rms_norm. So a row of weights adds up to 1 within what bf16 rounds.
# What happens: the elements are added one by one in their own type. A sum of ones ends at 256 in bf16, at 2048 in f16 and at
#   16 in e4m3: another one is half of a last place, and rounds away. So a row's weights are divided by what the sum got stuck at.
#   Random scores do the same from a few hundred keys on. Seen on 2026-11-30 (values all 1, so that 1 is right):
#     attention over 200 keys, equal scores: bf16 1.000, f16 1.000, f32 1.000
#     attention over 300 keys, equal scores: bf16 1.172, f16 1.000, f32 1.000
#     attention over 1000 keys, equal scores: bf16 3.906, f16 1.000, f32 1.000
#     attention over 4000 keys, equal scores: bf16 15.625, f16 1.953, f32 1.000
#     attention over 300 keys, scores of -1 to 1: bf16 1.016, f16 0.999, f32 1.000
#     attention over 1000 keys, scores of -1 to 1: bf16 1.688, f16 0.987, f32 1.000
#     attention over 4000 keys, scores of -1 to 1: bf16 6.750, f16 1.094, f32 1.000
#     mean of 1000 ones: e4m3 0.031, bf16 0.256, f16 1.000
# Who is hit: every model that keeps its tensors in bf16 on the CPU and reads more than a few hundred keys at once: encoders
#   and cross-attention over long documents first, whose weights are spread widely. One key with nearly all of the weight
#   hides it. Where scores are converted to f32 before the softmax it does not happen. Told upstream in July 2026 (issue 3727).
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never
unset RUSTFLAGS
mkdir -p "$tmp/see/src"
cd "$tmp/see"
cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.0.0"
edition = "2021"

[dependencies]
candle-core = "=0.11.1"
candle-nn = "=0.11.1"
TOML
cat > src/main.rs <<'RS'
use candle_core::{DType, Device::Cpu, Result, Tensor, D};
use candle_nn::ops::{softmax, softmax_last_dim};

/// Attention of one query to values that are all 1: what the weights add up to.
fn attention(scores: &Tensor, dtype: DType) -> Result<f32> {
    let scores = scores.to_dtype(dtype)?;
    let weights = softmax_last_dim(&scores)?;
    assert_eq!(
        softmax(&scores, D::Minus1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?,
        weights.to_dtype(DType::F32)?.to_vec2::<f32>()?
    );
    let ones = Tensor::ones((scores.dim(1)?, 1), dtype, &Cpu)?;
    weights.matmul(&ones)?.to_dtype(DType::F32)?.flatten_all()?.get(0)?.to_scalar()
}

fn main() -> Result<()> {
    // A sequence without repetitions below 4001, so that nothing depends on a crate for random numbers.
    let scattered = |key: usize| (key * 1237 % 4001) as f32 / 2000.5 - 1.0;
    for (what, keys, score) in [
        ("equal scores", &[200, 300, 1000, 4000][..], &(|_| 0f32) as &dyn Fn(usize) -> f32),
        ("scores of -1 to 1", &[300, 1000, 4000], &scattered),
    ] {
        for &keys in keys {
            let scores = Tensor::from_iter((0..keys).map(score), &Cpu)?.reshape((1, keys))?;
            let of = |dtype| attention(&scores, dtype);
            println!(
                "attention over {keys} keys, {what}: bf16 {:.3}, f16 {:.3}, f32 {:.3}",
                of(DType::BF16)?,
                of(DType::F16)?,
                of(DType::F32)?
            );
        }
    }
    let mean = |dtype| Tensor::ones(1000, dtype, &Cpu)?.mean(0)?.to_dtype(DType::F32)?.to_scalar::<f32>();
    println!("mean of 1000 ones: e4m3 {:.3}, bf16 {:.3}, f16 {:.3}", mean(DType::F8E4M3)?, mean(DType::BF16)?, mean(DType::F16)?);
    Ok(())
}
RS
cargo build --quiet
cat > "$tmp/expected" <<'TXT'
attention over 200 keys, equal scores: bf16 1.000, f16 1.000, f32 1.000
attention over 300 keys, equal scores: bf16 1.172, f16 1.000, f32 1.000
attention over 1000 keys, equal scores: bf16 3.906, f16 1.000, f32 1.000
attention over 4000 keys, equal scores: bf16 15.625, f16 1.953, f32 1.000
attention over 300 keys, scores of -1 to 1: bf16 1.016, f16 0.999, f32 1.000
attention over 1000 keys, scores of -1 to 1: bf16 1.688, f16 0.987, f32 1.000
attention over 4000 keys, scores of -1 to 1: bf16 6.750, f16 1.094, f32 1.000
mean of 1000 ones: e4m3 0.031, bf16 0.256, f16 1.000
TXT
"$tmp/target/debug/see" | tee "$tmp/got"
diff "$tmp/expected" "$tmp/got" || { echo "CHANGED: expected <, got >"; exit 1; }
