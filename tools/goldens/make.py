"""Makes the goldens under tests/t5: tiny random T5 models and what transformers says of them.

Each case is a folder with config.json, the weights, request.json, expected.json (greedy ids) and
expected.safetensors (teacher-forced logits). Greedy decoding is `generate`, one prompt at a time,
without a cache, in f32. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

VOCAB = 96
MAX_NEW_TOKENS = 8
# A greedy choice closer than this could fall either way in another order of summation.
LEAST_GAP = 2e-2


@dataclass
class Case:
    """What sets a model apart from the small default."""

    config: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard: str | None = None
    # Prompt lengths; an empty prompt is one of them.
    prompts: tuple[int, ...] = (3, 0, 1, 7)
    keys: int = 21
    # Keys of config.json that T5Config fills in by itself.
    leave_out: tuple[str, ...] = ()


GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

CASES = {
    "relu-tied": Case(),
    "gated-untied": Case(config=GATED),
    "inner-differs": Case(config={"num_heads": 3, "d_kv": 8}),
    "deep-decoder": Case(config={"num_layers": 1, "num_decoder_layers": 4}),
    "deep-encoder": Case(config={"num_layers": 4, "num_decoder_layers": 1, **GATED}),
    "odd-buckets": Case(
        config={"relative_attention_num_buckets": 10, "relative_attention_max_distance": 23},
        prompts=(30, 0, 5),
        keys=70,
    ),
    "long-prompts": Case(prompts=(80, 3, 100), keys=150),
    "f16": Case(dtype=torch.float16),
    "bf16": Case(dtype=torch.bfloat16, config=GATED),
    "sharded": Case(shard="60KB"),
    "defaults": Case(
        # The widths left out have defaults too, but far too large ones for a test.
        leave_out=(
            "architectures",
            "decoder_start_token_id",
            "dense_act_fn",
            "dropout_rate",
            "eos_token_id",
            "feed_forward_proj",
            "initializer_factor",
            "is_encoder_decoder",
            "is_gated_act",
            "layer_norm_epsilon",
            "num_decoder_layers",
            "pad_token_id",
            "relative_attention_max_distance",
            "relative_attention_num_buckets",
            "tie_word_embeddings",
            "use_cache",
        )
    ),
}


def model_of(case: Case, seed: int) -> T5ForConditionalGeneration:
    """A model whose outputs depend on everything: norms and biases far from their initial values."""
    sizes = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_heads": 4, "num_layers": 2}
    config = T5Config(**{**sizes, "decoder_start_token_id": 0, "dropout_rate": 0.0, **case.config})
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer_norm" in name:
                weight.copy_(torch.empty_like(weight).uniform_(0.5, 1.5))
            elif "relative_attention_bias" in name:
                weight.normal_(0.0, 1.0)
            elif "lm_head" in name:
                weight.normal_(0.0, 0.5)
            elif "shared" not in name:
                weight.mul_(1.7)
    # What is written is rounded; what is expected comes from the rounded weights.
    return model.to(case.dtype).float()


@torch.no_grad()
def expected(model: T5ForConditionalGeneration, request: dict) -> tuple[list[list[int]], dict[str, torch.Tensor], float]:
    """Greedy ids, teacher-forced logits, and the smallest gap between best and second best."""
    inputs = torch.tensor([request["input_ids"]])
    outputs, logits, gap = [], {}, float("inf")
    for i, prompt in enumerate(request["prompts"]):
        decoder = torch.tensor([[0] + prompt])
        ids = model.generate(
            input_ids=inputs,
            decoder_input_ids=decoder,
            do_sample=False,
            num_beams=1,
            use_cache=False,
            max_new_tokens=request["max_new_tokens"],
        )
        new = ids[0, decoder.shape[1] :].tolist()
        outputs.append(new)
        logits[f"logits.{i}"] = model(input_ids=inputs, decoder_input_ids=decoder).logits[0].contiguous()
        path = model(input_ids=inputs, decoder_input_ids=ids[:, :-1]).logits[0, -len(new) :]
        best = path.topk(2, dim=-1).values
        gap = min(gap, (best[:, 0] - best[:, 1]).min().item())
    return outputs, logits, gap


def request_of(case: Case, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(3, VOCAB, (n,), generator=generator).tolist()
    return {
        "input_ids": draw(case.keys) + [1],
        "prompts": [draw(n) for n in case.prompts],
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def make(name: str, case: Case, folder: Path) -> None:
    """Tries seeds until the greedy path is clear, differs between prompts and ends early once."""
    for seed in range(5000):
        model, request = model_of(case, seed), request_of(case, seed)
        outputs, logits, gap = expected(model, request)
        ends = any(ids[-1] == 1 and len(ids) < MAX_NEW_TOKENS for ids in outputs)
        wants_end = name in ("relu-tied", "gated-untied", "deep-decoder")
        varied = len({tuple(ids) for ids in outputs}) == len(outputs) and len(set(outputs[0])) > 1
        if gap > LEAST_GAP and varied and (ends or not wants_end):
            break
    else:
        raise RuntimeError(f"{name}: no seed will do")
    shutil.rmtree(folder, ignore_errors=True)
    model.to(case.dtype).save_pretrained(folder, max_shard_size=case.shard or "5GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in case.leave_out:
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=1) + "\n")
    (folder / "request.json").write_text(json.dumps(request) + "\n")
    (folder / "expected.json").write_text(json.dumps({"outputs": outputs}) + "\n")
    save_file(logits, folder / "expected.safetensors")
    print(f"{name}: seed {seed}, least gap {gap:.3f}, lengths {[len(ids) for ids in outputs]}")


def buckets(path: Path) -> None:
    """The bucket of every relative position, key minus query."""
    positions = torch.arange(-600, 601)
    settings = [(True, 32, 128), (False, 32, 128), (True, 10, 23), (False, 10, 23), (False, 7, 20), (True, 64, 256)]
    lines = []
    for both, count, distance in settings:
        of = T5Attention._relative_position_bucket(
            positions, bidirectional=both, num_buckets=count, max_distance=distance
        )
        lines.append({"both": both, "buckets": count, "max_distance": distance, "of": of.tolist()})
    path.write_text(json.dumps({"first": -600, "settings": lines}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "tests" / "t5")
    parser.add_argument("--only", choices=CASES, help="one case instead of all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        if args.only in (None, name):
            make(name, case, args.out / name)
    buckets(args.out / "buckets.json")


if __name__ == "__main__":
    main()
