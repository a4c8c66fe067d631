"""CUDA C++ to PTX by nvcc, once for all rows that need it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess

ARCHITECTURES = {"a100": "80", "rtx4090": "89", "h100": "90a", "h200": "90a", "b200": "100a", "rtx5090": "120a"}


def architecture() -> str:
    return ARCHITECTURES[os.environ["PTXSIM_DEVICE"]]


def nvcc(source: str, *options: str, text: str | None = None) -> bytes:
    """PTX of a file for the row's card; of `text`, if given, which is kept under the name `source`."""
    with open(compiled(".ptx", ["-ptx", f"-arch=sm_{architecture()}", *options], source, text), "rb") as file:
        return file.read()


def program(source: str, *options: str, text: str) -> str:
    """The program that `text` is, linked with the driver."""
    virtual = f"compute_{architecture()}"
    link = [f"-gencode=arch={virtual},code={virtual}", "-L", os.environ["LD_LIBRARY_PATH"], "-lcuda"]
    toolkit = os.path.join(os.path.dirname(os.path.dirname(os.environ.get("NVCC", ""))), "lib")
    return compiled("", [*link, "-L", toolkit, *options], source, text)


def compiled(ending: str, options: list[str], source: str, text: str | None) -> str:
    compiler = os.environ.get("NVCC")
    if not compiler:
        raise RuntimeError("no CUDA compiler; run `cargo xtask setup`, or set NVCC")
    folder = os.path.join(os.environ["PEERS_WORK"], "cache", "nvcc")
    os.makedirs(folder, exist_ok=True)
    command = [compiler, "-std=c++17", "--expt-relaxed-constexpr", *options]
    key = hashlib.sha256("\0".join([*command, source, text or ""]).encode()).hexdigest()[:16]
    name = os.path.splitext(os.path.basename(source))[0]
    out = os.path.join(folder, f"{name}-{key}{ending}")
    with open(out + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(out + ".errors"):
            with open(out + ".errors") as file:
                raise RuntimeError(file.read())
        if not os.path.exists(out):
            if text is not None:
                source = os.path.join(folder, f"{name}-{key}.cu")
                with open(source, "w") as file:
                    file.write(text)
            done = subprocess.run([*command, "-o", out + ".part", source], capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line]
                message = f"nvcc: {' '.join(errors[:3])[:600] or done.stderr[-600:]}"
                with open(out + ".errors", "w") as file:
                    file.write(message)
                raise RuntimeError(message)
            os.rename(out + ".part", out)
    return out
