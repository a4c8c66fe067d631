#!/usr/bin/env bash
# A T5 v1.1 or Flan folder that transformers 5 saved again is decoded by transformers 4 with the wrong head, silently.
#
# Versions: transformers 4.57.6 and 5.24.0, torch 2.9.1.
# One would expect: load and save leaves the meaning of a folder alone, or the older version refuses what it cannot read.
# What happens: such a folder says tie_word_embeddings false and has an lm_head.weight of its own. 5.24.0 keeps that tensor
#   and decodes with it, but writes tie_word_embeddings true; that there is no scaling it writes in a new key,
#   scale_decoder_outputs. 4.57.6 believes the old key: it decodes with the embedding times d_model^-0.5 and drops
#   lm_head.weight without listing it as unused. Seen on 2026-11-27 (d_model 16):
#     4.57.6 original: tie False, scale None; head lm_head.weight times 1; ids [0, 2, 4, 5, 4, 2, 4]
#     5.24.0 original: tie False, scale None; head lm_head.weight times 1; ids [0, 2, 4, 5, 4, 2, 4]
#     5.24.0 saved by 5: tie True, scale False; head lm_head.weight times 1; ids [0, 2, 4, 5, 4, 2, 4]
#     4.57.6 saved by 5: tie True, scale False; head shared.weight times 0.25; ids [0, 29, 16, 14, 18, 12, 3]
# Who is hit: who fine-tunes Flan-T5 with 5 and serves it with 4, and every reader that decides by tie_word_embeddings.
#   In a folder that 5 saved, the head is lm_head.weight if there is one, and scale_decoder_outputs says whether to scale.
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

cat > "$tmp/t5.py" <<'PY'
import json, sys
import torch
import transformers
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration as T5

step, original, saved = sys.argv[1:]
transformers.utils.logging.disable_progress_bar()
assert transformers.__version__ == ("5.24.0" if step == "save" else "4.57.6"), transformers.__version__
if step == "make":
    torch.manual_seed(0)
    m = T5(T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=2, decoder_start_token_id=0,
                    feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    for p in m.parameters():
        torch.nn.init.normal_(p)
    m.save_pretrained(original)
if step == "save":
    T5.from_pretrained(original).save_pretrained(saved)

def see(what, folder):
    """(head's name, its factor, ids), printed."""
    config = json.load(open(folder + "/config.json"))
    m, info = T5.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"], info
    file = load_file(folder + "/model.safetensors")
    x = torch.tensor([[5, 6, 7, 8, 1]])
    with torch.no_grad():
        out = m.eval()(input_ids=x, decoder_input_ids=torch.tensor([[0]]), output_hidden_states=True)
        hidden = out.decoder_hidden_states[-1]
        for head in ("lm_head.weight", "shared.weight"):
            if torch.equal(file[head], m.lm_head.weight):
                factor = round((out.logits / (hidden @ file[head].T)).median().item(), 4)
                break
        ids = m.generate(input_ids=x, max_new_tokens=6, do_sample=False)[0].tolist()
    print(f"{transformers.__version__} {what}: tie {config.get('tie_word_embeddings')},"
          f" scale {config.get('scale_decoder_outputs')}; head {head} times {factor:g}; ids {ids}")
    return head, factor, ids

if step == "make":
    see("original", original)
elif step == "save":
    assert see("original", original) == see("saved by 5", saved), "CHANGED: 5 reads its own folder in another way"
    config = json.load(open(saved + "/config.json"))
    assert config["tie_word_embeddings"] is True and config["scale_decoder_outputs"] is False, "CHANGED: what 5 writes"
else:
    head, factor, ids = see("saved by 5", saved)
    assert (head, factor) == ("shared.weight", 0.25), "CHANGED: 4 reads the folder in another way"
PY
"$PYTHON4" "$tmp/t5.py" make "$tmp/original" "$tmp/saved"
"$PYTHON5" "$tmp/t5.py" save "$tmp/original" "$tmp/saved"
"$PYTHON4" "$tmp/t5.py" see "$tmp/original" "$tmp/saved"
