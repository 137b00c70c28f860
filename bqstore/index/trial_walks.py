"""Whether walks of a graph find what a scan of the same codes finds: tried with vectors that it does not hold yet.

Nearly always they do. But where lengths differ much, or many values are 0, there may be nodes to which no link leads,
and no width of the beam helps. Queries are originals. Vectors decoded from codes lie nearer to other codes, and walks
find more for them (for 5,000 sparse vectors under euclid at two bits .98 instead of .51). So they are used only where
there are no originals, and the result is then at least the number of misses that is known already. Knows no files:
originals come from a function.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import FLOAT32, LONGEST, ONE_BIT, RABITQ, SHORTEST, Graph
from .planner import MISSED, SCAN, SLIGHT, WALK, WIDE, Plan
from .quantizer import Quantizer, values_of
from .search import ENCODINGS, NO_RECORDS, Search, Searchable
from .threads import ALONE

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Originals = Callable[[I64], F32]  # of ordinals (m,), float32 (at most m, dim): without those that cannot be read

QUERIES, MOST, _K = 64, 1024, 10  # queries of a trial; more, up to the most, while the result is in doubt
_CLEAR = (1.5, 60)  # misses of a thousand: with fewer or more there is no doubt. Most misses come ten at a time
# Misses of walks of the usual width come two at a time: with m queries, a rate of ``SLIGHT`` is measured with a
# standard deviation of 49 / sqrt(m). Beyond 1.9 of these there is no doubt: 64 queries without a miss are enough.
_DOUBT = 93.0


@dataclass
class Trial:
    """One trial of a graph, over as many batches of new nodes as it needs; it is over unless it ``goes_on``."""

    goes_on: bool = False
    least: int = 0  # a lower bound of `missed`
    brief: bool = False  # another trial follows before anybody searches: few queries are enough for `narrow`
    asked: int = 0
    lost: float = 0.0  # the sum of the missed parts, over ``asked`` queries
    compared: int = 0
    behind: float = 0.0  # the same for walks of the usual width, over ``compared`` queries

    @property
    def missed(self) -> int:
        """How many of a thousand nearest codes wide walks have missed."""
        return max(self.least, round(1000 * self.lost / self.asked))

    @property
    def narrow(self) -> int:
        """How many of a thousand codes found by wide walks those of the usual width have missed."""
        return round(1000 * self.behind / self.compared)

    def told_of(self) -> I64:
        """`missed` and `narrow`."""
        return np.array([self.missed, self.narrow])

    @property
    def told(self) -> bool:
        """Whether there were enough queries for `missed` to be meaningful."""
        return self.asked >= QUERIES

    def queries(self, start: int, stop: int, held: I64 | None = None) -> Iterator[I64]:
        """Ordinals to ask with, from start to stop, int64 (m,) ascending, until enough; `tells` follows each.

        Only those in ``held``, int64 ascending, if that is given.
        """
        if not self.goes_on:  # as nearly always: making a generator of random numbers takes longer than all else here
            return
        if held is not None:
            held = held[slice(*np.searchsorted(held, [start, stop]))]
        count = stop - start if held is None else len(held)
        some = np.random.default_rng(start).choice(count, min(count, MOST), replace=False)
        some = start + some if held is None else held[some]
        for at in range(0, len(some), QUERIES):
            if not self.goes_on:
                return
            yield np.sort(some[at : at + QUERIES])

    def tells(self, asked: int, missed: float | None, narrow: float | None = 0.0) -> bool:
        """Count some queries, and the part of the nearest that each kind of walk missed; return `told`.

        None: that kind was not measured, as its result is clear.
        """
        if missed is not None:
            self.asked, self.lost = self.asked + asked, self.lost + missed * asked
        if narrow is not None:
            self.compared, self.behind = self.compared + asked, self.behind + narrow * asked
        self.goes_on = self.asks_for_missed or self.asks_for_narrow
        return self.told

    @property
    def asks_for_missed(self) -> bool:
        """Whether the misses of wide walks are still in doubt."""
        return not self.told or (self.asked < MOST and _CLEAR[0] < 1000 * self.lost / self.asked < _CLEAR[1])

    @property
    def asks_for_narrow(self) -> bool:
        """Whether the misses of walks of the usual width are still in doubt, unless scans are planned anyway."""
        if not self.told or self.brief or self.compared >= MOST:
            return not self.told
        behind = 1000 * self.behind / self.compared
        return 1000 * self.lost <= MISSED * self.asked and abs(behind - SLIGHT) < _DOUBT * self.compared**-0.5


def missed_by_walks(
    view: Graph, words: U64, quantizer: Quantizer, ef: int, ordinals: I64, originals: Originals | None = None
) -> float:
    """The part of the nearest codes of some queries that wide walks miss.

    Parameters
    ----------
    view : Graph
    words : uint64 (>= n, columns)  codes, also of the queries
    ef : int                        ``ef_construct``
    ordinals : int64 (m,)           the queries, at ``view.n`` or beyond
    originals : Originals           None: the queries are what the codes stand for
    """
    # what a beam this wide misses, wider ones miss, too
    return _lost(view, words, quantizer, ordinals, originals, ((SCAN, WIDE * ef), (WALK, WIDE * ef)))


def missed_by_narrow_walks(
    view: Graph, words: U64, quantizer: Quantizer, ef: int, ordinals: I64, originals: Originals | None = None
) -> float:
    """The part of what wide walks find that those of the usual width miss; parameters as of `missed_by_walks`."""
    return _lost(view, words, quantizer, ordinals, originals, ((WALK, WIDE * ef), (WALK, ef)))


def _lost(
    view: Graph,
    words: U64,
    quantizer: Quantizer,
    ordinals: I64,
    originals: Originals | None,
    ways: tuple[tuple[str, int], tuple[str, int]],
) -> float:
    """The part of the nearest codes that the first of two ways (way, width) finds and the second does not."""
    n, dim = view.n, quantizer.dim
    if not len(ordinals) or n <= ways[0][1]:
        return 0.0
    queries = np.zeros((0, dim), np.float32) if originals is None else originals(ordinals)[:, :dim]
    queries = queries if len(queries) else decoded(words[ordinals], quantizer)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    queries = np.ascontiguousarray(queries[(lengths > SHORTEST) & (lengths < LONGEST)])
    if not len(queries):
        return 0.0
    data = Searchable(words, NO_RECORDS, n, dim, FLOAT32, quantizer.metric, quantizer, view)
    planes = ENCODINGS["scalar8bits" if quantizer.arrays.bits > 2 else "scalar4bits"]
    best, found = (
        Search(data, None, n, _K, Plan(way, False, _K, width, width), planes).nearest(queries, ALONE)[1]
        for way, width in ways
    )
    return float((found < best[:, -1:]).mean())


def decoded(words: U64, quantizer: Quantizer) -> F32:
    """The vectors that codes stand for, approximately: float32 (n, dim)."""
    arrays, dim = quantizer.arrays, quantizer.dim
    if arrays.kind == RABITQ:
        values, _, factor = values_of(words, quantizer)
        return _turned_back(factor[:, None] * values, arrays.rotation_signs) + arrays.mean
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little").astype(np.float32)
    first = bits[:, :dim]
    if arrays.kind == ONE_BIT:
        return 2 * first - 1
    second = bits[:, dim : arrays.lanes]
    if arrays.lanes < 2 * dim:  # of two neighbors
        second = np.repeat(second, 2, axis=1)[:, :dim] * first
    return np.asarray(arrays.mean + arrays.deviation * (first + second - 1), np.float32)


def _turned_back(rows: F32, signs: F32) -> F32:
    """The inverse of `rotate.rotate_row`, whose matrices are symmetric but for the signs."""
    rounds, dim = signs.shape
    size = 1 << (dim.bit_length() - 1)
    rows = rows.copy()
    for i in reversed(range(rounds)):
        start = (dim - size) * (i & 1)
        part = np.ascontiguousarray(rows[:, start : start + size])
        step = 1
        while step < size:
            pairs = part.reshape(len(rows), -1, 2, step)
            part = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(
                len(rows), size
            )
            step *= 2
        rows[:, start : start + size] = part * signs[i, start : start + size] * np.float32(size**-0.5)
    return rows
