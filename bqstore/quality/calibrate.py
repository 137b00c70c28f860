"""Measure what settings find in a collection, on documents of its own that are held out: the rungs of a `Calibration`.

The queries are few and compared with all documents. A sample compared with itself says too much: its neighbors lie
farther apart than those of the collection, and so nearly any code tells them apart.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..config import HnswConfig, Quantization, SearchParams
from ..engine.state import State
from ..engine.target import RUNGS, Calibration, K, Rung, to_be_measured
from ..index import ALONE
from ..index.scratch import ScratchPool
from .ground_truth import count_found, exact_search, hold_out, interval
from .recall_report import Configuration, Evaluator

_QUERIES, _LEAST_QUERIES = 256, 64
_WORK = 2**36  # values of originals that are read for all queries, at most: some ten seconds of one thread
_PART = 16  # queries between two looks whether to stop
_ENOUGH = 0.995  # recall from which on the next rungs are not measured


class StoppedError(Exception):
    """The collection is being closed, or has changed: the measurement is given up."""


def calibrate(state: State, check: Callable[[], None], target: float = 0.0) -> Calibration:
    """Measure the rungs from the first on, until one finds nearly all. One thread; some seconds at a million documents.

    Parameters
    ----------
    check : callable    called often; it raises StoppedError to end the measurement
    target : float      the rungs are measured at least to this one
    """
    enough = max(_ENOUGH, to_be_measured(target))
    data = state.data
    assert data is not None
    state = replace(state, data=replace(data, pool=ScratchPool()))  # `Search.hide` needs it for itself
    wanted = max(_LEAST_QUERIES, min(_QUERIES, _WORK // (state.head.n_live * data.dim)))
    queries, own = hold_out(state, wanted)
    check()
    truth = exact_search(state, queries, own, K, ALONE, check)
    quantization = data.quantizer.resolved(state.head.settings["quantization"]["query_encoding"])
    hnsw = HnswConfig(**{**state.head.settings["hnsw"], "full_scan_threshold": 0})
    evaluator = Evaluator(state, truth, K, hnsw, ALONE)
    rungs: list[Rung] = []
    for oversampling, ef in RUNGS:
        if rungs and min(rung.recall for rung in rungs[-2:]) >= enough:
            break
        params = SearchParams(oversampling, True, ef)
        rungs.append(Rung(oversampling, ef, *_recall(evaluator, quantization, params, check)))
    return Calibration(state.head.n_live, len(queries), tuple(rungs), written=state.head.next_rid)


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
