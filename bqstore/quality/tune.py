"""The fastest search settings that reach a recall, on a collection's own data.

Recall grows with the oversampling, so for each beam width the least oversampling that is enough is found in a few
steps; the fastest of these settings is taken. The best of many measurements is partly luck. So it is validated on
queries that were not used to find it, and gets more candidates until it passes there, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ..arguments import check_int, check_real, shown
from ..config import MAX_K, Quantization, SearchParams
from ..engine.engine import Engine
from ..errors import InvalidInputError, TargetNotReachedError
from ..index.planner import WALK
from ..progress import Progress
from .ground_truth import F32, exact_search, highest_bound, measurable, milliseconds
from .recall_report import Configuration, Evaluator, given_or_held_out

_HALF = 1000  # queries to find settings with, at most; as many more to validate them
_TIMED = 200  # of them, to compare times
_LADDER = (
    *(1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20),
    *(22, 25, 28, 32, 36, 40, 45, 50, 56, 64),
)
_MOST = 10_000  # candidates
_BEAMS = (32.0, 16.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0)  # beam widths of a walk, times the candidates
_SEED = 0x6271_7377
_AS_FAST = 1.03  # times that differ by less than this factor count as equal


@dataclass
class MeasuredRecalls:
    """Recalls on one set of queries, each measured once."""

    evaluator: Evaluator
    quantization: Quantization
    progress: Progress
    known: dict[SearchParams, tuple[float, float, float]] = field(default_factory=dict)

    def interval(self, params: SearchParams) -> tuple[float, float, float]:
        """Recall with the ends of its 95% confidence interval."""
        if params not in self.known:
            self.known[params] = self.evaluator.recall(Configuration(self.quantization, params))
            self.progress(len(self.known), max(len(self.known) + 1, len(_BEAMS) * 3))
        return self.known[params]

    def reaches(self, target: float, params: SearchParams) -> bool:
        """Whether the lower bound of the recall reaches the target."""
        return self.interval(params)[1] >= target

    def way(self, params: SearchParams) -> str:
        """Whether searches scan or walk."""
        return self.evaluator.way(Configuration(self.quantization, params))


def tune(engine: Engine, target_recall: float, k: int, queries: F32 | None) -> SearchParams:
    """The fastest settings of which the lower 95% confidence bound of the recall reaches the target.

    A small collection, which is searched exactly, is tuned for when it has grown. Times are of one thread.

    Parameters
    ----------
    queries : float32 (m, dim)      in the collection's form; None: up to 2,000 of its documents, held out

    Raises
    ------
    TargetNotReachedError           no settings reach it, or too few queries to tell
    InvalidInputError               fewer than two documents, or no originals are kept
    """
    target = check_real("target_recall", target_recall, "a number above 0, and at most 1")
    if not 0 < target <= 1:
        raise InvalidInputError(f"target_recall is {shown(target_recall)}; expected a number above 0, and at most 1")
    k = check_int("k", k, 1, MAX_K)
    state, quantization = measurable(engine, "tune()")
    vectors, ordinals = given_or_held_out(state, queries, 2 * _HALF)
    if len(vectors) < 2:
        raise InvalidInputError("tune() needs at least 2 queries: some to find settings with, others to validate them")
    if ordinals is None:
        vectors = np.ascontiguousarray(_shuffled(vectors)[: 2 * _HALF])
    _check_enough(target, len(vectors), queries is None)
    truth = exact_search(state, vectors, ordinals, k, engine.workers)
    half = len(truth) // 2
    hnsw = replace(engine.hnsw, full_scan_threshold=0)
    first = Evaluator(state, truth.part(slice(half)), k, hnsw, engine.workers)
    second = replace(first, truth=truth.part(slice(half, None)))
    ladder = _ladder(k, state.n)
    with Progress("tuning", 1) as progress:
        seen = MeasuredRecalls(first, quantization, progress)
        unseen = MeasuredRecalls(second, quantization, progress)
        finalists = _finalists(seen, target, ladder)
        while finalists:
            params, beam = finalists.pop(_fastest(seen, [params for params, _ in finalists]))
            while not unseen.reaches(target, params):
                higher = [step for step in ladder if step > params.oversampling]
                if not higher:
                    break
                params = _params(k, higher[0], beam)
            else:
                return params
    raise _not_reached(target, unseen if unseen.known else seen)


def _check_enough(target: float, queries: int, held_out: bool) -> None:
    """Raise TargetNotReachedError if so many queries could not show the target even if all went well."""
    most = highest_bound(queries // 2)
    if most >= target:
        return
    less = f"ask for at most {math.floor(100 * most) / 100:g}" if most >= 0.5 else "ask for less"
    needed = 2 * math.ceil(math.log(0.05) / math.log(target)) if target < 1 else math.inf
    takes = f"{needed:,} queries, half of them to find settings with and half to validate them"
    if needed > 2 * _HALF:
        takes = takes if target < 1 else "more queries than there can be"
        takes, more = f"{takes}: more than the {2 * _HALF:,} that are measured", ""
    elif held_out:
        takes, more = f"{takes}, and this collection has {queries} documents to ask with", "add documents, or "
    else:
        takes, more = f"{takes}, and there are {queries}", "give more, or "
    asked = "documents" if held_out else "queries"
    raise TargetNotReachedError(
        f"too few {asked} to tell: to show recall {target:g} with 95% confidence takes {takes}; {more}{less}"
    )


def _shuffled(vectors: F32) -> F32:
    """The vectors in a random order, the same every time: neighboring queries may be of one kind."""
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


def _finalists(seen: MeasuredRecalls, target: float, ladder: list[float]) -> list[tuple[SearchParams, float | None]]:
    """For each beam, as a multiple of the candidates, the least oversampling that is enough; one if codes are scanned.

    A narrower beam never needs fewer candidates. So it is measured only where it also has fewer nodes.
    """
    k = seen.evaluator.k
    walks = seen.way(_params(k, ladder[0], 1.0)) == WALK
    out: list[tuple[SearchParams, float | None]] = []
    low, narrowest = 0, math.inf
    for beam in _BEAMS if walks else (None,):
        rising = [_params(k, step, beam) for step in ladder[low:] if beam is None or beam * k * step < narrowest]
        if not rising or (narrowest < math.inf and not seen.reaches(target, rising[-1])):
            continue
        least = _least(lambda params: seen.reaches(target, params), rising)
        if least is None:
            continue
        low = ladder.index(least.oversampling)
        narrowest = least.hnsw_ef or narrowest
        plain = SearchParams(least.oversampling)
        # with so wide a beam codes are scanned: no beam is set if by default they are scanned as well
        out.append((plain, None) if seen.way(least) == seen.way(plain) != WALK else (least, beam))
    return out


def _least(enough: Callable[[SearchParams], bool], rising: list[SearchParams]) -> SearchParams | None:
    """The first that is enough, if all after it are: by galloping, since it mostly comes early, then by halving."""
    low, high, stride = 0, 0, 1
    while high < len(rising) and not enough(rising[high]):
        low, high, stride = high + 1, min(high + stride, max(high + 1, len(rising) - 1)), 2 * stride
    while low < high < len(rising):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(rising[middle]) else (middle + 1, high)
    return rising[high] if high < len(rising) else None


def _fastest(seen: MeasuredRecalls, finalists: list[SearchParams]) -> int:
    """The index of the settings with the least time per query; of about equal times, the ones with the best recall.

    They are timed in turn, as the machine may be busier at one time than another. No two run the same query in a row:
    the second would find its documents in the cache.
    """
    evaluator = seen.evaluator
    searches = [evaluator.prepared(Configuration(seen.quantization, params)) for params in finalists]
    vectors = evaluator.truth.queries[:_TIMED]
    m, taken = len(vectors), np.empty((len(searches), len(vectors)))
    for i in range(m):
        for j, search in enumerate(searches):
            at = (i + j * m // len(searches)) % m
            taken[j, at] = milliseconds(search, vectors[at : at + 1])[0]
    medians = np.median(taken, axis=1)
    fast = np.flatnonzero(medians <= _AS_FAST * medians.min()).tolist()
    return max(fast, key=lambda j: seen.interval(finalists[j])[0])


def _not_reached(target: float, measured: MeasuredRecalls) -> TargetNotReachedError:
    """The error that says how near the best settings come, and what helps."""
    params = max(measured.known, key=lambda params: measured.known[params][1:])
    recall, low, high = measured.known[params]
    beam = "" if params.hnsw_ef is None else f", hnsw_ef={params.hnsw_ef}"
    if measured.quantization.encoding == "four_bits":
        help_ = "a larger m and ef_construct make a better graph"
    else:
        help_ = "requantize(encoding='four_bits') keeps more bits of each dimension"
    return TargetNotReachedError(
        f"no settings are certain to reach recall {target:g} at k={measured.evaluator.k}: the best, "
        f"oversampling={params.oversampling:g}{beam}, find {recall:.4f} of the true nearest [{low:.4f}, {high:.4f}] of "
        f"{len(measured.evaluator.truth):,} queries, and the lower bound counts; {help_}, or ask for less"
    )
