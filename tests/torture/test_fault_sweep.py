"""Every call to the system, with every error it can give, in every operation: done, refused, or poisoned.

`faults/table.py` is the table: a row a call and error. A fault that was refused has changed nothing, and the collection
goes on; one that poisons says so until it is reopened, and leaves the commit before or the one after.
"""

import os
import platform
import re
import subprocess
import sys
from collections import Counter

import pytest

from ..storage.faults import ROOT, needs_strace
from .faults.table import ALL, ERRORS

pytestmark = pytest.mark.torture
SAMPLES = 9  # of the calls of an operation, the first and the last among them


@needs_strace
@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the numbers of this machine's calls")
@pytest.mark.parametrize(("name", "error"), [(name, error) for name, errors in ERRORS.items() for error in errors])
def test_a_fault_of_every_call(tmp_path, name, error):
    run = subprocess.run(
        [sys.executable, "-m", "tests.torture.faults.sweep", str(tmp_path), ",".join(ALL), name, error, str(SAMPLES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BQSTORE_COMPILE": "foreground"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "PTRACE" in run.stderr:
        pytest.skip("this system forbids strace")
    assert run.returncode == 0, run.stderr
    assert "WRONG" not in run.stdout, run.stdout
    lines = run.stdout.splitlines()
    assert [line.split(" ")[0] for line in lines if name in line.split(" ")[1:2]] == list(ALL)
    outcomes = Counter(re.findall(r"^\d+ (done|refused|poisoned)", run.stdout, re.MULTILINE))
    print(f"{name} {error}: {dict(outcomes)}")
