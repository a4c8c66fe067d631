#!/usr/bin/env bash
# A T5 folder without a tokenizer gets one all the same, and it knows no words.
#
# Versions: transformers 4.57.6 (tokenizers 0.22.2) and 5.24.0 (tokenizers 0.23.3); no torch.
# One would expect: AutoTokenizer raises an error when the files that its tokenizer is made of are missing, as 4.57.6 does.
# What happens: 5.24.0 makes a T5Tokenizer of 104 pieces, <pad>, </s>, <unk>, a space and 100 sentinels, and says
#   nothing. Every word becomes 3, 2: space, unknown. So for model_type t5 and mt5 with config.json alone, or with the
#   vocab.json and merges.txt of a BPE tokenizer that no tokenizer_config.json names. umt5 raises. Seen on 2026-11-27:
#     4.57.6 t5 config.json: ValueError: Either model_file or model_proto must be specified.
#     5.24.0 t5 config.json: T5Tokenizer, 104 pieces, "the cat sat" is [3, 2, 3, 2, 3, 2, 1], silent
#     5.24.0 mt5 config.json: T5Tokenizer, 104 pieces, "the cat sat" is [3, 2, 3, 2, 3, 2, 1], silent
#     5.24.0 umt5 config.json: ValueError: Couldn't instantiate the backend tokenizer from one of:
#     4.57.6 t5 config.json, merges.txt, vocab.json: ValueError: Either model_file or model_proto must be specified.
#     5.24.0 t5 config.json, merges.txt, vocab.json: T5Tokenizer, 104 pieces, "the cat sat" is [3, 2, 3, 2, 3, 2, 1], silent
# Who is hit: who saves a model and forgets its tokenizer, and who copies a CodeT5 or ByT5 folder (model_type t5) without
#   its tokenizer_config.json, where config.json does not name the class either. Training and decoding then run, on
#   unknown tokens only.
#
# PYTHON4, PYTHON5: a ready python to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" HF_HUB_OFFLINE=1
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --disable-pip-version-check "${@:2}" sentencepiece==0.2.3 protobuf==7.36.2
}
[[ -n ${PYTHON4:-} ]] || { install 4 transformers==4.57.6 tokenizers==0.22.2; PYTHON4=$tmp/4/bin/python; }
[[ -n ${PYTHON5:-} ]] || { install 5 transformers==5.24.0 tokenizers==0.23.3; PYTHON5=$tmp/5/bin/python; }

for type in t5 mt5 umt5; do
    mkdir "$tmp/$type"
    echo "{\"model_type\": \"$type\"}" > "$tmp/$type/config.json"
done
cp -r "$tmp/t5" "$tmp/bpe"
"$PYTHON5" - "$tmp/bpe" <<'PY'
import sys
from tokenizers import ByteLevelBPETokenizer
bpe = ByteLevelBPETokenizer()
bpe.train_from_iterator(["the cat sat on the mat"] * 9, vocab_size=280, show_progress=False)
bpe.save_model(sys.argv[1])
PY
cat > "$tmp/load.py" <<'PY'
import json, os, sys
import transformers
folder, log = sys.argv[1:]
try:
    t = transformers.AutoTokenizer.from_pretrained(folder)
    said = f"{type(t).__name__}, {len(t)} pieces, \"the cat sat\" is {t('the cat sat').input_ids}"
except Exception as e:
    said = f"{type(e).__name__}: {str(e).strip().splitlines()[0]}"
# A missing torch is told whatever is loaded.
told = [line for line in open(log) if "PyTorch was not found" not in line]
said += "" if "Error" in said else ", told: " + told[0].strip() if told else ", silent"
kind = json.load(open(folder + "/config.json"))["model_type"]
print(transformers.__version__, kind, ", ".join(sorted(os.listdir(folder))) + ":", said)
PY
failed=0
see() { # python, folder, what must be printed (a pattern)
    local got
    got=$("$1" "$tmp/load.py" "$2" "$tmp/log" 2> "$tmp/log")
    echo "$got"
    # shellcheck disable=SC2053
    [[ $got == $3 ]] || { echo "CHANGED: expected $3"; failed=1; }
}
stub='T5Tokenizer, 104 pieces, "the cat sat" is \[3, 2, 3, 2, 3, 2, 1\], silent'
see "$PYTHON4" "$tmp/t5" "4.57.6 *: ValueError*"
see "$PYTHON5" "$tmp/t5" "5.24.0 *: $stub"
see "$PYTHON5" "$tmp/mt5" "5.24.0 *: $stub"
see "$PYTHON5" "$tmp/umt5" "5.24.0 *: ValueError*"
see "$PYTHON4" "$tmp/bpe" "4.57.6 *: ValueError*"
see "$PYTHON5" "$tmp/bpe" "5.24.0 *: $stub"
exit $failed
