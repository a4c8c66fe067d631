"""candle-kernels, as Cargo.lock pins it: nvcc compiles its files, as its build script does."""

from __future__ import annotations

import math
import os

import ml_dtypes
import numpy as np

import rows
from rows import near, same
from sources import crate
from toolchain import nvcc

FOLDER, VERSION = crate("candle-kernels")
F32, F64, F16, BF16 = np.float32, np.float64, np.float16, ml_dtypes.bfloat16
NAMES = {F32: "f32", F64: "f64", F16: "f16", BF16: "bf16", np.uint8: "u8", np.uint32: "u32", np.int64: "i64"}
TOLERANCE = {F32: 3e-6, F64: 1e-12, F16: 2e-3, BF16: 2e-2}
NONE = np.uint64(0)
N = 1000


def u64(*numbers):
    return [np.uint64(n) for n in numbers]


def kernel(file: str, name: str, test, cards=rows.ONE) -> None:
    def run(gpu) -> None:
        module = gpu.module(nvcc(os.path.join(FOLDER, "src", f"{file}.cu"), "-O3"))
        test(lambda grid, block, *arguments, **named: module.launch(name, grid, block, *arguments, **named), gpu)

    rows.row("candle-kernels", f"{file}.cu:{name}", run, cards, VERSION)


def candle(file: str, name: str, cards=rows.ONE):
    return lambda test: kernel(file, name, test, cards)


def exactly(x):
    return np.asarray(x, F64)


def unary(name: str, want, dtypes=(F32, F64, F16, BF16), positive: bool = False, parameter: float | None = None) -> None:
    for dtype in dtypes:

        def test(launch, gpu, dtype=dtype) -> None:
            x = gpu.normal(20, 50, scale=2)
            x = (np.abs(x) + 0.1 if positive else x).astype(dtype)
            out = gpu.empty((50, 20), dtype)
            # Read across: 50 x 20 with strides 1 and 50.
            info = gpu.put([50, 20, 1, 50], np.uint64)
            extra = [] if parameter is None else [np.array(parameter, dtype)]
            launch(4, 256, *u64(N, 2), info, *extra, gpu.put(x), out)
            near("out", out, want(exactly(x).T), TOLERANCE[dtype], TOLERANCE[dtype])

        kernel("unary", f"{name}_{NAMES[dtype]}", test)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


erf = np.vectorize(math.erf)
unary("uneg", np.negative)
unary("urecip", np.reciprocal, positive=True)
unary("uexp", np.exp)
unary("ulog", np.log, positive=True)
unary("usin", np.sin)
unary("ucos", np.cos)
unary("utanh", np.tanh)
unary("uerf", erf)
unary("uround", lambda x: np.trunc(x + np.copysign(0.5, x)), (F32, F64))
unary("unormcdf", lambda x: 0.5 * (1 + erf(x / np.sqrt(2))))
unary("usqrt", np.sqrt, positive=True)
unary("ugelu", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), (F32, F64))
unary("ugelu_erf", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))))
unary("urelu", lambda x: np.maximum(x, 0))
unary("uelu", lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1)), parameter=0.5)
unary("upowf", lambda x: x**1.5, (F32, F64), positive=True, parameter=1.5)
unary("usilu", lambda x: x * sigmoid(x))


def binary(name: str, want, dtypes, result=None) -> None:
    for dtype in dtypes:

        def test(launch, gpu, dtype=dtype) -> None:
            if np.issubdtype(dtype, np.integer):
                x, y = (gpu.integers(1, 12, 20, 50, dtype=dtype) for _ in range(2))
            else:
                x, y = (np.abs(gpu.normal(20, 50)).astype(dtype) + dtype(0.25) for _ in range(2))
            out = gpu.empty((20, 50), result or dtype)
            # The second is one row for all.
            info = gpu.put([20, 50, 50, 1, 0, 1], np.uint64)
            launch(4, 256, *u64(N, 2), info, gpu.put(x), gpu.put(y), out)
            tolerance = TOLERANCE.get(dtype, 0)
            near("out", out, want(exactly(x), exactly(y[:1])), tolerance, tolerance)

        kernel("binary", f"{name}_{NAMES[dtype]}", test)


FLOATS = (F32, F64, F16, BF16)
binary("badd", np.add, (*FLOATS, np.uint8, np.uint32, np.int64))
binary("bsub", np.subtract, FLOATS)
binary("bmul", np.multiply, (*FLOATS, np.int64))
binary("bdiv", np.divide, FLOATS)
binary("bdiv", np.floor_divide, (np.uint32, np.int64))
binary("bmaximum", np.maximum, FLOATS)
binary("lt", np.less, FLOATS, np.uint8)
binary("eq", np.equal, (np.uint8, np.int64), np.uint8)

for source, destination in ((F32, F16), (F16, F32), (F32, BF16), (BF16, F32), (F32, np.uint8), (np.uint8, F32), (np.int64, F32), (F64, F32),
                            (F32, np.int64), (np.uint32, F64)):

    def cast(launch, gpu, source=source, destination=destination) -> None:
        x = (np.abs(gpu.normal(N)) * 50).astype(source)
        out = gpu.empty(N, destination)
        launch(4, 256, *u64(N, 1), NONE, gpu.put(x), out)
        same("out", out, x.astype(destination))

    kernel("cast", f"cast_{NAMES[source]}_{NAMES[destination]}", cast)


@candle("affine", "affine_f32")
def _(launch, gpu):
    x, out = gpu.normal(N), gpu.empty(N)
    launch(4, 256, *u64(N, 1), NONE, gpu.put(x), out, F32(1.5), F32(-2))
    near("out", out, exactly(x) * 1.5 - 2)


@candle("fill", "fill_f32")
def _(launch, gpu):
    out = gpu.empty(N)
    launch(4, 128, out, F32(2.5), np.uint64(N))
    same("out", out, np.full(N, 2.5))


@candle("fill", "copy2d_u8")
def _(launch, gpu):
    x, out = gpu.integers(0, 255, 20, 60, dtype=np.uint8), gpu.zeros((20, 55), np.uint8)
    launch(4, 256, gpu.put(x), out, *map(np.uint32, (20, 50, 60, 55)))
    same("out", out.get()[:, :50], x[:, :50])


@candle("ternary", "where_u8_f32")
def _(launch, gpu):
    ids, t, f, out = gpu.integers(0, 2, N, dtype=np.uint8), gpu.normal(N), gpu.normal(N), gpu.empty(N)
    launch(4, 256, *u64(N, 1), gpu.put([N, 1, 1, 1], np.uint64), gpu.put(ids), gpu.put(t), gpu.put(f), out)
    same("out", out, np.where(ids, t, f))


@candle("indexing", "is_u32_f32")
def _(launch, gpu):
    x, ids, out = gpu.normal(4, 30, 10), gpu.integers(0, 30, 12, dtype=np.uint32), gpu.empty((4, 12, 10))
    launch(2, 256, *u64(480, 3), gpu.put([4, 30, 10, 300, 10, 1], np.uint64), gpu.put(ids), gpu.put(x), out, *u64(4, 30, 12, 10))
    same("out", out, x[:, ids])


@candle("indexing", "gather_i64_f32")
def _(launch, gpu):
    x, ids, out = gpu.normal(4, 30, 10), gpu.integers(0, 30, 4, 12, 10, dtype=np.int64), gpu.empty((4, 12, 10))
    launch(2, 256, np.uint64(480), gpu.put(ids), gpu.put(x), out, *u64(4, 30, 12, 10))
    same("out", out, np.take_along_axis(x, ids, 1))


@candle("indexing", "ia_u32_f32")
def _(launch, gpu):
    x, ids = gpu.normal(4, 12, 10), gpu.integers(0, 30, 12, dtype=np.uint32)
    out = gpu.zeros((4, 30, 10))
    launch(1, 64, gpu.put(ids), np.uint64(12), gpu.put(x), out, *u64(4, 12, 30, 10))
    want = np.zeros((4, 30, 10))
    np.add.at(want, (slice(None), ids), x)
    near("out", out, want)


for order in ("asc", "desc"):

    def argsort(launch, gpu, order=order) -> None:
        x, out = gpu.normal(3, 200), gpu.empty((3, 200), np.uint32)
        launch(3, 256, gpu.put(x), out, np.int32(200), np.int32(256), shared=1024)
        same("out", out, np.argsort(x if order == "asc" else -x, 1))

    kernel("sort", f"asort_{order}_f32", argsort)

for operation, want, result in (("sum", np.sum, None), ("min", np.min, None), ("max", np.max, None), ("argmin", np.argmin, np.uint32),
                                ("argmax", np.argmax, np.uint32)):
    for dtype in (F32, F16, BF16):

        def reduce(launch, gpu, want=want, result=result, dtype=dtype) -> None:
            x, out = gpu.normal(6, 300, dtype=dtype), gpu.empty(6, result or dtype)
            launch(6, 128, *u64(1800, 300, 2), gpu.put([6, 300, 300, 1], np.uint64), gpu.put(x), out)
            tolerance = 0.25 if dtype == BF16 else 5e-2 if dtype == F16 else 1e-5
            near("out", out, want(exactly(x), 1), tolerance, tolerance)

        kernel("reduce", f"fast_{operation}_{NAMES[dtype]}", reduce)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


for dtype in FLOATS:

    def soft(launch, gpu, dtype=dtype) -> None:
        x, out = gpu.normal(5, 300, dtype=dtype), gpu.empty((5, 300), dtype)
        launch((5, 1, 1), (1, 32, 1), gpu.put(x), out, np.int32(300))
        near("out", out, softmax(exactly(x)), TOLERANCE[dtype], TOLERANCE[dtype])

    def rms(launch, gpu, dtype=dtype) -> None:
        x, w, out = gpu.normal(5, 300, dtype=dtype), gpu.normal(300, dtype=dtype), gpu.empty((5, 300), dtype)
        launch(5, 32, gpu.put(x), out, gpu.put(w), np.int32(300), np.int32(32), F32(1e-5))
        a = exactly(x)
        near("out", out, a / np.sqrt((a * a).mean(1, keepdims=True) + 1e-5) * exactly(w), max(TOLERANCE[dtype], 1e-5), max(TOLERANCE[dtype], 1e-5))

    def layer(launch, gpu, dtype=dtype) -> None:
        x, w, b = gpu.normal(5, 300, dtype=dtype), gpu.normal(300, dtype=dtype), gpu.normal(300, dtype=dtype)
        out = gpu.empty((5, 300), dtype)
        launch(5, 1024, gpu.put(x), out, gpu.put(w), gpu.put(b), np.int32(300), np.int32(1024), F32(1e-5))
        a = exactly(x)
        want = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5) * exactly(w) + exactly(b)
        near("out", out, want, max(TOLERANCE[dtype], 1e-5), max(TOLERANCE[dtype], 1e-5))

    def rope(launch, gpu, dtype=dtype) -> None:
        # 2 x 3 heads, 5 tokens, 16 wide, pairs side by side.
        x, angle, out = gpu.normal(6, 5, 8, 2, dtype=dtype), gpu.normal(5, 8), gpu.empty((6, 5, 8, 2), dtype)
        cos, sin = np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)
        launch(1, 256, gpu.put(x), gpu.put(cos), gpu.put(sin), out, *map(np.uint32, (6, 80, 0)))
        a, b, c, s = *np.moveaxis(exactly(x), -1, 0), exactly(cos), exactly(sin)
        near("out", out, np.stack([a * c - b * s, a * s + b * c], -1), 2 * TOLERANCE[dtype], 2 * TOLERANCE[dtype])

    for name, test in (("softmax", soft), ("rmsnorm", rms), ("layernorm", layer), ("rope_i", rope)):
        kernel("reduce", f"{name}_{NAMES[dtype]}", test)


def windows(x, size):
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))


@candle("conv", "conv2d_f32")
def _(launch, gpu):
    x, k, out = gpu.normal(2, 3, 9, 10), gpu.normal(4, 3, 3, 3), gpu.empty((2, 4, 9, 10))
    info = gpu.put([2, 3, 9, 10, 270, 90, 10, 1, 4, 3, 3, 3, 27, 9, 3, 1], np.uint64)
    launch(3, 256, *u64(540, 10, 9, 1, 1, 1), info, gpu.put(x), gpu.put(k), out)
    padded = np.pad(exactly(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    near("out", out, np.einsum("bchwij,ocij->bohw", windows(padded, 3), exactly(k)), 1e-4, 1e-4)


for name, pool in (("avg_pool2d", np.mean), ("max_pool2d", np.max)):

    def pooled(launch, gpu, pool=pool) -> None:
        x, out = gpu.normal(2, 3, 8, 10), gpu.empty((2, 3, 4, 5))
        info = gpu.put([2, 3, 10, 8, 240, 80, 8, 1], np.uint64)
        # Its first direction is the width: 10 rows of 8 here.
        launch(1, 128, *u64(480, 2, 2, 2, 2), info, gpu.put(x.reshape(2, 3, 10, 8)), out)
        near("out", out.get().reshape(2, 3, 5, 4), pool(exactly(x).reshape(2, 3, 5, 2, 4, 2), (3, 5)))

    kernel("conv", f"{name}_f32", pooled)

BLOCK_4 = np.dtype([("d", F16), ("q", np.uint8, 16)])
BLOCK_8 = np.dtype([("d", F16), ("q", np.int8, 32)])


def quantised(gpu, kind, *shape):
    blocks = np.zeros(shape, kind)
    blocks["d"] = gpu.normal(*shape)
    blocks["q"] = gpu.random.integers(0, 256, blocks["q"].shape).astype(np.uint8).view(blocks["q"].dtype)
    q = blocks["q"].astype(F64)
    if kind == BLOCK_4:
        q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], -1) - 8.0
    return blocks, q * blocks["d"].astype(F64)[..., None]


for label, kind in (("q4_0", BLOCK_4), ("q8_0", BLOCK_8)):

    def dequantised(launch, gpu, kind=kind) -> None:
        blocks, values = quantised(gpu, kind, 40)
        out = gpu.empty(40 * 32)
        # 32 threads to 8 blocks.
        launch(5, 32, gpu.put(blocks.view(np.uint8)), out, np.int32(40))
        near("out", out, values.reshape(-1))

    def product(launch, gpu, kind=kind) -> None:
        blocks, values = quantised(gpu, kind, 6, 8)
        y, out = gpu.normal(256), gpu.empty(6)
        launch((6, 1, 1), (32, 1, 1), gpu.put(blocks.view(np.uint8)), gpu.put(y), out, np.int32(256), np.int32(6))
        near("out", out, values.reshape(6, 256) @ exactly(y), 1e-4, 1e-3)

    def integer_product(launch, gpu, kind=kind) -> None:
        blocks, values = quantised(gpu, kind, 6, 8)
        y = np.zeros(8, [("d", F16), ("s", F16), ("q", np.int8, 32)])
        y["d"], y["q"] = np.abs(gpu.normal(8)), gpu.random.integers(-127, 128, (8, 32))
        y["s"] = y["d"].astype(F64) * y["q"].astype(F64).sum(1)
        out = gpu.empty(6)
        launch((6, 1, 1), (32, 4, 1), gpu.put(blocks.view(np.uint8)), gpu.put(y.view(np.uint8)), out, *map(np.int32, (256, 6, 256, 6)))
        want = values.reshape(6, 256) @ (y["q"].astype(F64) * y["d"].astype(F64)[:, None]).reshape(256)
        # q4_0 takes its offset from the rounded sum.
        near("out", out, want, 2e-2, 30)

    kernel("quantized", f"dequantize_block_{label}_f32", dequantised)
    kernel("quantized", f"dequantize_mul_mat_vec_{label}_cuda", product)
    kernel("quantized", f"mul_mat_vec_{label}_q8_1_cuda1", integer_product)
