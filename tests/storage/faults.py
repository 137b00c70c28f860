"""Faults of the system: a process that writes is killed, or one of its system calls fails, at any point of a run.

The process is `crash`. ``layer`` is "collection", "store" or "generations"; see there.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import bqstore

from . import crash

ROOT = Path(bqstore.__file__).parents[1]
ERRORS = {
    "pwrite64": "ENOSPC",
    "fdatasync": "EIO",
    "fsync": "EIO",
    "ftruncate": "ENOSPC",
    "rename": "EIO",
    "renameat": "EIO",
    "unlink": "EIO",
    "unlinkat": "EIO",
}
SEEDS = {"store": (5, 12), "generations": (21, 17)}  # of the operations, and how many

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def child(path: Path, seed: int, steps: int, layer: str, *before: str) -> subprocess.Popen[str]:
    """A process that writes."""
    command = [*before, sys.executable, "-m", "tests.storage.crash", str(path), str(seed), str(steps), layer]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_while_writing(path: Path, seed: int) -> int:
    """Kill -9 at a random moment, and check what is left; returns how many operations had been acknowledged."""
    rng = random.Random(seed)
    process = child(path, seed, 10**9, "collection")
    with process:
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 120))]
        for _ in range(rng.randint(0, 20_000)):  # anywhere in an operation, not just behind an answer
            pass
        process.send_signal(signal.SIGKILL)
        report = "".join(lines) + process.stdout.read()
        assert report.endswith("\n"), process.stderr.read()
    crash.check(path, seed, report)
    return report.count("done")


def run(path: Path, layer: str, inject: str = "", log: Path | str = "/dev/null") -> str:
    """Run the writer, with a fault if there is one to inject; what it reported."""
    options = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(ERRORS)}"]
    options += ["-e", f"inject={inject}"] if inject else []
    with child(path, *SEEDS[layer], layer, *options) as process:
        report, errors = process.communicate()
    if "ptrace" in errors or "PTRACE" in errors:
        pytest.skip("this system forbids strace")
    assert "Traceback" not in errors, errors
    return report


def fault_points(tmp_path: Path, layer: str) -> list[str]:
    """A kill before each system call of a run, and an error of each."""
    log = tmp_path / "calls"
    assert run(tmp_path / "whole", layer, log=log).count("done") == SEEDS[layer][1]
    calls = Counter(re.findall(r"^\d+\s+(\w+)\(", log.read_text(), re.MULTILINE))
    faults = [
        f"{name}:{fault}:when={n}"
        for name, count in calls.items()
        for n in range(1, count + 1)
        for fault in ("signal=KILL", f"error={ERRORS[name]}")
    ]
    assert len(faults) > 100
    return faults


def check_fault(path: Path, layer: str, fault: str) -> None:
    """One run with one fault: nothing acknowledged is lost, nothing is half there, and writing goes on."""
    report = run(path, layer, fault)
    seed, steps = SEEDS[layer]
    try:
        (crash.check if layer == "store" else crash.check_generations)(path, seed, report)
    except AssertionError as error:
        raise AssertionError(f"{fault}, which reported {report!r}: {error}") from error
    if "signal" not in fault:
        assert len(report.splitlines()) in (0, steps), fault  # 0: the opening was refused
    shutil.rmtree(path, ignore_errors=True)
