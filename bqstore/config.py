"""The settings of a collection and of a search: frozen dataclasses, checked when they are made.

Names are Qdrant's, so that its users find them. Settings that shape the stored bytes (`Quantization`, ``HnswConfig.m``
and ``ef_construct``) must agree with what is stored. Those of a query (`SearchParams`, ``query_encoding``,
``full_scan_threshold``) may differ at every opening.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from .arguments import (
    as_dicts,
    check_bool,
    check_choice,
    check_int,
    check_real,
    checked_keywords,
    refuse_unknown,
    shown,
    type_of,
)
from .errors import InvalidInputError

DISTANCES: Final = ("cosine", "dot", "euclid")
ORIGINALS: Final = ("float32", "float16", "int8", "none")
VALUE_BYTES: Final = {"float32": 4, "float16": 2, "int8": 1, "none": 0}  # of one value of an original
MAX_DIM: Final = 16_384
MAX_K: Final = 10_000

ENCODINGS: Final = ("one_bit", "one_and_half_bits", "two_bits", "four_bits")
QUERY_ENCODINGS: Final = ("binary", "scalar4bits", "scalar8bits")
ESTIMATORS: Final = ("sign", "rabitq")
AUTO: Final = "auto"

TOKENIZERS: Final = ("unicode61", "porter", "trigram")

S = TypeVar("S")


def _settings(cls: type[S]) -> type[S]:
    """Decorate a dataclass so that an unknown keyword is an UnknownKeywordError."""
    cls.__init__.__qualname__ = cls.__name__
    cls.__init__ = checked_keywords(cls.__init__)  # type: ignore[method-assign]
    return cls


@_settings
@dataclass(frozen=True)
class Quantization:
    """How vectors become codes, and how a query is compared with them.

    With nothing given, encodings are measured on the first vectors, and the smallest that finds enough is kept:
    `CollectionInfo.quantization` is the outcome, `CollectionInfo.choice` the reason. `Collection.requantize` changes
    it later.

    Parameters
    ----------
    encoding : "auto"           chosen by measuring (the default)
        "one_bit"               bit = 1 where the value is > 0: Qdrant's ``one_bit``
        "one_and_half_bits", "two_bits"
                                Qdrant's, with the sign estimator: three levels a value, set by the mean and deviation
                                of its dimension. With ``estimator="rabitq"``, "two_bits" has four levels a value
        "four_bits"             sixteen levels a value; "rabitq" only
    query_encoding : "auto"     "scalar8bits" for "four_bits"; "scalar4bits" where the codes were chosen by measuring or
                                use "rabitq"; else "binary"
        "binary"                the query is encoded as the vectors are
        "scalar4bits", "scalar8bits"
                                4 or 8 bits of every value of the query are kept: a few nanoseconds more a code, and a
                                better order. May differ at every opening
    estimator : "auto"          chosen by measuring; "sign" if an encoding other than "four_bits" is given without
                                ``rotate=True``
        "sign"                  candidates are ranked by the product of signs, ``dim - 2 * hamming``
        "rabitq"                vectors are centered on the mean of the data, and two float32 a vector correct the
                                product to an unbiased estimate of the score (Gao and Long, arXiv 2405.12497; with
                                more bits: 2409.09913)
    rotate : bool or None       "rabitq" only: rotate the centered vectors at random, so that a few large dimensions
                                are spread over all. None: chosen by measuring; False if
                                encoding and estimator are both given
    truncate_dim : int or None  how many of the first values of each vector codes and graph are made of; None: all.
                                For models trained to hold the most in the first values (Matryoshka), such as OpenAI's
                                third generation: 512 of 3,072 values take a sixth of the memory. Vectors are stored,
                                queries given and candidates rescored whole; without rescoring, scores are those of the
                                truncated vectors

    Raises
    ------
    InvalidInputError           an unknown value, or a combination that does not exist

    >>> import bqstore
    >>> col = bqstore.open(quantization=bqstore.Quantization("two_bits", estimator="rabitq"))
    >>> col.info().quantization
    Quantization(encoding='two_bits', query_encoding='scalar4bits', estimator='rabitq', rotate=False, truncate_dim=None)
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


@_settings
@dataclass(frozen=True)
class HnswConfig:
    """The settings of the graph (HNSW; Malkov and Yashunin 2016), and the size up to which none is used.

    Parameters
    ----------
    m : int                     links a node on the upper levels, twice as many on level 0 (2 to 512)
    ef_construct : int          length of the candidate list while building (4 to 10,000)
    full_scan_threshold : int   in kilobytes of float32 vectors, as in Qdrant: up to this size the accepted vectors
                                are scanned exactly; 0: never. May differ at every opening

    Raises
    ------
    InvalidInputError           a value out of its range

    >>> import bqstore
    >>> bqstore.open(hnsw=bqstore.HnswConfig(m=32)).info().hnsw
    HnswConfig(m=32, ef_construct=128, full_scan_threshold=10000)
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


@_settings
@dataclass(frozen=True)
class SearchParams:
    """The defaults of a search; each can be given per call.

    Parameters
    ----------
    oversampling : float        the codes select ``ceil(k * oversampling)`` candidates, which are rescored (>= 1)
    rescore : bool              order the candidates by the exact score of their original vectors
    hnsw_ef : int or None       length of the graph walk's candidate list, at least the number of candidates. None:
                                ``ef_construct``, or twice the candidates if that is more; twice or four times
                                ``ef_construct`` where trials of the graph have shown that it takes that. Unused by a
                                scan

    Raises
    ------
    InvalidInputError           a value out of its range

    >>> import bqstore
    >>> bqstore.open(search=bqstore.SearchParams(oversampling=4)).info().search
    SearchParams(oversampling=4.0, rescore=True, hnsw_ef=None)
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


GROUPS: Final[dict[str, type[Any]]] = {"quantization": Quantization, "hnsw": HnswConfig, "search": SearchParams}


def check_oversampling(value: object) -> float:
    """``oversampling`` as a float of at least 1, or InvalidInputError."""
    expected = "a number of at least 1 (candidates = k * oversampling)"
    number = check_real("oversampling", value, expected)
    if number < 1:
        raise InvalidInputError(f"oversampling is {shown(value)}; expected {expected}")
    return number


def settings_from(cls: type[S], given: S | Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The fields a caller has set: all of a dataclass, the given ones of a dictionary, none for None."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if given is None:
        return {}
    if isinstance(given, Mapping):
        refuse_unknown(given, names, where)
        cls(**given)  # checks the values
        return dict(given)
    if isinstance(given, cls):
        return asdict(given)  # type: ignore[call-overload, no-any-return]
    expected = f"{cls.__name__}({', '.join(names)})"
    raise InvalidInputError(f"{where} is {type_of(given)}; expected {expected} or a dict of its fields")


def text_index_in(given: object) -> dict[str, Any] | None:
    """The settings of a text index that a caller asks for; None for False. Raises InvalidInputError."""
    if given is True or given is False:
        return {"tokenize": TOKENIZERS[0]} if given else None
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"text_index is {shown(given)}; expected True, False, or a dict such as {{'tokenize': 'porter'}}"
        )
    refuse_unknown(given, ("tokenize",), "text_index")
    return {"tokenize": check_choice("tokenize", given.get("tokenize", TOKENIZERS[0]), TOKENIZERS)}


def as_settings(quantization: Quantization) -> dict[str, Any]:
    """The fields as they are stored; ``truncate_dim`` only where it is set, as older versions do not know it."""
    stored = asdict(quantization)
    if stored["truncate_dim"] is None:
        del stored["truncate_dim"]
    return stored


def check_truncated(truncate_dim: int | None, dim: int | None) -> None:
    """Raise InvalidInputError if ``truncate_dim`` is more than the vectors have."""
    if truncate_dim is not None and dim is not None and truncate_dim > dim:
        raise InvalidInputError(
            f"truncate_dim is {truncate_dim:,}, and vectors of this collection have {dim:,} dimensions; expected an "
            f"integer from 1 to {dim:,}, or None for codes of whole vectors"
        )


SEARCH_KEYWORDS: Final = (
    *("k", "filter", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization", "score_threshold"),
    *("with_vectors", "target_recall"),
)
# Qdrant's `SearchParams` as a dictionary: the name of each setting there, and in `Collection.search`
_QDRANT: Final = {"hnsw_ef": "hnsw_ef", "exact": "exact", "quantization": "quantization"}
_QDRANT_QUANTIZATION: Final = {"rescore": "rescore", "oversampling": "oversampling", "ignore": "ignore_quantization"}


def search_keywords(
    search_params: Mapping[str, Any] | None, known: Collection[str] = SEARCH_KEYWORDS, **keywords: Any
) -> dict[str, Any]:
    """Keywords of `Collection.search` from settings in Qdrant's shape and from keywords, which take precedence.

    Parameters
    ----------
    search_params : dict, Qdrant's `SearchParams`, or None
                                    ``{"hnsw_ef": 128, "exact": False, "quantization": {"rescore": True,
                                    "oversampling": 2.0, "ignore": False}}``, or a part of it
    known : names                   keywords that the caller takes, for the error of a misspelt one; with ``rerank``
                                    comes ``fetch_k``
    **keywords                      of `Collection.search`; one that is None is left out

    Raises
    ------
    UnknownKeywordError             a name that neither has
    InvalidInputError               ``search_params`` is not a dict

    >>> import bqstore
    >>> bqstore.search_keywords({"hnsw_ef": 128, "quantization": {"oversampling": 2.0}}, k=5, filter=None)
    {'hnsw_ef': 128, 'oversampling': 2.0, 'k': 5}
    """
    if keywords.get("rerank") is not None:
        known = {*known, "fetch_k"}
    refuse_unknown(keywords, known, "search")
    outer = _renamed(search_params, "search_params", _QDRANT)
    inner = _renamed(outer.pop("quantization", None), "search_params['quantization']", _QDRANT_QUANTIZATION)
    return {**outer, **inner, **{name: value for name, value in keywords.items() if value is not None}}


def _renamed(given: object, where: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a dictionary that are not None, by other names."""
    if given is None:
        return {}
    given = as_dicts(given)
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{where} is {type_of(given)}; expected a dict in Qdrant's shape")
    refuse_unknown(given, names, where)
    return {names[name]: value for name, value in given.items() if value is not None}
