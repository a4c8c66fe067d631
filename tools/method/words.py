"""The vocabulary of all tasks."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tasks import TASKS

# Their places are PAD, EOS and UNK of tools/tiny-t5.
SPECIAL = ["<pad>", "</s>", "<unk>"]


def vocabulary() -> Tokenizer:
    """Every word of the tasks. A text ends in `</s>`, a prompt does not."""
    words: set[str] = set()
    for task in TASKS.values():
        drawn = task(seed=0)
        for _ in range(2000):
            example = drawn.example()
            chained = [text for pair in example.chained or [] for text in pair]
            words.update(" ".join([example.text, *example.prompts, *example.answers, *chained, drawn.all_prompt, ";"]).split())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + sorted(words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", SPECIAL.index("</s>"))]
    )
    return tokenizer
