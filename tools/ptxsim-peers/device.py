"""The driver API as far as a kernel's test needs it, by ctypes, and arrays in a card's memory."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p

import numpy as np


class CudaError(Exception):
    pass


class Array:
    """An array on the card; looks enough like a tensor for Triton's launcher."""

    def __init__(self, gpu: Gpu, shape, dtype) -> None:
        self.gpu, self.shape, self.dtype = gpu, tuple(np.atleast_1d(shape).tolist()), np.dtype(dtype)
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize
        address = c_uint64()
        gpu.call("cuMemAlloc_v2", byref(address), c_size_t(max(self.nbytes, 1)))
        self.address = address.value

    def data_ptr(self) -> int:
        return self.address

    def stride(self, axis: int | None = None):
        strides = [int(np.prod(self.shape[i + 1:])) for i in range(len(self.shape))]
        return strides if axis is None else strides[axis]

    def get(self) -> np.ndarray:
        host = np.empty(self.shape, self.dtype)
        self.gpu.call("cuCtxSynchronize")
        self.gpu.call("cuMemcpyDtoH_v2", host.ctypes.data_as(c_void_p), c_uint64(self.address), c_size_t(self.nbytes))
        return host


class Gpu:
    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(context), 0)
        self.call("cuCtxSetCurrent", context)
        self.random = np.random.default_rng(1)

    def call(self, name: str, *arguments) -> None:
        code = getattr(self.cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.cuda.cuGetErrorName(code, byref(text))
            raise CudaError(f"{name}: {(text.value or b'?').decode()}")

    def empty(self, shape, dtype=np.float32) -> Array:
        """Memory that nothing has written: what reads it before the kernel wrote it is found."""
        return Array(self, shape, dtype)

    def put(self, host, dtype=None) -> Array:
        host = np.ascontiguousarray(host, dtype)
        array = Array(self, host.shape, host.dtype)
        if array.nbytes:
            self.call("cuMemcpyHtoD_v2", c_uint64(array.address), host.ctypes.data_as(c_void_p), c_size_t(array.nbytes))
        return array

    def zeros(self, shape, dtype=np.float32) -> Array:
        return self.put(np.zeros(shape, dtype))

    def normal(self, *shape, dtype=np.float32, scale: float = 1.0) -> np.ndarray:
        return (self.random.standard_normal(shape) * scale).astype(dtype)

    def integers(self, low: int, high: int, *shape, dtype=np.int32) -> np.ndarray:
        return self.random.integers(low, high, shape).astype(dtype)

    def capability(self) -> tuple[int, int]:
        found = []
        for attribute in (75, 76):
            value = c_int()
            self.call("cuDeviceGetAttribute", byref(value), attribute, 0)
            found.append(value.value)
        return found[0], found[1]

    def module(self, ptx: str | bytes) -> Module:
        return Module(self, ptx.encode() if isinstance(ptx, str) else ptx)


class Module:
    def __init__(self, gpu: Gpu, ptx: bytes) -> None:
        self.gpu, self.handle = gpu, c_void_p()
        gpu.call("cuModuleLoadData", byref(self.handle), ctypes.c_char_p(ptx))

    def launch(self, name: str, grid, block, *arguments, shared: int = 0, cluster=None, cooperative: bool = False) -> None:
        """Arguments: arrays, NumPy scalars (their size is the parameter's), or bytes for a struct."""
        gpu, function = self.gpu, c_void_p()
        gpu.call("cuModuleGetFunction", byref(function), self.handle, name.encode())
        if shared > 48 * 1024:
            gpu.call("cuFuncSetAttribute", function, 8, shared)
        values = [np.uint64(a.address) if isinstance(a, Array) else a for a in arguments]
        kept = [ctypes.create_string_buffer(v if isinstance(v, bytes) else v.tobytes()) for v in values]
        pointers = (c_void_p * len(kept))(*[ctypes.addressof(k) for k in kept])
        grid, block = ((*np.atleast_1d(d).tolist(), 1, 1)[:3] for d in (grid, block))
        # CUlaunchAttribute: an id, 4 bytes of padding, a union of 64 bytes.
        attributes = np.zeros((2, 18), np.uint32)
        count = 0
        if cluster is not None:
            attributes[count, [0, 2, 3, 4]] = (4, *cluster)  # CLUSTER_DIMENSION
            count += 1
        if cooperative:
            attributes[count, [0, 2]] = (2, 1)  # COOPERATIVE
            count += 1

        class Config(ctypes.Structure):
            _fields_ = [("dims", c_uint * 6), ("shared", c_uint), ("stream", c_void_p), ("attributes", c_void_p), ("count", c_uint)]

        config = Config((c_uint * 6)(*grid, *block), shared, None, attributes.ctypes.data, count)
        gpu.call("cuLaunchKernelEx", byref(config), function, pointers, None)
        gpu.call("cuCtxSynchronize")
