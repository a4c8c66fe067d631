#!/usr/bin/env bash
# candle's attention on the CPU: a batch of 2 has another dtype, and another causal mask, than each of the two alone.
#
# Versions: candle-core and candle-nn 0.11.1, candle_nn::attention::flash_attn.
# One would expect: two sequences in one batch give what each gives alone, as batched arithmetic does everywhere.
# What happens: a batch of 1 and a larger one go to two implementations that disagree. f16 comes back as f32 from the one,
#   as f16 from the other. AttnMask::Causal { kv_offset } puts query i at position i + kv_offset among the keys for the one;
#   the other takes the queries for the last ones whatever kv_offset says. So AttnMask::causal(), whose kv_offset is 0,
#   masks otherwise in a batch wherever there are more keys than queries. A single query alone sees every key whatever
#   kv_offset says. Seen on 2026-11-28:
#     f16: batch of 1 F32, batch of 2 F16
#     2 queries, 5 keys, kv_offset 0, keys seen: batch of 1 [1, 2], batch of 2 [4, 5]
#     2 queries, 5 keys, kv_offset 1, keys seen: batch of 1 [2, 3], batch of 2 [4, 5]
#     2 queries, 5 keys, kv_offset 3, keys seen: batch of 1 [4, 5], batch of 2 [4, 5]
#     1 query, 5 keys, kv_offset 0, keys seen: batch of 1 [5], batch of 2 [5]
# Who is hit: who tests with one sequence and serves two: in f16 the next operation fails on one of the two dtypes; in
#   f32 the numbers differ and nothing is said. kv_offset = keys - queries is the one value that is safe.
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
half = "2"
TOML
cat > src/main.rs <<'RS'
use candle_core::{DType, Device::Cpu, Result, Tensor};
use candle_nn::attention::{flash_attn, AttnMask};

/// How many keys each query of the first sequence sees: zero scores weigh all alike, and value j is the unit vector j.
fn seen(batch: usize, queries: usize, keys: usize, kv_offset: usize) -> Result<Vec<usize>> {
    let q = Tensor::zeros((batch, queries, 1, keys), DType::F32, &Cpu)?;
    let k = Tensor::zeros((batch, keys, 1, keys), DType::F32, &Cpu)?;
    let v = Tensor::eye(keys, DType::F32, &Cpu)?.reshape((1, keys, 1, keys))?.repeat((batch, 1, 1, 1))?;
    let out = flash_attn::<f32>(&q, &k, &v, 1.0, AttnMask::causal_with_offset(kv_offset), None, None)?;
    let rows = out.get(0)?.get(0)?.to_vec2::<f32>()?;
    Ok(rows.iter().map(|row| row.iter().filter(|weight| **weight > 0.0).count()).collect())
}

fn dtype(batch: usize) -> Result<DType> {
    let x = Tensor::ones((batch, 3, 2, 8), DType::F16, &Cpu)?;
    Ok(flash_attn::<half::f16>(&x, &x, &x, 1.0, AttnMask::None, None, None)?.dtype())
}

fn main() -> Result<()> {
    println!("f16: batch of 1 {:?}, batch of 2 {:?}", dtype(1)?, dtype(2)?);
    for (queries, kv_offset) in [(2, 0), (2, 1), (2, 3), (1, 0)] {
        println!(
            "{queries} {}, 5 keys, kv_offset {kv_offset}, keys seen: batch of 1 {:?}, batch of 2 {:?}",
            if queries == 1 { "query" } else { "queries" },
            seen(1, queries, 5, kv_offset)?,
            seen(2, queries, 5, kv_offset)?,
        );
    }
    Ok(())
}
RS
cargo build --quiet
cat > "$tmp/expected" <<'TXT'
f16: batch of 1 F32, batch of 2 F16
2 queries, 5 keys, kv_offset 0, keys seen: batch of 1 [1, 2], batch of 2 [4, 5]
2 queries, 5 keys, kv_offset 1, keys seen: batch of 1 [2, 3], batch of 2 [4, 5]
2 queries, 5 keys, kv_offset 3, keys seen: batch of 1 [4, 5], batch of 2 [4, 5]
1 query, 5 keys, kv_offset 0, keys seen: batch of 1 [5], batch of 2 [5]
TXT
"$tmp/target/debug/see" | tee "$tmp/got"
diff "$tmp/expected" "$tmp/got" || { echo "CHANGED: expected <, got >"; exit 1; }
