"""Limits of the system: descriptors. What an open collection takes, and what is said where they are used up."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.errors import StorageError

from .test_folders import as_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")


def in_use() -> set[int]:
    return {int(each.name) for each in Path("/proc/self/fd").iterdir()}


def limit(free: int) -> int:
    """The limit that leaves so many descriptors: it bounds their numbers, and other tests may hold high ones."""
    taken, number = in_use(), 0
    while free > 0 or number in taken:
        free -= number not in taken
        number += 1
    return number


def test_descriptors_of_an_open_collection(tmp_path):
    before, most = len(in_use()), 4
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(3), ["a", "b", "c"])
        assert col.search([1.0, 0.0, 0.0], 1)[0].id == "a"
        assert len(in_use()) - before <= most  # as docs/durability.md says
        with bqstore.open(tmp_path) as again:
            assert len(again) == 3 and len(in_use()) - before <= most


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("read_only", [True, False])
def test_too_few_descriptors_are_an_error_by_name_and_change_nothing(tmp_path, read_only):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(3), ["a", "b", "c"])

    def work() -> str:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        found = []
        warnings.simplefilter("ignore")  # the snapshot cannot be read, either
        for more in range(13):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit(more), hard))
            try:
                with bqstore.open(tmp_path, read_only=read_only) as col:
                    assert col.search([1.0, 0.0, 0.0], 1)[0].id == "a"
                    if not read_only:
                        col.add([[0.0, 1.0, 1.0]], [f"n{more}"])
                found.append("done")
            except StorageError as error:
                found.append("refused")
                assert str(error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with bqstore.open(tmp_path) as col:
            assert col.verify().ok
        return " ".join(found)

    found = as_child(work).split(" ")
    assert found[0] == "refused" and found[-1] == "done" and set(found) == {"refused", "done"}, found
