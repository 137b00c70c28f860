"""Checks the graph's invariants; walking and linking have no numpy version."""

from __future__ import annotations

from typing import Any

import numpy as np

from bqstore.kernels.layout import (
    TOO_FEW,
    Graph,
    Hits,
)
from bqstore.kernels.plain.codes import blocks


def search_graph(*arguments: Any) -> int:
    """Return TOO_FEW for all queries, so that the caller scans (`api.search_graph`)."""
    hits: Hits = arguments[-1]
    hits.ordinals[:], hits.scores[:] = -1, np.nan
    hits.ordinals[:, :1] = TOO_FEW
    return TOO_FEW


def check_graph(graph: Graph) -> int:
    """Return how many rows of a graph break an invariant, or -1 (`api.check_graph`)."""
    n, top = graph.n, graph.top
    if not 0 <= n <= min(len(graph.links), len(graph.first), len(graph.levels), len(graph.same)):
        return -1
    if n == 0:
        return 0
    if not 0 <= graph.entry < n or graph.levels[graph.entry] != top:
        return -1
    levels, firsts, same = graph.levels[:n].astype(np.int64), graph.first[:n].astype(np.int64), graph.same[:n]
    lost = (levels > top) | ((levels > 0) & ((firsts < 0) | (firsts + levels > len(graph.upper))))
    faults = int(lost.sum()) + int((~lost & ((same < -1) | (same >= n))).sum())
    for level in range(int(levels[~lost].max(initial=0)) + 1):
        for nodes in blocks(np.flatnonzero(~lost & (levels >= level)), 64 * graph.links.shape[1]):
            rows = graph.links[nodes] if level == 0 else graph.upper[firsts[nodes] + level - 1]
            there = rows != -1
            after_the_end = there & (np.cumsum(~there, axis=1) > 0)
            outside = (rows < 0) | (rows >= n)
            wrong = outside | (rows == nodes[:, None]) | (levels[np.where(outside, 0, rows)] < level)
            faults += int((after_the_end | (there & wrong)).any(1).sum())
    return faults
