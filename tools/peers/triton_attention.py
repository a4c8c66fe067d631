"""A plain Triton kernel of shared cross-attention: query rows folded, keys split over blocks, a second launch that
merges. What a user who writes Triton would have; not tuned beyond the choice of tiles and splits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


# Numbers are not specialised: each kind of them would be compiled anew.
@triton.jit(do_not_specialize=["rows", "keys", "split_keys", "heads"])
def _attend(
    q, k, v, out, partial, lse,  # q, out [b*heads, rows, d]; k, v [b, keys, heads, d]; partial [splits, b*heads, rows, d]
    rows, keys, split_keys, heads, scale, softcap,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr, SOFTCAP: tl.constexpr,
):
    tile, split, head = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row = tile * BM + tl.arange(0, BM)
    dim = tl.arange(0, D)
    q_at = head * rows * D + row[:, None] * D + dim[None, :]
    q_tile = tl.load(q + q_at, mask=row[:, None] < rows, other=0.0)
    kv_row = heads * D
    kv_base = (head // heads) * keys * kv_row + (head % heads) * D
    most = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    begin = split * split_keys
    end = tl.minimum(begin + split_keys, keys)
    for start in tl.range(begin, end, BN):
        key = start + tl.arange(0, BN)
        kv_at = kv_base + key[:, None].to(tl.int64) * kv_row + dim[None, :]
        k_tile = tl.load(k + kv_at, mask=key[:, None] < end, other=0.0)
        s = tl.dot(q_tile, tl.trans(k_tile))
        if SOFTCAP:
            # tanh(x) = 2 / (1 + exp(-2x)) - 1
            s = softcap * (2.0 / (1.0 + tl.exp(s * (-2.0 * scale / softcap))) - 1.0) * LOG2_E
        else:
            s = s * (scale * LOG2_E)
        s = tl.where(key[None, :] < end, s, float("-inf"))
        now = tl.maximum(most, tl.max(s, 1))
        p = tl.exp2(s - now[:, None])
        shrink = tl.exp2(most - now)
        total = total * shrink + tl.sum(p, 1)
        v_tile = tl.load(v + kv_at, mask=key[:, None] < end, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(p.to(v_tile.dtype), v_tile)
        most = now
    acc = acc / total[:, None]
    if SPLIT:
        at = split * tl.num_programs(2) + head
        tl.store(partial + at * rows * D + row[:, None] * D + dim[None, :], acc, mask=row[:, None] < rows)
        tl.store(lse + at * rows + row, most + tl.log2(total), mask=row < rows)
    else:
        tl.store(out + q_at, acc.to(out.dtype.element_ty), mask=row[:, None] < rows)


@triton.jit(do_not_specialize=["states", "splits"])
def _merge(out, partial, lse, states, splits, D: tl.constexpr, SPLITS: tl.constexpr):
    # One row of one head; states = b * heads * rows.
    at = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    dim = tl.arange(0, D)
    weights = tl.load(lse + split * states + at, mask=split < splits, other=float("-inf"))
    weights = tl.exp2(weights - tl.max(weights, 0))
    weights = weights / tl.sum(weights, 0)
    parts = tl.load(
        partial + (split[:, None] * states + at) * D + dim[None, :], mask=split[:, None] < splits, other=0.0
    )
    tl.store(out + at * D + dim, tl.sum(parts * weights[:, None], 0).to(out.dtype.element_ty))


class Plan:
    """Tiles and splits of a shape, with the memory for partial results."""

    def __init__(self, inputs: int, heads: int, rows: int, keys: int, dim: int, multiprocessors: int, device) -> None:
        self.dim = dim
        # Wide tiles of 256 elements leave no room for more rows.
        self.tile_rows = min(64 if dim == 256 else 128, max(16, triton.next_power_of_2(rows)))
        self.tile_keys = 32 if dim == 256 else 64
        blocks = triton.cdiv(rows, self.tile_rows) * inputs * heads
        # Two blocks per multiprocessor, if each has four tiles of keys to itself.
        wanted = max(1, 2 * multiprocessors // blocks)
        parts = min(wanted, max(1, keys // (4 * self.tile_keys)), 128)
        tiles = triton.cdiv(triton.cdiv(keys, self.tile_keys), parts)
        self.split_keys = tiles * self.tile_keys
        self.splits = triton.cdiv(keys, self.split_keys)
        self.merged = triton.next_power_of_2(self.splits)
        states = inputs * heads * rows
        self.partial = torch.empty(self.splits * states * dim if self.splits > 1 else 1, device=device)
        self.lse = torch.empty(self.splits * states if self.splits > 1 else 1, device=device)


def attend(plan: Plan, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, softcap: float | None):
    """q [b, kv_heads, rows, d], k, v [b, keys, kv_heads, d], all contiguous; gives [b, kv_heads, rows, d]."""
    inputs, heads, rows, dim = q.shape
    keys = k.shape[1]
    out = torch.empty_like(q)
    split = plan.splits > 1
    grid = (triton.cdiv(rows, plan.tile_rows), plan.splits, inputs * heads)
    _attend[grid](
        q, k, v, out, plan.partial, plan.lse,
        rows, keys, plan.split_keys, heads, scale, softcap or 1.0,
        D=dim, BM=plan.tile_rows, BN=plan.tile_keys, SPLIT=split, SOFTCAP=softcap is not None,
        num_warps=8 if plan.tile_rows >= 128 else 4, num_stages=2 if dim == 256 else 3,
    )
    if split:
        states = inputs * heads * rows
        _merge[(states,)](
            out, plan.partial, plan.lse, states, plan.splits,
            D=dim, SPLITS=plan.merged, num_warps=2 if plan.merged * dim <= 4096 else 8,
        )
    return out
