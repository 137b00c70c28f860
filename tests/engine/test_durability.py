"""What was acknowledged is there: after a kill at any moment, at any call to the system, and after the disk refused."""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import StorageError
from bqstore.storage import platform
from bqstore.storage.files import DiskFile
from tests.conftest import FULL

from ..storage import crash

ROOT = Path(bqstore.__file__).parents[1]
WRITES = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "renameat", "unlink", "unlinkat")
STEPS = 12
SEED = 5

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def child(path: Path, seed: int, steps: int, layer: str, *before: str) -> subprocess.Popen[str]:
    """A process that writes; see `crash`."""
    command = [*before, sys.executable, "-m", "tests.storage.crash", str(path), str(seed), str(steps), layer]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_while_writing(path: Path, seed: int) -> int:
    """Kill -9 at a moment of its own choosing; returns how many operations had been acknowledged."""
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


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path, seed):
    assert kill_while_writing(tmp_path, seed) >= 1


def strace(path: Path, inject: str, log: Path | str = "/dev/null", steps: int = STEPS) -> str:
    """Run the writer with a fault at a call; what it said."""
    options = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(WRITES)}"]
    options += ["-e", f"inject={inject}"] if inject else []
    with child(path, SEED, steps, "store", *options) as process:
        report, errors = process.communicate()
    if "ptrace" in errors or "PTRACE" in errors:
        pytest.skip("this system forbids strace")
    assert "Traceback" not in errors, errors
    return report


def calls_of_a_run(tmp_path: Path) -> Counter:
    """How often each call is made."""
    log = tmp_path / "calls"
    report = strace(tmp_path / "whole", "", log)
    assert report.count("done") == STEPS
    return Counter(re.findall(r"^\d+\s+(\w+)\(", log.read_text(), re.MULTILINE))


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


def fault_points(calls: Counter) -> list[str]:
    """A kill before each call, and an error of each."""
    kills = [f"{name}:signal=KILL:when={n}" for name, count in calls.items() for n in range(1, count + 1)]
    errors = [f"{name}:error={ERRORS[name]}:when={n}" for name, count in calls.items() for n in range(1, count + 1)]
    return kills + errors


def check_fault(path: Path, fault: str) -> None:
    """One run with one fault."""
    report = strace(path, fault)
    try:
        crash.check(path, SEED, report)
    except AssertionError as error:
        raise AssertionError(f"{fault}, which said {report!r}: {error}") from error
    if "signal" not in fault:
        assert len(report.splitlines()) in (0, STEPS), fault  # 0: the opening was refused
    shutil.rmtree(path, ignore_errors=True)


@needs_strace
def test_a_fault_at_any_call_to_the_system_loses_nothing(tmp_path):
    points = fault_points(calls_of_a_run(tmp_path))
    assert len(points) > 100
    making = [f"pwrite64:signal=KILL:when={n}" for n in range(2, 6)]  # of meta.db: it left a journal to roll back
    for fault in [*making, *random.Random(0).sample(points, 14 if FULL else 2)]:
        check_fault(tmp_path / "one", fault)


# ---- the disk refuses, seen from inside


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8)).astype(np.float32)


def fails(number: int):
    """A function that the system answers with an error."""

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_failed_sync_poisons_the_writer_until_reopened(tmp_path, monkeypatch):
    """After a failed fsync the pages count as clean: a second one succeeds and proves nothing."""
    with bqstore.open(tmp_path) as col:
        col.add(vectors(3), ["a", "b", "c"])
        with monkeypatch.context() as patch:
            patch.setattr(platform, "sync_file", fails(errno.EIO))
            with pytest.raises(StorageError, match="could not be synced"):
                col.add(vectors(1, 1), ["d"])
        for write in (
            lambda: col.add(vectors(1, 1), ["d"]),
            lambda: col.delete(["a"]),
            lambda: col.update_metadata(["a"], {"x": 1}),
            col.clear,
        ):
            with pytest.raises(StorageError, match="open it again"):
                write()
        assert len(col.search(vectors(1)[0], 5)) == 3  # reading goes on
    with bqstore.open(tmp_path) as col:
        assert [r.id for r in col.scroll()] == ["a", "b", "c"]
        col.add(vectors(1, 1), ["d"])
        assert col.verify().ok and len(col) == 4


def test_a_full_disk_adds_nothing_and_stops_nothing(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        for round_ in range(2):  # the first has the files made, too
            with monkeypatch.context() as patch:
                patch.setattr(DiskFile, "_pwrite", fails(errno.ENOSPC))
                with pytest.raises(StorageError) as caught:
                    col.add(vectors(3), ["a", "b", "c"])
            assert caught.value.errno == errno.ENOSPC and len(col) == 2 * round_
            assert col.verify().ok
            col.add(vectors(2), ["d", "e"])
            assert len(col) == 2 and len(col.search(vectors(1)[0], 5)) == 2
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok and len(col) == 2


def test_a_failed_commit_poisons_the_writer(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(vectors(3), ["a", "b", "c"])
        main = col._engine.store.catalogue._main

        class Failing:
            """A connection whose COMMIT meets a failing disk."""

            def execute(self, statement, *rest):
                if statement == "COMMIT":
                    import sqlite3

                    raise sqlite3.OperationalError("disk I/O error")
                return main.execute(statement, *rest)

            def __getattr__(self, name):
                return getattr(main, name)

        col._engine.store.catalogue._main = Failing()
        with pytest.raises(StorageError, match="disk I/O error"):
            col.delete(["a"])
        col._engine.store.catalogue._main = main
        with pytest.raises(StorageError, match="open it again"):
            col.delete(["a"])
        assert len(col) == 3 and "a" in col
    with bqstore.open(tmp_path) as col:
        assert len(col) == 3 and col.delete(["a"]) == 1


def small_disk(tmp_path: Path, size: str) -> Path:
    """A file system that is soon full."""
    path = tmp_path / "disk"
    path.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False, capture_output=True
    )
    if run.returncode:
        pytest.skip("this system forbids mounting")
    return path


@pytest.mark.parametrize("originals", ["float32", "none"])
def test_a_disk_that_is_really_full(tmp_path, originals):
    disk = small_disk(tmp_path, "400k")
    try:
        acknowledged: list[str] = []
        with bqstore.open(disk, originals=originals) as col:
            with pytest.raises(StorageError, match=r"full|No space"):
                for _ in range(10_000):
                    acknowledged += col.add(vectors(5), texts=["y" * 500] * 5)
            assert len(col) == len(acknowledged) > 50
            assert len(col.search(vectors(1)[0], 3)) == 3
        with bqstore.open(disk, read_only=True) as col:
            assert [r.id for r in col.scroll()] == acknowledged
        with pytest.raises(StorageError, match=r"full|No space"), bqstore.open(disk) as col:
            assert [r.id for r in col.scroll()] == acknowledged
            for _ in range(1000):
                acknowledged += col.add(vectors(5), texts=["y" * 500] * 5)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        with bqstore.open(disk) as col:
            acknowledged += col.add(vectors(5))
            assert [r.id for r in col.scroll()] == acknowledged and col.verify().ok
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
