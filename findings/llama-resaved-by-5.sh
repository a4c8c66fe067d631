#!/usr/bin/env bash
# A Llama folder that transformers 5 saved again is read by transformers 4 and candle with RoPE's base 10000, silently.
#
# Versions: transformers 4.57.6 and 5.24.0, torch 2.9.1; candle-core, candle-nn and candle-transformers 0.11.1 on the CPU.
# One would expect: load and save leaves the meaning of a folder alone, or an older reader refuses what it cannot read.
# What happens: 5 moves rope_theta and what was in rope_scaling into a new object, rope_parameters, and writes neither of the
#   old keys. 4.57.6 and candle do not look at it, and both have a default for a folder that says nothing: base 10000, no
#   scaling. Weights load, nothing is told, and texts go wrong with their length. Seen on 2026-11-30, a random Llama with the
#   base and the scaling of Llama 3.2 (its first 8192 tokens cut to 128), logits of 200 tokens, largest difference from
#   what 4.57.6 has for the original:
#     4.57.6 original (rope_scaling, rope_theta): 0.0
#     5.24.0 original (rope_scaling, rope_theta): 0.0
#     5.24.0 saved by 5 (rope_parameters): 0.0
#     4.57.6 saved by 5 (rope_parameters): 6.6
#     candle original: base 500000, scaled true; last logits: 0.0
#     candle saved by 5: base 10000, scaled false; last logits: 3.5
# Who is hit: who fine-tunes a Llama 3 with 5 and serves it with 4 or candle. Of candle's models only Gemma 4's knows
#   rope_parameters; those whose rope_theta has no default refuse the folder instead. In a folder that 5 saved, base and
#   scaling are in rope_parameters.
#
# PYTHON4, PYTHON5: a ready python to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --no-compile --disable-pip-version-check "${@:2}" torch==2.9.1 safetensors==0.8.0
}
[[ -n ${PYTHON4:-} ]] || { install 4 transformers==4.57.6; PYTHON4=$tmp/4/bin/python; }
[[ -n ${PYTHON5:-} ]] || { install 5 transformers==5.24.0; PYTHON5=$tmp/5/bin/python; }

cat > "$tmp/llama.py" <<'PY'
import json, sys
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM as Llama

step, original, saved = sys.argv[1:]
transformers.utils.logging.disable_progress_bar()
version = transformers.__version__
assert version == ("5.24.0" if step == "save" else "4.57.6"), version
if step == "make":
    torch.manual_seed(0)
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    m = Llama(LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                          num_key_value_heads=2, max_position_embeddings=4096, rope_theta=500000.0,
                          rope_scaling=scaling | {"original_max_position_embeddings": 128}))
    for name, p in m.named_parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, 0.0, p.shape[-1] ** -0.5 * (3.0 if "q_proj" in name else 1.0))
    m.save_pretrained(original)
if step == "save":
    Llama.from_pretrained(original).save_pretrained(saved)

def see(what, folder):
    """Where the file speaks of RoPE, and how far the logits are off."""
    config = json.load(open(folder + "/config.json"))
    said = sorted(key for key in config if key.startswith("rope"))
    m = Llama.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = m(torch.arange(200)[None] * 7 % 64).logits[0]
    if step == "make":
        save_file({"logits": logits.contiguous()}, original + "/want.safetensors")
    difference = (logits - load_file(original + "/want.safetensors")["logits"]).abs().max().item()
    print(f"{version} {what} ({', '.join(said)}): {difference:.1f}")

if step != "read":
    see("original", original)
if step != "make":
    see("saved by 5", saved)
PY

for step in make save read; do
    python=$([[ $step == save ]] && echo "$PYTHON5" || echo "$PYTHON4")
    "$python" "$tmp/llama.py" $step "$tmp/original" "$tmp/saved" 2> "$tmp/told-$step"
done | tee "$tmp/got"
grep -i rope "$tmp/told-read" | tee -a "$tmp/got" || true

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
candle-transformers = "=0.11.1"
serde_json = "=1.0.154"
TOML
cat > src/main.rs <<'RS'
use candle_core::{DType, Device::Cpu, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};

fn main() -> Result<()> {
    let folders: Vec<String> = std::env::args().skip(1).collect();
    let want = candle_core::safetensors::load(format!("{}/want.safetensors", folders[0]), &Cpu)?;
    let want = want["logits"].get(199)?;
    for (what, folder) in ["original", "saved by 5"].iter().zip(&folders) {
        let text = std::fs::read_to_string(format!("{folder}/config.json"))?;
        let config: LlamaConfig = serde_json::from_str(&text).expect("a Llama's config");
        let (base, scaled) = (config.rope_theta, config.rope_scaling.is_some());
        let config = config.into_config(false);
        let weights = candle_core::safetensors::load(format!("{folder}/model.safetensors"), &Cpu)?;
        let model = Llama::load(VarBuilder::from_tensors(weights, DType::F32, &Cpu), &config)?;
        let mut cache = Cache::new(false, DType::F32, &config, &Cpu)?;
        let ids = Tensor::from_iter((0..200u32).map(|i| i * 7 % 64), &Cpu)?.unsqueeze(0)?;
        let difference = (model.forward(&ids, 0, &mut cache)?.get(0)? - &want)?.abs()?.max(0)?.to_scalar::<f32>()?;
        println!("candle {what}: base {base}, scaled {scaled}; last logits: {difference:.1}");
    }
    Ok(())
}
RS
cargo build --quiet
"$tmp/target/debug/see" "$tmp/original" "$tmp/saved" | tee -a "$tmp/got"
cat > "$tmp/expected" <<'TXT'
4.57.6 original (rope_scaling, rope_theta): 0.0
5.24.0 original (rope_scaling, rope_theta): 0.0
5.24.0 saved by 5 (rope_parameters): 0.0
4.57.6 saved by 5 (rope_parameters): 6.6
candle original: base 500000, scaled true; last logits: 0.0
candle saved by 5: base 10000, scaled false; last logits: 3.5
TXT
diff "$tmp/expected" "$tmp/got" || { echo "CHANGED: expected <, got >"; exit 1; }
