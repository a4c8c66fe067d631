"""Times the peers of onekv's CUDA attention on the same shapes, numbers and method as benches/card; writes JSON lines.

Reads the shapes that `card --list` prints. A system that fails on a shape is a line with `error`. results/README.md
describes the lines.

How a peer is given the work, b inputs of n keys with U prompts each:

  folded    the prompts are the query rows of one batch entry: q [b, kv_heads, U * group, d], K/V [b, kv_heads, n, d].
            What a caller who knows the method would write.
  expanded  each prompt its own batch entry: q [b * U, kv_heads, group, d], K/V expanded over the prompts. For b = 1
            that is a view of stride 0, where the backend takes it. Batch and stride 0 do not go into one dimension, so
            for b > 1 every prompt has its copy, made before the clock starts, as caches of engines hold it
            (`copies_kv`).

Queries that share a K/V head (the group) are folded for the peers in both. K and V are in memory as onekv takes them,
[b, n, kv_heads, d]; the peers get views.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import describe
from gpu_timing import Card, Dry, floor_us
from results_file import Results

# As benches/card/check.rs.
PERIOD = 65_521


@functools.cache
def noise(seed: int) -> torch.Tensor:
    """The numbers of benches/card/check.rs."""
    low = 0xFFFF_FFFF
    x = torch.arange(PERIOD, dtype=torch.int64) ^ ((seed * 0x85EB_CA6B) & low)
    # Products of 32 bits overflow 64-bit signed integers; the low half is right all the same.
    x = (x * 0x9E37_79B1) & low
    x = ((x ^ (x >> 15)) * 0x85EB_CA6B) & low
    x = ((x ^ (x >> 13)) * 0xC2B2_AE35) & low
    x = x ^ (x >> 16)
    return ((x >> 8).to(torch.float32) / (1 << 23) - 1.0).to(torch.bfloat16)


@dataclass(frozen=True)
class Shape:
    model: str
    heads: int
    kv_heads: int
    head_dim: int
    softcap: float | None
    inputs: int
    rows: int
    keys: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def q_len(self) -> int:
        return self.inputs * self.rows * self.heads * self.head_dim

    @property
    def kv_len(self) -> int:
        return self.inputs * self.keys * self.kv_heads * self.head_dim

    @property
    def flops(self) -> float:
        return 4.0 * self.q_len * self.keys

    def bytes(self, copies: int = 1) -> int:
        return 2 * (2 * self.kv_len * copies + 2 * self.q_len)


class Refused(Exception):
    """Why a system does not do a shape."""


@dataclass
class Work:
    """What is timed: `run(set)` gives the result, `standard` brings it to [b, U, heads, d]."""

    run: Callable[[int], torch.Tensor]
    standard: Callable[[torch.Tensor], torch.Tensor]
    layout: str
    copies: int = 1


class Operands:
    """Sets of q [b, U, heads, d], k, v [b, n, kv_heads, d], one after the other in memory."""

    def __init__(self, card, shape: Shape, sets: int) -> None:
        def tensor(seed: int, tokens: int, heads: int) -> torch.Tensor:
            size = sets * shape.inputs * tokens * heads * shape.head_dim
            pattern = noise(seed).to(card.device, card.dtype)
            values = pattern.repeat(-(-size // PERIOD))[:size]
            return values.view(sets, shape.inputs, tokens, heads, shape.head_dim)

        self.sets = sets
        self.q = tensor(1, shape.rows, shape.heads)
        self.k = tensor(2, shape.keys, shape.kv_heads)
        self.v = tensor(3, shape.keys, shape.kv_heads)


def reference(shape: Shape, operands: Operands, input_: int, head: int) -> torch.Tensor:
    """[rows, group, d] in f32, of one input and K/V head of set 0; at most 256 rows."""
    group = slice(head * shape.group, (head + 1) * shape.group)
    q = operands.q[0, input_, :256, group].float()
    k, v = operands.k[0, input_, :, head].float(), operands.v[0, input_, :, head].float()
    s = torch.einsum("rgd,nd->rgn", q, k) * shape.scale
    if shape.softcap is not None:
        s = shape.softcap * torch.tanh(s / shape.softcap)
    return torch.einsum("rgn,nd->rgd", torch.softmax(s, -1), v)


def check(shape: Shape, operands: Operands, out: torch.Tensor) -> float:
    """Compares set 0's [b, U, heads, d] with the reference in the corners of inputs and heads; mean |out|."""
    assert out.shape == (shape.inputs, shape.rows, shape.heads, shape.head_dim), f"result of {tuple(out.shape)}"
    for input_ in {0, shape.inputs - 1}:
        for head in {0, shape.kv_heads - 1}:
            want = reference(shape, operands, input_, head)
            group = slice(head * shape.group, (head + 1) * shape.group)
            got = out[input_, :256, group].float()
            error = ((got - want).norm(dim=-1) / want.norm(dim=-1)).max().item()
            # Written so that NaN does not pass. As benches/card/check.rs.
            if not error <= 0.03:
                raise Refused(f"wrong result: input {input_}, K/V head {head} is off by {error:.3f}")
    mean = out.abs().mean(dtype=torch.float32).item()
    if not math.isfinite(mean):
        raise Refused("wrong result: not every element is finite")
    return mean


def folded_queries(shape: Shape, q: torch.Tensor) -> torch.Tensor:
    """[b, U, heads, d] as [b, kv_heads, U * group, d]: a view where there is no group, else a copy."""
    b, u, _, d = q.shape
    return q.view(b, u, shape.kv_heads, shape.group, d).permute(0, 2, 1, 3, 4).reshape(b, shape.kv_heads, -1, d)


def unfold(shape: Shape, out: torch.Tensor) -> torch.Tensor:
    b, _, _, d = out.shape
    return (
        out.reshape(b, shape.kv_heads, shape.rows, shape.group, d)
        .permute(0, 2, 1, 3, 4)
        .reshape(b, shape.rows, shape.heads, d)
    )


def sdpa_folded(backend: SDPBackend, shape: Shape, o: Operands) -> Work:
    q = [folded_queries(shape, o.q[i]) for i in range(o.sets)]
    k, v = o.k.transpose(2, 3), o.v.transpose(2, 3)

    def run(i: int) -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q[i], k[i], v[i], scale=shape.scale)

    return Work(run, lambda out: unfold(shape, out), "folded")


def sdpa_expanded(backend: SDPBackend, shape: Shape, o: Operands, copy: bool) -> Work:
    batch = shape.inputs * shape.rows
    q = o.q.view(o.sets, batch, shape.kv_heads, shape.group, shape.head_dim)

    def expand(kv: torch.Tensor) -> torch.Tensor:
        # [b, kv_heads, n, d] -> [b * U, kv_heads, n, d]
        kv = kv.transpose(1, 2).unsqueeze(1).expand(-1, shape.rows, -1, -1, -1)
        if copy:
            # In memory as the original: [b * U, n, kv_heads, d].
            return kv.transpose(2, 3).contiguous().flatten(0, 1).transpose(1, 2)
        return kv.squeeze(0)

    k = [expand(o.k[i]) for i in range(o.sets)]
    v = [expand(o.v[i]) for i in range(o.sets)]

    def run(i: int) -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q[i], k[i], v[i], scale=shape.scale)

    standard = lambda out: out.reshape(shape.inputs, shape.rows, shape.heads, shape.head_dim)
    return Work(run, standard, "expanded", copies=shape.rows if copy else 1)


def triton_folded(card, shape: Shape, o: Operands, _: bool) -> Work:
    import triton_attention as ours

    q = [folded_queries(shape, o.q[i]).contiguous() for i in range(o.sets)]
    rows = shape.rows * shape.group
    plan = ours.Plan(
        shape.inputs, shape.kv_heads, rows, shape.keys, shape.head_dim, card.multiprocessors, card.device
    )
    run = lambda i: ours.attend(plan, q[i], o.k[i], o.v[i], shape.scale, shape.softcap)
    return Work(run, lambda out: unfold(shape, out), "folded")


@functools.cache
def compiled(function: Callable) -> Callable:
    config = torch._dynamo.config
    # Past a limit PyTorch goes on uncompiled, and says so in a log alone.
    config.recompile_limit = config.accumulated_recompile_limit = 1 << 20
    config.fail_on_recompile_limit_hit = True
    # What differs from shape to shape is dynamic where it is marked, and nowhere else.
    config.automatic_dynamic_shapes = False
    return torch.compile(function, fullgraph=True)


@functools.cache
def capped_scores(softcap: float) -> Callable:
    return lambda score, *_: softcap * torch.tanh(score / softcap)


def flex_folded(module, card, shape: Shape, o: Operands) -> Work:
    q = [folded_queries(shape, o.q[i]) for i in range(o.sets)]
    k, v = list(o.k.transpose(2, 3)), list(o.v.transpose(2, 3))
    # Each kernel takes seconds to compile: one serves any number of keys. Inputs and rows below 128 stay fixed: PyTorch
    # has another kernel for these, made for their number, that shares the keys out among blocks.
    for tensor in [*k, *v, *(q if shape.rows * shape.group >= 128 else [])]:
        torch._dynamo.mark_dynamic(tensor, 2)
    # No mask, as one block that is seen in full. Where none is given, PyTorch makes one that is seen in part and shares
    # out its 2^30 keys, so that all there are go to one block of threads.
    number = lambda n, *size: torch.full(size, n, dtype=torch.int32, device=card.device)
    mask = module.BlockMask.from_kv_blocks(
        number(0, 1, 1, 1), number(0, 1, 1, 1, 1), number(1, 1, 1, 1), number(0, 1, 1, 1, 1), BLOCK_SIZE=1 << 30,
        seq_lengths=(1, 1),
    )
    score_mod = None if shape.softcap is None else capped_scores(shape.softcap)
    attend = module.flex_attention if card.simulated else compiled(module.flex_attention)
    run = lambda i: attend(q[i], k[i], v[i], score_mod=score_mod, block_mask=mask, scale=shape.scale)
    return Work(run, lambda out: unfold(shape, out), "folded")


def flash(function: Callable, keywords: dict, shape: Shape, o: Operands) -> Work:
    """FlashAttention takes [b, rows, heads, d] and groups by itself."""
    softcap = {} if shape.softcap is None else {"softcap": shape.softcap}

    def run(i: int) -> torch.Tensor:
        out = function(o.q[i], o.k[i], o.v[i], softmax_scale=shape.scale, causal=False, **softcap, **keywords)
        return out[0] if isinstance(out, tuple) else out

    return Work(run, lambda out: out, "folded")


def flashinfer_kernels(shape: Shape, device: torch.device):
    """What FlashInfer compiles for a shape when it is planned: many files of a minute and more each."""
    from flashinfer.jit.attention import gen_batch_prefill_module
    from flashinfer.utils import determine_attention_backend

    bf16, dim = torch.bfloat16, shape.head_dim
    backend = determine_attention_backend(device, 0, False, False, bf16, bf16, head_dim_qk=dim, head_dim_vo=dim)
    return gen_batch_prefill_module(
        backend, bf16, bf16, bf16, torch.int32, dim, dim, 0, False, shape.softcap is not None, False
    )


def build(shapes: list[Shape], device: torch.device) -> int:
    """Compiles FlashInfer's kernels for these shapes, all at once, where it is installed."""
    try:
        importlib.import_module("flashinfer")
    except Exception as error:
        print(f"FlashInfer is absent: {describe(error)}")
        return 0
    kernels = list({spec.name: spec for spec in (flashinfer_kernels(shape, device) for shape in shapes)}.values())
    with ThreadPoolExecutor(len(kernels)) as threads:
        # build_jit_specs would keep ninja's log elsewhere, and planning a shape would build all again.
        for spec, _ in zip(kernels, threads.map(lambda spec: spec.build(), kernels)):
            print(f"built {spec.name}", flush=True)
    return 0


def flashinfer_ragged(module, shape: Shape, o: Operands) -> Work:
    device = o.q.device
    if not flashinfer_kernels(shape, device).is_compiled:
        raise Refused("its kernels are not compiled, which --build does")
    offsets = lambda step: torch.arange(shape.inputs + 1, dtype=torch.int32, device=device) * step
    wrapper = module.BatchPrefillWithRaggedKVCacheWrapper(
        torch.empty(256 << 20, dtype=torch.uint8, device=device), "NHD"
    )
    wrapper.plan(
        offsets(shape.rows), offsets(shape.keys), shape.heads, shape.kv_heads, shape.head_dim, causal=False,
        sm_scale=shape.scale, logits_soft_cap=shape.softcap, q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16,
    )
    run = lambda i: wrapper.run(o.q[i].flatten(0, 1), o.k[i].flatten(0, 1), o.v[i].flatten(0, 1))
    return Work(run, lambda out: out.view(o.q[0].shape), "folded")


@dataclass(frozen=True)
class System:
    name: str
    layout: str
    softcap: bool
    # Of card, shape, operands, and whether every prompt gets its copy of K and V (`expanded` alone asks for that).
    make: Callable[[object, Shape, Operands, bool], Work]
    # Compiles for seconds: it comes when the others are through.
    compiles: bool = False


def optional_systems(found: dict) -> Iterator[System]:
    """Systems that may be there, tried in turn; `found` says what was and why not."""
    flashes = [
        ("FlashAttention-4", "flash_attn.cute", {}),
        ("FlashAttention-3", "flash_attn_interface", {"num_splits": 0}),
        ("FlashAttention-2", "flash_attn", {}),
    ]
    for name, module, keywords in flashes:
        try:
            function = importlib.import_module(module).flash_attn_func
        except Exception as error:  # An import of compiled code fails in many ways.
            found[name] = {"absent": describe(error)}
            continue
        found[name] = {"version": version(module)}
        yield System(name, "folded", True, lambda _, s, o, __, f=function, kw=keywords: flash(f, kw, s, o))
    try:
        module = importlib.import_module("flashinfer")
        found["FlashInfer"] = {"version": version("flashinfer")}
        yield System("FlashInfer", "folded", True, lambda _, s, o, __, m=module: flashinfer_ragged(m, s, o))
    except Exception as error:
        found["FlashInfer"] = {"absent": describe(error)}
    try:
        module = importlib.import_module("torch.nn.attention.flex_attention")
        found["FlexAttention"] = {"version": torch.__version__}
        yield System("FlexAttention", "folded", True, lambda c, s, o, _, m=module: flex_folded(m, c, s, o), compiles=True)
    except Exception as error:
        found["FlexAttention"] = {"absent": describe(error)}
    try:
        importlib.import_module("triton_attention")
        found["Triton, plain kernel"] = {"version": version("triton")}
        yield System("Triton, plain kernel", "folded", True, triton_folded)
    except Exception as error:
        found["Triton, plain kernel"] = {"absent": describe(error)}


def systems(found: dict, dry: bool) -> list[System]:
    backends = [
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("cuDNN", SDPBackend.CUDNN_ATTENTION),
        ("efficient", SDPBackend.EFFICIENT_ATTENTION),
    ]
    if dry:
        # The CPU has these two; the second stands in for a backend that refuses.
        backends = [("math", SDPBackend.MATH), ("cuDNN", SDPBackend.CUDNN_ATTENTION)]
    listed = list(optional_systems(found))
    found["PyTorch"] = {"version": torch.__version__}
    for name, backend in backends:
        name = f"PyTorch SDPA {name}"
        listed.append(System(name, "folded", False, lambda _, s, o, __, b=backend: sdpa_folded(b, s, o)))
        listed.append(System(name, "expanded", False, lambda _, s, o, copy, b=backend: sdpa_expanded(b, s, o, copy)))
    return listed


def version(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__version__", "unknown"))


def fits(card, moved: int) -> int:
    if moved > card.most_bytes:
        raise Refused(f"needs {moved} bytes, the benchmark takes {card.most_bytes} of this card")
    return moved


def takes_stride_0(card, system: System, shape: Shape, operands: Operands) -> bool:
    try:
        system.make(card, shape, operands, False).run(0)
        card.settle()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True


def measure(card, system: System, shape: Shape, operands: Operands, copy_bytes_per_s: float) -> dict:
    if shape.softcap is not None and not system.softcap:
        raise Refused("has no softcap")
    copies_kv = system.layout == "expanded" and (shape.inputs > 1 or not takes_stride_0(card, system, shape, operands))
    if copies_kv:
        moved = fits(card, shape.bytes(shape.rows))
        # Fewer sets fill the same memory.
        operands = Operands(card, shape, max(1, -(-card.rotated_bytes // moved)))
    work = system.make(card, shape, operands, copies_kv)
    mean_abs = check(shape, operands, work.standard(work.run(0)))
    card.settle()
    moved = shape.bytes(work.copies)
    floor = floor_us(moved, shape.flops)
    cold, launches = card.time(work.run, operands.sets, floor)
    warm, _ = card.time(lambda _: work.run(0), 1, floor)
    card.settle()
    seconds = cold["median"] * 1e-6
    return {
        **({"copies_kv": copies_kv} if system.layout == "expanded" else {}),
        "chosen": True,
        "bytes": moved,
        "flops": shape.flops,
        "cold_us": cold,
        "warm_us": warm,
        "sets": operands.sets,
        "launches": launches,
        "gb_per_s": moved / seconds / 1e9,
        "of_copy": moved / seconds / copy_bytes_per_s,
        "tflops": shape.flops / seconds / 1e12,
        "mean_abs": mean_abs,
    }


def machine(card) -> dict:
    cuda = {}
    if not card.simulated:
        major, minor = torch.cuda.get_device_capability(0)
        cuda = {"compute_capability": f"{major}.{minor}", "cudnn": torch.backends.cudnn.version()}
    return {
        "card": card.name,
        "multiprocessors": card.multiprocessors,
        "l2_bytes": card.l2_bytes,
        "simulated": card.simulated,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        **cuda,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path, required=True, help="what `card --list` printed")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="file for the results, a line as each is measured")
    what.add_argument("--build", action="store_true", help="compile FlashInfer's kernels, for minutes, and end")
    parser.add_argument("--budget", type=float, default=math.inf, help="start no further shape after so many seconds")
    parser.add_argument("--runs", type=int, default=21, help="timed graph replays per figure, fewer where one takes long")
    parser.add_argument("--only", help="only systems whose name contains this")
    # Triton 3.6's interpreter takes no numpy from 2.4 on.
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, without times: tests this script")
    args = parser.parse_args()
    if args.build and args.dry_run:
        parser.error("--build needs a card, --dry-run has none")
    begin = time.monotonic()
    # Backends say in warnings why they refuse; they go into the line's error.
    warnings.simplefilter("always")

    shapes = [Shape(**fields) for fields in json.loads(args.shapes.read_text())]
    if not args.dry_run and not torch.cuda.is_available():
        print("error: PyTorch finds no card", file=sys.stderr)
        return 1
    if args.build:
        return build(shapes, torch.device("cuda"))
    card = Dry() if args.dry_run else Card(args.runs)
    found: dict = {}
    listed = [s for s in systems(found, args.dry_run) if not args.only or args.only in s.name]
    copy_bytes_per_s = card.copy_bytes_per_s()
    head = {"peer_machine": machine(card), "peer_copy_bytes_per_s": copy_bytes_per_s, "peers": found}
    results = Results(args.out, head)
    turns = [(shape, compiles) for compiles in sorted({s.compiles for s in listed}) for shape in spread(shapes)]
    for number, (shape, compiles) in enumerate(turns):
        if time.monotonic() - begin > args.budget:
            results.leave_out(*({"system": "peers", **vars(left)} for left, _ in turns[number:]))
            break
        operands = None
        for system in (system for system in listed if system.compiles == compiles):
            if system.layout == "expanded" and shape.rows == 1:
                continue  # one prompt: the same as folded
            line = {"system": system.name, "layout": system.layout, **vars(shape)}
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    moved = fits(card, shape.bytes())
                    if operands is None:
                        operands = Operands(card, shape, max(1, -(-card.rotated_bytes // moved)))
                    line |= measure(card, system, shape, operands, copy_bytes_per_s)
                    print(f"{system.name}, {system.layout}: {title(shape)}: {line['cold_us']['median']:.2f} us")
                except Refused as error:
                    line["error"] = str(error)
                except Exception as error:
                    why = [" ".join(str(w.message).split())[:200] for w in said]
                    line["error"] = "; ".join([describe(error), *dict.fromkeys(why)])[:1000]
            if "error" in line:
                print(f"{system.name}, {system.layout}: {title(shape)}: {line['error']}")
            results.add(line)
            sys.stdout.flush()
    return results.end()


def spread(shapes: list[Shape]) -> list[Shape]:
    """In an order whose beginnings are of the whole sweep, wherever time ends: by multiples of the golden ratio."""
    return [shapes[i] for i in sorted(range(len(shapes)), key=lambda i: i * (5**0.5 - 1) / 2 % 1)]


def title(shape: Shape) -> str:
    return f"{shape.model}, b {shape.inputs}, U {shape.rows}, n {shape.keys}"


if __name__ == "__main__":
    sys.exit(main())
