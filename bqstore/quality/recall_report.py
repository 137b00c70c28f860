"""The recall report of a collection: which settings are measured, and how.

One state is taken at the start and kept: writers and searches go on meanwhile. Stored codes are searched as in every
search; codes of other encodings are made in memory and scanned (`trial_codes.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import check_int, refuse_unknown, shown
from ..config import AUTO, MAX_K, HnswConfig, Quantization, SearchParams, check_truncated
from ..engine.choose_encoding import possible, query_encoding
from ..engine.engine import Engine
from ..engine.options import Options
from ..engine.prepared_search import PreparedSearch, unfiltered
from ..engine.state import State
from ..errors import InvalidInputError
from ..index import ALONE, Workers
from ..index.planner import EXACT, WALK
from ..progress import Progress
from ..results.recall import Histogram, RecallPoint, RecallReport
from ..validate import check_queries, lengthened
from .ground_truth import (
    F32,
    I64,
    GroundTruth,
    count_found,
    exact_scores,
    exact_search,
    hold_out,
    interval,
    measurable,
    milliseconds,
)
from .trial_codes import Sample
from .verdict import ONE_BIT_AT, SUITS, tells_of_one_bit, verdict

_QUANTIZATION = ("encoding", "estimator", "rotate", "truncate_dim", "query_encoding")
_PARAMS = ("oversampling", "hnsw_ef", "rescore")
_OVERSAMPLINGS = (1.0, 2.0, 3.0, 4.0, 8.0)
_BEAMS = (0.5, 2, 4)  # times ef_construct
_OTHERS = (  # smallest codes first
    Quantization("one_bit", "binary", "sign", False),
    Quantization("one_bit", "scalar4bits", "sign", False),
    Quantization("one_bit", "scalar4bits", "rabitq", False),
    Quantization("one_bit", "scalar4bits", "rabitq", True),
    Quantization("two_bits", "scalar4bits", "rabitq", False),
    Quantization("four_bits", "scalar8bits", "rabitq", False),
)
_ALL = 2**40  # a ``full_scan_threshold`` in kilobytes: every search is exact
_TIMED = 500  # queries, at most
_BINS = 40
_SEED = 0x6271_7376


@dataclass(frozen=True)
class Configuration:
    """A quantization, in which nothing is "auto", and the parameters of a search."""

    quantization: Quantization
    params: SearchParams

    @property
    def codes(self) -> Quantization:
        """What the codes depend on: all but the encoding of queries."""
        return replace(self.quantization, query_encoding=AUTO)


@dataclass(frozen=True)
class Evaluator:
    """Measures configurations on one state, against the ground truth in it."""

    state: State
    truth: GroundTruth
    k: int
    hnsw: HnswConfig
    workers: Workers

    def options(self, configuration: Configuration) -> Options:
        """The options of a search with a configuration, on one thread."""
        return Options(
            k=self.k,
            params=configuration.params,
            exact=False,
            originals=True,
            hnsw=self.hnsw,
            query_encoding=configuration.quantization.query_encoding,
            distance=self.state.head.settings["distance"],
            workers=ALONE,
        )

    def recall(self, configuration: Configuration) -> tuple[float, float, float]:
        """Recall with the ends of its 95% confidence interval."""
        options = replace(self.options(configuration), workers=self.workers)
        return interval(count_found(self.state, self.truth, options), self.truth.size)

    def prepared(self, configuration: Configuration) -> PreparedSearch:
        """A search with a configuration, on one thread."""
        return unfiltered(self.state, self.options(configuration))

    def way(self, configuration: Configuration) -> str:
        """Whether searches with a configuration score exactly, scan or walk."""
        return self.prepared(configuration).search.plan.way

    def point(self, configuration: Configuration, stored: bool, memory: int) -> RecallPoint:
        """Measure a configuration."""
        recall, low, high = self.recall(configuration)  # which also warms up what is timed
        prepared, params = self.prepared(configuration), configuration.params
        taken = milliseconds(prepared, self.truth.queries[:_TIMED])
        return RecallPoint(
            quantization=configuration.quantization,
            oversampling=params.oversampling,
            rescore=params.rescore,
            hnsw_ef=params.hnsw_ef,
            stored=stored,
            way=prepared.search.plan.way,
            recall=recall,
            low=low,
            high=high,
            milliseconds=float(np.median(taken)),
            slowest=float(np.quantile(taken, 0.95)),
            memory_bytes=memory,
        )


class _Measurements:
    """The points of a report: each configuration is measured once, and each kind of codes made once."""

    def __init__(self, evaluator: Evaluator, default: Configuration, progress: Progress) -> None:
        self._evaluator, self._default, self._progress = evaluator, default, progress
        self._sample = Sample(evaluator.state, evaluator.truth, evaluator.k, evaluator.workers)
        self.points: dict[Configuration, RecallPoint] = {}

    @property
    def scanned(self) -> int:
        """Documents that other encodings were measured on; 0 if none were."""
        return 0 if all(point.stored for point in self.points.values()) else self._sample.documents

    def measure(self, asked: Sequence[Configuration]) -> None:
        """Add the points that are not there yet."""
        configurations = [each for each in dict.fromkeys(asked) if each not in self.points]
        total = len(self.points) + len(configurations)
        for codes in dict.fromkeys(each.codes for each in configurations):
            evaluator, stored = self._evaluator, codes == self._default.codes
            if not stored:
                evaluator = replace(evaluator, state=self._sample.recoded(codes), truth=self._sample.truth)
            assert evaluator.state.data is not None
            memory = memory_of(self._evaluator.state, evaluator.state.data.words.shape[1])
            for each in configurations:
                if each.codes == codes:
                    self.points[each] = evaluator.point(each, stored, memory)
                    self._progress(len(self.points), total)


def recall(
    engine: Engine,
    queries: F32 | None,
    k: int,
    sample: int,
    settings: Sequence[Mapping[str, object]] | None,
) -> RecallReport:
    """Measure what searches find, against exact search on the originals. Times are of one thread.

    Parameters
    ----------
    queries : float32 (m, dim)      in the collection's form; None: ``sample`` of its documents, held out
    settings : list of dicts        what to measure beside the defaults, see `configurations_from`; None: a grid. The
                                    points of the report are the defaults, then these in their order, then one that
                                    tells whether one bit is enough, if none of the others does

    Raises
    ------
    InvalidInputError               fewer than two documents, no originals are kept, or settings that do not exist
    """
    k, sample = check_int("k", k, 1, MAX_K), check_int("sample", sample, 1, 100_000)
    state, quantization = measurable(engine, "recall()")
    options = engine.options(k)
    default = Configuration(quantization, options.in_use(state.head.n_live))
    asked = None if settings is None else configurations_from(settings, default)
    for each in asked or ():
        check_truncated(each.quantization.truncate_dim, state.head.dim)
    vectors, ordinals = given_or_held_out(state, queries, sample)
    truth = exact_search(state, vectors, ordinals, k, engine.workers)
    hnsw = replace(engine.hnsw, full_scan_threshold=_ALL) if options.exact else engine.hnsw
    as_searched = Evaluator(state, truth, k, hnsw, engine.workers)
    by_codes = replace(as_searched, hnsw=replace(engine.hnsw, full_scan_threshold=0))
    assert state.data is not None
    with Progress("measuring", 1) as progress:
        current = as_searched.point(default, True, memory_of(state, state.data.words.shape[1]))
        measurements = _Measurements(by_codes, default, progress)
        points = measurements.points
        if current.way != EXACT:
            points[default] = current
        if asked is None:
            asked = [each for each in _grid(by_codes, default) if each not in points]
        measurements.measure(asked)
        if not any(map(tells_of_one_bit, points.values())):
            codes = quantization if quantization.encoding == "one_bit" else _others(quantization)[2]
            asked = [*asked, Configuration(codes, SearchParams(ONE_BIT_AT))]
            measurements.measure(asked[-1:])
    all_points = (current, *(points[each] for each in asked))
    return RecallReport(
        recall=current.recall,
        low=current.low,
        high=current.high,
        milliseconds=current.milliseconds,
        k=k,
        queries=len(truth),
        held_out=queries is None,
        documents=state.head.n_live,
        scanned=measurements.scanned,
        distance=state.head.settings["distance"],
        dim=vectors.shape[1],
        current=current,
        points=all_points,
        scores=_histogram(state, truth),
        suits_one_bit=max(point.recall for point in all_points if tells_of_one_bit(point)) >= SUITS,
        verdict=verdict(all_points, truth.size, len(truth), queries is None),
    )


def memory_of(state: State, words: int) -> int:
    """Bytes in memory of codes of so many words for all documents, and of the links of the graph there is."""
    assert state.data is not None
    links = 0
    if (graph := state.data.graph) is not None:
        upper = int(np.sum(graph.levels[: graph.n], dtype=np.int64))
        links = graph.n * (graph.links[0].nbytes + 5) + upper * graph.upper[0].nbytes
    return int(state.n * words * 8 + links)


def given_or_held_out(state: State, queries: F32 | None, count: int) -> tuple[F32, I64 | None]:
    """The queries of a measurement, and their ordinals if they are held-out documents."""
    if queries is None:
        return hold_out(state, count)
    if not len(queries):
        raise InvalidInputError("queries is empty; expected (n, dim), or None to hold out documents of the collection")
    distance = state.head.settings["distance"]
    check_queries(queries, distance)
    if distance == "cosine" and not queries.any(axis=1).all():
        raise InvalidInputError("one of the queries is all zeros, to which all documents are as near; leave it out")
    return lengthened(queries, distance)[0], None


def configurations_from(given: Sequence[Mapping[str, object]], default: Configuration) -> list[Configuration]:
    """Configurations from dictionaries with fields of `SearchParams` and `Quantization`.

    Fields that are not given are the collection's. But if encoding, estimator or rotate is given, the other settings
    that codes depend on are the defaults of `Quantization`.
    """
    if isinstance(given, (Mapping, str)) or not isinstance(given, Sequence):
        raise InvalidInputError(
            f"settings is {shown(given)}; expected a list of dicts, such as [{{'oversampling': 4}}]"
        )
    out = []
    for i, each in enumerate(given):
        where = f"settings[{i}]"
        if not isinstance(each, Mapping):
            raise InvalidInputError(f"{where} is {shown(each)}; expected a dict, such as {{'oversampling': 4}}")
        refuse_unknown(each, (*_PARAMS, *_QUANTIZATION), where)
        params: dict[str, Any] = {name: each[name] for name in _PARAMS if each.get(name) is not None}
        asked: dict[str, Any] = {name: each[name] for name in _QUANTIZATION if each.get(name) is not None}
        quantization = _resolved(Quantization(**asked), default.quantization)
        out.append(Configuration(quantization, replace(default.params, **params)))
    return out


def _resolved(asked: Quantization, stored: Quantization) -> Quantization:
    """What is asked for, with each "auto" resolved as `Collection.requantize` would."""
    if asked.encoding == asked.estimator == AUTO and asked.rotate is None:
        kept = stored if asked.truncate_dim is None else replace(stored, truncate_dim=asked.truncate_dim)
        return kept if asked.query_encoding == AUTO else replace(kept, query_encoding=asked.query_encoding)
    first = possible(replace(asked, encoding="one_bit") if asked.encoding == AUTO else asked)[0]
    query = query_encoding(asked.query_encoding, first.encoding, first.estimator, measured=False)
    return replace(first, query_encoding=query)


def _grid(evaluator: Evaluator, default: Configuration) -> list[Configuration]:
    """What is worth measuring: the stored codes at several oversamplings and beams, others at several oversamplings."""
    out = []
    for oversampling in _OVERSAMPLINGS:
        plain = replace(default, params=SearchParams(oversampling))
        out.append(plain)
        if evaluator.way(plain) == WALK:
            beams = (max(1, int(times * evaluator.hnsw.ef_construct)) for times in _BEAMS)
            out.extend(replace(plain, params=SearchParams(oversampling, True, beam)) for beam in beams)
    if default not in out:
        out.append(default)
    others = [other for other in _others(default.quantization) if other != default.quantization]
    return out + [
        Configuration(other, SearchParams(oversampling)) for other in others for oversampling in _OVERSAMPLINGS
    ]


def _others(stored: Quantization) -> list[Quantization]:
    """Other encodings, of as many values of each vector as the collection's."""
    return [replace(other, truncate_dim=stored.truncate_dim) for other in _OTHERS]


def _histogram(state: State, truth: GroundTruth) -> Histogram:
    """Scores of the true neighbors, and of up to ten documents a query picked at random."""
    assert state.data is not None
    live, random = np.flatnonzero(state.live), np.random.default_rng(_SEED)
    others = []
    for i in range(len(truth)):
        picked = random.choice(live, min(truth.size, 10)).astype(np.int32)
        if truth.ordinals is not None:
            picked = picked[picked != truth.ordinals[i]]
        scores = exact_scores(state.data, truth.queries[i : i + 1], np.unique(picked), len(picked))
        others.append(scores[~np.isnan(scores)])
    far, near = np.concatenate(others).astype(np.float64), truth.scores.ravel().astype(np.float64)
    edges = np.histogram_bin_edges(np.concatenate([far, near]), _BINS)
    counts = [tuple(np.histogram(scores, edges)[0].tolist()) for scores in (near, far)]
    return Histogram(tuple(edges.tolist()), *counts)
