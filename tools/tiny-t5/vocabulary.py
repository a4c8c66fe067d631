"""The tokenizer: byte-pair pieces of the training text with T5's special ids."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from dialogues import NONE, SLOTS, SYLLABLES, Generator

PAD, EOS, UNK = 0, 1, 2


def build(dialogues: int = 4000) -> Tokenizer:
    """Trains on the training split. Prompts and dialogues compose by concatenating ids: every
    text starts with the word marker, so no piece depends on what stands before it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # Names are made of syllables and times of hours and minutes: unseen ones of seen pieces.
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Split(":", "isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    generator = Generator(seed=1, held_out=False)
    # Twice a syllable, so that syllables become pieces before any pair of them does.
    texts = [generator.dialogue().text for _ in range(dialogues)] + SLOTS * 50 + [NONE] * 500
    texts += [s for s in SYLLABLES for _ in range(400)]
    trainer = trainers.BpeTrainer(vocab_size=448, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


def load_or_build(path: Path) -> Tokenizer:
    """The tokenizer at `path`, trained first where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        build().save(str(path))
    return Tokenizer.from_file(str(path))
