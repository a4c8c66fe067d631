"""What every training of a tiny T5 begins with: the shape, a few hand-set heads, rates, rows that read one K/V."""

from __future__ import annotations

import torch
from transformers import T5Config, T5ForConditionalGeneration

from vocabulary import EOS, PAD


def config(words: int, d_model: int) -> T5Config:
    """Three encoder and two decoder layers of four heads; all widths follow from `d_model`."""
    return T5Config(
        vocab_size=words,
        d_model=d_model,
        d_kv=d_model // 4,
        d_ff=2 * d_model,
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


def parameter_groups(model: torch.nn.Module) -> list[dict]:
    """Adam moves every weight by about the learning rate, so those that must grow large, the
    relative biases (several units, to look at exactly the token before) and the embedding (T5
    initialises it to deviation 1), get larger rates: copying is learned in minutes, not hours."""
    relative = {"relative_attention_bias": 15.0, "shared": 4.0}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = next((rate for part, rate in relative.items() if part in name), 1.0)
        groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "relative": rate} for rate, parameters in groups.items()]


@torch.no_grad()
def initialise(model: T5ForConditionalGeneration) -> None:
    """Starts from heads that pre-trained T5s have and that small ones take long to find: encoder
    heads that look at a near neighbour, and a last cross-attention that copies what it looks at."""
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    # Buckets of the keys one before, one after, two before the query; the fourth head is free.
    for head, bucket in enumerate([1, 17, 2]):
        bias[bucket, head] = 5.0
    cross = model.decoder.block[-1].layer[1].EncDecAttention
    identity = torch.eye(model.config.d_model)
    cross.v.weight.copy_(identity)
    cross.o.weight.copy_(1.5 * identity)


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def packed(rows: list[list[tuple[list[int], list[int]]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (ids, labels) of each input as one decoder sequence: ids, labels and the mask of its self-attention.

    Rows stand one after the other and read one cross-attention K/V; a block-diagonal mask keeps them
    apart, and since T5's positions are relative, each row computes what it would compute alone."""
    most = max(map(len, rows))
    width = max(len(ids) for of_input in rows for ids, _ in of_input)
    ids = torch.full((len(rows), most, width), PAD)
    labels = torch.full((len(rows), most, width), -100)
    for b, of_input in enumerate(rows):
        for r, (row_ids, row_labels) in enumerate(of_input):
            ids[b, r, : len(row_ids)] = torch.tensor(row_ids)
            labels[b, r, : len(row_labels)] = torch.tensor(row_labels)
    blocks = torch.block_diag(*[torch.ones(width, width).tril()] * most)
    mask = torch.where(blocks > 0, 0.0, torch.finfo(torch.float32).min)[None, None]
    return ids.flatten(1), labels.flatten(1), mask.expand(len(rows), 1, -1, -1)
