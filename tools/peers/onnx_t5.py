"""T5 v1.0 in ONNX Runtime: an encoder that projects the cross-attention's K and V, and a step of the decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

# Most tokens of an input and of a row of the decoder.
ENCODER_TOKENS, DECODER_TOKENS = 1024, 64


def norm(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon))


def heads(attention: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """[rows, tokens, inner] as [rows, heads, tokens, d_kv]."""
    return x.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)


def attend(
    attention: nn.Module, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    scores = heads(attention, attention.q(x)) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return attention.o((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


def feed_forward(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    dense = layer.DenseReluDense
    return x + dense.wo(torch.relu(dense.wi(norm(layer.layer_norm, x))))


def bias(stack: nn.Module, tokens: int) -> torch.Tensor:
    with torch.no_grad():
        return stack.block[0].layer[0].SelfAttention.compute_bias(tokens, tokens)


class Encoder(nn.Module):
    """ids [rows, n] to K and V of every layer of the decoder, [rows, heads, n, d_kv] each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("bias", bias(model.encoder, ENCODER_TOKENS))

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, n = self.model.shared(ids), ids.shape[1]
        for block in self.model.encoder.block:
            attention = block.layer[0].SelfAttention
            y = norm(block.layer[0].layer_norm, x)
            k, v = heads(attention, attention.k(y)), heads(attention, attention.v(y))
            x = feed_forward(block.layer[1], x + attend(attention, y, k, v, self.bias[:, :, :n, :n]))
        x = norm(self.model.encoder.final_layer_norm, x)
        cross = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        return tuple(heads(a, project(x)) for a in cross for project in (a.k, a.v))


class Decoder(nn.Module):
    """ids [rows, t], the encoder's K and V, [1 or rows, heads, n, d_kv], and those of the tokens before, [rows, heads,
    before, d_kv], to each row's best next id, [rows], and K and V with this step's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        later = torch.full((DECODER_TOKENS, DECODER_TOKENS), float("-inf")).triu(1)
        self.register_buffer("bias", bias(model.decoder, DECODER_TOKENS) + later)

    def forward(self, ids: torch.Tensor, *kv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        blocks = self.model.decoder.block
        cross, past = kv[: 2 * len(blocks)], kv[2 * len(blocks) :]
        x, before = self.model.shared(ids), past[0].shape[2]
        end = before + ids.shape[1]
        now = []
        for i, block in enumerate(blocks):
            attention = block.layer[0].SelfAttention
            y = norm(block.layer[0].layer_norm, x)
            k = torch.cat([past[2 * i], heads(attention, attention.k(y))], 2)
            v = torch.cat([past[2 * i + 1], heads(attention, attention.v(y))], 2)
            now += [k, v]
            x = x + attend(attention, y, k, v, self.bias[:, :, before:end, :end])
            y = norm(block.layer[1].layer_norm, x)
            x = x + attend(block.layer[1].EncDecAttention, y, cross[2 * i], cross[2 * i + 1], None)
            x = feed_forward(block.layer[2], x)
        x = norm(self.model.decoder.final_layer_norm, x[:, -1:])
        return (self.model.lm_head(x)[:, 0].argmax(-1), *now)


class OnnxT5:
    """Both graphs of a model of transformers, with its weights."""

    def __init__(self, model: nn.Module, folder: Path, threads: int) -> None:
        layers, self.heads, d_kv = model.config.num_layers, model.config.num_heads, model.config.d_kv
        self.d_kv = d_kv
        names = lambda k, v: [name + str(i) for i in range(layers) for name in (k, v)]
        self.cross, self.past, now = names("ck", "cv"), names("pk", "pv"), names("nk", "nv")
        of_input = {name: {0: "inputs", 2: "n"} for name in self.cross}
        before = {name: {0: "rows", 2: "before"} for name in self.past}
        after = {name: {0: "rows", 2: "after"} for name in now}
        ids = torch.full((3, 20), 5)
        cross = [torch.zeros(1, self.heads, 20, d_kv)] * len(self.cross)
        past = [torch.zeros(3, self.heads, 2, d_kv)] * len(self.past)
        # The exporter leaves a module in the mode that it found the outermost in: without eval(), dropout would be on.
        self.encoder = self.session(
            Encoder(model).eval(), (ids,), folder / "encoder.onnx", threads,
            ["ids"], self.cross, {"ids": {0: "inputs", 1: "n"}, **of_input},
        )
        self.decoder = self.session(
            Decoder(model).eval(), (ids[:, :2], *cross, *past), folder / "decoder.onnx", threads,
            ["ids", *self.cross, *self.past], ["best", *now],
            {"ids": {0: "rows", 1: "t"}, "best": {0: "rows"}, **of_input, **before, **after},
        )

    def session(
        self, module: nn.Module, example: tuple, file: Path, threads: int, inputs: list, outputs: list, axes: dict
    ) -> onnxruntime.InferenceSession:
        # The exporter by torch.export takes onnxscript; that by tracing takes onnx alone.
        torch.onnx.export(
            module, example, str(file), input_names=inputs, output_names=outputs, dynamic_axes=axes,
            opset_version=17, dynamo=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def generate(self, input_ids: np.ndarray, start: np.ndarray, new_tokens: int) -> np.ndarray:
        """[rows, new_tokens] of input_ids [1 or rows, n] and what rows start with, [rows, t]."""
        cross = dict(zip(self.cross, self.encoder.run(None, {"ids": input_ids})))
        nothing = np.zeros((len(start), self.heads, 0, self.d_kv), np.float32)
        past, ids, made = dict.fromkeys(self.past, nothing), start, []
        for _ in range(new_tokens):
            best, *now = self.decoder.run(None, {"ids": ids, **cross, **past})
            made.append(best)
            past, ids = dict(zip(self.past, now)), best[:, None]
        return np.stack(made, 1)
