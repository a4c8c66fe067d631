#!/usr/bin/env bash
# transformers 5 knows the model's end (config.eos_token_id is 1) and yet never stops there.
#
# Versions: transformers 4.57.6 and 5.24.0, torch 2.9.1.
# One would expect: generate() ends at the eos_token_id that model.config shows, at least when nothing else names one.
# What happens: without generation_config.json 4.57.6 takes eos from the config with T5's default, 1. 5.24.0 takes it
#   from the keys that stand in config.json: one that leaves eos_token_id to the default makes a model whose config says
#   1 and whose generation_config says None. And if there is a generation_config.json without eos_token_id, neither
#   version looks for it in config.json, though it stands there. Seen on 2026-11-27 (a model that gives 1 first, 4 tokens):
#     4.57.6 config.json without eos, no generation_config.json: config 1, generation 1, ids [0, 1]
#     5.24.0 config.json without eos, no generation_config.json: config 1, generation None, ids [0, 1, 10, 12, 10]
#     4.57.6 config.json with eos 1, generation_config.json without: config 1, generation None, ids [0, 1, 10, 12, 10]
#     5.24.0 config.json with eos 1, generation_config.json without: config 1, generation None, ids [0, 1, 10, 12, 10]
# Who is hit: who writes config.json by a converter or by hand, or a generation_config.json with beams only: every
#   answer runs to max_new_tokens, and skip_special_tokens hides the </s> in the middle of it.
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

cat > "$tmp/eos.py" <<'PY'
import json, os, sys
import torch
import transformers
from transformers import T5Config, T5ForConditionalGeneration as T5

transformers.utils.logging.disable_progress_bar()
tmp, four = sys.argv[1], sys.argv[2] == "4.57.6"
assert transformers.__version__ == sys.argv[2], transformers.__version__
x = torch.tensor([[5, 6, 7, 8]])
if four:
    torch.manual_seed(0)
    m = T5(T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=2, decoder_start_token_id=0,
                    tie_word_embeddings=False)).eval()
    with torch.no_grad():
        for p in m.parameters():
            torch.nn.init.normal_(p)
        # Whatever comes first shall be id 1.
        first = m(input_ids=x, decoder_input_ids=torch.tensor([[0]])).logits.argmax().item()
        m.lm_head.weight[[1, first]] = m.lm_head.weight[[first, 1]]
    for name in ("none", "beams"):
        folder = f"{tmp}/{name}"
        m.save_pretrained(folder)
        config = json.load(open(folder + "/config.json"))
        if name == "none":
            os.remove(folder + "/generation_config.json")
            del config["eos_token_id"]
            json.dump(config, open(folder + "/config.json", "w"))
        else:
            assert config["eos_token_id"] == 1
            json.dump({"decoder_start_token_id": 0, "pad_token_id": 0}, open(folder + "/generation_config.json", "w"))
changed = False
for name, what, stops in (("none", "config.json without eos, no generation_config.json", four),
                          ("beams", "config.json with eos 1, generation_config.json without", False)):
    m = T5.from_pretrained(f"{tmp}/{name}").eval()
    ids = m.generate(input_ids=x, max_new_tokens=4, do_sample=False)[0].tolist()
    print(f"{transformers.__version__} {what}: config {m.config.eos_token_id},"
          f" generation {m.generation_config.eos_token_id}, ids {ids}")
    if m.config.eos_token_id != 1 or ids[:2] != [0, 1] or (len(ids) == 2) != stops:
        changed = True
        print("CHANGED: the line above")
sys.exit(changed)
PY
"$PYTHON4" "$tmp/eos.py" "$tmp" 4.57.6
"$PYTHON5" "$tmp/eos.py" "$tmp" 5.24.0
