"""The recall report of a collection: which settings are measured, and what is said of them. Floor 3.

One state is taken at the start and stayed on: writers and searches go on meanwhile. Stored codes are searched as every
search does it; codes of other encodings are made in memory and scanned (`recoding.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..arguments import check_int, refuse_unknown, shown
from ..config import AUTO, MAX_K, HnswConfig, Quantization, SearchParams, check_truncated
from ..engine.choose_encoding import query_encoding, ways
from ..engine.engine import Engine
from ..engine.options import Options
from ..engine.prepared_search import unfiltered
from ..engine.state import State
from ..errors import InvalidInputError
from ..index import ALONE, Workers
from ..index.planner import EXACT, WALK
from ..progress import Progress
from ..results import Histogram, RecallPoint, RecallReport
from ..validate import check_queries
from .ground_truth import F32, I64, Exam, exact_scores, examine, found, held_out, interval, measurable, milliseconds
from .trial_codes import Part

_QUANTIZATION = ("encoding", "estimator", "rotate", "truncate_dim", "query_encoding")
_PARAMS = ("oversampling", "hnsw_ef", "rescore")
_OVERSAMPLINGS = (1.0, 2.0, 3.0, 4.0, 8.0)
_BEAMS = (0.5, 2, 4)  # times ef_construct
_OTHERS = (  # cheapest first
    Quantization("one_bit", "binary", "sign", False),
    Quantization("one_bit", "scalar4bits", "sign", False),
    Quantization("one_bit", "scalar4bits", "rabitq", False),
    Quantization("one_bit", "scalar4bits", "rabitq", True),
    Quantization("two_bits", "scalar4bits", "rabitq", False),
    Quantization("four_bits", "scalar8bits", "rabitq", False),
)
_TIMED = 500  # queries, at most
_SUITS, _SUITS_AT = 0.95, 4.0  # recall, and the oversampling at which a model that suits one bit reaches it
_BINS = 40
_SMALL = " Searches of this collection, being small, score every document: they find all, whatever the codes."
_SEED = 0x6271_7376
_BITS = {
    "one_bit": "one bit a dimension",
    "one_and_half_bits": "one and a half bits",
    "two_bits": "two bits",
    "four_bits": "four bits",
}


@dataclass(frozen=True)
class Setting:
    """What one point is of; nothing in its quantization is "auto"."""

    quantization: Quantization
    params: SearchParams

    @property
    def codes(self) -> tuple[str, str, bool | None, int | None]:
        """What codes it needs."""
        of = self.quantization
        return of.encoding, of.estimator, of.rotate, of.truncate_dim


@dataclass(frozen=True)
class Bench:
    """Where settings are measured: a state, and queries with what there is to find in it."""

    state: State
    exam: Exam
    k: int
    hnsw: HnswConfig
    workers: Workers

    def options(self, setting: Setting) -> Options:
        """A search with a setting, in one thread."""
        distance = self.state.head.settings["distance"]
        return Options(
            k=self.k,
            params=setting.params,
            exact=False,
            originals=True,
            hnsw=self.hnsw,
            query_encoding=setting.quantization.query_encoding,
            distance=distance,
            workers=ALONE,
        )

    def point(self, setting: Setting, stored: bool, memory: int) -> RecallPoint:
        """Measure a setting."""
        options = self.options(setting)
        hits = found(self.state, self.exam, replace(options, workers=self.workers))
        recall, low, high = interval(hits, self.exam.size)
        way = unfiltered(self.state, options)
        # everything is warm from the first search
        taken = milliseconds(way, self.exam.vectors[:_TIMED])
        params = setting.params
        return RecallPoint(
            quantization=setting.quantization,
            oversampling=params.oversampling,
            rescore=params.rescore,
            hnsw_ef=params.hnsw_ef,
            stored=stored,
            way=way.search.plan.way,
            recall=recall,
            low=low,
            high=high,
            milliseconds=float(np.median(taken)),
            slowest=float(np.quantile(taken, 0.95)),
            memory_bytes=memory,
        )

    def way(self, setting: Setting) -> str:
        """How searches with a setting go."""
        return unfiltered(self.state, self.options(setting)).search.plan.way


def recall(
    engine: Engine,
    queries: F32 | None,
    k: int,
    sample: int,
    settings: Sequence[Mapping[str, object]] | None,
) -> RecallReport:
    """Measure what searches find, against exact search on the originals.

    Parameters
    ----------
    queries : float32 (m, dim)      in the collection's form; None: ``sample`` of its documents, held out
    settings : list of dicts        what to measure beside the defaults, see `settings_from`; None: a grid. The points
                                    of the report are the defaults, these in their order, and, if none of them tells
                                    whether one bit is enough, one that does

    Times are of one thread. Raises InvalidInputError for less than two documents, originals that are not kept, and
    settings that cannot be.
    """
    k, sample = check_int("k", k, 1, MAX_K), check_int("sample", sample, 1, 100_000)
    state, quantization = measurable(engine, "recall()")
    defaults, workers = engine.search_defaults, engine.workers
    asked = None if settings is None else settings_from(settings, defaults, quantization)
    for setting in asked or ():
        check_truncated(setting.quantization.truncate_dim, state.head.dim)
    vectors, own = given_or_held_out(state, queries, sample)
    exam = examine(state, vectors, own, k, workers)
    now = Bench(state, exam, k, engine.hnsw, workers)
    bits = replace(now, hnsw=replace(engine.hnsw, full_scan_threshold=0))
    default = Setting(quantization, defaults)
    points: dict[Setting, RecallPoint] = {}
    part = Part(state, own, vectors, workers)
    with Progress("measuring", 1) as progress:
        current = now.point(default, True, part.memory(None))
        if current.way != EXACT:
            points[default] = current
        if asked is None:
            asked = [setting for setting in _grid(bits, default) if setting not in points]
        _measure(asked, default, bits, part, points, progress)
        if not any(map(_tells, points.values())):
            kind = default if quantization.encoding == "one_bit" else Setting(_others(quantization)[2], defaults)
            more = [replace(kind, params=SearchParams(_SUITS_AT))]
            _measure(more, default, bits, part, points, progress)
            asked = [*asked, *more]
    all_points = (current, *(points[setting] for setting in asked))
    best = max(filter(_tells, all_points), key=lambda point: point.recall)
    return RecallReport(
        recall=current.recall,
        low=current.low,
        high=current.high,
        milliseconds=current.milliseconds,
        k=k,
        queries=len(exam),
        held_out=queries is None,
        documents=state.head.n_live,
        scanned=part.documents,
        distance=state.head.settings["distance"],
        dim=vectors.shape[1],
        current=current,
        points=all_points,
        scores=_histogram(state, exam),
        suits_one_bit=best.recall >= _SUITS,
        verdict=_verdict(best, default, all_points, exam.size) + (_SMALL if current.way == EXACT else ""),
    )


def given_or_held_out(state: State, queries: F32 | None, count: int) -> tuple[F32, I64 | None]:
    """The queries of a measurement, and the ordinals of the documents that they are."""
    if queries is None:
        return held_out(state, count)
    if not len(queries):
        raise InvalidInputError("queries is empty; expected (n, dim), or None to hold out documents of the collection")
    check_queries(queries, state.head.settings["distance"])
    return queries, None


def settings_from(given: Sequence[Mapping[str, object]], defaults: SearchParams, stored: Quantization) -> list[Setting]:
    """Settings from dictionaries of what `SearchParams` and `Quantization` have.

    What is not given is the collection's. With one of encoding, estimator and rotate, the others that make codes are
    not: they are what `Quantization` has for them.
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
        known = {name: value for name, value in each.items() if value is not None}
        params = replace(defaults, **{name: known[name] for name in _PARAMS if name in known})  # type: ignore[arg-type]
        coded = {name: known[name] for name in _QUANTIZATION if name in known}
        out.append(Setting(_resolved(Quantization(**coded), stored), params))  # type: ignore[arg-type]
    return out


def _resolved(asked: Quantization, stored: Quantization) -> Quantization:
    """What is asked for with nothing left open, as `Collection.requantize` would have it."""
    if asked.encoding == asked.estimator == AUTO and asked.rotate is None:
        kept = stored if asked.truncate_dim is None else replace(stored, truncate_dim=asked.truncate_dim)
        return kept if asked.query_encoding == AUTO else replace(kept, query_encoding=asked.query_encoding)
    first = ways(replace(asked, encoding="one_bit") if asked.encoding == AUTO else asked)[0]
    query = query_encoding(asked.query_encoding, first.encoding, first.estimator, measured=False)
    return replace(first, query_encoding=query)


def _grid(bench: Bench, default: Setting) -> list[Setting]:
    """What is worth measuring: the stored codes at all oversamplings and beams, other codes at all oversamplings."""
    out = []
    for oversampling in _OVERSAMPLINGS:
        plain = replace(default, params=SearchParams(oversampling))
        out.append(plain)
        if bench.way(plain) == WALK:
            beams = (max(1, int(times * bench.hnsw.ef_construct)) for times in _BEAMS)
            out.extend(replace(plain, params=SearchParams(oversampling, True, beam)) for beam in beams)
    others = [other for other in _others(default.quantization) if other != default.quantization]
    return out + [Setting(other, SearchParams(oversampling)) for other in others for oversampling in _OVERSAMPLINGS]


def _others(stored: Quantization) -> list[Quantization]:
    """Other encodings, of as much of each vector as the collection's."""
    return [replace(other, truncate_dim=stored.truncate_dim) for other in _OTHERS]


def _measure(
    asked: Sequence[Setting],
    default: Setting,
    bits: Bench,
    part: Part,
    points: dict[Setting, RecallPoint],
    progress: Progress,
) -> None:
    """Add the points that are not there yet, each kind of codes made once."""
    settings = [setting for setting in dict.fromkeys(asked) if setting not in points]
    done, total = len(points), len(points) + len(settings)
    for codes in dict.fromkeys(setting.codes for setting in settings):
        stored = codes == default.codes
        bench, recoded = bits, None
        if not stored:
            exam = part.exam(bits.exam, bits.k)
            recoded = part.recoded(*codes)
            bench = replace(bits, exam=exam, state=recoded)
        for setting in settings:
            if setting.codes == codes:
                points[setting] = bench.point(setting, stored, part.memory(recoded))
                done += 1
                progress(done, total)


def _tells(point: RecallPoint) -> bool:
    """Whether a point says how well one bit does."""
    one_bit = point.quantization.encoding == "one_bit"
    return one_bit and point.rescore and point.oversampling == _SUITS_AT and point.way != EXACT


def _histogram(state: State, exam: Exam) -> Histogram:
    """Scores of true neighbors, and of as many documents picked at random, in bins of one width."""
    assert state.data is not None
    live, random = np.flatnonzero(state.live), np.random.default_rng(_SEED)
    others = []
    for i in range(len(exam)):
        picked = random.choice(live, min(exam.size, 10)).astype(np.int32)
        if exam.own is not None:
            picked = picked[picked != exam.own[i]]
        scores = exact_scores(state.data, exam.vectors[i : i + 1], np.unique(picked), len(picked))
        others.append(scores[~np.isnan(scores)])
    far, near = np.concatenate(others).astype(np.float64), exam.scores.ravel().astype(np.float64)
    edges = np.histogram_bin_edges(np.concatenate([far, near]), _BINS)
    counts = [tuple(np.histogram(scores, edges)[0].tolist()) for scores in (near, far)]
    return Histogram(tuple(edges.tolist()), *counts)


def _verdict(best: RecallPoint, default: Setting, points: Sequence[RecallPoint], size: int) -> str:
    """Whether the model suits one bit, in a sentence."""
    figure = f"{100 * best.recall:.1f}% of the true {size} nearest [{100 * best.low:.1f}, {100 * best.high:.1f}]"
    finds = f"at oversampling {_SUITS_AT:g} {_name(best.quantization)} finds {figure}"
    alike = [p for p in points if p.rescore and p.oversampling == _SUITS_AT and p.way != EXACT]
    own = [p.recall for p in alike if p.quantization == default.quantization != best.quantization]
    if own:
        finds += f", this collection's codes, {_name(default.quantization)}, {100 * own[0]:.1f}%"
    if best.recall >= _SUITS:
        return f"This model suits one bit: {finds}."
    more = [p for p in alike if p.quantization.encoding != "one_bit"]
    enough = [point for point in more if point.recall >= _SUITS]
    if enough:
        least = min(enough, key=lambda point: (point.memory_bytes, -point.recall))
        finds += f"; {_name(least.quantization)} find {100 * least.recall:.1f}%"
    elif more:
        most = max(more, key=lambda point: point.recall)
        finds += f"; {_name(most.quantization)} find {100 * most.recall:.1f}%: take more candidates as well"
    else:
        finds += "; take more candidates (oversampling), or more bits"
    return f"One bit is not enough for this model: {finds}."


def _name(quantization: Quantization) -> str:
    turned = ", rotated" if quantization.rotate else ""
    part = "" if quantization.truncate_dim is None else f", of the first {quantization.truncate_dim:,} values"
    return f"{_BITS[quantization.encoding]} ({quantization.estimator}{turned}{part})"
