"""Snapshots, compactions and recodings under faults of the system: nothing acknowledged is lost, nothing half there."""

import random
import re
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from ..engine.test_durability import WRITES, child, fault_points, needs_strace
from . import crash

SEED, STEPS = 21, 17


def run(path: Path, inject: str, log: Path | str = "/dev/null") -> str:
    """Run the writer with a fault at a call; what it said."""
    options = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(WRITES)}"]
    options += ["-e", f"inject={inject}"] if inject else []
    with child(path, SEED, STEPS, "upkeep", *options) as process:
        report, errors = process.communicate()
    if "ptrace" in errors or "PTRACE" in errors:
        pytest.skip("this system forbids strace")
    assert "Traceback" not in errors, errors
    return report


def upkeep_faults(tmp_path: Path) -> list[str]:
    """A kill and an error at every call of a run."""
    log = tmp_path / "calls"
    assert run(tmp_path / "whole", "", log).count("done") == STEPS
    return fault_points(Counter(re.findall(r"^\d+\s+(\w+)\(", log.read_text(), re.MULTILINE)))


def check_upkeep_fault(path: Path, fault: str) -> None:
    """One run with one fault."""
    report = run(path, fault)
    try:
        crash.check_upkeep(path, SEED, report)
    except AssertionError as error:
        raise AssertionError(f"{fault}, which said {report!r}: {error}") from error
    if "signal" not in fault:
        assert len(report.splitlines()) in (0, STEPS), fault  # 0: the opening was refused
    shutil.rmtree(path, ignore_errors=True)


def test_the_run_has_all_in_it():
    kinds = [kind for kind, _ in islice(crash.with_upkeep(crash.operations(SEED)), STEPS)]
    assert kinds.count("snapshot") >= 2 and kinds.count("recode") >= 2 and {"compact", "delete"} <= set(kinds)


@needs_strace
def test_a_fault_at_any_call_of_a_snapshot_a_compaction_or_a_recoding_loses_nothing(tmp_path):
    points = upkeep_faults(tmp_path)
    assert len(points) > 150
    for fault in random.Random(1).sample(points, 10):
        check_upkeep_fault(tmp_path / "one", fault)
