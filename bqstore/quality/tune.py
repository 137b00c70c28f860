"""The cheapest settings of a search that find enough, on a collection's own data. Floor 3.

Recall grows with the oversampling, so for each width of beam the least that is enough is found in a few steps; of
these the one that takes the least time is chosen. The winner of many trials owes a part of its figures to luck: it is
examined again on queries that the search for it has not seen, and takes more candidates until it passes there too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ..arguments import check_int, check_real, shown
from ..config import MAX_K, Quantization, SearchParams
from ..engine.engine import Engine
from ..engine.prepared_search import unfiltered
from ..errors import InvalidInputError, TargetNotReachedError
from ..index.planner import WALK
from ..progress import Progress
from .ground_truth import F32, examine, found, interval, measurable, milliseconds, most_certain
from .recall_report import Bench, Setting, given_or_held_out

_HALF = 1000  # queries that settings are looked for with; as many more, at most, to examine what was found
_TIMED = 200  # of them, to compare times
_LADDER = (
    *(1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20),
    *(22, 25, 28, 32, 36, 40, 45, 50, 56, 64),
)
_MOST = 10_000  # candidates
_BEAMS = (32.0, 16.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0)  # widths of a walk's, times the candidates
_SEED = 0x6271_7377
_AS_FAST = 1.03  # times this near cannot be told apart


@dataclass
class Trials:
    """Settings that were tried on one set of queries."""

    bench: Bench
    quantization: Quantization
    progress: Progress
    known: dict[SearchParams, tuple[float, float, float]] = field(default_factory=dict)

    def interval(self, params: SearchParams) -> tuple[float, float, float]:
        """Recall with the ends of its interval."""
        if params not in self.known:
            bench, options = self.bench, self.bench.options(Setting(self.quantization, params))
            options = replace(options, workers=bench.workers)
            self.known[params] = interval(found(bench.state, bench.exam, options), bench.exam.size)
            self.progress(len(self.known), max(len(self.known) + 1, len(_BEAMS) * 3))
        return self.known[params]

    def reaches(self, target: float, params: SearchParams) -> bool:
        """Whether the recall surely reaches the target."""
        return self.interval(params)[1] >= target


def tune(engine: Engine, target_recall: float, k: int, queries: F32 | None) -> SearchParams:
    """The settings of the least time per query whose recall's lower 95% confidence bound reaches the target.

    Parameters
    ----------
    queries : float32 (m, dim)      in the collection's form; None: up to 2,000 of its documents, held out

    A collection that is small, and so is answered exactly, is tuned for when it has grown. Times are of one thread.

    Raises TargetNotReachedError; InvalidInputError for less than two documents, and originals that are not kept.
    """
    target = check_real("target_recall", target_recall, "a number above 0, and at most 1")
    if not 0 < target <= 1:
        raise InvalidInputError(f"target_recall is {shown(target_recall)}; expected a number above 0, and at most 1")
    k = check_int("k", k, 1, MAX_K)
    state, quantization = measurable(engine, "tune()")
    vectors, own = given_or_held_out(state, queries, 2 * _HALF)
    if len(vectors) < 2:
        raise InvalidInputError("tune() needs at least 2 queries: some to look for settings, others to examine them")
    if own is None:
        vectors = np.ascontiguousarray(_shuffled(vectors)[: 2 * _HALF])
    exam = examine(state, vectors, own, k, engine.workers)
    half = len(exam) // 2
    hnsw = replace(engine.hnsw, full_scan_threshold=0)
    first = Bench(state, exam.part(slice(half)), k, hnsw, engine.workers)
    second = replace(first, exam=exam.part(slice(half, None)))
    ladder = _ladder(k, state.n)
    with Progress("tuning", 1) as progress:
        seen, unseen = Trials(first, quantization, progress), Trials(second, quantization, progress)
        finalists = _finalists(seen, target, ladder)
        while finalists:
            chosen_params, beam = finalists.pop(_fastest(seen, [params for params, _ in finalists]))
            while not unseen.reaches(target, chosen_params):
                higher = [step for step in ladder if step > chosen_params.oversampling]
                if not higher:
                    break
                chosen_params = _params(k, higher[0], beam)
            else:
                return chosen_params
    raise _not_reached(target, unseen if unseen.known else seen, len(exam), queries is None)


def _shuffled(vectors: F32) -> F32:
    """The vectors in another order, the same every time: neighbors may be of a kind."""
    return vectors[np.random.default_rng(_SEED).permutation(len(vectors))]


def _ladder(k: int, n: int) -> list[float]:
    """Oversamplings to try: up to all slots, at most 10,000 of them."""
    most = max(1.0, min(_LADDER[-1], min(n, _MOST) / k))
    steps = [float(step) for step in _LADDER if step < most] + [most]
    of_candidates = {math.ceil(k * step - 1e-9): step for step in reversed(steps)}
    return sorted(of_candidates.values())


def _params(k: int, oversampling: float, beam: float | None) -> SearchParams:
    candidates = math.ceil(k * oversampling - 1e-9)
    return SearchParams(oversampling, True, None if beam is None else math.ceil(candidates * beam))


def _finalists(trials: Trials, target: float, ladder: list[float]) -> list[tuple[SearchParams, float | None]]:
    """For each beam the least oversampling that is enough; where no walk is worth it there is one way.

    A narrower beam, as a multiple of the candidates, needs no fewer of them. So it is of use only where it is narrower
    as a number of nodes, too, and is looked for no further.
    """
    k = trials.bench.k

    def way(params: SearchParams) -> str:
        return trials.bench.way(Setting(trials.quantization, params))

    walks = way(_params(k, ladder[0], 1.0)) == WALK
    out: list[tuple[SearchParams, float | None]] = []
    low, narrowest = 0, math.inf
    for beam in _BEAMS if walks else (None,):
        rising = [_params(k, step, beam) for step in ladder[low:] if beam is None or beam * k * step < narrowest]
        if not rising or (narrowest < math.inf and not trials.reaches(target, rising[-1])):
            continue
        least = _least(lambda params: trials.reaches(target, params), rising)
        if least is None:
            continue
        low = ladder.index(least.oversampling)
        narrowest = least.hnsw_ef or narrowest
        plain = SearchParams(least.oversampling)
        # so wide a beam that all are scanned: nothing to remember, where the default scans as well
        out.append((plain, None) if way(least) == way(plain) != WALK else (least, beam))
    return out


def _least(enough: Callable[[SearchParams], bool], rising: list[SearchParams]) -> SearchParams | None:
    """The first that is enough, if all behind it are: by strides that double, as it is mostly near, then by halving."""
    low, high, stride = 0, 0, 1
    while high < len(rising) and not enough(rising[high]):
        low, high, stride = high + 1, min(high + stride, max(high + 1, len(rising) - 1)), 2 * stride
    while low < high < len(rising):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(rising[middle]) else (middle + 1, high)
    return rising[high] if high < len(rising) else None


def _fastest(trials: Trials, finalists: list[SearchParams]) -> int:
    """Which takes the least time per query, or about the least, and finds the most.

    Side by side, as the machine may be busier at one time than another. No two ask the same query in a row: the second
    would find its documents in the cache.
    """
    bench = trials.bench
    ways = [unfiltered(bench.state, bench.options(Setting(trials.quantization, params))) for params in finalists]
    vectors = bench.exam.vectors[:_TIMED]
    m, taken = len(vectors), np.empty((len(ways), len(vectors)))
    for i in range(m):
        for j, way in enumerate(ways):
            at = (i + j * m // len(ways)) % m
            taken[j, at] = milliseconds(way, vectors[at : at + 1])[0]
    medians = np.median(taken, axis=1)
    fast = np.flatnonzero(medians <= _AS_FAST * medians.min()).tolist()
    return max(fast, key=lambda j: trials.interval(finalists[j])[0])


def _not_reached(target: float, trials: Trials, queries: int, held_out: bool) -> TargetNotReachedError:
    """The error that says how far the best settings come, and what helps."""
    params = max(trials.known, key=lambda params: trials.known[params][1:])
    recall, low, high = trials.known[params]
    beam = "" if params.hnsw_ef is None else f", hnsw_ef={params.hnsw_ef}"
    best = f"oversampling={params.oversampling:g}{beam}"
    message = (
        f"no settings surely reach recall {target:g} at k={trials.bench.k}: the best, {best}, find {recall:.4f} "
        f"of the true nearest [{low:.4f}, {high:.4f}] of {len(trials.bench.exam):,} queries, whose lower bound counts"
    )
    if (most := most_certain(len(trials.bench.exam))) < target:
        needed = 0 if target == 1 else 2 * math.ceil(math.log(0.05) / math.log(target))
        message += f"; so few queries cannot show more than {most:.4f} with 95% confidence: "
        if needed == 0:
            return TargetNotReachedError(f"{message}no number of them shows 1; ask for less")
        what = "this collection has" if held_out and queries < 2 * _HALF else "there are"
        enough = (
            f"{needed:,} would do, half of them to look for settings, half to examine these, and {what} {queries:,}"
        )
        if needed > 2 * _HALF:
            return TargetNotReachedError(f"{message}{enough}, the most that are measured; ask for less")
        return TargetNotReachedError(f"{message}{enough}; " + ("add documents" if held_out else "give more"))
    if trials.quantization.encoding == "four_bits":
        return TargetNotReachedError(f"{message}; a larger m and ef_construct make a better graph, or ask for less")
    return TargetNotReachedError(
        f"{message}; requantize with more bits a dimension, such as encoding='four_bits', which takes the originals "
        "that are kept, or ask for less"
    )
