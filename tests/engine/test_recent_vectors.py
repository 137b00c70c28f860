"""Vectors held for trials of walks where no originals are kept: as many as are wanted, and the right ones."""

import numpy as np
import pytest

from bqstore.engine import recent_vectors
from bqstore.engine.recent_vectors import RecentVectors


def numbered(start, n):
    """Vectors that say which slot they are of."""
    return np.arange(start, start + n, dtype=np.float32)[:, None] * np.ones(3, np.float32)


def check(held, generation=1):
    slots = held.slots(generation)
    assert (np.diff(slots) > 0).all()
    if len(slots):
        np.testing.assert_array_equal(held.read(slots[::2])[:, 2], slots[::2])
    return slots.tolist()


def test_what_is_linked_is_let_go_of():
    held = RecentVectors()
    assert check(held) == []
    for start in (10, 14, 18):
        held.take(numbered(start, 4), start, 1)
    assert check(held) == list(range(10, 22))
    held.forget(14)
    assert check(held) == list(range(14, 22))
    held.forget(20)  # a part of what came together
    assert check(held) == [18, 19, 20, 21]
    assert check(held, 2) == []
    held.forget(22)
    assert check(held) == []
    held.take(numbered(22, 2), 22, 1)
    held.take(numbered(0, 2), 0, 2)  # of a new generation
    assert check(held, 2) == [0, 1] and check(held) == []


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_many_vectors_that_wait_for_the_kernels_take_bounded_memory(step, monkeypatch):
    monkeypatch.setattr(recent_vectors, "MOST", 50)
    held = RecentVectors()
    for start in range(0, 3000, step):
        given = numbered(start, step)
        held.take(given, start, 1)
        given[:] = -1  # they are copies
        slots = check(held)
        assert len(slots) <= 100 and slots[-1] >= start - 60
    assert len(slots) >= 50
    assert slots[0] < 1000
    for linked in range(0, 3200, 100):
        held.forget(linked)
        check(held)
    assert check(held) == []
