#!/usr/bin/env bash
# clean_up_tokenization_spaces: true of a BPE tokenizer is obeyed by transformers 4 and refused by 5.
#
# Versions: transformers 4.57.6 (tokenizers 0.22.2) and 5.24.0 (tokenizers 0.23.3); no torch.
# One would expect: the same folder decodes the same ids to the same text, as tokenizer_config.json sets it.
# What happens: 4.57.6 takes the space out before . ? ! , 's 'm 've 're n't in what any tokenizer decodes. 5.24.0 does so for
#   Unigram (T5's own), but not for BPE, not even when decode() itself is called with the setting; one warning per
#   process says so. It wants a second key beside the first, LONG below. Seen on 2026-11-27:
#     4.57.6 Unigram, true in the file: "x, y. it's"           5.24.0 "x, y. it's"
#     4.57.6 BPE, true in the file: "x, y. it's"               5.24.0 "x , y . it 's"
#     4.57.6 BPE, true in the call: "x, y. it's"               5.24.0 "x , y . it 's"
#     4.57.6 BPE, true and LONG in the file: "x, y. it's"      5.24.0 "x, y. it's"
# Who is hit: who reads folders of CodeT5's kind whose file says true and compares texts between the two, and who
#   writes a reader: whether the key counts depends on model.type in another file, tokenizer.json.
#
# PYTHON4, PYTHON5: a ready python to use instead of an installation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" HF_HUB_OFFLINE=1
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --disable-pip-version-check "${@:2}"
}
[[ -n ${PYTHON4:-} ]] || { install 4 transformers==4.57.6 tokenizers==0.22.2; PYTHON4=$tmp/4/bin/python; }
[[ -n ${PYTHON5:-} ]] || { install 5 transformers==5.24.0 tokenizers==0.23.3; PYTHON5=$tmp/5/bin/python; }

cat > "$tmp/make.py" <<'PY'
import json, os, sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

KEY = "clean_up_tokenization_spaces"
LONG = KEY + "_for_bpe_even_though_it_will_corrupt_output"
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
unigram = Tokenizer(models.Unigram())
unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
for t, trainer in ((bpe, trainers.BpeTrainer(show_progress=False)),
                   (unigram, trainers.UnigramTrainer(show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]))):
    t.train_from_iterator(["x , y . it 's"], trainer)
for name, t, config in (("unigram", unigram, {KEY: True}), ("bpe", bpe, {KEY: True}), ("call", bpe, {}),
                        ("long", bpe, {KEY: True, LONG: True})):
    folder = os.path.join(sys.argv[1], name)
    os.mkdir(folder)
    t.save(folder + "/tokenizer.json")
    with open(folder + "/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", **config}, f)
PY
cat > "$tmp/see.py" <<'PY'
import os, sys
import transformers

changed, four = False, sys.argv[2] == "4.57.6"
assert transformers.__version__ == sys.argv[2], transformers.__version__
for name, what, cleans in (("unigram", "Unigram, true in the file", True), ("bpe", "BPE, true in the file", four),
                           ("call", "BPE, true in the call", four), ("long", "BPE, true and LONG in the file", True)):
    t = transformers.AutoTokenizer.from_pretrained(os.path.join(sys.argv[1], name))
    call = {"clean_up_tokenization_spaces": True} if name == "call" else {}
    got = t.decode(t("x , y . it 's").input_ids, **call)
    print(transformers.__version__, what + ":", f'"{got}"')
    if got != ("x, y. it's" if cleans else "x , y . it 's"):
        changed = True
        print("CHANGED: the line above")
sys.exit(changed)
PY
"$PYTHON5" "$tmp/make.py" "$tmp"
"$PYTHON4" "$tmp/see.py" "$tmp" 4.57.6
"$PYTHON5" "$tmp/see.py" "$tmp" 5.24.0
