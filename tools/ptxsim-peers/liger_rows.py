"""Liger kernels."""

from __future__ import annotations

import numpy as np

from rows import near
from triton_kit import triton_row, without_init

without_init("liger_kernel", "liger_kernel.ops")
OPS = "liger_kernel.ops"


def double(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x):
    return 1 / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def rms_back(x, w, dy):
    r, m = rms(x), dy * w
    return r * m - r**3 * x * (m * x).mean(-1, keepdims=True), dy * x * r


@triton_row(f"{OPS}.rms_norm:_rms_norm_forward_kernel")
def _(kernel, gpu):
    x, w = gpu.normal(5, 200), gpu.normal(200)
    y, rstd = gpu.empty((5, 200)), gpu.empty(5)
    kernel[(5,)](y, 200, gpu.put(x), 200, gpu.put(w), 1, rstd, 1, 200, 1e-6, 0.0, 0, True, 256)
    x, w = double(x, w)
    near("rstd", rstd, rms(x)[:, 0])
    near("y", y, x * rms(x) * w)


@triton_row(f"{OPS}.rms_norm:_rms_norm_backward_kernel")
def _(kernel, gpu):
    from triton.language import float32

    x, w, dy = gpu.normal(7, 200), gpu.normal(200), gpu.normal(7, 200)
    dx, dw = gpu.empty((7, 200)), gpu.empty((2, 200))
    r = gpu.put(rms(x.astype(float)), np.float32)
    kernel[(2,)](gpu.put(dy), 200, dx, 200, gpu.put(x), 200, float32, gpu.put(w), 1, r, 1, dw, 200, 7, 200, 0.0, 4, 0, True, 256)
    want, dw_rows = rms_back(*double(x, w, dy))
    near("dx", dx, want)
    near("dw", dw, [dw_rows[:4].sum(0), dw_rows[4:].sum(0)])


@triton_row(f"{OPS}.rms_norm:_block_rms_norm_forward_kernel")
def _(kernel, gpu):
    x, w = gpu.normal(37, 100), gpu.normal(100)
    y, rstd = gpu.empty((37, 100)), gpu.empty(37)
    kernel[(3,)](y, 100, gpu.put(x), 100, gpu.put(w), 1, rstd, 1, 37, 100, 1e-6, 1.0, 1, True, 128, 16)
    x, w = double(x, w)
    near("y", y, x * rms(x) * (1 + w))


@triton_row(f"{OPS}.fused_add_rms_norm:_fused_add_rms_norm_forward_kernel")
def _(kernel, gpu):
    x, r, w = gpu.normal(5, 200), gpu.normal(5, 200), gpu.normal(200)
    y, s, rstd = gpu.empty((5, 200)), gpu.empty((5, 200)), gpu.empty(5)
    kernel[(5,)](y, 200, s, 200, gpu.put(x), 200, gpu.put(r), 200, gpu.put(w), 1, rstd, 1, 200, 1e-6, 0.0, 0, 256)
    x, r, w = double(x, r, w)
    near("s", s, x + r)
    near("y", y, (x + r) * rms(x + r) * w)


@triton_row(f"{OPS}.fused_add_rms_norm:_fused_add_rms_norm_backward_kernel")
def _(kernel, gpu):
    from triton.language import float32

    x, w, dy, ds = gpu.normal(6, 200), gpu.normal(200), gpu.normal(6, 200), gpu.normal(6, 200)
    dx, dw = gpu.empty((6, 200)), gpu.empty((2, 200))
    r = gpu.put(rms(x.astype(float)), np.float32)
    kernel[(2,)](gpu.put(dy), 200, gpu.put(ds), 200, dx, 200, gpu.put(x), 200, float32, gpu.put(w), 1, r, 1, dw, 200, 6, 200, 0.0,
                 3, 0, 256, True)
    want, dw_rows = rms_back(*double(x, w, dy))
    near("dx", dx, want + ds)
    near("dw", dw, [dw_rows[:3].sum(0), dw_rows[3:].sum(0)])


@triton_row(f"{OPS}.layer_norm:_layer_norm_forward_kernel")
def _(kernel, gpu):
    x, w, b = gpu.normal(5, 300), gpu.normal(300), gpu.normal(300)
    y, mean, rstd = gpu.empty((5, 300)), gpu.empty(5), gpu.empty(5)
    kernel[(5,)](y, 300, gpu.put(x), 300, gpu.put(w), 1, gpu.put(b), 1, mean, 1, rstd, 1, 300, 1e-5, 512)
    x, w, b = double(x, w, b)
    r = 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    near("mean", mean, x.mean(1))
    near("rstd", rstd, r[:, 0])
    near("y", y, (x - x.mean(1, keepdims=True)) * r * w + b)


@triton_row(f"{OPS}.layer_norm:_layer_norm_backward_kernel")
def _(kernel, gpu):
    x, w, dy = gpu.normal(6, 300), gpu.normal(300), gpu.normal(6, 300)
    a, v, g = double(x, w, dy)
    mean, r = a.mean(1, keepdims=True), 1 / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    dx, dw, db = gpu.empty((6, 300)), gpu.empty((2, 300)), gpu.empty((2, 300))
    kernel[(2,)](gpu.put(x), 300, gpu.put(w), gpu.put(mean, np.float32), 1, gpu.put(r, np.float32), 1, dx, 300, dw, 300, db, 300,
                 gpu.put(dy), 300, 6, 300, 3, 512)
    hat, wdy = (a - mean) * r, v * g
    near("dx", dx, (wdy - hat * (hat * wdy).mean(1, keepdims=True) - wdy.mean(1, keepdims=True)) * r)
    near("dw", dw, (g * hat).reshape(2, 3, 300).sum(1))
    near("db", db, g.reshape(2, 3, 300).sum(1))


@triton_row(f"{OPS}.group_norm:_group_norm_forward_kernel")
def _(kernel, gpu):
    # Two images, 6 channels in 2 groups, 50 places.
    x, w, b = gpu.normal(2, 2, 150), gpu.normal(6), gpu.normal(6)
    y, mean, rstd = gpu.empty((2, 2, 150)), gpu.empty((2, 2)), gpu.empty((2, 2))
    kernel[(2, 2)](y, 300, 150, gpu.put(x), 300, 150, mean, 2, 1, rstd, 2, 1, gpu.put(w), gpu.put(b), 150, 3, 1e-6, 64)
    x, w, b = double(x, w, b)
    r = 1 / np.sqrt(x.var(2, keepdims=True) + 1e-6)
    per_place = [np.repeat(a.reshape(1, 2, 3), 50, 2) for a in (w, b)]
    near("mean", mean, x.mean(2))
    near("y", y, (x - x.mean(2, keepdims=True)) * r * per_place[0] + per_place[1], absolute=3e-5)


def swiglu(kernel, gpu, grid, block):
    a, b = gpu.normal(4, 300), gpu.normal(4, 300)
    c = gpu.empty((4, 300))
    kernel[grid](gpu.put(a), gpu.put(b), c, 300, 1.5, n_cols=300, BLOCK_SIZE=block)
    a, b = double(a * 1.5, b)
    near("c", c, a * sigmoid(a) * b)


def swiglu_back(kernel, gpu, grid, block):
    a, b, dc = gpu.normal(4, 300), gpu.normal(4, 300), gpu.normal(4, 300)
    da, db = gpu.put(a), gpu.put(b)
    kernel[grid](gpu.put(dc), da, db, 300, 1.0, n_cols=300, BLOCK_SIZE=block)
    a, b, dc = double(a, b, dc)
    s = sigmoid(a)
    near("db", db, dc * a * s)
    near("da", da, dc * (a * s * (1 - s) + s) * b)


triton_row(f"{OPS}.swiglu:_swiglu_forward_kernel")(lambda kernel, gpu: swiglu(kernel, gpu, (4,), 512))
triton_row(f"{OPS}.swiglu:_swiglu_forward_kernel_tiled")(lambda kernel, gpu: swiglu(kernel, gpu, (4, 3), 128))
triton_row(f"{OPS}.swiglu:_swiglu_backward_kernel")(lambda kernel, gpu: swiglu_back(kernel, gpu, (4,), 512))
triton_row(f"{OPS}.swiglu:_swiglu_backward_kernel_tiled")(lambda kernel, gpu: swiglu_back(kernel, gpu, (4, 3), 128))


@triton_row(f"{OPS}.swiglu:_swiglu_fused_gate_up_forward_kernel")
def _(kernel, gpu):
    y, c = gpu.normal(4, 400), gpu.empty((4, 200))
    kernel[(4,)](gpu.put(y), c, 400, 200, 200, 256)
    gate, up = double(y[:, :200], y[:, 200:])
    near("c", c, gate * sigmoid(gate) * up)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@triton_row(f"{OPS}.geglu:_geglu_tanh_forward_kernel")
def _(kernel, gpu):
    a, b, c = gpu.normal(4, 300), gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](gpu.put(a), gpu.put(b), c, 300, 300, 512)
    a, b = double(a, b)
    near("c", c, gelu_tanh(a) * b)


@triton_row(f"{OPS}.geglu:_geglu_tanh_backward_kernel")
def _(kernel, gpu):
    a, b, dc = gpu.normal(4, 300), gpu.normal(4, 300), gpu.normal(4, 300)
    da, db = gpu.put(a), gpu.put(b)
    kernel[(4,)](gpu.put(dc), da, db, 300, 300, 512)
    a, b, dc = double(a, b, dc)
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (a + 0.044715 * a**3))
    near("db", db, dc * gelu_tanh(a))
    near("da", da, dc * b * (0.5 * (1 + t) + 0.5 * a * (1 - t * t) * c * (1 + 3 * 0.044715 * a * a)))


@triton_row(f"{OPS}.relu_squared:_relu_squared_forward_kernel")
def _(kernel, gpu):
    x, y = gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](y, 300, gpu.put(x), 300, 300, 512)
    near("y", y, np.maximum(x, 0.0) ** 2)


@triton_row(f"{OPS}.relu_squared:_relu_squared_backward_kernel")
def _(kernel, gpu):
    x, dy, dx = gpu.normal(4, 300), gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](dx, 300, gpu.put(dy), 300, gpu.put(x), 300, 300, 512)
    near("dx", dx, dy * 2 * np.maximum(x, 0))


@triton_row(f"{OPS}.softmax:_softmax_single_block_forward_kernel")
def _(kernel, gpu):
    x, y = gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](y, 300, gpu.put(x), 300, 300, 512)
    near("y", y, softmax(x.astype(float)))


def softmax_back(kernel, gpu, block):
    y, dy, dx = softmax(gpu.normal(4, 300)), gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](gpu.put(dy), 300, gpu.put(y), 300, dx, 300, 300, block)
    y, dy = double(y, dy)
    near("dx", dx, y * (dy - (y * dy).sum(1, keepdims=True)))


triton_row(f"{OPS}.softmax:_softmax_single_block_backward_kernel")(lambda kernel, gpu: softmax_back(kernel, gpu, 512))


@triton_row(f"{OPS}.dyt:_dyt_fwd_kernel")
def _(kernel, gpu):
    x, alpha, gamma, beta = gpu.normal(3, 1500), gpu.normal(1), gpu.normal(1500), gpu.normal(1500)
    y = gpu.empty((3, 1500))
    kernel[(2, 3)](gpu.put(x), y, gpu.put(alpha), gpu.put(gamma), gpu.put(beta), True, 1500, 1024)
    x, alpha, gamma, beta = double(x, alpha, gamma, beta)
    near("y", y, np.tanh(alpha * x) * gamma + beta)


@triton_row(f"{OPS}.dyt:_dyt_bwd_kernel")
def _(kernel, gpu):
    x, dy, alpha, gamma = gpu.normal(5, 600), gpu.normal(5, 600), gpu.normal(1), gpu.normal(600)
    dx, da, dg, db = gpu.empty((5, 600)), gpu.zeros((2, 2)), gpu.empty((2, 600)), gpu.empty((2, 600))
    kernel[(2, 2)](gpu.put(dy), dx, da, dg, db, gpu.put(x), gpu.put(alpha), gpu.put(gamma), True, 5, 600, 512)
    x, dy, alpha, gamma = double(x, dy, alpha, gamma)
    t = np.tanh(alpha * x)
    slope = (1 - t * t) * dy * gamma
    near("dx", dx, alpha * slope)
    near("dg", dg, [(dy * t)[i::2].sum(0) for i in range(2)])
    near("db", db, [dy[i::2].sum(0) for i in range(2)])
    near("da", da, [[(x * slope)[i::2, j].sum() for j in (slice(0, 512), slice(512, 600))] for i in range(2)], absolute=1e-4)


@triton_row(f"{OPS}.tvd:_tv_distance_kernel")
def _(kernel, gpu):
    p, q = softmax(gpu.normal(4, 300)), softmax(gpu.normal(4, 300))
    labels = np.array([1, -100, 5, 7], np.int64)
    loss, grads = gpu.zeros(4), gpu.empty((4, 300))
    kernel[(4,)](gpu.put(p), 300, gpu.put(q), 300, loss, 1, grads, 300, gpu.put(labels), -100, 300, 0.25, 128, True, 1)
    held = (labels != -100)[:, None]
    near("loss", loss, (np.abs(p - q) * held).sum(1) * 0.5 * 0.25)
    near("grads", grads, np.sign(p - q) * 0.125 * held)


@triton_row(f"{OPS}.kl_div:_kldiv_kernel_forward")
def _(kernel, gpu):
    y, t = np.log(softmax(gpu.normal(4, 300))), softmax(gpu.normal(4, 300))
    loss = gpu.empty(4)
    kernel[(4,)](gpu.put(y), 300, gpu.put(t), 300, loss, 1, 300, 1e-10, 128, 1)
    y, t = double(y, t)
    near("loss", loss, (t * (np.log(t) - y)).sum(1))


@triton_row(f"{OPS}.kl_div:_kldiv_kernel_backward")
def _(kernel, gpu):
    t, grads = gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](gpu.put(t), 300, grads, 300, 300, 128, True)
    near("grads", grads, -np.exp(t.astype(float)))


@triton_row(f"{OPS}.jsd:_jsd_kernel")
def _(kernel, gpu):
    x, y = np.log(softmax(gpu.normal(4, 300))), np.log(softmax(gpu.normal(4, 300)))
    loss, dx = gpu.empty((4, 300)), gpu.empty((4, 300))
    kernel[(4,)](gpu.put(x), 300, gpu.put(y), 300, loss, 300, dx, 300, gpu.zeros(1, np.int32), 0.5, 4, -100, 300, 128, False)
    x, y = double(x, y)
    q, p = np.exp(x), np.exp(y)
    log_m = np.log(0.5 * p + 0.5 * q)
    near("loss", loss, (0.5 * p * (y - log_m) + 0.5 * q * (x - log_m)) / 4)
    near("dx", dx, 0.5 * q * (x - log_m) / 4)


@triton_row(f"{OPS}.cross_entropy:liger_cross_entropy_kernel")
def _(kernel, gpu):
    x, labels = gpu.normal(4, 300), np.array([3, 299, -100, 0], np.int64)
    grads, loss, z, hit, argmax = gpu.put(x), gpu.zeros(4), gpu.zeros(4), gpu.empty(4), gpu.empty(4, np.int64)
    kernel[(4,)](grads, 300, gpu.put(labels), 1, gpu.zeros(1), loss, z, 1, hit, 1, argmax, 1, 300, 3, 1.0, 1.0, -100, 1e-2, 0.1, "mean",
                 30.0, True, True, True, 128, False, True, True)
    x = 30 * np.tanh(x.astype(float) / 30)
    lse, held = np.log(np.exp(x).sum(1)), labels != -100
    at = np.where(held, labels, 0)
    z_loss = 1e-2 * lse**2 / 3
    hard = lse - x[np.arange(4), at]
    smooth = 0.1 * lse - 0.1 / 300 * x.sum(1)
    near("loss", loss, np.where(held, (hard * 0.9 + smooth) / 3 + z_loss, 0))
    near("z loss", z, np.where(held, z_loss, 0))
    near("argmax", argmax, np.where(held, x.argmax(1), -1))
    near("hits", hit, (x.argmax(1) == labels) * 1.0)
    d = softmax(x) * (1 + 2e-2 * lse[:, None]) - 0.1 / 300
    d[np.arange(4), at] -= 0.9
    near("grads", grads, d / 3 * (1 - (x / 30) ** 2) * held[:, None])


@triton_row(f"{OPS}.rope:_triton_rope")
def _(kernel, gpu):
    # 2 batches of 3 tokens, 4 heads of q, 2 of k, 64 wide.
    q, k, angle = gpu.normal(6, 4, 64), gpu.normal(6, 2, 64), gpu.normal(3, 32)
    cos, sin = np.cos(angle), np.sin(angle)
    out_q, out_k = gpu.put(q), gpu.put(k)
    kernel[(6,)](out_q, 256, out_k, 128, gpu.put(cos), 32, gpu.put(sin), 32, 3, 2, 1, 4, 2, 64, 4, 2, 64, 64, 64, 4)

    def turned(x):
        c, s = (np.tile(a, (2, 1))[:, None] for a in double(cos, sin))
        a, b = x[..., :32], x[..., 32:]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    near("q", out_q, turned(q))
    near("k", out_k, turned(k))


@triton_row(f"{OPS}.llama4_rope:_llama4_rope_kernel")
def _(kernel, gpu):
    q, k, angle = gpu.normal(6, 4, 32, 2), gpu.normal(6, 2, 32, 2), gpu.normal(3, 32)
    freqs = np.stack([np.cos(angle), np.sin(angle)], -1)
    out_q, out_k = gpu.put(q), gpu.put(k)
    kernel[(6, 4)](out_q, out_k, gpu.put(freqs), 256, 128, 64, 64, 64, 3, 2, 1.0, 32, 4, 2, 32)

    def turned(x):
        c, s = np.tile(np.cos(angle), (2, 1))[:, None], np.tile(np.sin(angle), (2, 1))[:, None]
        return np.stack([x[..., 0] * c - x[..., 1] * s, x[..., 0] * s + x[..., 1] * c], -1)

    near("q", out_q, turned(q))
    near("k", out_k, turned(k))


@triton_row(f"{OPS}.sparsemax:_sparsemax_forward_kernel")
def _(kernel, gpu):
    x, out = gpu.normal(4, 300), gpu.empty((4, 300))
    ordered = -np.sort(-x, 1)
    kernel[(4,)](gpu.put(x), 300, gpu.put(ordered), 300, out, 300, 300, 512, num_warps=4)
    ordered = ordered.astype(float)
    sums = np.cumsum(ordered, 1) - 1
    support = (ordered > sums / np.arange(1, 301)).sum(1)
    tau = sums[np.arange(4), support - 1] / support
    near("out", out, np.maximum(x - tau[:, None], 0))


@triton_row(f"{OPS}.sparsemax:_sparsemax_backward_kernel")
def _(kernel, gpu):
    o, go, gi = np.maximum(gpu.normal(4, 300), 0), gpu.normal(4, 300), gpu.empty((4, 300))
    kernel[(4,)](gpu.put(o), gpu.put(go), gi, 300, 300, 128, num_warps=4)
    mean = (go * (o > 0)).sum(1, keepdims=True) / (o > 0).sum(1, keepdims=True)
    near("gi", gi, np.where(o > 0, go - mean, 0))


@triton_row(f"{OPS}.poly_norm:_poly_norm_forward_kernel")
def _(kernel, gpu):
    x, w, b = gpu.normal(4, 300), gpu.normal(3), gpu.normal(1)
    y, rstd = gpu.empty((4, 300)), gpu.empty((4, 3))
    kernel[(4,)](y, 300, gpu.put(x), 300, gpu.put(w), gpu.put(b), rstd, 3, 300, 1e-6, 512)
    x, w, b = double(x, w, b)
    near("rstd", rstd, np.concatenate([rms(x**3), rms(x**2), rms(x)], 1))
    near("y", y, w[0] * x**3 * rms(x**3) + w[1] * x**2 * rms(x**2) + w[2] * x * rms(x) + b)


@triton_row(f"{OPS}.poly_norm:_poly_norm_backward_kernel")
def _(kernel, gpu):
    x, w, dy = gpu.normal(4, 300), gpu.normal(3), gpu.normal(4, 300)
    a, v, g = double(x, w, dy)
    r = [rms(a**p) for p in (3, 2, 1)]
    dx, dw, db = gpu.empty((4, 300)), gpu.empty((2, 3)), gpu.empty(2)
    kernel[(2,)](gpu.put(dy), 300, dx, 300, gpu.put(x), 300, gpu.put(w), gpu.put(np.concatenate(r, 1), np.float32), 3, dw, 3, db, 4,
                 300, 2, 512)
    want, dw_rows = np.zeros_like(a), []
    for p, weight, s in zip((3, 2, 1), v, r):
        total = (g * a**p).sum(1, keepdims=True)
        want += weight * (p * a ** (p - 1) * s * g - p / 300 * a ** (2 * p - 1) * s**3 * total)
        dw_rows.append((s * total)[:, 0].reshape(2, 2).sum(1))
    near("dx", dx, want, 1e-4, 1e-4)
    near("dw", dw, np.stack(dw_rows, 1), 1e-4, 1e-4)
    near("db", db, g.reshape(2, -1).sum(1), absolute=1e-4)
