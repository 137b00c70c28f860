"""Whether walks of a graph find what a scan of the same codes finds: tried with codes that the graph does not hold yet.

Nearly always they do. Where lengths differ by much, or many values are 0, nodes may lie where no link leads, and no
width of the beam helps. Knows codes, no originals: queries are what the codes stand for.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import FLOAT32, ONE_BIT, RABITQ, SHORTEST, Graph
from .planner import SCAN, WALK, Plan
from .quantizer import Quantizer, values_of
from .search import ENCODINGS, NO_RECORDS, Search, Searchable
from .threads import ALONE

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]

QUERIES, _K = 48, 10
_WIDTHS = 4  # times ``ef_construct``: what a beam of this width misses is missed by wider ones, too


def missed_by_walks(view: Graph, words: U64, quantizer: Quantizer, ef: int, ordinals: NDArray[np.int64]) -> float:
    """The part of the nearest codes of some queries that walks miss.

    Parameters
    ----------
    view : Graph
    words : uint64 (>= n, columns)  codes, also of the queries
    ef : int                        ``ef_construct``
    ordinals : int64 (m,)           the queries, at ``view.n`` or beyond
    """
    n, dim, width = view.n, quantizer.dim, _WIDTHS * ef
    if not len(ordinals) or n <= width:
        return 0.0
    queries = decoded(words[ordinals], quantizer)
    queries = np.ascontiguousarray(queries[np.square(queries).sum(1) > SHORTEST])
    if not len(queries):
        return 0.0
    data = Searchable(words, NO_RECORDS, n, dim, FLOAT32, quantizer.metric, quantizer, view)
    planes = ENCODINGS["scalar8bits" if quantizer.arrays.bits > 2 else "scalar4bits"]
    scanned, walked = (
        Search(data, None, n, _K, Plan(way, False, _K, width, width), planes).nearest(queries, ALONE)[1]
        for way in (SCAN, WALK)
    )
    return float((walked < scanned[:, -1:]).mean())


def decoded(words: U64, quantizer: Quantizer) -> F32:
    """What codes stand for, about: float32 (n, dim)."""
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
