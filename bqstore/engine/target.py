"""The recall that a collection's searches promise, and the settings that were measured to keep it on its data.

A `Calibration` is measured by `quality.calibrate` on the whole collection, stored with its settings, and made again as
the collection grows. Each of its rungs is a setting of a search, cheapest first, with the recall that it had.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from ..arguments import check_real, shown
from ..config import SearchParams
from ..errors import InvalidInputError
from ..results.recall import RecallEstimate
from .state import State

DEFAULT_TARGET: Final = 0.95
K: Final = 10  # hits that recall is measured at
FEWEST_CHECKED: Final = 30  # checked searches; recall is not judged by fewer

# oversampling and length of the candidate list, None: the default one
RUNGS: Final[tuple[tuple[float, int | None], ...]] = (
    *((1.0, 16), (1.3, 20), (1.6, 24), (2.0, 32), (2.5, 48), (3.0, 64), (3.0, None), (4.0, None), (5.0, None)),
    *((6.4, None), (8.0, None), (10.0, None), (14.0, None), (20.0, None), (28.0, None), (40.0, None), (64.0, None)),
)
DEFAULT_RUNG: Final = RUNGS.index((3.0, None))  # used if no target is given and it reaches the default one
_AFFORDABLE = 512 << 20  # bytes of float32 vectors, up to which a search is exact where no rung is enough
MEASURED: Final = 0.995  # rungs after one with this recall are not measured
_MARGIN = 0.2  # the part of (1 - target) that is kept as a margin for the error of measuring


class Rung(NamedTuple):
    """A setting and the recall that it had, with the ends of its 95% confidence interval."""

    oversampling: float
    hnsw_ef: int | None
    recall: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """What settings find in a collection.

    Parameters
    ----------
    documents, queries : int    of the measurement; the queries are documents that were held out
    written : int               documents that had ever been written
    rungs : tuple of Rung       the first ones of `RUNGS`, as far as they were measured
    extra : int                 how many rungs above the measured one are taken, since searches found less than measured
    filtered : int              likewise, for searches with a filter
    kept : float                share of the true nearest that the originals, as rounded, still tell from others
    """

    documents: int
    queries: int
    rungs: tuple[Rung, ...]
    extra: int = 0
    filtered: int = 0
    written: int = 0
    kept: float = 1.0

    def reaching(self, target: float, least: int = 0) -> int | None:
        """The index of the first of `RUNGS`, from ``least`` on, that reaches a target; None if none does.

        It is reached among the true nearest, if the originals tell enough of these from others; else among the nearest
        by the originals.
        """
        wanted = to_be_measured(target)
        more = max(wanted, min(MEASURED, wanted / self.kept)) if self.kept >= target else wanted
        for enough in (more, wanted):
            for i, rung in enumerate(self.rungs):
                if rung.recall >= enough:
                    found = max(i, least) + self.extra
                    return found if found < len(RUNGS) else None
        return None

    def stored(self) -> dict[str, Any]:
        """As it stands in the collection's settings."""
        return {
            "documents": self.documents,
            "queries": self.queries,
            "rungs": [list(rung) for rung in self.rungs],
            "extra": self.extra,
            "filtered": self.filtered,
            "written": self.written,
            **({"kept": self.kept} if self.kept < 1 else {}),
        }


def calibration_of(settings: Mapping[str, Any]) -> Calibration | None:
    """What is stored in a collection's settings; None if nothing was measured for its codes yet, by these `RUNGS`."""
    stored = settings.get("calibration")
    if stored is None:
        return None
    try:
        rungs = tuple(Rung(*rung) for rung in stored["rungs"])
        known = Calibration(**{**stored, "rungs": rungs})
        numbers = (known.documents, known.queries, known.extra, known.filtered, known.written)
        recalls = [known.kept, *(float(value) for rung in rungs for value in rung[2:])]
    except (KeyError, TypeError, ValueError, OverflowError):  # another release's: it is measured anew
        return None
    same = tuple(rung[:2] for rung in rungs) == RUNGS[: len(rungs)] and all(0 <= recall <= 1 for recall in recalls)
    whole = all(type(number) is int and 0 <= number < 2**62 for number in numbers) and known.documents > 0
    return known if rungs and same and whole else None


class Unstored(NamedTuple):
    """A calibration that could not be stored, and the settings that it was measured under."""

    settings: Mapping[str, Any]
    calibration: Calibration


def calibration_in_use(settings: Mapping[str, Any], unstored: Unstored | None) -> Calibration | None:
    """What is known of the codes of these settings: what is stored, unless something newer could not be."""
    if unstored is not None:
        names = ("coding", "calibration")
        if all(unstored.settings.get(name) == settings.get(name) for name in names):
            return unstored.calibration
    return calibration_of(settings)


def check_target(value: object) -> float:
    """A target recall as a float; InvalidInputError if it is not between 0 and 1, or is 1: only ``exact`` finds all."""
    expected = "a number from 0 (nothing is promised) to 0.999; exact=True finds all"
    number = check_real("target_recall", value, expected)
    if not 0 <= number <= 0.999:
        raise InvalidInputError(f"target_recall is {shown(value)}; expected {expected}")
    return number


def to_be_measured(target: float) -> float:
    """The recall that must be measured for a target, which is measured with an error."""
    return target + _MARGIN * (1 - target)


class Promise(NamedTuple):
    """How a search keeps its target.

    Fields
    ------
    oversampling : float    that reached the target when it was measured
    documents : int         how many documents there were then. In a larger collection neighbors stand closer, so the
                            number of candidates grows with the documents
    filtered : float        factor under a filter
    """

    oversampling: float
    documents: int
    filtered: float

    def oversampling_of(self, documents: int, filtered: bool) -> float:
        """The oversampling in a collection of so many documents."""
        grown = self.oversampling * max(1.0, documents / self.documents)
        return grown * self.filtered if filtered else grown


def resolve(
    calibration: Calibration, target: float, k: int, asked: bool, vector_bytes: int
) -> tuple[SearchParams, Promise | None]:
    """The settings that reach a target on a collection's data; no promise where only an exact search does.

    ``asked``: whether the call or the opening gave the target: then the cheapest settings that reach it are taken, else
    never less than the defaults. For k below 10 as many candidates are taken as for 10.
    """
    found = calibration.reaching(target, 0 if asked else DEFAULT_RUNG)
    if found is None and calibration.documents * vector_bytes <= _AFFORDABLE:
        return SearchParams(), None
    found = len(RUNGS) - 1 if found is None else found
    more = max(1.0, K / k)
    oversampling, ef = RUNGS[found]
    under = RUNGS[min(found + calibration.filtered, len(RUNGS) - 1)][0] / oversampling
    promise = Promise(oversampling * more, calibration.documents, under)
    if not asked:
        return SearchParams(max(RUNGS[DEFAULT_RUNG][0], oversampling * more if found > DEFAULT_RUNG else 1.0)), promise
    return SearchParams(oversampling * more, True, None if ef is None else max(ef, -(-ef * k // K))), promise


class Keeper(Protocol):
    """Who keeps the promise; `quality.keeper` in an open collection. ``target``: what the caller's opening promises."""

    def written(self, target: float, exactly: int) -> None:
        """Look whether it is time to measure again; after a write. ``exactly``: the ``full_scan_threshold`` in use."""

    def found(self, state: State, search: Any, queries: Any, ordinals: Any, scores: Any) -> None:
        """A search has been answered: one in many is checked."""

    def settle(self, target: float, exactly: int) -> None:
        """Wait until what is due has been measured."""

    def stop(self) -> None:
        """End what is going on."""

    def estimates(self, target: float) -> dict[str, RecallEstimate]:
        """The recall of searches with this target that were checked, by kind."""


class NoKeeper:
    """Nobody: while a collection is being opened."""

    def written(self, target: float, exactly: int) -> None:  # noqa: D102
        pass

    def found(self, state: State, search: Any, queries: Any, ordinals: Any, scores: Any) -> None:  # noqa: D102
        pass

    settle = written

    def stop(self) -> None:  # noqa: D102
        pass

    def estimates(self, target: float) -> dict[str, RecallEstimate]:  # noqa: D102
        return {}
