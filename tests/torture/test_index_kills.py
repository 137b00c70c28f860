"""Documents and records of LangChain's `index()`: killed at every call that changes the disk, they end as one."""

import os
import platform
import subprocess
import sys

import pytest

from ..storage.faults import ROOT, needs_strace

pytestmark = pytest.mark.torture


@needs_strace
@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the numbers of this machine's calls")
@pytest.mark.parametrize("cleanup", ["incremental", "full", "scoped_full"])
@pytest.mark.parametrize("name", ["pwrite64", "fdatasync", "ftruncate"])
def test_a_kill_at_every_call(tmp_path, name, cleanup):
    run = subprocess.run(
        [sys.executable, "-m", "tests.torture.index_kills", str(tmp_path), name, cleanup],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'integrations'}", "BQSTORE_COMPILE": "foreground"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "PTRACE" in run.stderr:
        pytest.skip("this system forbids strace")
    assert run.returncode == 0, run.stderr
    assert "WRONG" not in run.stdout, run.stdout
    calls, killed = int(run.stdout.split()[2]), run.stdout.count("killed")
    # each is followed by three runs; documents, times, and the deletion with its records are three commits, of 8 syncs
    assert killed == 3 * calls and calls > {"ftruncate": 0, "fdatasync": 7}.get(name, 10), run.stdout
