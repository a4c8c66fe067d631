#!/usr/bin/env bash
# candle's T5 is not the T5 of transformers: from the tenth token on, in its tied logits, and where gelu or silu is asked for.
#
# Versions: candle-transformers 0.11.1; transformers 4.57.6 with jax 0.6.2 and flax 0.10.7 (its T5 in Flax needs no torch).
# One would expect: the same weights with the same config.json give the same logits, or an error that says what is missing.
# What happens, silently:
#   A decoder looks back only, so T5 gives all its buckets of relative position to the past. candle's decoder uses the
#   encoder's, half of them for the future. Of 32 buckets the first distance that lands elsewhere is 9: the tenth token.
#   Tied logits are multiplied by the root of d_model; transformers divides by it. They are d_model times too large: the
#   likeliest token is the same, sampling is not.
#   A feed-forward that is not gated is always relu: "gelu" and "silu" are read from config.json and dropped.
#   Seen on 2026-11-28 (random weights, d_model 16, 20 tokens one by one with candle's cache):
#     relu, head of its own: candle over transformers 1, first token that differs 10
#     gated-gelu, head of its own: candle over transformers 1, first token that differs 10
#     relu, tied: candle over transformers 16, first token that differs 10
#     gelu: first token that differs 1, candle's logits are those of relu
#     silu: first token that differs 1, candle's logits are those of relu
# Who is hit: every text longer than nine tokens from candle's T5; who samples from a tied one (the first T5, not Flan);
#   who trained one with a plain gelu or silu.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never PIP_CACHE_DIR="$tmp/cache"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error JAX_PLATFORMS=cpu
unset RUSTFLAGS
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --no-compile --disable-pip-version-check transformers==4.57.6 jax==0.6.2 flax==0.10.7 \
    safetensors==0.8.0

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
candle-transformers = "=0.11.1"
serde_json = "1"
TOML
cat > src/main.rs <<'RS'
use candle_core::{safetensors, DType, Device::Cpu, Tensor};
use candle_transformers::models::t5::T5ForConditionalGeneration;

// The logits of each decoder token, [tokens, vocab_size]. Arguments: the folder, source tokens, decoder tokens (JSON).
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let config = serde_json::from_str(&std::fs::read_to_string(format!("{}/config.json", args[0]))?)?;
    let source: Vec<u32> = serde_json::from_str(&args[1])?;
    let tokens: Vec<u32> = serde_json::from_str(&args[2])?;
    let weights = safetensors::load(format!("{}/model.safetensors", args[0]), &Cpu)?;
    let weights = candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Cpu);
    let mut model = T5ForConditionalGeneration::load(weights, &config)?;
    let encoded = model.encode(&Tensor::new(&source[..], &Cpu)?.unsqueeze(0)?)?;
    let mut logits = Vec::new();
    for token in tokens {
        logits.push(model.decode(&Tensor::new(&[[token]], &Cpu)?, &encoded)?.squeeze(0)?.to_vec1::<f32>()?);
    }
    println!("{}", serde_json::to_string(&logits)?);
    Ok(())
}
RS
cargo build --quiet

cat > "$tmp/see.py" <<'PY'
import json, os, subprocess, sys
import jax, numpy
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from transformers import FlaxT5ForConditionalGeneration, T5Config

tmp, failed, relu = sys.argv[1], False, None
source, tokens = [5, 6, 7, 1], [0, *range(9, 28)]


def both(proj, tied):
    """The logits of transformers and of candle, each [tokens, vocab_size], of one folder."""
    folder = f"{tmp}/{proj}-{tied}"
    config = T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=2, decoder_start_token_id=0,
                      feed_forward_proj=proj, tie_word_embeddings=tied)
    model = FlaxT5ForConditionalGeneration(config, seed=0)
    file = {}
    for name, value in flatten_dict(model.params).items():  # in Flax [inputs, outputs], in the file [outputs, inputs]
        value = numpy.asarray(value).T if name[-1] == "kernel" else numpy.asarray(value)
        file[".".join((*name[:-1], "weight"))] = numpy.ascontiguousarray(value)
    os.mkdir(folder)
    save_file(file, folder + "/model.safetensors")
    config.to_json_file(folder + "/config.json", use_diff=False)
    theirs = model(numpy.array([source]), decoder_input_ids=numpy.array([tokens])).logits[0]
    run = [tmp + "/target/debug/see", folder, json.dumps(source), json.dumps(tokens)]
    return numpy.asarray(theirs), numpy.array(json.loads(subprocess.check_output(run)))


def first(one, other):
    """The first token, from 1, whose logits differ."""
    differ = numpy.abs(one - other).max(1) > 1e-3 * numpy.abs(other).max()
    return differ.argmax() + 1 if differ.any() else "none"


def see(line, expected):
    global failed
    print(line)
    if line != expected:
        print("CHANGED: expected", expected)
        failed = True


jax.config.update("jax_default_matmul_precision", "highest")
for proj, tied, what, ratio in (("relu", False, "relu, head of its own", 1),
                                ("gated-gelu", False, "gated-gelu, head of its own", 1), ("relu", True, "relu, tied", 16)):
    theirs, candles = both(proj, tied)
    over = round(float(numpy.median(candles[:9] / theirs[:9])), 3)
    see(f"{what}: candle over transformers {over:g}, first token that differs {first(candles, over * theirs)}",
        f"{what}: candle over transformers {ratio}, first token that differs 10")
    relu = candles if (proj, tied) == ("relu", False) else relu
for proj in ("gelu", "silu"):
    theirs, candles = both(proj, False)
    same = "those of relu" if first(candles, relu) == "none" else "its own"
    see(f"{proj}: first token that differs {first(candles, theirs)}, candle's logits are {same}",
        f"{proj}: first token that differs 1, candle's logits are those of relu")
sys.exit(failed)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { tail "$tmp/log"; exit 1; }
