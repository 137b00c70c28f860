"""Scratch memory for walks: one set of arrays for each that runs, kept for the next. Knows sizes, nothing else."""

from typing import NamedTuple

import numpy as np

from ..kernels.layout import Scratch

_KINDS = 8  # of sets that are kept: settings in use at a time, and a collection that has just grown


class Sizes(NamedTuple):
    """What a walk needs.

    ``n`` : ordinals that can be met. ``words`` : of a plane of a code. ``dim`` : of a query. ``m`` : of the graph.
    ``room`` : nodes in the beam. ``candidates``, ``k`` : as in the search.
    """

    n: int
    words: int
    dim: int
    m: int
    room: int
    candidates: int
    k: int


class ScratchPool:
    """Free sets, by their sizes. A walk pops one off its list, or makes one, and appends it at its end.

    Both are atomic, so any number of threads may do so at once; each list grows to as many sets as ever ran together.
    """

    def __init__(self) -> None:
        self._free: dict[Sizes, list[Scratch]] = {}

    def free(self, sizes: Sizes) -> list[Scratch]:
        """The list of free sets of these sizes."""
        free = self._free.get(sizes)
        if free is None:
            kept = list(self._free.items())[1 - _KINDS :]
            free = []
            self._free = {**dict(kept), sizes: free}
        return free


def make_scratch(sizes: Sizes) -> Scratch:
    """A new set, in its first epoch."""
    n, words, dim, m, room, candidates, k = sizes
    return Scratch(
        visited=np.zeros(n, np.uint8),
        keys=np.empty(room + 8, np.int64),
        rows=np.empty(8 * m, np.int32),
        distances=np.empty(8 * m, np.int32),
        found=np.empty(candidates, np.int32),
        reach=np.empty(candidates, np.float32),
        best=np.empty((1, k), np.int64),
        query=np.zeros((1, dim), np.float32),
        turned=np.zeros(64 * words, np.float32),
        planes=np.zeros((8, words), np.uint64),
        levels=np.zeros(64 * words, np.uint8),
        bridges=np.empty(2 * m, np.int32),
        counters=np.zeros(8, np.int64),
    )
