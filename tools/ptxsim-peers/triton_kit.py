"""Triton's own compiler and launcher on the virtual card: only its last step, ptxas, is left out, so that the driver is given PTX."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

import torch_stub

torch_stub.install("torch", "transformers", "einops", "datasets", "torchvision", "torch_npu")
sys.modules.pop("torch", None)

os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"
os.environ["TRITON_CACHE_DIR"] = os.path.join(os.environ["PEERS_WORK"], "cache", "triton")

import triton  # noqa: E402
from triton.backends.nvidia import compiler  # noqa: E402
from triton.backends.nvidia.compiler import CUDABackend  # noqa: E402
from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

import rows  # noqa: E402


# What PyPI calls a package that is imported by another name.
DISTRIBUTIONS = {"fla": "fla-core", "liger_kernel": "liger-kernel", "flag_gems": "flag-gems", "conch": "conch-triton-kernels",
                 "cut_cross_entropy": "cut-cross-entropy", "triton_kernels": "triton-kernels"}


def keep_ptx(_self, ptx, _metadata, _options, _capability) -> bytes:
    return ptx.encode() + b"\0"


CUDABackend.make_cubin = keep_ptx
# The PTX of CUDA 13.0, which the virtual card goes with.
compiler.get_ptx_version_from_options = lambda _options, _architecture: 90


class Driver(CudaDriver):
    """The driver without PyTorch's idea of devices and streams, which is there only as a stub."""

    def __init__(self) -> None:
        self.utils, self.launcher_cls = CudaUtils(), CudaLauncher
        self.get_device_capability = self._get_device_capability
        self.get_current_stream = self._get_current_stream
        self.get_current_device = self._get_current_device
        self.set_current_device = self._set_current_device


def use_driver() -> None:
    triton.runtime.driver.set_active(Driver())


def without_init(package: str, *more: str) -> None:
    """Lets modules of `package` be imported without what its __init__, and those of `more`, import."""
    top = importlib.util.find_spec(package).submodule_search_locations[0]
    for name in (package, *more):
        torch_stub.bare(name, os.path.join(top, *name.split(".")[1:]))


def unwrapped(kernel):
    """The kernel without its search for the best configuration: tests name all constants themselves."""
    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    return kernel


def triton_row(place: str, cards=rows.ONE, variant: str = ""):
    """`place` is module:kernel; the test gets the kernel and the card."""

    def decorate(test):
        module, _, name = place.partition(":")
        package = module.split(".")[0]

        def run(gpu) -> None:
            use_driver()
            found = getattr(importlib.import_module(module), name)
            test(unwrapped(found), gpu)

        rows.row(DISTRIBUTIONS.get(package, package), f"{place} {variant}".strip(), run, cards)
        return test

    return decorate
