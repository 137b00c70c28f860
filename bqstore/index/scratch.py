"""Scratch memory for walks: one set of arrays for each running walk, reused by later ones."""

from typing import NamedTuple

import numpy as np

from ..kernels.layout import Scratch

_KINDS = 8  # different sizes that are kept, as settings differ and collections grow


class Sizes(NamedTuple):
    """The sizes that a scratch depends on.

    ``n`` : ordinals of the graph. ``words`` : of a plane of a code. ``bits`` : its planes. ``dim`` : of a query.
    ``m`` : of the graph. ``max_beam`` : nodes in the beam. ``candidates``, ``k`` : of the search.
    """

    n: int
    words: int
    bits: int
    dim: int
    m: int
    max_beam: int
    candidates: int
    k: int


class ScratchPool:
    """Free scratch sets, by their sizes. A walk pops one off the list, or makes one, and appends it when it ends.

    Both are atomic, so any number of threads may do so; a list grows to as many sets as have been in use at once.
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
    n, words, bits, dim, m, max_beam, candidates, k = sizes
    return Scratch(
        visited=np.zeros(n, np.uint8),
        keys=np.empty(max_beam + 8, np.int64),
        rows=np.empty(8 * m, np.int32),
        distances=np.empty(8 * m, np.int32),
        found=np.empty(candidates, np.int32),
        bounds=np.empty(candidates, np.float32),
        best=np.empty((1, k), np.int64),
        query=np.zeros((1, dim), np.float32),
        rotated=np.zeros(64 * words, np.float32),
        planes=np.zeros((8, bits * words), np.uint64),
        levels=np.zeros(64 * words, np.uint8),
        bridges=np.empty(32 * m, np.int32),
        counters=np.zeros(8, np.int64),
    )
