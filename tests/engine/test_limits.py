"""Limits of the system: descriptors, address space. What a collection takes, and what is said where it is used up."""

import ctypes
import resource
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.errors import BqstoreError, StorageError

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


class Other:
    model = "other"

    def embed(self, texts):
        return np.ones((len(texts), 4096), np.float32) * np.array([[len(text)] for text in texts]) + np.eye(4096)[0]

    def embed_query(self, text):
        return self.embed([text])[0]


def given(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 4096), np.float32)


SOME = [f"d{i}" for i in range(30, 270)]
CALLS = {
    "compact": lambda col, to: col.compact(),
    "update": lambda col, to: col.update(SOME, vectors=given(240, 1), texts=["t" * 20_000] * 240),
    "update_metadata": lambda col, to: col.update_metadata(SOME, {"new": "m" * 5000}),
    "delete": lambda col, to: col.delete(filter={"n": {"$lt": 100}}),
    "flush": lambda col, to: col.flush(),
    "requantize": lambda col, to: col.requantize(encoding="two_bits"),
    "backup": lambda col, to: col.backup(to),
    "reembed": lambda col, to: col.reembed(Other()),
}


def whole(col: bqstore.Collection) -> tuple:
    """What is in it, and how it is kept."""
    rows = {row.id: (row.text, row.metadata, row.vector.tobytes()) for row in col.scroll(batch=50, with_vectors=True)}
    about = col.info()
    return rows, about.deleted, about.quantization, about.embedding_model


@pytest.fixture(scope="module")
def bulky(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bulky") / "store"
    with bqstore.open(path, search={"hnsw_ef": 16}, embedding_model="first") as col:
        texts = [f"{i} " * 4000 for i in range(300)]
        col.add(given(300, 0), [f"d{i}" for i in range(300)], texts, [{"n": i} for i in range(300)])
        col.delete([f"d{i}" for i in range(20)])
    return path


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CALLS)
def test_without_address_space_a_call_is_refused_by_name_and_nothing_is_changed(tmp_path, bulky, name):
    """RLIMIT_AS: `compact` and `requantize` had committed what could not be searched, and raised."""
    work, to = tmp_path / "store", tmp_path / "copy"

    def one(more: int) -> str:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(bulky, work)
        warnings.simplefilter("ignore")
        with bqstore.open(work, threads=1) as col:
            col.search(given(1, 5)[0])
            ctypes.CDLL(None).malloc_trim(0)
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (taken + (more << 20), hard))
            outcome = "done"
            try:
                CALLS[name](col, to)
            except (BqstoreError, MemoryError):
                outcome = "refused"
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            found = whole(col)
        with bqstore.open(work) as col:
            assert whole(col) == found and col.verify().ok
        if (to / "default").exists():
            with bqstore.open(to, read_only=True) as copy:
                assert whole(copy)[0] == found[0]
        assert (found == before) == (outcome == "refused" or name in ("flush", "backup")), outcome
        return outcome

    with bqstore.open(bulky, read_only=True) as col:
        before = whole(col)
    outcomes = [as_child(lambda more=more: one(more)) for more in (256, 10, 0)]
    assert outcomes[0] == "done" and set(outcomes) <= {"done", "refused"}, outcomes
