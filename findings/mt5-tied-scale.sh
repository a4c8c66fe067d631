#!/usr/bin/env bash
# A tied mT5: transformers 4 scales its logits by d_model^-0.5, transformers 5 does not. T5 and umT5 are scaled by both.
#
# Versions: transformers 4.57.6 and 5.24.0, torch 2.9.1.
# One would expect: mT5 and umT5 are T5 with other defaults; the same weights with the same config.json give the same logits.
# What happens: with tie_word_embeddings true and no lm_head.weight, 4.57.6 scales in all three. 5.24.0 does so for t5 and
#   umt5, but has no scaling at all for mt5, not even with its own key scale_decoder_outputs true. Nothing is said.
#   The likeliest token is the same, so greedy text hides it; probabilities are not, nor what is made of them: sampling,
#   scores, the choice between beams. Seen on 2026-11-27 (logits over hidden state times head; d_model 16):
#     4.57.6 t5 0.25, umt5 0.25, mt5 0.25, mt5 with scale_decoder_outputs 0.25
#     5.24.0 t5 0.25, umt5 0.25, mt5 1, mt5 with scale_decoder_outputs 1
# Who is hit: who trained an mT5 with tied embeddings under 4 (Google's own are not tied, and in both unscaled), samples
#   from it or reads scores under 5. No file tells a reader which of the two the model was trained with.
#
# PYTHON4, PYTHON5: a ready python to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --no-compile --disable-pip-version-check "${@:2}" torch==2.9.1 safetensors==0.8.0
}
[[ -n ${PYTHON4:-} ]] || { install 4 transformers==4.57.6; PYTHON4=$tmp/4/bin/python; }
[[ -n ${PYTHON5:-} ]] || { install 5 transformers==5.24.0; PYTHON5=$tmp/5/bin/python; }

cat > "$tmp/tied.py" <<'PY'
import json, os, sys
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM as Model

transformers.utils.logging.disable_progress_bar()
tmp, make, expected = sys.argv[1], sys.argv[2] == "make", sys.argv[3]
seen = []
for kind, extra in (("t5", {}), ("umt5", {}), ("mt5", {}), ("mt5", {"scale_decoder_outputs": True})):
    folder = f"{tmp}/{kind}{len(extra)}"
    if make:
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=2,
                                      decoder_start_token_id=0, tie_word_embeddings=True)
        Model.from_config(config).save_pretrained(folder)
        config = json.load(open(folder + "/config.json"))
        with open(folder + "/config.json", "w") as f:
            json.dump({**config, "tie_word_embeddings": True, **extra}, f)
    file = load_file(folder + "/model.safetensors")
    assert "lm_head.weight" not in file
    m = Model.from_pretrained(folder).eval()
    with torch.no_grad():
        out = m(input_ids=torch.tensor([[5, 6, 7, 1]]), decoder_input_ids=torch.tensor([[0, 9]]), output_hidden_states=True)
    ratio = out.logits / (out.decoder_hidden_states[-1] @ file["shared.weight"].T)
    seen.append(f"{kind}{' with scale_decoder_outputs' if extra else ''} {round(ratio.median().item(), 4):g}")
line = f"{transformers.__version__} {', '.join(seen)}"
print(line)
assert line == expected, "CHANGED: expected " + expected
PY
"$PYTHON4" "$tmp/tied.py" "$tmp" make "4.57.6 t5 0.25, umt5 0.25, mt5 0.25, mt5 with scale_decoder_outputs 0.25"
"$PYTHON5" "$tmp/tied.py" "$tmp" see "5.24.0 t5 0.25, umt5 0.25, mt5 1, mt5 with scale_decoder_outputs 1"
