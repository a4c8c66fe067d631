"""Makes the goldens of the shared-prefix example's tests, and checks them.

Each case is a folder: a tiny random Llama, a document with prompts behind it, and what transformers answers. Every sequence,
document and prompt, goes through `generate` by itself, greedily, in f32. Nothing is shared or padded there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

GOLDENS = Path(__file__).resolve().parents[2] / "examples" / "shared_prefix" / "tests" / "goldens"
NEW_TOKENS = 8
# A greedy choice closer than this could fall either way in another order of summation.
LEAST_GAP = 2e-2
SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": None,
}


@dataclass
class Case:
    """What sets a model apart, and what it is asked."""

    config: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    document: int = 37
    prompts: tuple[int, ...] = (3, 1, 9, 5)
    # Whether an answer has to end early.
    ends: bool = False


CASES = {
    # Grouped queries, and heads that together are not as wide as the model.
    "grouped": Case(config={"num_key_value_heads": 2, "head_dim": 12, "rope_theta": 500.0}),
    # Of the eight pairs of a head three turn as ever, one is between, four turn slower.
    "scaled-rope": Case(
        config={
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
        document=90,
    ),
    "tied-bf16": Case(
        config={"num_key_value_heads": 4, "tie_word_embeddings": True}, dtype=torch.bfloat16, document=1, prompts=(1, 6)
    ),
    "one-kv-head-f16": Case(
        config={"num_key_value_heads": 1, "eos_token_id": [*range(2, 14)], "rms_norm_eps": 1e-5},
        dtype=torch.float16,
        document=150,
        prompts=(2, 4, 1),
        ends=True,
    ),
}


def model_of(case: Case, seed: int) -> LlamaForCausalLM:
    """A model whose answers depend on everything: norms far from one, attention that is sharp."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **case.config})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(torch.empty_like(weight).uniform_(0.5, 1.5))
            else:
                weight.normal_(0.0, weight.shape[-1] ** -0.5 * (3.0 if "q_proj" in name else 1.0))
    return model.to(case.dtype)


def request_of(case: Case, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(2, SIZES["vocab_size"], (n,), generator=generator).tolist()
    return {"document": draw(case.document), "prompts": [draw(n) for n in case.prompts]}


@torch.no_grad()
def expected(folder: Path, request: dict) -> tuple[list[list[int]], dict[str, torch.Tensor], float]:
    """Greedy ids, logits behind each token of the prompts, and the smallest gap between best and second best."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    outputs, logits, gap = [], {}, float("inf")
    for i, prompt in enumerate(request["prompts"]):
        tokens = torch.tensor([[*request["document"], *prompt]])
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            pad_token_id=0,
            do_sample=False,
            num_beams=1,
            max_new_tokens=NEW_TOKENS,
            output_scores=True,
            return_dict_in_generate=True,
        )
        best = torch.cat(out.scores).topk(2, dim=-1).values
        gap = min(gap, (best[:, 0] - best[:, 1]).min().item())
        outputs.append(out.sequences[0, tokens.shape[1] :].tolist())
        logits[f"logits.{i}"] = model(tokens).logits[0, -len(prompt) :].contiguous()
    return outputs, logits, gap


def tells(case: Case, outputs: list[list[int]]) -> bool:
    """Whether the answers differ between prompts, do not repeat one id, and end early where they should."""
    early = [ids for ids in outputs if len(ids) < NEW_TOKENS]
    differ = len({tuple(ids) for ids in outputs}) == len(outputs) and all(len(set(ids)) > 1 for ids in outputs)
    return differ and 0 < len(early) < len(outputs) if case.ends else differ


def make(name: str, case: Case, folder: Path) -> None:
    """Tries seeds until the greedy path is clear and tells what it should."""
    for seed in range(5000):
        shutil.rmtree(folder, ignore_errors=True)
        model_of(case, seed).save_pretrained(folder)
        request = request_of(case, seed)
        outputs, logits, gap = expected(folder, request)
        if gap > LEAST_GAP and tells(case, outputs):
            break
    else:
        raise RuntimeError(f"{name}: no seed will do")
    (folder / "request.json").write_text(json.dumps(request) + "\n")
    (folder / "expected.json").write_text(json.dumps({"outputs": outputs}) + "\n")
    save_file(logits, folder / "expected.safetensors")
    print(f"{name}: seed {seed}, least gap {gap:.3f}")


def check(name: str, folder: Path) -> list[str]:
    """What the running transformers answers otherwise."""
    outputs, logits, _ = expected(folder, json.loads((folder / "request.json").read_text()))
    wrong = [] if outputs == json.loads((folder / "expected.json").read_text())["outputs"] else [f"{name}: ids"]
    for key, want in load_file(folder / "expected.safetensors").items():
        if (logits[key] - want).abs().max() > 1e-4:
            wrong.append(f"{name}: {key}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDENS)
    parser.add_argument("--only", choices=CASES, help="one case instead of all", metavar="CASE")
    parser.add_argument("--check", action="store_true", help="make nothing, compare with the running version")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    wrong = []
    for name, case in CASES.items():
        if args.only not in (None, name):
            continue
        if args.check:
            wrong += check(name, args.out / name)
        else:
            make(name, case, args.out / name)
    if args.check:
        print("\n".join(wrong) or f"as expected under transformers {transformers.__version__}")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
