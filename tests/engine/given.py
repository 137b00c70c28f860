"""What the tests of the graph are given: collections large enough for one, ways to force a walk, recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bqstore
from bqstore.engine import choose_encoding, graph_builder, graph_upkeep
from bqstore.index import planner
from tests.conftest import FULL, clustered

BITS = {"full_scan_threshold": 0}
SIGNS = {"encoding": "one_bit"}  # the bits that `hammings` counts, whatever the vectors
ENOUGH = 2048 if FULL else 450  # documents of which there is a graph, where `settle_early` is told so
SCAN = {"hnsw_ef": 1_000_000}  # a beam wider than the collection: the planner scans instead


def let_walk(patch: pytest.MonkeyPatch) -> None:
    """A scan that costs a fortune: collections of a few thousand are walked, which the planner knows to be slower."""
    patch.setattr(planner, "_SCAN_CODE", 1e12)


def settle_early(patch: pytest.MonkeyPatch, enough: int) -> None:
    """As of 2,048 documents, of fewer: what may go wrong when codes are chosen and linked depends on no number."""
    patch.setattr(choose_encoding, "LEAST", enough)
    for module in (graph_builder, graph_upkeep):
        patch.setattr(module, "SMALLEST_GRAPH", enough)


def data_of(n: int, dim: int, queries: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, dim) and (queries, dim), of the same clusters."""
    both = clustered(n + queries, dim, seed)
    return both[:n], np.ascontiguousarray(both[n:])


def filled(path: Any, base: np.ndarray, **settings: Any) -> bqstore.Collection:
    """A collection of d0, d1, ... whose metadata say which they are; settings are as given, nothing is measured."""
    col = bqstore.open_flat(path, full_scan_threshold=0, **{**SIGNS, "target_recall": 0, **settings})
    numbers = range(len(base))
    col.add(base, [f"d{i}" for i in numbers], [f"text {i}" for i in numbers], [{"i": i, "m": i % 200} for i in numbers])
    return col


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """The part of the true ids that were found; rows of ids, padded with None."""
    wanted = [set(row) - {None} for row in truth]
    return float(np.mean([len(set(row) & want) / len(want) for row, want in zip(found, wanted, strict=True)]))


def hammings(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """int (m, n): the bits in which the signs differ."""
    b, q = (base > 0).astype(np.float32), (queries > 0).astype(np.float32)
    return (q @ (1 - b).T + (1 - q) @ b.T).astype(np.int64)


def recall_on_bits(found: np.ndarray, distances: np.ndarray) -> float:
    """The part of what was found that is as near as the k-th nearest of those that may be found: ties are all as good.

    found : ids "d0", "d1" ... (m, k); distances : int (m, n)
    """
    ordinals = np.array([[int(id_[1:]) for id_ in row] for row in found])
    k = ordinals.shape[1]
    assert all(len(set(row)) == k for row in ordinals.tolist())
    bound = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    return float((np.take_along_axis(distances, ordinals, 1) <= bound).mean())
