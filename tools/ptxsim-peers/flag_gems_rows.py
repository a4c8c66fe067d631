"""FlagGems: device functions of its pointwise operators under a kernel of ours, and kernels of its own."""

from __future__ import annotations

import importlib
import math
import os

import numpy as np

os.environ["GEMS_VENDOR"] = "nvidia"

import rows
from rows import near, same
from triton_kit import DISTRIBUTIONS, triton, triton_row, unwrapped, use_driver, without_init

tl = triton.language
without_init("flag_gems", "flag_gems.ops", "flag_gems.runtime.backend._nvidia.hopper.ops")
OPS = "flag_gems.ops"


@triton.jit
def map1(f: tl.constexpr, x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, f(tl.load(x + at, mask=at < n)), mask=at < n)


@triton.jit
def map2(f: tl.constexpr, x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, f(tl.load(x + at, mask=at < n), tl.load(y + at, mask=at < n)), mask=at < n)


@triton.jit
def map3(f: tl.constexpr, x, y, z, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, f(tl.load(x + at, mask=at < n), tl.load(y + at, mask=at < n), tl.load(z + at, mask=at < n)), mask=at < n)


def pointwise(place: str, want, *inputs, tolerance: float = 2e-6, result=np.float32) -> None:
    """`inputs` make operands of 1000 elements; `want` computes in float64 where they are floats."""
    file, _, name = place.partition(":")

    def run(gpu) -> None:
        use_driver()
        function = getattr(importlib.import_module(f"{OPS}.{file}"), name)
        function = unwrapped(getattr(function, "_scalar_fn", function))
        operands = [make(gpu) for make in inputs]
        out = gpu.empty(1000, result)
        {1: map1, 2: map2, 3: map3}[len(inputs)][(4,)](function, *map(gpu.put, operands), out, 1000, 256)
        with np.errstate(all="ignore"):
            near("result", out, want(*[o.astype(np.float64) if o.dtype.kind == "f" else o for o in operands]), tolerance, tolerance)

    rows.row(DISTRIBUTIONS["flag_gems"], f"{OPS}.{place}", run)


def anything(gpu):
    x = gpu.normal(1000, scale=3)
    x[:4] = [0.0, -0.0, np.inf, -np.inf]
    x[4] = np.nan
    return x


def usual(gpu):
    return gpu.normal(1000, scale=2)


def positive(gpu):
    return np.abs(gpu.normal(1000, scale=3)) + np.float32(1e-3)


def unit(gpu):
    return gpu.random.uniform(-1, 1, 1000).astype(np.float32)


def whole(gpu):
    return gpu.integers(-1000, 1000, 1000)


def shifts(gpu):
    return gpu.integers(0, 31, 1000)


def coarse(gpu):
    """Numbers that are often the same."""
    return gpu.integers(-3, 4, 1000).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


erf = np.vectorize(math.erf)
pointwise("abs:abs_func", np.abs, anything, tolerance=0)
pointwise("neg:neg_func", np.negative, anything, tolerance=0)
pointwise("ceil:ceil_func", np.ceil, anything, tolerance=0)
pointwise("acos:acos_kernel", np.arccos, unit)
pointwise("atan:atan_kernel", np.arctan, anything)
pointwise("atan2:atan2_kernel", np.arctan2, usual, usual)
pointwise("cos:cos_func", np.cos, usual)
pointwise("sin:sin_func", np.sin, usual)
pointwise("tan:tan_func", np.tan, unit)
pointwise("cosh:cosh_func", np.cosh, usual)
pointwise("tanh:tanh_kernel", np.tanh, anything)
pointwise("tanh:tanh_backward_kernel", lambda y, dy: dy * (1 - y * y), unit, usual)
pointwise("erf:erf_func", erf, usual)
pointwise("exp:exp_func", np.exp, usual)
pointwise("exp2:exp2_func", np.exp2, usual)
pointwise("expm1:expm1_func", np.expm1, usual)
pointwise("log:log_func", np.log, positive)
pointwise("log10:log10_func", np.log10, positive)
pointwise("log_sigmoid:log_sigmoid_forward", lambda x: np.log(sigmoid(x)), usual)
pointwise("logaddexp:logaddexp_func", np.logaddexp, usual, usual)
pointwise("rsqrt:rsqrt_func", lambda x: 1 / np.sqrt(x), positive)
pointwise("sqrt:sqrt_func", np.sqrt, positive)
pointwise("square:square_func", np.square, usual)
pointwise("reciprocal:reciprocal_func", np.reciprocal, positive)
pointwise("pow:pow_func", np.power, positive, unit, tolerance=1e-5)
pointwise("sigmoid:sigmoid_forward", sigmoid, usual)
pointwise("sigmoid:sigmoid_backward_kernel", lambda dy, y: dy * y * (1 - y), usual, unit)
pointwise("silu:silu_forward", lambda x: x * sigmoid(x), usual)
pointwise("silu:silu_backward_kernel", lambda x, dy: dy * sigmoid(x) * (1 + x * (1 - sigmoid(x))), usual, usual)
pointwise("gelu:gelu_none", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))), usual)
pointwise("gelu:gelu_tanh", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), usual)
pointwise("gelu:gelu_backward_none",
          lambda x, dy: dy * (0.5 + 0.5 * erf(x / np.sqrt(2)) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)), usual, usual)
pointwise("relu:relu_forward", lambda x: np.maximum(x, 0), usual, tolerance=0)
pointwise("relu:relu_backward", lambda x, dy: np.where(x > 0, dy, 0), usual, usual, tolerance=0)
pointwise("glu:glu_kernel", lambda a, b: a * sigmoid(b), usual, usual)
pointwise("maximum:maximum_kernel", np.fmax, anything, usual, tolerance=0)
pointwise("minimum:minimum_kernel", np.fmin, anything, usual, tolerance=0)
pointwise("clamp:clamp_func_tensor", lambda x, low, high: np.minimum(high, np.maximum(low, x)), usual, unit, unit, tolerance=0)
pointwise("copysign:copysign_func", np.copysign, usual, usual, tolerance=0)
pointwise("div:true_div_func", np.divide, usual, positive)
pointwise("div:trunc_div_func", lambda a, b: np.trunc(a / b), usual, positive)
pointwise("div:_int_floordiv", np.floor_divide, whole, lambda gpu: gpu.integers(1, 50, 1000), result=np.int32)
pointwise("mul:mul_func", np.multiply, usual, usual)
pointwise("lerp:lerp_tensor_kernel", lambda a, b, t: a + (b - a) * t, usual, usual, unit)
pointwise("where:where_inner", lambda c, a, b: np.where(c, a, b), lambda gpu: usual(gpu) > 0, usual, usual, tolerance=0)
for name, compare in (("eq", np.equal), ("ne", np.not_equal), ("ge", np.greater_equal), ("gt", np.greater), ("le", np.less_equal),
                      ("lt", np.less)):
    pointwise(f"{name}:{name}_func", compare, coarse, coarse, result=np.bool_)
pointwise("isnan:isnan_func", np.isnan, anything, result=np.bool_)
pointwise("isinf:isinf_func", np.isinf, anything, result=np.bool_)
pointwise("isfinite:isfinite_func", np.isfinite, anything, result=np.bool_)
pointwise("signbit:signbit_func", np.signbit, anything, result=np.bool_)
pointwise("bitwise_and:bitwise_and_func", np.bitwise_and, whole, whole, result=np.int32)
pointwise("bitwise_or:bitwise_or_func", np.bitwise_or, whole, whole, result=np.int32)
pointwise("bitwise_not:bitwise_not_func", np.bitwise_not, whole, result=np.int32)
pointwise("bitwise_left_shift:bitwise_left_shift_kernel", lambda a, b: a << b, whole, shifts, result=np.int32)
pointwise("bitwise_right_shift:bitwise_right_shift_kernel", lambda a, b: a >> b, whole, shifts, result=np.int32)
pointwise("logical_and:logical_and_func", np.logical_and, coarse, coarse, result=np.bool_)
pointwise("logical_xor:logical_xor_func", np.logical_xor, coarse, coarse, result=np.bool_)
pointwise("logical_not:logical_not_func", np.logical_not, coarse, result=np.bool_)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@triton_row(f"{OPS}.softmax:softmax_kernel_inner")
def _(kernel, gpu):
    x, y = gpu.normal(5, 700), gpu.empty((5, 700))
    kernel[(5,)](y, gpu.put(x), 5, 700, 256, False)
    near("y", y, softmax(x.astype(float)))


@triton_row(f"{OPS}.softmax:softmax_kernel_non_inner")
def _(kernel, gpu):
    x, y = gpu.normal(3, 70, 40), gpu.empty((3, 70, 40))
    kernel[(3, 2)](y, gpu.put(x), 3, 70, 40, 16, 32, False)
    near("y", y, softmax(x.astype(float), 1))


@triton_row(f"{OPS}.softmax:softmax_backward_kernel_inner")
def _(kernel, gpu):
    y, dy, dx = softmax(gpu.normal(5, 300)), gpu.normal(5, 300), gpu.empty((5, 300))
    kernel[(3,)](gpu.put(y), gpu.put(dy), dx, 5, 300, 2, 128, False)
    y, dy = y.astype(float), dy.astype(float)
    near("dx", dx, y * (dy - (y * dy).sum(1, keepdims=True)))


@triton_row(f"{OPS}.softmax:softmax_backward_kernel_non_inner")
def _(kernel, gpu):
    y, dy, dx = softmax(gpu.normal(2, 50, 40), 1), gpu.normal(2, 50, 40), gpu.empty((2, 50, 40))
    kernel[(2, 2)](gpu.put(y), gpu.put(dy), dx, 2, 50, 40, 64, 32, True)
    y, dy = y.astype(float), dy.astype(float)
    near("dx", dx, y * (dy - (y * dy).sum(1, keepdims=True)))


@triton_row(f"{OPS}.log_softmax:log_softmax_kernel")
def _(kernel, gpu):
    x, y = gpu.normal(11, 500), gpu.empty((11, 500))
    kernel[(2, 1)](y, gpu.put(x), 11, 500, 1, 8, 256, num_warps=8)
    near("y", y, np.log(softmax(x.astype(float))))


@triton_row(f"{OPS}.argmax:argmax_kernel_1")
def _(kernel, gpu):
    x, value, index = gpu.normal(1000), gpu.empty(4), gpu.empty(4, np.int64)
    kernel[(4,)](gpu.put(x), value, index, 1000, 256)
    near("value", value, [c.max() for c in np.split(x, [256, 512, 768])])
    same("index", index, [i * 256 + c.argmax() for i, c in enumerate(np.split(x, [256, 512, 768]))])


@triton_row(f"{OPS}.sum:sum_kernel_1")
def _(kernel, gpu):
    x, sums = gpu.normal(1000, dtype=np.float16), gpu.empty(4)
    kernel[(4,)](gpu.put(x), sums, 1000, 256)
    near("sums", sums, [c.astype(float).sum() for c in np.split(x, [256, 512, 768])])


@triton_row(f"{OPS}.sum:sum_dim_kernel_non_inner")
def _(kernel, gpu):
    x, y = gpu.normal(3, 70, 40), gpu.empty((3, 40))
    kernel[(3, 2)](y, gpu.put(x), 3, 70, 40, 16, 32, False)
    near("y", y, x.astype(float).sum(1))


@triton_row(f"{OPS}.sum:sum_dim_kernel")
def _(kernel, gpu):
    x, y = gpu.normal(13, 300), gpu.empty(13)
    kernel[(4,)](gpu.put(x), y, 13, 300, 4, 128)
    near("y", y, x.astype(float).sum(1))


@triton_row(f"{OPS}.cumsum:reduce_then_scan_root_scan_kernel_row")
def _(kernel, gpu):
    x, y = gpu.normal(3, 400), gpu.empty((3, 400))
    kernel[(3,)](gpu.put(x), y, 400, 512)
    near("y", y, np.cumsum(x.astype(float), 1))


@triton_row(f"{OPS}.cumsum:reduce_then_scan_block_scan_kernel_row")
def _(kernel, gpu):
    x, y = gpu.integers(-9, 9, 2, 900), gpu.empty((2, 900), np.int32)
    sums = np.cumsum(np.pad(x, ((0, 0), (0, 124))).reshape(2, 4, 256).sum(2), 1)
    kernel[(2, 4)](gpu.put(x), gpu.put(sums, np.int32), y, 900, 4, 2, 128)
    same("y", y, np.cumsum(x, 1))


@triton_row(f"{OPS}.cumsum:normed_cumsum_kernel")
def _(kernel, gpu):
    x, y = np.abs(gpu.normal(3, 100)), gpu.empty((3, 100))
    kernel[(3,)](gpu.put(x), y, 100, 128)
    near("y", y, np.cumsum(x.astype(float), 1) / x.astype(float).sum(1, keepdims=True))
