"""The verdict of a recall report: what the searches in use find, then one next step."""

from collections.abc import Sequence

from ..config import Quantization
from ..engine.choose_encoding import described
from ..index.planner import EXACT
from ..results.recall import RecallPoint
from .ground_truth import highest_bound

SUITS, ONE_BIT_AT = 0.95, 4.0  # a model suits one bit if it reaches this recall at this oversampling


def tells_of_one_bit(point: RecallPoint) -> bool:
    """Whether a point tells if one bit is enough."""
    one_bit = point.quantization.encoding == "one_bit"
    return one_bit and point.rescore and point.oversampling == ONE_BIT_AT and point.way != EXACT


def verdict(points: Sequence[RecallPoint], size: int, queries: int, held_out: bool) -> str:
    """What the searches in use find, and what to do next.

    Parameters
    ----------
    points : of the report; the first is in use
    size : int                  hits that there were to find
    queries, held_out           how many there were, and whether they are documents
    """
    current, codes = points[0], [point for point in points if point.way != EXACT]
    nearest = f"of the true {size} nearest [{100 * current.low:.1f}, {100 * current.high:.1f}]"
    found = f"Your searches find {_percent(current)} {nearest}"
    few = highest_bound(queries) < SUITS  # even if all went well
    asked, more = ("documents", "add more, and measure again") if held_out else ("queries", "give more")
    if current.way != EXACT:
        found += f" with {described(current.quantization)}"
        if few and current.low < SUITS <= current.high:
            return f"{found}. {queries} {asked} are too few to tell; {more}."
        return found + _next_step(current, codes)
    found += ": the collection is small, and every document is scored."
    if few:
        return f"{found} {queries} {asked} are too few to tell how its codes will do; {more}."
    own = [point for point in codes if point.stored and point.quantization == current.quantization]
    as_now = [point for point in own if (point.oversampling, point.hnsw_ef) == (current.oversampling, current.hnsw_ef)]
    if not as_now:
        return f"{found} When it has grown, codes are compared. {_of_one_bit(codes)}"
    by_codes = f"they will find {_percent(as_now[0])} with {described(current.quantization)}"
    return f"{found} When it has grown and codes are compared, {by_codes}{_next_step(as_now[0], codes)}"


def _next_step(point: RecallPoint, codes: Sequence[RecallPoint]) -> str:
    """The end of the sentence on the setting in use, and what one bit would do if more are used."""
    more_bits = point.quantization.encoding != "one_bit"
    if point.recall >= SUITS:
        return ": nothing to do." + (f" {_of_one_bit(codes, point)}" if more_bits else "")
    enough = [other for other in codes if other.recall >= SUITS]
    own = [other for other in enough if other.stored and other.quantization == point.quantization]
    if own:
        least = min(own, key=lambda other: (other.oversampling, other.hnsw_ef is not None, other.hnsw_ef or 0))
        return f". Next step: tune(); at {_search(least)} these codes find {_percent(least)}."
    best = max(codes, key=lambda other: other.recall)
    if enough:
        best = min(enough, key=lambda other: (other.memory_bytes, other.oversampling, -other.recall))
    if best.quantization == point.quantization:
        return ". Next step: recall() without settings=, which measures other encodings."
    step = _requantize(best.quantization) + ("" if enough else ", and take more candidates")
    return f". Next step: {step}; with {described(best.quantization)} they find {_percent(best)} at {_search(best)}."


def _of_one_bit(codes: Sequence[RecallPoint], current: RecallPoint | None = None) -> str:
    """What one bit would find, and in how much of the memory in use."""
    best = max(filter(tells_of_one_bit, codes), key=lambda point: point.recall)
    memory = "" if current is None else f", in {best.memory_bytes / current.memory_bytes:.0%} of the memory"
    return f"With {described(best.quantization)} they would find {_percent(best)} at {_search(best)}{memory}."


def _percent(point: RecallPoint) -> str:
    return f"{100 * point.recall:.1f}%"


def _search(point: RecallPoint) -> str:
    beam = "" if point.hnsw_ef is None else f" and hnsw_ef {point.hnsw_ef}"
    return f"oversampling {point.oversampling:g}{beam}"


def _requantize(quantization: Quantization) -> str:
    rotate = ", rotate=True" if quantization.rotate else ""
    part = "" if quantization.truncate_dim is None else f", truncate_dim={quantization.truncate_dim}"
    return f"requantize(encoding={quantization.encoding!r}, estimator={quantization.estimator!r}{rotate}{part})"
