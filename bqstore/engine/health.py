"""Whether searches find what the target promises, as far as it is known: measured on documents, and on searches."""

from typing import TYPE_CHECKING

from ..results.recall import Health, RecallEstimate
from .target import DEFAULT_RUNG, FEWEST_CHECKED, RUNGS

if TYPE_CHECKING:
    from .engine import Engine

_OPENING = "open it without search= and without tuned settings to let it choose them"


def health_of(engine: "Engine", way: str) -> Health:
    """What is known now; nothing is measured here. ``way``: of a search without a filter."""
    target, calibration = engine.target_recall, engine.calibration
    searches = engine.core.keeper.estimates(target)
    measured, problems = None, []
    if calibration is not None and calibration.rungs:
        found = calibration.reaching(target, 0 if engine.target_is_given else DEFAULT_RUNG)
        used = len(RUNGS) if found is None else found
        rung = calibration.rungs[min(used, len(calibration.rungs) - 1)]
        kept = calibration.kept
        measured = RecallEstimate(kept * rung.recall, kept * rung.low, kept * rung.high, calibration.queries)
        if kept < target:
            form = engine.store.head.settings["originals"]
            problems.append(
                f"originals are kept as {form}, which tells {kept:.3f} of the nearest from others that are nearly as "
                f"near, less than the target recall of {target:g}: a new collection with originals='float32' keeps all"
            )
        if found is None and engine.is_open_to_target:
            exactly = f"find {rung.recall:.3f} at most" if way != "exact" else "are exact, which finds all, but slowly"
            problems.append(
                f"no setting of these codes reaches the target recall of {target:g}, so searches {exactly}: "
                f"{_mend(engine, way)}"
            )
    for kind, seen in searches.items():
        if seen.queries >= FEWEST_CHECKED and seen.high < target:
            more = (
                "give a larger oversampling to searches with such filters"
                if kind == "filtered"
                else _mend(engine, kind)
            )
            problems.append(
                f"searches ({kind}) find {seen.recall:.3f} [{seen.low:.3f}, {seen.high:.3f}] of the nearest, less than "
                f"the target recall of {target:g}: {more}"
            )
    if target and not engine.keeps_originals:
        problems.append(
            f"no originals are kept, so that the target recall of {target:g} can neither be measured nor kept: "
            "a new collection with originals='int8' takes a byte for each value"
        )
    documents = 0 if calibration is None else calibration.documents
    return Health(not problems, target, measured, documents, searches, tuple(problems), way)


def _mend(engine: "Engine", way: str) -> str:
    if not engine.is_open_to_target:
        return _OPENING
    if engine.encoder.in_use(engine.query_encoding).encoding != "four_bits":
        return "requantize(encoding='four_bits') keeps more bits of each dimension"
    if way != "walk":
        return "no codes tell these documents apart; a lower target_recall takes less time"
    return "a larger m and ef_construct make a better graph, in a new collection"
