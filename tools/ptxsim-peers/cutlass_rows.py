"""CUTLASS: products of its own collectives (cutlass.cu), launched with the parameters that its own host code makes."""

from __future__ import annotations

import os
import re
import subprocess

import ml_dtypes
import numpy as np

import cutlass_library
import rows
from rows import near
from toolchain import nvcc, program

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(os.path.dirname(cutlass_library.__file__), "source")
OPTIONS = ["-I", f"{SOURCE}/include", "-I", f"{SOURCE}/tools/util/include", "-DCUTLASS_ENABLE_DIRECT_CUDA_DRIVER_CALL=1"]
ELEMENTS = {"half_t": np.float16, "bfloat16_t": ml_dtypes.bfloat16}


def gemm(label: str, card: str, element: str, **macros) -> None:
    def run(gpu) -> None:
        options = [*OPTIONS, f"-DELEMENT=cutlass::{element}", *(f"-D{name}={value}" for name, value in macros.items())]
        with open(os.path.join(HERE, "cutlass.cu")) as file:
            text = file.read()
        ptx = nvcc("cutlass.cu", *options, text=text)
        m, n, k = 256, 256, 320
        a, b = gpu.normal(m, k, dtype=ELEMENTS[element]), gpu.normal(n, k, dtype=ELEMENTS[element])
        c, d = gpu.normal(m, n), gpu.empty((m, n))
        places = [gpu.put(a), gpu.put(b), gpu.put(c), d]
        words = [m, n, k, *(place.address for place in places)]
        said = subprocess.run([program("cutlass.cu", *options, text=text), *map(str, words)], capture_output=True, text=True)
        if said.returncode:
            raise RuntimeError(f"the host program ended with {said.returncode}: {said.stderr[-300:]}")
        *sizes, parameters = said.stdout.split()
        x, y, z, threads, shared = map(int, sizes)
        entry = re.search(r"\.entry (\w+)", ptx.decode())[1]
        cluster = (macros["CLUSTER_M"], macros["CLUSTER_N"], 1) if "CLUSTER_M" in macros else None
        gpu.module(ptx).launch(entry, (x, y, z), threads, bytes.fromhex(parameters), shared=shared, cluster=cluster)
        near("d", d, a.astype(float) @ b.astype(float).T + c.astype(float) / 2, 1e-3, 1e-2)

    rows.row("nvidia-cutlass", f"GEMM {label}", run, (card,))


gemm("TMA, wgmma, warp-specialised, cluster 2x1", "h200", "half_t", HOPPER=1, TILE_M=64, TILE_N=128, CLUSTER_M=2, CLUSTER_N=1,
     SCHEDULE="KernelTmaWarpSpecialized", EPILOGUE="TmaWarpSpecialized")
gemm("TMA, wgmma, pingpong, cluster 1x2", "h200", "bfloat16_t", HOPPER=1, TILE_M=64, TILE_N=64, CLUSTER_M=1, CLUSTER_N=2,
     SCHEDULE="KernelTmaWarpSpecializedPingpong", EPILOGUE="TmaWarpSpecialized")
gemm("cp.async, mma, 3 stages", "a100", "half_t", TILE_M=64, TILE_N=64, STAGES=3)
gemm("TMA, wgmma, warp-specialised, cluster 4x1", "h200", "bfloat16_t", HOPPER=1, TILE_M=64, TILE_N=64, CLUSTER_M=4, CLUSTER_N=1,
     SCHEDULE="KernelTmaWarpSpecialized", EPILOGUE="TmaWarpSpecialized")
gemm("TMA, wgmma, cooperative, cluster 2x2", "h200", "half_t", HOPPER=1, TILE_M=128, TILE_N=128, CLUSTER_M=2, CLUSTER_N=2,
     SCHEDULE="KernelTmaWarpSpecializedCooperative", EPILOGUE="TmaWarpSpecializedCooperative")
gemm("cp.async, wgmma, warp-specialised", "h200", "half_t", HOPPER=1, TILE_M=64, TILE_N=128, CLUSTER_M=1, CLUSTER_N=1,
     SCHEDULE="KernelCpAsyncWarpSpecialized", EPILOGUE="NoSmemWarpSpecialized")
gemm("TMA, wgmma, one warpgroup", "h200", "half_t", HOPPER=1, TILE_M=64, TILE_N=128, CLUSTER_M=1, CLUSTER_N=1,
     SCHEDULE="KernelTma", EPILOGUE="NoSmemWarpSpecialized")
