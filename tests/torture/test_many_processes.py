"""Many processes write and read in one folder, and are killed: nothing is lost, no read is mixed or goes back."""

import os

import pytest

from tests.conftest import FULL

from .many_processes import run

SECONDS = float(os.environ.get("BQSTORE_TORTURE_SECONDS", "60"))  # half an hour before a release


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["plain", "upkeep", "exclusive"])
def test_sixteen_processes(tmp_path, kind):
    figures = run(tmp_path, SECONDS, 16, kind)
    print(kind, figures)
    assert figures["commits"] > SECONDS and figures["kills"] > SECONDS / 10


@pytest.mark.skipif(FULL, reason="`make torture` runs it longer, and with more processes")
@pytest.mark.parametrize("kind", ["upkeep", pytest.param("plain", marks=pytest.mark.slow)])
def test_three_processes_for_a_moment(tmp_path, kind):
    figures = run(tmp_path, 6, 3, kind, killed_every=1.5)
    assert figures["commits"] > 0 and figures["reads"] > 0 and figures["kills"] > 0
