"""flash-linear-attention."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from rows import TENSOR, near
from triton_kit import triton_row, without_init

without_init("fla", "fla.ops", "fla.modules", "fla.ops.common", "fla.ops.attn", "fla.ops.delta_rule", "fla.modules.norm")
BF16 = ml_dtypes.bfloat16


def double(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def matmul(dtype, tf32: bool, tolerance: float):
    def test(kernel, gpu) -> None:
        m, n, k = 150, 200, 136
        a, b = gpu.normal(m, k, dtype=dtype), gpu.normal(k, n, dtype=dtype)
        c, alpha = gpu.empty((m, n)), gpu.put([0.5], np.float32)
        kernel[(1, 3, 2)](gpu.put(a), gpu.put(b), c, None, alpha, None, m, n, k, m * k, k, 1, n, 1, m * n, n, 1, 64, 32, 128, 4, "relu",
                          False, True, False, tf32, num_warps=4, num_stages=3)
        a, b = double(a, b)
        near("c", c, np.maximum(a @ b, 0) * 0.5, tolerance, tolerance)

    return test


for kind in ((np.float16, True, 1e-3), (BF16, True, 1e-3), (np.float32, True, 5e-2), (np.float32, False, 1e-4)):
    triton_row("fla.ops.utils.matmul:matmul_kernel", TENSOR, f"{np.dtype(kind[0])}{' tf32' * (kind[1] and kind[0] == np.float32)}")(matmul(*kind))


@triton_row("fla.ops.attn.parallel:parallel_attn_fwd_kernel", TENSOR)
def _(kernel, gpu):
    # Causal, two query heads to a head of K and V.
    t, hq, h, d = 150, 2, 1, 64
    q, k, v = (gpu.normal(t, n, d, dtype=BF16) for n in (hq, h, h))
    o, lse = gpu.empty((t, hq, d), BF16), gpu.empty((t, hq))
    kernel[(3, hq)](gpu.put(q), gpu.put(k), gpu.put(v), o, None, None, lse, 0.125, None, None, t, None, 1, h, hq, 2, d, d, 64, 32, 64, 64,
                    False, False, False, False, num_warps=4, num_stages=2)
    q, k, v = double(q, k, v)
    for head in range(hq):
        s = np.where(np.tri(t, dtype=bool), q[:, head] @ k[:, 0].T * 0.125, -np.inf)
        near("o", o.get()[:, head], softmax(s) @ v[:, 0], 2e-2, 2e-2)
        near("lse", lse.get()[:, head], np.log2(np.exp(s).sum(1)), 1e-4, 1e-4)


@triton_row("fla.ops.attn.parallel:parallel_attn_bwd_kernel_preprocess")
def _(kernel, gpu):
    o, do, delta = gpu.normal(20, 50), gpu.normal(20, 50), gpu.empty(20)
    kernel[(20,)](gpu.put(o), gpu.put(do), delta, 64, 50)
    near("delta", delta, (o.astype(float) * do).sum(1))


@triton_row("fla.ops.common.chunk_h:chunk_fwd_kernel_h", TENSOR)
def _(kernel, gpu):
    t, heads, d = 100, 2, 32
    k, v, h0 = gpu.normal(t, heads, d, dtype=BF16), gpu.normal(t, heads, d, dtype=BF16), gpu.normal(heads, d, d)
    h, ht = gpu.empty((4, heads, d, d)), gpu.empty((heads, d, d))
    kernel[(heads,)](gpu.put(k), gpu.put(v), h, None, None, None, None, gpu.put(h0), ht, None, None, t, heads, d, d, 32, 32, 32, 32,
                     False, False, False, False, True, True, False, False, num_warps=4, num_stages=2)
    k, v, state = double(k, v, h0)
    for chunk in range(4):
        near(f"h of chunk {chunk}", h.get()[chunk], state, 1e-4, 1e-3)
        at = slice(chunk * 32, chunk * 32 + 32)
        state = state + np.einsum("thk,thv->hkv", k[at], v[at])
    near("ht", ht, state, 1e-4, 1e-3)


@triton_row("fla.ops.common.chunk_o:chunk_fwd_kernel_o", TENSOR)
def _(kernel, gpu):
    t, heads, d = 100, 2, 64
    q, k, v = (gpu.normal(t, heads, d, dtype=BF16) for _ in range(3))
    h = gpu.normal(4, heads, d, d, dtype=BF16)
    o = gpu.empty((t, heads, d))
    kernel[(4, heads)](gpu.put(q), gpu.put(k), gpu.put(v), gpu.put(h), None, None, o, None, None, 0.1, t, heads, heads, d, d, 32, 32, 64,
                       False, False, False, False, num_warps=4, num_stages=2)
    q, k, v, h = double(q, k, v, h)
    for head in range(heads):
        for c in range(4):
            at = slice(c * 32, min(c * 32 + 32, t))
            a = np.tril(q[at, head] @ k[at, head].T)
            want = (q[at, head] @ h[c, head] + a @ v[at, head]) * 0.1
            near(f"o of chunk {c}", o.get()[at, head], want, 2e-2, 0.15)


@triton_row("fla.ops.common.chunk_scaled_dot_kkt:chunk_scaled_dot_kkt_fwd_kernel", TENSOR)
def _(kernel, gpu):
    t, heads, d = 100, 2, 64
    k, beta, a = gpu.normal(t, heads, d, dtype=BF16), gpu.normal(t, heads), gpu.empty((t, heads, 32))
    kernel[(4, heads)](k=gpu.put(k), g=None, beta=gpu.put(beta), A=a, cu_seqlens=None, chunk_indices=None, T=t, H=heads, HV=heads, K=d,
                       BT=32, BK=32, IS_VARLEN=False, USE_G=False, num_warps=4, num_stages=2)
    k, beta = double(k, beta)
    for head in range(heads):
        for c in range(4):
            at = slice(c * 32, min(c * 32 + 32, t))
            n = at.stop - at.start
            want = np.tril(k[at, head] @ k[at, head].T * beta[at, head, None], -1)
            near("A", a.get()[at, head, :n], want, 1e-2, 1e-1)


@triton_row("fla.ops.delta_rule.wy_fast:recompute_w_u_fwd_kernel", TENSOR)
def _(kernel, gpu):
    t, heads, d = 96, 2, 64
    k, v, a = (gpu.normal(t, heads, n, dtype=BF16) for n in (d, d, 32))
    beta, w, u = gpu.normal(t, heads), gpu.empty((t, heads, d)), gpu.empty((t, heads, d))
    kernel[(3, heads)](k=gpu.put(k), v=gpu.put(v), beta=gpu.put(beta), w=w, u=u, A=gpu.put(a), cu_seqlens=None, chunk_indices=None, T=t,
                       H=heads, K=d, V=d, BT=32, BK=32, BV=32, IS_VARLEN=False, num_warps=4, num_stages=2)
    k, v, a, beta = double(k, v, a, beta)
    for name, got, x in (("w", w.get(), k), ("u", u.get(), v)):
        for c in range(3):
            at = slice(c * 32, c * 32 + 32)
            want = np.einsum("ths,shd->thd", a[at], (x * beta[..., None])[at])
            near(name, got[at], want, 2e-2, 0.2)


def triangular(gpu, t, size):
    a = np.zeros((t, size), np.float32)
    for start in range(0, t, size):
        n = min(size, t - start)
        a[start:start + n, :n] = np.tril(gpu.normal(n, n, scale=0.3), -1)
    return a


def solve(size: int):
    def test(kernel, gpu) -> None:
        t = 2 * size
        a, out = triangular(gpu, t, size), gpu.zeros((t, size))
        kernel[(2, 1)](A=gpu.put(a), Ai=out, cu_seqlens=None, chunk_indices=None, T=t, H=1, BT=size, USE_TMA=False, IS_VARLEN=False,
                       DOT_PRECISION="ieee", num_warps=2)
        want = [np.linalg.inv(np.eye(size) + a[i:i + size].astype(float)) for i in (0, size)]
        near("Ai", out, np.concatenate(want), 1e-3, 1e-4)

    return test


triton_row("fla.ops.utils.solve_tril:solve_tril_16x16_kernel")(solve(16))
triton_row("fla.ops.utils.solve_tril:merge_16x16_to_32x32_inverse_kernel", TENSOR)(solve(32))
triton_row("fla.ops.utils.solve_tril:merge_16x16_to_64x64_inverse_kernel", TENSOR)(solve(64))


@triton_row("fla.ops.common.fused_recurrent:fused_recurrent_fwd_kernel")
def _(kernel, gpu):
    t, heads, d = 20, 2, 32
    q, k, v, g = (gpu.normal(t, heads, d, scale=0.5) for _ in range(4))
    gate, h0 = -np.abs(g[..., 0]), gpu.normal(heads, d, d)
    o, ht = gpu.empty((1, t, heads, d)), gpu.empty((heads, d, d))
    kernel[(2 * heads,)](gpu.put(q), gpu.put(k), gpu.put(v), gpu.put(gate), None, None, None, o, gpu.put(h0), ht, None, 0.5, 1, t, heads,
                         d, d, 32, 16, False, True, False, False, False, True, True, False, num_warps=4)
    q, k, v, gate, h = double(q, k, v, gate, h0)
    for i in range(t):
        h = h * np.exp(gate[i])[:, None, None] + k[i][:, :, None] * v[i][:, None, :]
        near(f"o of {i}", o.get()[0, i], np.einsum("hk,hkv->hv", q[i] * 0.5, h), 1e-4, 1e-4)
    near("ht", ht, h, 1e-4, 1e-4)


@triton_row("fla.ops.utils.cumsum:chunk_local_cumsum_scalar_kernel")
def _(kernel, gpu):
    s, o = gpu.normal(100, 3), gpu.empty((100, 3))
    kernel[(12,)](gpu.put(s), o, None, None, None, 100, 1, 3, 32, False, False, False, num_warps=2)
    near("o", o, np.concatenate([np.cumsum(s[i:i + 32].astype(float), 0) for i in range(0, 100, 32)]))


@triton_row("fla.ops.utils.cumsum:chunk_global_cumsum_scalar_kernel")
def _(kernel, gpu):
    s, o = gpu.normal(100, 3), gpu.empty((100, 3))
    kernel[(3,)](gpu.put(s), o, None, None, 100, 1, 3, 32, True, False, False, num_warps=2)
    near("o", o, np.cumsum(s[::-1].astype(float), 0)[::-1])


@triton_row("fla.ops.utils.cumsum:chunk_local_cumsum_vector_kernel", TENSOR)
def _(kernel, gpu):
    s, o = gpu.normal(100, 2, 40), gpu.empty((100, 2, 40))
    kernel[(8, 2)](gpu.put(s), o, None, None, None, 100, 1, 2, 40, 32, 32, False, False, False, num_warps=4)
    near("o", o, np.concatenate([np.cumsum(s[i:i + 32].astype(float), 0) for i in range(0, 100, 32)]), 1e-4, 1e-4)


@triton_row("fla.ops.utils.logcumsumexp:logcumsumexp_fwd_kernel")
def _(kernel, gpu):
    s, z = gpu.normal(2, 70, 64), gpu.empty((2, 70, 64))
    kernel[(2,)](gpu.put(s), z, 70, 64, 32)
    near("z", z, np.log(np.cumsum(np.exp(s.astype(float)), 1)), 1e-4, 1e-4)


@triton_row("fla.ops.utils.logsumexp:logsumexp_fwd_kernel")
def _(kernel, gpu):
    x, z = gpu.normal(5, 300), gpu.empty((5, 3))
    kernel[(5, 3)](gpu.put(x), z, 0.5, 300, 128, True)
    near("z", z, np.stack([np.log(np.exp(c.astype(float) * 0.5).sum(1)) for c in np.split(x, [128, 256], 1)], 1))


@triton_row("fla.ops.utils.pooling:mean_pooling_fwd_kernel")
def _(kernel, gpu):
    x, o = gpu.normal(100, 2, 40), gpu.empty((4, 2, 40))
    kernel[(8, 2)](gpu.put(x), o, None, None, 100, 2, 40, 32, 32, False)
    near("o", o, [x[i:i + 32].astype(float).mean(0) for i in range(0, 100, 32)])


@triton_row("fla.ops.utils.pooling:mean_pooling_bwd_kernel")
def _(kernel, gpu):
    do, dx = gpu.normal(4, 2, 40), gpu.empty((100, 2, 40))
    kernel[(8, 2)](gpu.put(do), dx, None, None, 100, 2, 40, 32, 32, False)
    near("dx", dx, np.concatenate([np.repeat(do[i:i + 1] / n, n, 0) for i, n in enumerate((32, 32, 32, 4))]))


@triton_row("fla.ops.utils.softmax:softmax_fwd_kernel")
def _(kernel, gpu):
    x, p = gpu.normal(5, 300), gpu.empty((5, 300))
    kernel[(5,)](gpu.put(x), p, 300, 512)
    near("p", p, softmax(x.astype(float)))


@triton_row("fla.ops.utils.softmax:softmax_bwd_kernel")
def _(kernel, gpu):
    p, dp, ds = softmax(gpu.normal(5, 300)), gpu.normal(5, 300), gpu.empty((5, 300))
    kernel[(5,)](gpu.put(p), gpu.put(dp), ds, 300, 512)
    p, dp = double(p, dp)
    near("ds", ds, p * (dp - (p * dp).sum(1, keepdims=True)))


@triton_row("fla.modules.norm.l2norm:l2norm_fwd_kernel")
def _(kernel, gpu):
    x, y, r = gpu.normal(37, 100), gpu.empty((37, 100)), gpu.empty(37)
    kernel[(3,)](gpu.put(x), y, r, 1e-6, 37, 100, 128, 1, 16)
    want = 1 / np.sqrt((x.astype(float) ** 2).sum(1) + 1e-6)
    near("rstd", r, want)
    near("y", y, x * want[:, None])


@triton_row("fla.modules.norm.l2norm:l2norm_bwd_kernel")
def _(kernel, gpu):
    y, dy, r, dx = gpu.normal(37, 100), gpu.normal(37, 100), np.abs(gpu.normal(37)), gpu.empty((37, 100))
    kernel[(3,)](gpu.put(y), gpu.put(r), gpu.put(dy), dx, 1e-6, 37, 100, 128, 1, 16)
    y, dy, r = double(y, dy, r)
    near("dx", dx, (dy - (dy * y).sum(1, keepdims=True) * y) * r[:, None])
