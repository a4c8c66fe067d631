#!/usr/bin/env bash
# Copies of T5's embedding that differ: transformers 4 ignores them, 5 uses them and gives advice that changes the model.
#
# Versions: transformers 4.57.6 and 5.24.0, torch 2.9.1.
# One would expect: T5 has one embedding, shared.weight; encoder.embed_tokens and decoder.embed_tokens are
#   other names for it.
# What happens, when the file of a tied model (v1.0) has all three and they differ: 4.57.6 uses shared.weight everywhere and
#   says nothing. 5.24.0 uses each where its name says, shared.weight as the head, and warns: "You should update the
#   config with `tie_word_embeddings=False` to silence this warning". Who follows that is warned as before and gets
#   other logits: in 5.24.0 the key no longer ties anything, it only turns the scaling by d_model^-0.5 off. Seen on
#   2026-11-27 (d_model 16):
#     4.57.6 tie True: encoder reads shared, decoder shared, head shared times 0.25; warnings 0
#     5.24.0 tie True: encoder reads encoder.embed_tokens, decoder decoder.embed_tokens, head shared times 0.25; warnings 2
#     5.24.0 tie False: encoder reads encoder.embed_tokens, decoder decoder.embed_tokens, head shared times 1; warnings 2
# Who is hit: files whose copies are out of date, written by a tool that changed shared.weight only: right in 4, another
#   model in 5. And who obeys the warning: a Flan or v1.1 folder, which says false already, is given it for lm_head.weight.
#
# PYTHON4, PYTHON5: a ready python to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" HF_HUB_OFFLINE=1
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --no-compile --disable-pip-version-check "${@:2}" torch==2.9.1 safetensors==0.8.0
}
[[ -n ${PYTHON4:-} ]] || { install 4 transformers==4.57.6; PYTHON4=$tmp/4/bin/python; }
[[ -n ${PYTHON5:-} ]] || { install 5 transformers==5.24.0; PYTHON5=$tmp/5/bin/python; }

cat > "$tmp/embed.py" <<'PY'
import json, logging, sys
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration as T5

transformers.utils.logging.disable_progress_bar()
folder, step, expected = sys.argv[1:]
path = folder + "/model.safetensors"
warnings = []
class Count(logging.Handler):
    def emit(self, record):
        if "`tie_word_embeddings=False` to silence" in record.getMessage():
            warnings.append(record)
logging.getLogger("transformers").handlers = [Count(logging.WARNING)]
if step == "make":
    torch.manual_seed(0)
    m = T5(T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=2, decoder_start_token_id=0))
    m.save_pretrained(folder)
    file = load_file(path)
    for side in ("encoder", "decoder"):
        file[side + ".embed_tokens.weight"] = torch.randn(32, 16)
    save_file(file, path, metadata={"format": "pt"})
config = json.load(open(folder + "/config.json"))
config["tie_word_embeddings"] = step != "obey"
json.dump(config, open(folder + "/config.json", "w"))

file = load_file(path)
m, info = T5.from_pretrained(folder, output_loading_info=True)
assert not info["unexpected_keys"] and not info["missing_keys"], info
def source(weight):
    return next(name.removesuffix(".weight") for name, tensor in file.items() if torch.equal(tensor, weight))
with torch.no_grad():
    out = m.eval()(input_ids=torch.tensor([[5, 6, 7, 1]]), decoder_input_ids=torch.tensor([[0, 9]]),
                   output_hidden_states=True)
factor = (out.logits / (out.decoder_hidden_states[-1] @ m.lm_head.weight.T)).median().item()
line = (f"{transformers.__version__} tie {config['tie_word_embeddings']}:"
        f" encoder reads {source(m.encoder.embed_tokens.weight)}, decoder {source(m.decoder.embed_tokens.weight)},"
        f" head {source(m.lm_head.weight)} times {round(factor, 4):g}; warnings {len(warnings)}")
print(line)
assert line == expected, "CHANGED: expected " + expected
PY
"$PYTHON4" "$tmp/embed.py" "$tmp/t5" make \
    "4.57.6 tie True: encoder reads shared, decoder shared, head shared times 0.25; warnings 0"
own="encoder reads encoder.embed_tokens, decoder decoder.embed_tokens, head shared times"
"$PYTHON5" "$tmp/embed.py" "$tmp/t5" see "5.24.0 tie True: $own 0.25; warnings 2"
"$PYTHON5" "$tmp/embed.py" "$tmp/t5" obey "5.24.0 tie False: $own 1; warnings 2"
