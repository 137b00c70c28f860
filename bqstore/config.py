"""The settings: frozen dataclasses, checked when made. Floor 0: knows errors only.

Names are Qdrant's, because its users are ours. What is given to ``open`` falls in two kinds: what shapes the stored
bytes (`Quantization`, ``HnswConfig.m`` ...) must agree with what is stored; what only steers a query
(`SearchParams`, ``HnswConfig.full_scan_threshold``) may differ at every open and every call.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from .arguments import (
    check_bool,
    check_choice,
    check_int,
    check_real,
    checked_keywords,
    from_mapping,
    refuse_unknown,
    shown,
)
from .errors import InvalidInputError

DISTANCES: Final = ("cosine", "dot", "euclid")
ORIGINALS: Final = ("float32", "float16", "int8", "none")
MAX_DIM: Final = 16_384
MAX_K: Final = 10_000

S = TypeVar("S")


def check_oversampling(value: object) -> float:
    """``oversampling`` as a float of at least 1, or InvalidInputError."""
    expected = "a number of at least 1 (candidates = k * oversampling)"
    number = check_real("oversampling", value, expected)
    if number < 1:
        raise InvalidInputError(f"oversampling is {shown(value)}; expected {expected}")
    return number


ENCODINGS: Final = ("one_bit", "one_and_half_bits", "two_bits", "four_bits")
QUERY_ENCODINGS: Final = ("binary", "scalar4bits", "scalar8bits")
ESTIMATORS: Final = ("sign", "rabitq")
AUTO: Final = "auto"


@dataclass(frozen=True)
class Quantization:
    """How vectors become codes, and how a query is compared with them.

    With nothing given, the first vectors are measured in every way and the cheapest that finds the most is kept;
    `CollectionInfo.quantization` says which, `CollectionInfo.choice` why. ``Collection.requantize`` changes it later.

    Parameters
    ----------
    encoding : "auto"           chosen by measuring (the default)
        "one_bit"               bit = 1 where the value is > 0: Qdrant's ``one_bit``
        "one_and_half_bits", "two_bits"
                                Qdrant's, of the sign estimator: three levels a value, by its dimension's mean and
                                deviation. With ``estimator="rabitq"``, "two_bits" are four levels a value
        "four_bits"             sixteen levels a value; "rabitq" only
    query_encoding : "auto"     "scalar4bits" where the codes were chosen or are of "rabitq", else "binary"
        "binary", "scalar4bits", "scalar8bits"
                                the query is encoded as the vectors are, or keeps 4 or 8 bits of every value, which
                                costs a few nanoseconds a code and ranks better. May differ at every open.
    estimator : "auto"          "sign" for an encoding that is given, else chosen by measuring
        "sign"                  candidates are ranked by the product of signs, ``dim - 2 * hamming``
        "rabitq"                the mean of the data is taken off, and two float32 a vector correct the product to an
                                unbiased estimate of the score (Gao and Long, arXiv 2405.12497; more bits: 2409.09913)
    rotate : bool or None       "rabitq" only: turn what is left of a vector by a fast random rotation, which spreads
                                what a few dimensions hold over all. None: as measured, False for an estimator given
    truncate_dim : int or None  codes are made of the first so many values of each vector, and so are what is compared
                                with them of a query, and the graph; None: of all. For models whose first values hold
                                the most (Matryoshka), such as OpenAI's third generation: codes of 512 of 3,072 values
                                take a sixth of the memory. Vectors are kept whole, queries are given whole, and
                                candidates are rescored by the whole; without rescoring, scores are those of the
                                truncated vectors
    """

    encoding: str = AUTO
    query_encoding: str = AUTO
    estimator: str = AUTO
    rotate: bool | None = None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        check_choice("encoding", self.encoding, (AUTO, *ENCODINGS))
        check_choice("query_encoding", self.query_encoding, (AUTO, *QUERY_ENCODINGS))
        check_choice("estimator", self.estimator, (AUTO, *ESTIMATORS))
        if self.rotate is not None:
            object.__setattr__(self, "rotate", check_bool("rotate", self.rotate))
        if self.truncate_dim is not None:
            object.__setattr__(self, "truncate_dim", check_int("truncate_dim", self.truncate_dim, 1, MAX_DIM))
        if self.encoding == "four_bits" and self.estimator == "sign":
            raise InvalidInputError("encoding='four_bits' needs estimator='rabitq': signs have one bit, or two")
        if self.encoding == "one_and_half_bits" and self.estimator == "rabitq":
            raise InvalidInputError("estimator='rabitq' has one_bit, two_bits and four_bits, not one_and_half_bits")
        if self.rotate and (self.estimator == "sign" or self.encoding == "one_and_half_bits"):
            raise InvalidInputError("rotate=True needs estimator='rabitq'")


@dataclass(frozen=True)
class HnswConfig:
    """The graph's settings, and when there is no need of one.

    Parameters
    ----------
    m : int                     links per node on the upper levels, twice as many on level 0 (2 to 512)
    ef_construct : int          beam width while building (4 to 10,000)
    full_scan_threshold : int   in kilobytes of float32 vectors, as in Qdrant: up to this size the accepted vectors
                                are scanned exactly; 0 never. May differ at every open.
    """

    m: int = 16
    ef_construct: int = 128
    full_scan_threshold: int = 10_000

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen: numpy ints are stored as plain ones
        set_(self, "m", check_int("m", self.m, 2, 512))
        set_(self, "ef_construct", check_int("ef_construct", self.ef_construct, 4, 10_000))
        threshold = check_int("full_scan_threshold", self.full_scan_threshold, 0, 2**40, " (kilobytes)")
        set_(self, "full_scan_threshold", threshold)


@dataclass(frozen=True)
class SearchParams:
    """The defaults of a query; each can be given per call.

    Parameters
    ----------
    oversampling : float        ``ceil(k * oversampling)`` candidates are taken by their bits and rescored (>= 1)
    rescore : bool              order the candidates by the exact score of what is kept of the originals
    hnsw_ef : int or None       beam width of a walk, never less than the candidates; None: ``ef_construct``, or twice
                                the candidates if that is more. A scan of all codes has no use for it.
    """

    oversampling: float = 3.0
    rescore: bool = True
    hnsw_ef: int | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "oversampling", check_oversampling(self.oversampling))
        set_(self, "rescore", check_bool("rescore", self.rescore))
        if self.hnsw_ef is not None:
            set_(self, "hnsw_ef", check_int("hnsw_ef", self.hnsw_ef, 1, 1_000_000))


def _check_keywords(cls: Any) -> None:
    """Wrap the generated __init__, which would answer an unknown keyword with a bare TypeError."""
    cls.__init__.__qualname__ = cls.__name__
    cls.__init__ = checked_keywords(cls.__init__)


for _cls in (Quantization, HnswConfig, SearchParams):
    _check_keywords(_cls)


def settings_from(cls: type[S], given: S | Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The fields a caller has set: all of a dataclass, the given ones of a dictionary, none for None."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        from_mapping(cls, given, where)  # checks names and values
        return dict(given)
    if isinstance(given, cls):
        return asdict(given)  # type: ignore[call-overload, no-any-return]
    expected = f"{cls.__name__}({', '.join(f.name for f in fields(cls))})"  # type: ignore[arg-type]
    raise InvalidInputError(f"{where} is a {type(given).__name__}; expected {expected} or a dict of its fields")


def as_settings(quantization: Quantization) -> dict[str, Any]:
    """The fields as they are stored: one that older versions do not know only where it says something."""
    stored = asdict(quantization)
    if stored["truncate_dim"] is None:
        del stored["truncate_dim"]
    return stored


def check_truncated(truncate_dim: int | None, dim: int | None) -> None:
    """Raise InvalidInputError where codes would be of more values than the vectors have."""
    if truncate_dim is not None and dim is not None and truncate_dim > dim:
        raise InvalidInputError(
            f"truncate_dim is {truncate_dim:,}, and vectors of this collection have {dim:,} dimensions; expected an "
            f"integer from 1 to {dim:,}, or None for codes of whole vectors"
        )


SEARCH_KEYWORDS: Final = (
    *("k", "filter", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization", "score_threshold"),
    "with_vectors",
)
# Qdrant's `SearchParams` as a dictionary: where each setting stands there, and what `Collection.search` calls it
_QDRANT_SHAPE: Final = {"hnsw_ef": "hnsw_ef", "exact": "exact"}
_QDRANT_QUANTIZATION: Final = {"rescore": "rescore", "oversampling": "oversampling", "ignore": "ignore_quantization"}


def search_keywords(search_params: Mapping[str, Any] | None, **keywords: Any) -> dict[str, Any]:
    """Keywords of `Collection.search` from settings in Qdrant's shape and from keywords, which come first.

    ``{"hnsw_ef": 128, "exact": False, "quantization": {"rescore": True, "oversampling": 2.0, "ignore": False}}``

    A keyword that is None is left out. Raises UnknownKeywordError for a name that neither has.
    """
    refuse_unknown(keywords, SEARCH_KEYWORDS, "search")
    out: dict[str, Any] = {}
    inner = search_params.get("quantization") if isinstance(search_params, Mapping) else None
    for where, given, names in (
        ("search_params", search_params, _QDRANT_SHAPE),
        ("search_params['quantization']", inner, _QDRANT_QUANTIZATION),
    ):
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"{where} is a {type(given).__name__}; expected a dict in Qdrant's shape")
        refuse_unknown(given, {*names, *(["quantization"] if names is _QDRANT_SHAPE else [])}, where)
        out.update({names[name]: value for name, value in given.items() if name in names and value is not None})
    out.update({name: value for name, value in keywords.items() if value is not None})
    return out
