"""cudarc, as Cargo.lock pins it: its own tests of the driver's API and of kernels that NVRTC compiles, each in a process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import rows
from sources import cudarc_tests

PROGRAM, VERSION = cudarc_tests(Path(os.environ["PEERS_WORK"]))
LEFT_OUT = {
    # They compare how long things take.
    "test_default_pinned_host_reads_are_faster_than_write_combined", "test_pinned_copy_is_faster", "test_par_launch",
    "test_multi_stream_concurrent_reads",
    # For compute_53, which NVRTC 13 no longer compiles for.
    "test_launch_with_half",
}


def run(name: str) -> None:
    libraries = os.path.join(*importlib.util.find_spec("nvidia.cu13").submodule_search_locations, "lib")
    environment = {**os.environ, "PTXSIM_DEVICES": "2", "LD_LIBRARY_PATH": f"{os.environ['LD_LIBRARY_PATH']}:{libraries}"}
    # Those that want several cards, or a process of their own, are ignored otherwise.
    command = [PROGRAM, name, "--exact", "--include-ignored", "--nocapture"]
    said = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(said.stdout, flush=True)
    if said.returncode or "1 passed" not in said.stdout:
        panics = re.findall(r"panicked at [^\n]*\n[^\n]*", said.stdout)
        raise RuntimeError(panics[0] if panics else f"it ended with {said.returncode}")


listed = subprocess.run([PROGRAM, "--list"], text=True, capture_output=True, check=True).stdout
for test in re.findall(r"^(driver::\S+): test$", listed, re.MULTILINE):
    if test.rpartition("::")[2] not in LEFT_OUT:
        rows.row("cudarc", f"its {test}", lambda _, test=test: run(test), version=VERSION)
