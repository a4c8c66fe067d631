"""Tokenizers of the text cases, as files in their folders."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer

SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
ROBERTA = {**SPECIAL, "bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
WORDS = (
    "user system : ? , . ! hello world the a train hotel where to i need is name what ' s do not n't taxi leave at 12"
    " cheap 'm"
).split()
CODE = [
    "def add ( a , b ) : return the sum of a and b",
    "name of the list : for name in list : print ( name )",
    "return a if a > b else b",
]
PROSE = [
    "the cat sat on the mat, and the dog leaves at ten.",
    "translate English to German: where is the train station?",
    "summarize: a hotel in the centre is cheap today!",
    "The quick brown fox jumps over the lazy dog: 0 1 2 3 4 5 6 7 8 9.",
]
EXTRA_IDS = 100


def settings(folder: Path, **values: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values, indent=1) + "\n")


def byt5(folder: Path) -> None:
    """As 4.57.6 writes it."""
    ByT5Tokenizer().save_pretrained(folder)


def byt5_of_old(folder: Path) -> None:
    """As google/byt5-small has it."""
    extra = [f"<extra_id_{i}>" for i in range(125)]
    settings(folder, tokenizer_class="ByT5Tokenizer", extra_ids=125, additional_special_tokens=extra, **SPECIAL)


def words(folder: Path, added: bool, clean: bool) -> None:
    """A piece per word. The special tokens are `added` to tokenizer.json, or named beside it only."""
    extra = [f"<extra_id_{i}>" for i in range(3)]
    special = ["<pad>", "</s>", "<unk>"]
    pieces = [*(f"▁{word}" for word in WORDS), *WORDS, "▁"]
    vocab = [(piece, -2.0 - 0.01 * i) for i, piece in enumerate(pieces)]
    named = lambda tokens: [(token, 0.0) for token in tokens]
    tokenizer = Tokenizer(models.Unigram(named(special) + vocab + named(reversed(extra)), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    if added:
        tokenizer.add_special_tokens(special + extra)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings(
        folder,
        tokenizer_class="T5Tokenizer",
        extra_ids=len(extra),
        additional_special_tokens=extra,
        clean_up_tokenization_spaces=clean,
        **SPECIAL,
    )


def trained_bpe() -> Tokenizer:
    """Bytes and merges, as Roberta and CodeT5 have them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CODE, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), add_prefix_space=False)
    return tokenizer


def bpe(folder: Path) -> None:
    trained_bpe().save(str(folder / "tokenizer.json"), pretty=False)
    settings(folder, tokenizer_class="RobertaTokenizer", **ROBERTA)


def bpe_files(folder: Path) -> None:
    """vocab.json and merges.txt only."""
    trained_bpe().model.save(str(folder))
    settings(folder, tokenizer_class="RobertaTokenizer", **ROBERTA)


def spiece(folder: Path) -> None:
    """spiece.model only. Full-width letters and spaces are made plain ones: nmt_nfkc in small, which takes 230 KB."""
    plain = {**{i + 0xFEE0: i for i in range(0x21, 0x7F)}, 0x3000: 0x20}
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("".join(f"{wide:X}\t{narrow:X}\n" for wide, narrow in plain.items()))
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(PROSE * 10),
            model_writer=model,
            vocab_size=200,
            hard_vocab_limit=False,
            normalization_rule_tsv=rules.name,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    # The name of the rules' file stays in the model otherwise, and is another one in each run.
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    (folder / "spiece.model").write_bytes(proto.SerializeToString())
    extra = [f"<extra_id_{i}>" for i in range(EXTRA_IDS)]
    settings(folder, tokenizer_class="T5Tokenizer", extra_ids=EXTRA_IDS, additional_special_tokens=extra, **SPECIAL)
