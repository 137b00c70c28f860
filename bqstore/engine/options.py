"""The settings of one search: what the call gives over the collection's defaults, checked once for all equal calls."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arguments import check_bool, check_int, check_real
from ..config import MAX_K, HnswConfig, SearchParams
from ..errors import InvalidInputError
from ..index import Workers
from .target import Promise, check_target, resolve

if TYPE_CHECKING:
    from .engine import Engine

MAX_THREADS = 1024
_KEPT = 64  # sets of settings that are remembered


class Asked(NamedTuple):
    """The settings of a call as they were given, unchecked; None: the collection's default."""

    k: Any
    oversampling: Any = None
    rescore: Any = None
    hnsw_ef: Any = None
    exact: Any = False
    ignore_quantization: Any = False
    score_threshold: Any = None
    with_vectors: Any = False
    threads: Any = 1
    target_recall: Any = None


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one search, checked.

    Parameters
    ----------
    exact : bool        score all originals; ``ignore_quantization`` does the same here
    originals : bool    whether the collection keeps any
    query_encoding : str as in `Quantization`: "auto" is what the codes of the state suggest
    workers : Workers   how many queries of a batch may run at once
    adaptive : bool     whether a filter or many copies may widen the candidate list: true if the call gives no
                        ``oversampling``
    promise : Promise or None
                        what reaches the target recall, where the settings were left open
    target : float      the recall that is promised; 0: none, because settings were given or no originals are kept
    """

    k: int
    params: SearchParams
    exact: bool
    originals: bool
    hnsw: HnswConfig
    query_encoding: str
    distance: str
    workers: Workers
    score_threshold: float | None = None
    with_vectors: bool = False
    adaptive: bool = True
    promise: Promise | None = None
    target: float = 0.0

    def oversampling(self, documents: int, filtered: bool) -> float:
        """The oversampling in a collection of so many documents, with or without a filter."""
        if self.promise is None:
            return self.params.oversampling
        return max(self.params.oversampling, self.promise.oversampling_of(documents, filtered))

    def in_use(self, documents: int) -> SearchParams:
        """The parameters of a search without a filter in a collection of so many documents."""
        return replace(self.params, oversampling=self.oversampling(documents, False))


class OptionsCache:
    """`Options` of the calls that were made lately."""

    def __init__(self) -> None:
        self._known: dict[Any, Options] = {}

    def clear(self) -> None:
        """Forget all: the defaults have changed."""
        self._known = {}

    def get(self, engine: "Engine", asked: tuple[Any, ...]) -> Options:
        """The options of a call; ``asked`` has the fields of `Asked`. InvalidInputError for what cannot be."""
        key = (asked, *map(type, asked))  # 1 and True are equal, and only one of them is a number
        kept = self._known  # one reference: another thread may replace it meanwhile, with new defaults
        try:
            known = kept.get(key)
        except TypeError:  # an argument that cannot be hashed: it is refused below
            known = None
        if known is None:
            known = options_of(engine, Asked(*asked))
            if len(kept) >= _KEPT:
                kept.clear()
            kept[key] = known
        return known


def options_of(engine: "Engine", asked: Asked) -> Options:
    """The options of a call with the collection's defaults filled in. Raises InvalidInputError."""
    k = check_int("k", asked.k, 1, MAX_K)
    params = defaults = engine.search_defaults
    if not (asked.oversampling is None and asked.rescore is None and asked.hnsw_ef is None):
        params = SearchParams(
            defaults.oversampling if asked.oversampling is None else asked.oversampling,
            defaults.rescore if asked.rescore is None else asked.rescore,
            defaults.hnsw_ef if asked.hnsw_ef is None else asked.hnsw_ef,
        )
    target = _target(engine, asked, params)
    params, only_exact, promise = _for_target(engine, asked, params, k, target)
    threshold = asked.score_threshold
    if threshold is not None:
        threshold = check_real("score_threshold", threshold, "a finite number")
    exact = check_bool("exact", asked.exact) | check_bool("ignore_quantization", asked.ignore_quantization)
    with_vectors = check_bool("with_vectors", asked.with_vectors)
    if not engine.keeps_originals:
        for name, wanted in (
            ("exact or ignore_quantization", exact),
            ("rescore=True", asked.rescore),
            ("with_vectors=True", with_vectors),
        ):
            if wanted:
                raise no_originals(name)
    workers = engine.workers
    if asked.threads is not None:
        workers = workers.at_most(check_int("threads", asked.threads, 1, MAX_THREADS))
    return Options(
        k,
        params,
        exact=exact or only_exact,
        originals=engine.keeps_originals,
        hnsw=engine.hnsw,
        query_encoding=engine.query_encoding,
        distance=engine.distance,
        workers=workers,
        score_threshold=threshold,
        with_vectors=with_vectors,
        adaptive=asked.oversampling is None,
        promise=promise,
        target=target,
    )


def _target(engine: "Engine", asked: Asked, params: SearchParams) -> float:
    """The recall that a call is promised; 0: none.

    None is where the call, the opening or the stored defaults (of `tune`, say) give the settings instead.
    """
    given = asked.oversampling is not None or asked.hnsw_ef is not None or asked.rescore is not None
    if asked.target_recall is not None and given:
        raise InvalidInputError(
            "target_recall is given with oversampling, hnsw_ef or rescore, which it chooses: give one or the other"
        )
    target = engine.target_recall if asked.target_recall is None else check_target(asked.target_recall)
    is_open = asked.target_recall is not None or engine.is_open_to_target
    return target if is_open and not given and params.rescore and engine.keeps_originals else 0.0


def _for_target(
    engine: "Engine", asked: Asked, params: SearchParams, k: int, target: float
) -> tuple[SearchParams, bool, Promise | None]:
    """The parameters that reach the target recall on this data, or an exact search where only that does."""
    calibration, dim = engine.calibration, engine.store.head.dim
    if target == 0 or calibration is None or dim is None:
        return params, False, None
    explicit = engine.target_is_given or asked.target_recall is not None
    found, promise = resolve(calibration, target, k, explicit, 4 * dim)
    return found, promise is None, promise


def no_originals(what: str) -> InvalidInputError:
    """The error for a call that a collection without originals cannot answer."""
    return InvalidInputError(f"{what} needs the originals; this collection keeps none (originals='none')")
