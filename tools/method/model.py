"""The tiny T5s and their vocabulary: one shape and one start for every task and every way to ask."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import T5Config, T5ForConditionalGeneration

from tasks import TASKS

PAD, EOS, UNK = 0, 1, 2
SPECIAL = ["<pad>", "</s>", "<unk>"]


def vocabulary() -> Tokenizer:
    """Every word of the tasks. A text ends in `</s>`, a prompt does not."""
    words: set[str] = set()
    for task in TASKS.values():
        drawn = task(seed=0)
        for _ in range(2000):
            example = drawn.example()
            chained = [text for pair in example.chained or [] for text in pair]
            words.update(" ".join([example.text, *example.prompts, *example.answers, *chained, task.all_prompt, ";"]).split())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + sorted(words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


def config(words: int) -> T5Config:
    return T5Config(
        vocab_size=words,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_heads=4,
        num_layers=3,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )


@torch.no_grad()
def initialise(model: T5ForConditionalGeneration) -> None:
    """Heads that pre-trained T5s have and that take longest to find: encoder heads that look at a near neighbour, and a last
    cross-attention that copies what it looks at."""
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    # Buckets of the keys one before, one after, two before the query; the fourth head is free.
    for head, bucket in enumerate([1, 17, 2]):
        bias[bucket, head] = 5.0
    cross = model.decoder.block[-1].layer[1].EncDecAttention
    identity = torch.eye(model.config.d_model)
    cross.v.weight.copy_(identity)
    cross.o.weight.copy_(1.5 * identity)


def parameter_groups(model: torch.nn.Module) -> list[dict]:
    """Adam moves every weight by about the learning rate: those that must grow large, the relative biases (several units, to
    look at exactly the token before) and the embedding (T5 initialises it to deviation 1), get larger rates."""
    relative = {"relative_attention_bias": 15.0, "shared": 4.0}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = next((rate for part, rate in relative.items() if part in name), 1.0)
        groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "relative": rate} for rate, parameters in groups.items()]
