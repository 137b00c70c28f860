"""Checks of keywords and plain values, and what an error message says of them.

An unknown keyword is never ignored: the error names the one that was probably meant, by what other vector stores call
it, else by its spelling.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import wraps
from numbers import Integral, Real
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from .errors import InvalidInputError, UnknownKeywordError

P = ParamSpec("P")
R = TypeVar("R")


# What other vector stores, and people, call our keywords, values and operators. Case and underscores do not count.
_SYNONYMS: Final = {
    "k": "n_results limit top_k n top num_results similarity_top_k n_neighbors",
    "filter": "where filters query_filter metadata_filter condition expr predicate count_filter scroll_filter "
    "facet_filter points_selector",
    "limit": "k n_results top_k top n",
    "offset": "skip start",
    "order_by": "sort sort_by",
    "descending": "reverse",
    "field": "key column field_name",
    "vector": "vectors query query_vector query_vectors query_embedding query_embeddings embedding embeddings queries "
    "xq",
    "vectors": "vector embeddings embedding queries query query_vectors query_embeddings data xb xq",
    "queries": "vectors vector query query_vectors query_embeddings embeddings",
    "ids": "id doc_ids document_ids uuids keys positive",
    "texts": "text documents document docs contents page_contents",
    "metadatas": "metadata payloads payload properties attributes",
    "metadata": "metadatas payload payloads properties attributes",
    "with_vectors": "include_vectors include_embeddings return_vectors include_values include",
    "score_threshold": "threshold min_score score_cutoff similarity_cutoff similarity_threshold",
    "exact": "brute_force flat",
    "hnsw_ef": "ef ef_search search_ef ef_runtime num_candidates",
    "ef_construct": "ef_construction construction_ef ef_build ef",
    "m": "max_connections max_degree connectivity max_neighbors",
    "oversampling": "oversample refine_factor rescore_multiplier rerank_factor",
    "rescore": "rescoring refine",
    "ignore_quantization": "ignore",
    "rerank": "reranker rerank_function ranker cross_encoder",
    "lambda_mult": "diversity mmr_threshold mmr_lambda",
    "threads": "num_threads n_threads n_jobs workers num_workers max_workers parallel",
    "batch": "batch_size chunk_size page_size",
    "target_recall": "recall target",
    "path": "persist_directory persist_dir persist_path uri location url folder directory db_path host file filename",
    "collection": "collection_name name table table_name index_name namespace old old_name",
    "new": "new_name",
    "to": "target destination",
    "dim": "dimension dimensions dims vector_size vector_dim embedding_dim ndim",
    "distance": "metric space metric_type distance_metric distance_function distance_strategy similarity",
    "quantization": "quantization_config quantizer compression",
    "hnsw": "hnsw_config hnsw_params index_params index_config",
    "search": "search_params search_config",
    "embedding_model": "model model_name embedding_model_name",
    "index_metadata": "payload_index indexed_fields metadata_fields scalar_index",
    "dimensions": "dim dims dimension",
    "model": "model_name model_id embedding_model deployment",
    "base_url": "api_base openai_api_base openai_base_url endpoint url",
    "api_key": "openai_api_key token",
    "max_request_texts": "chunk_size batch_size embed_batch_size",
    "extra_headers": "default_headers headers",
    "timeout": "request_timeout",
    "max_concurrency": "concurrency threads workers max_workers n_jobs parallel",
    # values
    "euclid": "l2 euclidean l2sq sqeuclidean squared_l2 euclidean_distance",
    "dot": "ip inner_product dot_product max_inner_product",
    "cosine": "cos angular cosine_similarity cosine_distance",
    "one_bit": "binary bq bit 1bit",
    "two_bits": "2bit 2bits",
    "four_bits": "4bit 4bits int4",
    "scalar4bits": "int4 4bits",
    "scalar8bits": "int8 8bits",
    "float32": "f32 fp32 float full",
    "float16": "f16 fp16 half",
    "int8": "i8 sq8 uint8",
    # operators of filters
    "$eq": "$equals $equal $is",
    "$ne": "$neq $not_eq $not_equal $not_equals",
    "$gte": "$ge",
    "$lte": "$le",
    "$nin": "$not_in",
    "$between": "$range",
    "$any": "$contains_any $overlap $any_of",
    "$all": "$contains_all $all_of",
    "$contains": "$text $text_match $substring $array_contains",
    "$like": "$regex $match $starts_with $ends_with $glob",
}
# Settings that a call may be given by mistake: all are set when the store is opened; and how each is changed.
_OF_OPEN: Final = {
    **dict.fromkeys(("m", "ef_construct", "distance", "originals"), ", and fixed when its collection is made"),
    "dim": ", or by the first vectors, and fixed then",
    **dict.fromkeys(("encoding", "estimator", "rotate", "truncate_dim"), ", and changed by requantize()"),
    "text_index": ", and changed by set_text_index()",
    **dict.fromkeys(("full_scan_threshold", "query_encoding", "embedding_model", "index_metadata", "threads"), ""),
    **dict.fromkeys(("read_only", "lock_timeout", "exclusive", "path", "collection"), ""),
    **dict.fromkeys(("oversampling", "rescore", "hnsw_ef"), " as the default of searches, of which it is a keyword"),
}
_OF_SEARCHES: Final = ("k", "exact", "score_threshold", "with_vectors", "ignore_quantization", "filter")
_OF_LISTING: Final = ("limit", "offset", "order_by", "descending")
MAX_SHORT: Final = 1024  # bytes of a key, of a group, of a space


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _by_meaning(name: object, names: Iterable[str]) -> str | None:
    """The first of the names that ``name`` is another word for, or another way to write."""
    wanted = _plain(str(name))
    for each in names:
        if wanted in (_plain(each), *map(_plain, _SYNONYMS.get(each, "").split())):
            return each
    return None


def _by_spelling(name: object, names: Collection[str]) -> str | None:
    given = str(name)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if not close:  # a part of a name, or a name with something around it
        close = [n for n in names if len(given) > 1 and (given in n or n in given.split("_"))][:1]
    return close[0] if close else None


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is spelt most alike, if one is much alike."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return close[0] if close else next((each for each in known if each.lower() == name.lower()), None)


def did_you_mean(name: object, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a message: ``; did you mean 'x'?``, else ``otherwise``, else the list of known names."""
    names = sorted(known)
    if meant := _by_meaning(name, names) or _by_spelling(name, names):
        return f"; did you mean {meant!r}?"
    return f"; known: {', '.join(names)}" if otherwise is None else otherwise


def refuse_unknown(given: Iterable[object], known: Iterable[str], where: str) -> None:
    """Raise UnknownKeywordError for the first of ``given`` that is not in ``known``."""
    known = set(known)
    for name in given:
        if name not in known:
            hint = None if _by_meaning(name, sorted(known)) else _where_it_belongs(name, known)
            raise UnknownKeywordError(f"{where} has no keyword {shown(name)}{hint or did_you_mean(name, known)}")


_ELSEWHERE: Final = {
    "wheredocument": "; texts are tested by a function: filter=lambda record: 'word' in record.text",
    "fetchk": ": fetch_k belongs to max_marginal_relevance(); here oversampling= says how many candidates are compared",
    "lambdamult": ": lambda_mult belongs to max_marginal_relevance()",
    "querytexts": "; embed them first: vector= takes the query, text= words to search for",
    **dict.fromkeys(("withpayload", "includemetadata"), ": texts and metadata always come; leave it out"),
    **dict.fromkeys(("k1", "b"), ": BM25 has k1=1.2 and b=0.75 here, which SQLite's FTS5 lets nobody change"),
}


def _where_it_belongs(name: object, known: Collection[str]) -> str | None:
    """The end of a message for the name of a setting that another keyword, or another call, takes."""
    if elsewhere := _ELSEWHERE.get(_plain(str(name))):
        return elsewhere
    is_listing = str(name) in _OF_LISTING or _by_meaning(name, ["filter"])
    if "with_vectors" in known and is_listing:  # `get` and searches
        return f": {_by_meaning(name, ['filter', *_OF_LISTING])} is a keyword of scroll(), which lists documents"
    if "vector" in known and name == "ids":
        return ": more_like(ids) searches by documents, and filter={'_bq_id': [...]} among some"
    if "distance" in known and (searched := _by_meaning(name, _OF_SEARCHES)):
        return f": {searched} is a keyword of searches"
    setting = _by_meaning(name, _OF_OPEN)
    if setting in ("path", "collection") and not {"filter", "vectors"} & set(known):
        return None
    return None if setting is None else f": {setting} is set when the store is opened{_OF_OPEN[setting]}"


def checked_keywords(
    function: Callable[P, R], not_here: Callable[[object], Iterable[str]] | None = None
) -> Callable[P, R]:
    """Decorate a public function or method so that an unknown keyword is an UnknownKeywordError.

    ``not_here`` returns, by the first argument, the keywords that are refused beside it: errors do not name them.
    """
    parameters = inspect.signature(function).parameters.values()
    known = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    where = f"{function.__qualname__}()"
    first = next(iter(inspect.signature(function).parameters), "")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError:  # looked at afterwards: before, it would cost every call
            if kwargs.keys() - known:
                refused = not_here(args[0] if args else kwargs.get(first)) if not_here else ()
                refuse_unknown(kwargs, known.difference({"self"}, refused), where)
            raise

    return call


@contextmanager
def words_of(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors inside begin with an adapter's name of an argument in the place of the core's; for adapters.

    >>> import bqstore
    >>> with bqstore.open(dim=2) as col, bqstore.words_of({"k": "similarity_top_k"}):
    ...     col.search([1.0, 0.0], k=0)
    Traceback (most recent call last):
    bqstore.errors.InvalidInputError: similarity_top_k is 0; expected an integer from 1 to 10,000
    """
    try:
        yield
    except InvalidInputError as error:
        name, space, rest = str(error).partition(" ")
        if name not in names or not rest.startswith(("is ", "has ")):
            raise
        raise type(error)(names[name] + space + rest) from None


def shown(value: object) -> str:
    """The value for a message: its repr, short, whatever it is."""
    try:
        text = repr(value)
    except Exception as error:  # an int of more digits than Python prints, or a class of the user's
        return f"{type_of(value)} ({type(error).__name__} when shown)"
    return text if len(text) <= 80 else f"{text[:77]}..."


def type_of(value: object) -> str:
    """The type for a message, with its article: "an int", "a list"; "None" for None."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def counted(n: int, noun: str) -> str:
    """A number with its noun: "1 entry", "2 entries"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun[:-1]}ies" if noun.endswith("y") else f"{n} {noun}s"


def check_int(name: str, value: object, low: int, high: int, why: str = "") -> int:
    """The value as a plain int, or InvalidInputError. Booleans and arrays are refused."""
    if type(value) is int and low <= value <= high:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return int(value)
    raise InvalidInputError(f"{name} is {shown(value)}; expected an integer from {low:,} to {high:,}{why}")


def check_mode(mode: object) -> int:
    """The permissions of new folders, 0o700 for None; InvalidInputError where their owner may not do everything."""
    given = 0o700 if mode is None else check_int("mode", mode, 0, 0o7777, ", such as 0o770")
    if given & 0o700 != 0o700:
        raise InvalidInputError(f"mode is {given:#o}; expected one in which the owner may do everything, such as 0o770")
    return given


def check_bool(name: str, value: object) -> bool:
    """The value as a plain bool, or InvalidInputError."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInputError(f"{name} is {shown(value)}; expected True or False")
    return bool(value)


def check_real(name: str, value: object, expected: str) -> float:
    """The value as a finite float, or InvalidInputError. Booleans and arrays are refused."""
    number = math.nan
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # a signalling NaN, or beyond a float
            number = float(value)
    if not math.isfinite(number):
        raise InvalidInputError(f"{name} is {shown(value)}; expected {expected}")
    return number


def check_seconds(name: str, value: object) -> float:
    """A number of seconds, or InvalidInputError."""
    expected = "a number of seconds, at least 0"
    seconds = check_real(name, value, expected)
    if seconds < 0:
        raise InvalidInputError(f"{name} is {shown(value)}; expected {expected}")
    return seconds


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """The value if it is one of the choices, or InvalidInputError that names the one that was meant."""
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices, otherwise="") if isinstance(value, str) else ""
        raise InvalidInputError(f"{name} is {shown(value)}; expected one of {', '.join(map(repr, choices))}{hint}")
    return value


def is_text(text: str) -> bool:
    """Whether the string can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_bytes(text: str, what: str) -> int:
    """The length in UTF-8; refuses lone surrogates, which have none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{what} holds a lone surrogate at position {error.start}, which is not text: "
            "decode with errors='replace' where it was read"
        ) from None  # it carries the text


def short_text(text: object, what: str, least: int = 0) -> str:
    """A string of at most `MAX_SHORT` bytes in UTF-8, such as a key; of at least so many."""
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} is {type_of(text)}; expected a string")
    size = text_bytes(text, what)
    if size > MAX_SHORT:
        raise InvalidInputError(f"{what} has {size:,} bytes; expected at most {MAX_SHORT:,}")
    if size < least:
        raise InvalidInputError(f"{what} is empty; expected {least} to {MAX_SHORT:,} bytes")
    return str.__str__(text)  # of a subclass, too


def as_dicts(given: object) -> object:
    """An object of qdrant-client's models as dicts and lists, as Qdrant's HTTP writes it; others as they are."""
    if type(given).__module__.partition(".")[0] != "qdrant_client" or not hasattr(given, "model_dump"):
        return given
    out: object = given.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)
    return out


def _without_nan(column: Any) -> Any:
    """A column or frame of pandas with None for what is missing, which is NaN there, among strings, too."""
    return column.astype(object).where(column.notna(), None)


_ONE_EACH: Final = ("texts", "metadatas", "metadata", "expires_at")


def items(given: object, what: str, ordered: bool = False) -> list[Any]:
    """A list of anything iterable but a string or a dictionary; of a frame its rows, as dictionaries.

    Of what belongs to the entry of another list at the same place, ``ordered`` or by its name, a set is refused.
    """
    if type(given) is list:
        return list(given)
    if isinstance(given, Mapping):
        hint = "; a filter goes into filter=" if what == "ids" else ""
        raise InvalidInputError(f"{what} is {type_of(given)}; expected a list{hint}")
    if hasattr(given, "notna"):
        given = _without_nan(given)
    for name, options in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):  # of arrow, polars, pandas
        rows = getattr(given, name, None)
        if callable(rows) and (not options or hasattr(given, "columns")):
            return list(rows(*options))
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(f"{what} is {type_of(given)}; expected a list")
    if isinstance(given, (set, frozenset)) and (ordered or what in _ONE_EACH):
        raise InvalidInputError(f"{what} is {type_of(given)}, which has no order; expected a list")
    return list(given)
