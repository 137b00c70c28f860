"""The planner's arithmetic and the memory of the codes."""

import mmap

import numpy as np
import pytest

from bqstore.errors import CorruptionError
from bqstore.index import Searchable, append_codes, encode, memory, nearest, new_codes, plan
from bqstore.index.planner import Plan
from bqstore.storage.format import Layout, vector_records

BASE = {"n": 10_000, "accepted": 10_000, "dim": 1536, "k": 10, "oversampling": 3.0, "rescore": True, "exact": False}


def planned(**changes):
    return plan(**{**BASE, "full_scan_threshold": 10_000, "originals": True, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Plan(False, True, 30)),
        ({"k": 10, "oversampling": 1.1}, Plan(False, True, 11)),
        ({"k": 3, "oversampling": 1.5}, Plan(False, True, 5)),
        ({"k": 7, "oversampling": 1.0}, Plan(False, True, 7)),
        ({"k": 9000, "oversampling": 3.0}, Plan(False, True, 10_000)),
        ({"oversampling": 1e300}, Plan(False, True, 10_000)),
        ({"rescore": False}, Plan(False, False, 10)),
        ({"exact": True}, Plan(True, False, 0)),
        ({"accepted": 1666}, Plan(True, False, 0)),  # 10,000 KB of 1,536 float32
        ({"accepted": 1667}, Plan(False, True, 30)),
        ({"accepted": 1, "full_scan_threshold": 0}, Plan(False, True, 30)),
        ({"accepted": 1, "originals": False}, Plan(False, False, 10)),
    ],
)
def test_the_plan(changes, expected):
    assert planned(**changes) == expected


@pytest.mark.parametrize("huge", [True, False])
def test_codes_grow_without_moving_what_is_published(huge, monkeypatch):
    if not huge:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30_000, 700)).astype(np.float32)
    words, n, published = new_codes(700), 0, []
    for piece in np.array_split(vectors, 17):
        words = append_codes(words, n, encode(piece))
        n += len(piece)
        published.append((words, n))
    expected = np.packbits(vectors > 0, axis=1, bitorder="little")
    for words, n in published:
        assert words.flags.c_contiguous and words.dtype == np.uint64
        assert (words[:n].view(np.uint8)[:, : expected.shape[1]] == expected[:n]).all()


def test_memory_without_huge_pages_is_the_same_memory(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *_):
            raise OSError("not built in")

    monkeypatch.setattr(memory.mmap, "mmap", Refusing)
    words = memory.allocate_words(400_000, 1)
    assert words.shape == (400_000, 1) and not words.any()
    words[:] = 7
    assert words.sum() == 2_800_000


def test_a_damaged_record_is_an_error_and_not_a_hit():
    vectors = np.random.default_rng(0).standard_normal((100, 70)).astype(np.float32)
    records = vector_records(Layout("vectors", 70, 0), np.arange(100), vectors)
    records[42, 20] ^= 1
    records.flags.writeable = False
    data = Searchable(append_codes(new_codes(70), 0, encode(vectors)), records, 100, 70, 0, 0)
    query = vectors[42:43] / np.linalg.norm(vectors[42])
    for way in (Plan(True, False, 0), Plan(False, True, 10)):
        with pytest.raises(CorruptionError, match="slot 42"):
            nearest(query, data, None, 5, way, 1, None)
    ordinals, _ = nearest(query, data, None, 5, Plan(False, False, 5), 1, None)
    assert ordinals[0, 0] == 42  # the codes alone do not touch it
