"""Conch (vLLM's kernels), Cut Cross-Entropy, and FlagGems' matrix products, with TMA on Hopper."""

from __future__ import annotations

import ml_dtypes
import numpy as np

import flag_gems_rows  # noqa: F401: its packages without their __init__
from rows import TENSOR, near, same
from triton_kit import triton_row, without_init

without_init("conch")
without_init("cut_cross_entropy")
BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
HOPPER = ("h200",)


def double(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


@triton_row("conch.kernels.activation.silu_and_mul:_silu_and_mul_kernel")
def _(kernel, gpu):
    x, out = gpu.normal(4, 600), gpu.empty((4, 300))
    kernel[(4,)](out, gpu.put(x), 300, 600, 300, 128)
    a, b = double(x[:, :300], x[:, 300:])
    near("out", out, a / (1 + np.exp(-a)) * b)


@triton_row("conch.kernels.activation.gelu_tanh_and_mul:_gelu_tanh_and_mul_kernel")
def _(kernel, gpu):
    x, out = gpu.normal(4, 600), gpu.empty((4, 300))
    kernel[(4,)](out, 300, gpu.put(x), 600, 300, 128, 0.7978845608028654, 0.044715)
    a, b = double(x[:, :300], x[:, 300:])
    near("out", out, 0.5 * a * (1 + np.tanh(0.7978845608028654 * (a + 0.044715 * a**3))) * b)


@triton_row("conch.kernels.normalization.rms_norm:_rms_norm_kernel")
def _(kernel, gpu):
    x, r, w = gpu.normal(4, 300), gpu.normal(4, 300), gpu.normal(300)
    out, residual = gpu.put(x), gpu.put(r)
    kernel[(4,)](gpu.empty(1), out, residual, gpu.put(w), 300, 1e-6, 512, True)
    s = double(x + r)[0]
    near("residual", residual, s)
    near("out", out, s / np.sqrt((s * s).mean(1, keepdims=True) + 1e-6) * w)


@triton_row("conch.kernels.normalization.gemma_rms_norm:_gemma_rms_norm_inplace_kernel")
def _(kernel, gpu):
    x, w = gpu.normal(4, 300, dtype=BF16), gpu.normal(300, dtype=BF16)
    out = gpu.put(x)
    kernel[(4,)](out, gpu.put(w), 300, 1e-6, 512)
    a, v = double(x, w)
    near("out", out, a / np.sqrt((a * a).mean(1, keepdims=True) + 1e-6) * (1 + v), 1e-2, 1e-2)


@triton_row("conch.kernels.quantization.fp8:_static_scaled_fp8_quant_kernel", ("h200", "rtx5090"))
def _(kernel, gpu):
    x, out = gpu.normal(4, 300, scale=5), gpu.empty((4, 300), E4M3)
    kernel[(4,)](out, gpu.put(x), gpu.put([0.25], np.float32), 300, 512, 128, False)
    same("out", out, (x * np.float32(4)).astype(E4M3))


@triton_row("conch.kernels.quantization.int8:_static_scaled_int8_quant_kernel")
def _(kernel, gpu):
    x, out = gpu.normal(4, 300, scale=50), gpu.empty((4, 300), np.int8)
    kernel[(4,)](out, gpu.put(x), gpu.put([0.5], np.float32), 300, -128, 127, 512, 128)
    same("out", out, np.trunc(np.clip(x * 2, -128, 127)))


@triton_row("conch.kernels.embedding.rotary_embedding:_rotary_embedding_kernel")
def _(kernel, gpu):
    positions, q, k, angle = gpu.integers(0, 20, 5, dtype=np.int64), gpu.normal(5, 4, 32), gpu.normal(5, 2, 32), gpu.normal(20, 16)
    cache, out_q, out_k = np.concatenate([np.cos(angle), np.sin(angle)], 1), gpu.put(q), gpu.put(k)
    kernel[(5,)](gpu.put(positions), out_q, out_k, gpu.put(cache), 32, 128, 64, 4, 2, 32, 64)
    c, s = np.cos(angle)[positions][:, None], np.sin(angle)[positions][:, None]
    for name, got, x in (("q", out_q, q), ("k", out_k, k)):
        a, b = x[..., :16], x[..., 16:]
        near(name, got, np.concatenate([a * c - b * s, b * c + a * s], -1))


@triton_row("conch.kernels.vllm.reshape_and_cache:_reshape_and_cache_kernel")
def _(kernel, gpu):
    k, v, slots = gpu.normal(6, 2, 40), gpu.normal(6, 2, 40), np.array([3, 40, -1, 17, 0, 63], np.int64)
    cache = [gpu.zeros((4, 16, 2, 40)) for _ in range(2)]
    one = gpu.put([1.0], np.float32)
    kernel[(6, 2)](gpu.put(k), gpu.put(v), *cache, gpu.put(slots), one, one, 40, 16, 80, 40, 1280, 80, 40, 64, False)
    for name, got, x in (("key", cache[0], k), ("value", cache[1], v)):
        want = np.zeros((64, 2, 40), np.float32)
        want[slots[slots >= 0]] = x[slots >= 0]
        same(name, got, want.reshape(4, 16, 2, 40))


@triton_row("cut_cross_entropy.cce_lse_forward:_cce_lse_forward_kernel", TENSOR)
def _(kernel, gpu):
    # Blocks add to a row's sum under a lock.
    b, v, d = 100, 200, 64
    e, c = gpu.normal(b, d, dtype=BF16, scale=0.3), gpu.normal(v, d, dtype=BF16)
    lse, locks = gpu.put(np.full(b, -np.inf), np.float32), gpu.zeros(2, np.int32)
    kernel[(8,)](gpu.put(e), gpu.put(c), lse, None, locks, None, None, b, v, d, d, 1, d, 1, 1, 1, 2, 128, False, 64, 64, 32, 8, True, False,
                 False, "ieee", num_warps=4)
    e, c = double(e, c)
    near("lse", lse, np.log(np.exp(e @ c.T).sum(1)), 1e-3, 1e-3)


@triton_row("cut_cross_entropy.indexed_dot:_indexed_neg_dot_forward_kernel")
def _(kernel, gpu):
    e, c, at, out = gpu.normal(50, 100), gpu.normal(30, 100), gpu.integers(0, 30, 50, dtype=np.int64), gpu.zeros(50)
    kernel[(4 * 4,)](gpu.put(e), gpu.put(c), gpu.put(at), None, out, 50, 100, 100, 1, 100, 1, 1, 1, 128, 16, 32, 8, False, False, False)
    e, c = double(e, c)
    near("out", out, -(e * c[at]).sum(1), 1e-4, 1e-4)


@triton_row("flag_gems.ops.mm:mm_kernel_general", TENSOR)
def _(kernel, gpu):
    m, n, k = 130, 150, 100
    a, b, c = gpu.normal(m, k, dtype=np.float16), gpu.normal(k, n, dtype=np.float16), gpu.empty((m, n), np.float16)
    kernel[(9,)](gpu.put(a), gpu.put(b), c, m, n, k, k, 1, n, 1, n, 1, 64, 64, 32, 8, num_warps=4, num_stages=3)
    a, b = double(a, b)
    near("c", c, a @ b, 2e-3, 3e-2)


def with_tma(dtype, tolerance: float, warps: int):
    def test(kernel, gpu) -> None:
        from triton.tools.tensor_descriptor import TensorDescriptor

        m, n, k = 200, 160, 136
        a, b, c = gpu.normal(m, k, dtype=dtype), gpu.normal(k, n, dtype=dtype), gpu.empty((m, n), dtype)
        described = [TensorDescriptor(gpu.put(a), [m, k], [k, 1], [64, 32]), TensorDescriptor(gpu.put(b), [k, n], [n, 1], [32, 64]),
                     TensorDescriptor(c, [m, n], [n, 1], [64, 64])]
        kernel[(12,)](*described, m, n, k, k, 1, n, 1, n, 1, 64, 64, 32, 8, True, True, "", num_warps=warps, num_stages=3)
        a, b = double(a, b)
        near("c", c, a @ b, tolerance, tolerance * 8)

    return test


HOST_TMA = "flag_gems.runtime.backend._nvidia.hopper.ops.mm:mm_kernel_general_host_tma"
triton_row(HOST_TMA, ("h200", "rtx5090"), "float16")(with_tma(np.float16, 2e-3, 4))
triton_row(HOST_TMA, HOPPER, "bfloat16, 8 warps")(with_tma(BF16, 2e-2, 8))
triton_row(HOST_TMA, HOPPER, "float32")(with_tma(np.float32, 1e-4, 4))


@triton_row("flag_gems.runtime.backend._nvidia.hopper.ops.w8a8_block_fp8_matmul:w8a8_block_fp8_matmul_kernel_general", ("h200", "rtx5090"))
def _(kernel, gpu):
    m, n, k = 100, 128, 256
    a, b = gpu.normal(m, k).astype(E4M3), gpu.normal(k, n).astype(E4M3)
    scale_a, scale_b = np.abs(gpu.normal(m, 2)), np.abs(gpu.normal(2, 1))
    c = gpu.empty((m, n), BF16)
    kernel[(4,)](gpu.put(a), gpu.put(b), c, gpu.put(scale_a), gpu.put(scale_b), m, n, k, 128, 128, k, 1, n, 1, n, 1, 2, 1, 1, 1, 64, 64, 128,
                 8, num_warps=4, num_stages=3)
    a, b = a.astype(float), b.astype(float)
    want = sum(a[:, i * 128:i * 128 + 128] @ b[i * 128:i * 128 + 128] * scale_a[:, i:i + 1] * scale_b[i] for i in range(2))
    near("c", c, want, 2e-2, 0.2)


