"""Measure what settings find in a collection, on documents of its own that are held out: the rungs of a `Calibration`.

The queries are few, and are compared with all documents. Within a sample recall would be too high: its neighbors lie
farther apart than those of the collection, so that nearly any code tells them apart.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..config import HnswConfig, Quantization, SearchParams
from ..engine import fetch
from ..engine.state import State
from ..engine.target import MEASURED, RUNGS, Calibration, K, Rung, to_be_measured
from ..index import ALONE
from ..index.scratch import ScratchPool
from .ground_truth import GroundTruth, count_found, exact_search, hold_out, interval
from .recall_report import Configuration, Evaluator
from .rounding import kept

_QUERIES, _LEAST_QUERIES = 256, 64
_WORK = 2**36  # values of originals that are read for all queries, at most: some ten seconds of one thread
_PART = 16  # queries between two looks whether to stop
_ROUNDED, _BESIDE = 64, 64  # queries, and nearest of each, by which the loss of rounding is measured


class StoppedError(Exception):
    """The collection is being closed, or has changed: the measurement is given up."""


def calibrate(state: State, check: Callable[[], None], target: float = 0.0) -> Calibration:
    """Measure the rungs from the first on, until one finds nearly all. One thread; some seconds at a million documents.

    Parameters
    ----------
    check : callable    called often; it raises StoppedError to end the measurement
    target : float      the rungs are measured at least to this one
    """
    enough = max(MEASURED, to_be_measured(target))
    data = state.data
    assert data is not None
    state = replace(state, data=replace(data, pool=ScratchPool()))  # `Search.hide` must not share it
    wanted = max(_LEAST_QUERIES, min(_QUERIES, _WORK // (state.head.n_live * data.dim)))
    queries, own = hold_out(state, wanted)
    check()
    form = state.head.settings["originals"]
    beside = exact_search(state, queries, own, K if form == "float32" else _BESIDE, ALONE, check)
    truth = beside.first(K)
    quantization = data.quantizer.resolved(state.head.settings["quantization"]["query_encoding"])
    hnsw = HnswConfig(**{**state.head.settings["hnsw"], "full_scan_threshold": 0})
    evaluator = Evaluator(state, truth, K, hnsw, ALONE)
    rungs: list[Rung] = []
    for oversampling, ef in RUNGS:
        if rungs and min(rung.recall for rung in rungs[-2:]) >= enough:
            break
        params = SearchParams(oversampling, True, ef)
        rungs.append(Rung(oversampling, ef, *_recall(evaluator, quantization, params, check)))
    rounded = 1.0 if form == "float32" else _kept(state, beside.part(slice(_ROUNDED)), check)
    return Calibration(state.head.n_live, len(queries), tuple(rungs), written=state.head.next_rid, kept=rounded)


def _kept(state: State, truth: GroundTruth, check: Callable[[], None]) -> float:
    """The share of the true nearest that the rounded originals still tell from others."""
    settings, parts = state.head.settings, []
    for query, near in zip(truth.queries, truth.nearest, strict=True):
        check()
        found = fetch.vectors(state, near)
        vectors = np.stack([found[ordinal] for ordinal in near.tolist()])
        parts.append(kept(query, vectors, settings["originals"], settings["distance"], min(K, len(near))))
    return round(float(np.mean(parts)), 4)


def _recall(
    evaluator: Evaluator, quantization: Quantization, params: SearchParams, check: Callable[[], None]
) -> tuple[float, float, float]:
    options, truth = evaluator.options(Configuration(quantization, params)), evaluator.truth
    counts = []
    for at in range(0, len(truth), _PART):
        check()
        counts.append(count_found(evaluator.state, truth.part(slice(at, at + _PART)), options))
    recall, low, high = interval(np.concatenate(counts), truth.size)
    return round(recall, 4), round(low, 4), round(high, 4)
