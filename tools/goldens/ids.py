"""Cases of ids: a tiny random model, what is asked of it, and what transformers answers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

MAJOR = int(transformers.__version__.split(".")[0])
MAX_NEW_TOKENS = 8
# A greedy choice closer than this could fall either way in another order of summation.
LEAST_GAP = 2e-2
# The first cases are larger than need be.
LARGE = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_heads": 4, "num_layers": 2}
SMALL = {"vocab_size": 48, "d_model": 16, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": 2}
# What torch.compile puts before every name. transformers does not know it.
PREFIX = "_orig_mod."
# What turns a setting off.
OFF = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0}


@dataclass
class Case:
    """What sets a model apart from the default."""

    config: dict = field(default_factory=dict)
    kind: str = "t5"
    sizes: dict = field(default_factory=lambda: SMALL)
    dtype: torch.dtype = torch.float32
    # safetensors, bin or fp16 (safetensors under a variant's name).
    store: str = "safetensors"
    shard: str | None = None
    # Prompt lengths; an empty prompt is one of them.
    prompts: tuple[int, ...] = (3, 0, 1, 7)
    keys: int = 11
    # Keys of config.json that T5Config fills in by itself.
    leave_out: tuple[str, ...] = ()
    generation: dict | None = None
    # What is done to the saved folder.
    edit: Callable[[Path], None] | None = None
    # The transformers that makes it, and whether the other one reads it otherwise.
    version: int = 4
    differs: bool = False
    # Whether both readings are expected, each in files of its own.
    both: bool = False
    # Settings of generation_config.json that are taken as off.
    ignored: tuple[str, ...] = ()
    # Whether an output has to end early.
    ends: bool = False
    # Where the search begins: below it one of both readings is unclear.
    seed: int = 0

    def expected(self) -> str:
        """The name of the files of what is expected."""
        return f"expected-{MAJOR}" if self.both else "expected"


def change_json(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file; `None` takes a key out."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}, indent=1) + "\n")


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def own_head(folder: Path) -> None:
    """A head unlike the embedding, though config.json may say that there is none."""
    head = lambda tensors: 0.5 * torch.randn_like(tensors["shared.weight"])
    change_tensors(folder, lambda tensors: {**tensors, "lm_head.weight": head(tensors)})


def resave(folder: Path) -> None:
    """A folder with a head of its own as 4.x wrote it, loaded and saved again by 5.x."""
    own_head(folder)
    change_json(folder / "config.json", tie_word_embeddings=False, scale_decoder_outputs=None)
    AutoModelForSeq2SeqLM.from_pretrained(folder).save_pretrained(folder)


def decoder_embedding(folder: Path) -> None:
    """The embedding under the name that MADLAD-400 has."""
    rename = {"shared.weight": "decoder.embed_tokens.weight"}
    change_tensors(folder, lambda tensors: {rename.get(name, name): t for name, t in tensors.items()})


def unused(folder: Path) -> None:
    """Tensors that no T5 has."""
    bias = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    extra = {"decoder.position_ids": torch.arange(9), bias: torch.ones(32, 2)}
    change_tensors(folder, lambda tensors: {**tensors, **extra})


def prefix(folder: Path) -> None:
    change_tensors(folder, lambda tensors: {PREFIX + name: t for name, t in tensors.items()})


GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
IDS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
# Many ends, of which one comes soon.
ENDS = [1, *range(3, 12)]

CASES = {
    "relu-tied": Case(sizes=LARGE, keys=21, ends=True),
    "gated-untied": Case(sizes=LARGE, keys=21, config=GATED, ends=True),
    "inner-differs": Case(sizes=LARGE, keys=21, config={"num_heads": 3, "d_kv": 8}),
    "deep-decoder": Case(sizes=LARGE, keys=21, config={"num_layers": 1, "num_decoder_layers": 4}, ends=True),
    "deep-encoder": Case(sizes=LARGE, keys=21, config={"num_layers": 4, "num_decoder_layers": 1, **GATED}),
    "odd-buckets": Case(
        sizes=LARGE,
        config={"relative_attention_num_buckets": 10, "relative_attention_max_distance": 23},
        prompts=(30, 0, 5),
        keys=70,
    ),
    "long-prompts": Case(sizes=LARGE, prompts=(80, 3, 100), keys=150),
    "f16": Case(sizes=LARGE, keys=21, dtype=torch.float16),
    "bf16": Case(sizes=LARGE, keys=21, dtype=torch.bfloat16, config=GATED),
    "sharded": Case(sizes=LARGE, keys=21, shard="60KB"),
    "defaults": Case(
        sizes=LARGE,
        keys=21,
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
        ),
    ),
    # Activations.
    "gelu-erf": Case(config={"feed_forward_proj": "gelu", "tie_word_embeddings": False}),
    "silu": Case(config={"feed_forward_proj": "silu"}),
    "gated-silu-ul2": Case(config={"feed_forward_proj": "gated-silu", "tie_word_embeddings": False}),
    # The two keys win over feed_forward_proj.
    "gated-tanh-overrides": Case(
        config={"feed_forward_proj": "relu", "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}
    ),
    # Relatives of T5.
    "mt5": Case(kind="mt5", config=GATED),
    "umt5": Case(kind="umt5", config={"feed_forward_proj": "gated-gelu"}),
    "madlad": Case(
        config={**GATED, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 5},
        edit=decoder_embedding,
        ends=True,
    ),
    # What 5.x writes: tie_word_embeddings is always true there.
    "v5-fresh-v11": Case(config=GATED, version=5, differs=True),
    "v5-resaved-flan": Case(config=GATED, edit=resave, version=5, differs=True),
    "v5-resaved-umt5": Case(kind="umt5", config=GATED, edit=resave, version=5, differs=True),
    "v5-mt5-no-scale": Case(kind="mt5", config=GATED, version=5, differs=True),
    # Folders of 4.x that the two read differently: a head that is said to be tied, and an mT5 that is tied.
    "v4-ambiguous-head": Case(config={"feed_forward_proj": "gated-gelu"}, edit=own_head, both=True, seed=9),
    "v4-ambiguous-scale": Case(kind="mt5", config={**GATED, "tie_word_embeddings": True}, both=True),
    # Names of tensors.
    "prefix": Case(config=GATED, edit=prefix),
    "unused-tensors": Case(edit=unused),
    "sharded-bin-unclear": Case(config=GATED, store="bin", shard="20KB"),
    # Settings of generate, without generation_config.json and with it.
    "config-eos-list": Case(config={"eos_token_id": ENDS}, version=5, ends=True),
    "generation-config-eos-list": Case(generation={**IDS, "eos_token_id": ENDS}, version=5, ends=True),
    "generation-config-start": Case(generation={**IDS, "decoder_start_token_id": 7}, version=5),
    "generation-config-repetition": Case(
        generation={**IDS, "no_repeat_ngram_size": 1, "repetition_penalty": 2.5},
        ignored=("no_repeat_ngram_size", "repetition_penalty"),
        version=5,
    ),
    "forced-bos-eos": Case(generation={**IDS, "forced_bos_token_id": 9, "forced_eos_token_id": 1}),
    "suppress": Case(
        generation={**IDS, "suppress_tokens": [*range(3, 18)], "begin_suppress_tokens": [*range(18, 33)]}
    ),
    # After a forced start it is the second token that is suppressed. Of several ends the least is forced.
    "forced-and-suppressed": Case(
        generation={
            **IDS,
            "forced_bos_token_id": 9,
            "forced_eos_token_id": [7, 5],
            "begin_suppress_tokens": [*range(9, 30)],
        }
    ),
}

# Folders that have to be converted first.
CONVERT = {
    "bin": Case(config=GATED, store="bin"),
    "bin-sharded": Case(config=GATED, store="bin", shard="20KB"),
    "fp16-variant": Case(config=GATED, store="fp16", dtype=torch.float16),
}


def model_of(case: Case, seed: int) -> PreTrainedModel:
    """A model whose outputs depend on everything: norms and biases far from their initial values."""
    config = {**case.sizes, "decoder_start_token_id": 0, "dropout_rate": 0.0, **case.config}
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(case.kind, **config)).eval()
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
    return model.to(case.dtype)


def save(case: Case, model: PreTrainedModel, folder: Path) -> None:
    options = {"bin": {"safe_serialization": False}, "fp16": {"variant": "fp16"}}.get(case.store, {})
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=case.shard or "5GB", **options)
    (folder / "generation_config.json").unlink(missing_ok=True)
    change_json(folder / "config.json", **{key: None for key in case.leave_out})
    if case.edit:
        case.edit(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    if case.generation:
        (folder / "generation_config.json").write_text(json.dumps(case.generation) + "\n")


def load(folder: Path) -> PreTrainedModel:
    """What transformers reads, in f32."""
    variant = "fp16" if (folder / "model.fp16.safetensors").exists() else None
    path = folder / "model.safetensors"
    if path.exists() and all(name.startswith(PREFIX) for name in load_file(path)):
        with tempfile.TemporaryDirectory() as bare:
            shutil.copytree(folder, bare, dirs_exist_ok=True)
            strip = lambda tensors: {name.removeprefix(PREFIX): t for name, t in tensors.items()}
            change_tensors(Path(bare), strip)
            return load(Path(bare))
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, variant=variant).eval()


def start_of(model: PreTrainedModel) -> int:
    return model.generation_config.decoder_start_token_id or 0


@torch.no_grad()
def greedy(
    model: PreTrainedModel, inputs: list[int], prompt: list[int], most: int, **settings: object
) -> tuple[list[int], float]:
    """The ids after the start and the prompt, and the smallest gap between best and second best."""
    start = start_of(model)
    decoder = [start, *prompt]
    out = model.generate(
        input_ids=torch.tensor([inputs]),
        decoder_input_ids=torch.tensor([decoder]),
        decoder_start_token_id=start,
        do_sample=False,
        num_beams=1,
        use_cache=False,
        max_new_tokens=most,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    scores = torch.cat(out.scores)
    # Where an id is forced there is nothing to choose.
    best = scores[scores.isfinite().sum(-1) > 2].topk(2, dim=-1).values
    return out.sequences[0, len(decoder) :].tolist(), (best[:, 0] - best[:, 1]).min().item()


def expected(
    case: Case, model: PreTrainedModel, request: dict, **settings: object
) -> tuple[list[list[int]], dict[str, torch.Tensor], float]:
    """Greedy ids, teacher-forced logits, and the smallest gap of all."""
    settings = {**{key: OFF[key] for key in case.ignored}, **settings}
    outputs, logits, gap = [], {}, float("inf")
    for i, prompt in enumerate(request["prompts"]):
        ids, least = greedy(model, request["input_ids"], prompt, request["max_new_tokens"], **settings)
        outputs.append(ids)
        gap = min(gap, least)
        decoder = torch.tensor([[start_of(model), *prompt]])
        with torch.no_grad():
            out = model(input_ids=torch.tensor([request["input_ids"]]), decoder_input_ids=decoder)
        logits[f"logits.{i}"] = out.logits[0].contiguous()
    return outputs, logits, gap


def request_of(case: Case, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    vocab = case.sizes["vocab_size"]
    draw = lambda n: torch.randint(3, vocab, (n,), generator=generator).tolist()
    eos = case.config.get("eos_token_id", 1)
    return {
        "input_ids": [*draw(case.keys), eos if isinstance(eos, int) else eos[0]],
        "prompts": [draw(n) for n in case.prompts],
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def tells(case: Case, model: PreTrainedModel, request: dict, outputs: list[list[int]]) -> bool:
    """Whether the outputs differ between prompts, end early where they should, and show every setting."""
    if len({tuple(ids) for ids in outputs}) < len(outputs) or len(set(outputs[0])) == 1:
        return False
    end = (case.generation or case.config).get("eos_token_id", 1)
    # Of several ends another one than T5's.
    ends = end[1:] if isinstance(end, list) else [end]
    if case.ends and not any(ids[-1] in ends and len(ids) < MAX_NEW_TOKENS for ids in outputs):
        return False
    obeyed = set(case.generation or {}) - set(IDS) - set(case.ignored)
    others = [expected(Case(), model, request, **{key: None})[0] for key in obeyed]
    if case.ignored:
        others.append(expected(Case(), model, request)[0])
    return outputs not in others


def write(case: Case, folder: Path, outputs: list[list[int]], logits: dict[str, torch.Tensor]) -> None:
    values: dict = {"outputs": outputs}
    if MAJOR > 4:
        values["transformers"] = transformers.__version__
    if case.ignored:
        values["ignored"] = list(case.ignored)
    (folder / f"{case.expected()}.json").write_text(json.dumps(values) + "\n")
    save_file(logits, folder / f"{case.expected()}.safetensors")


def make(name: str, case: Case, folder: Path) -> None:
    """Tries seeds until the greedy path is clear and tells what it should."""
    if case.version != MAJOR:
        if case.both:
            request = json.loads((folder / "request.json").read_text())
            outputs, logits, gap = expected(case, load(folder), request)
            if gap < LEAST_GAP:
                raise RuntimeError(f"{name}: no clear path, begin with another seed")
            write(case, folder, outputs, logits)
            print(f"{name}: read by {transformers.__version__}, least gap {gap:.3f}")
        return
    for seed in range(case.seed, 5000):
        request = request_of(case, seed)
        save(case, model_of(case, seed), folder)
        model = load(folder)
        outputs, logits, gap = expected(case, model, request)
        if gap > LEAST_GAP and tells(case, model, request, outputs):
            break
    else:
        raise RuntimeError(f"{name}: no seed will do")
    (folder / "request.json").write_text(json.dumps(request) + "\n")
    write(case, folder, outputs, logits)
    print(f"{name}: seed {seed}, least gap {gap:.3f}, lengths {[len(ids) for ids in outputs]}")


def check(name: str, case: Case, folder: Path) -> list[str]:
    """What is wrong: the running version expects something else, though it should not, or the other way round."""
    request = json.loads((folder / "request.json").read_text())
    outputs, logits, _ = expected(case, load(folder), request)
    stored = load_file(folder / f"{case.expected()}.safetensors")
    same = outputs == json.loads((folder / f"{case.expected()}.json").read_text())["outputs"] and all(
        torch.allclose(logits[key], stored[key], atol=1e-4) for key in logits
    )
    differs = case.differs and case.version != MAJOR
    if same != differs:
        return []
    return [f"{name}: {'is the same' if same else 'differs'} under transformers {transformers.__version__}"]
