"""Crates that Cargo.lock pins, where cargo keeps them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

CARGO = os.environ.get("CARGO", "cargo")
ROOT = Path(__file__).resolve().parents[2]


def crate(name: str) -> tuple[Path, str]:
    """Its folder and version."""
    for package in packages():
        if package["name"] == name:
            return Path(package["manifest_path"]).parent, package["version"]
    raise LookupError(f"cargo metadata names no {name}")


@functools.cache
def packages() -> list[dict]:
    command = [CARGO, "metadata", "--format-version", "1", "--locked", "--all-features"]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)["packages"]


def cudarc_tests(work: Path) -> tuple[str, str]:
    """Builds cudarc's own tests in `work`; the program, and cudarc's version."""
    source, version = crate("cudarc")
    copy = work / f"cudarc-{version}"
    if not copy.exists():
        part = work / "cudarc-part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        with open(part / "Cargo.toml", "a") as manifest:
            # It is no member of the workspace that it lies in now.
            manifest.write("\n[workspace]\n")
        part.rename(copy)
    command = [CARGO, "test", "--lib", "--no-run", "--locked", "--message-format", "json", "--no-default-features"]
    command += ["--features", "std,driver,nvrtc,f16,cuda-13000,dynamic-loading"]
    environment = os.environ | {"CARGO_TARGET_DIR": str(work / "cudarc-target")}
    told = subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    programs = [message["executable"] for message in messages if message.get("executable")]
    if not programs:
        raise LookupError("cargo names no program of cudarc's tests")
    return programs[-1], version
