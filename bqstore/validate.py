"""Documents, ids and queries are checked and converted here, once; search settings in `engine/options.py`, filters in
`metadata/filter_grammar.py`.

Inside, vectors are float32 (n, dim), C-order and finite; ids are non-empty strings; metadata is JSON text. Every
InvalidInputError says what was given, what was expected, and what to do.
"""

import logging
import re
import uuid
from array import array as Floats  # noqa: N812 - `array` makes one of numpy's here
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Number
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .arguments import check_choice, check_int, check_real, counted, items, shown, text_bytes, type_of
from .clock import EXPIRES_AT_KEY
from .config import MAX_DIM, MAX_K
from .convert import as_array
from .errors import InvalidInputError
from .kernels.layout import LONGEST, SHORTEST
from .metadata import expiry
from .metadata.to_json import PRIVATE_PREFIX, split_metadata
from .storage import Head, Rows

F32 = NDArray[np.float32]
_LOG: Final = logging.getLogger("bqstore")
_told: set[str] = set()  # the kinds of zero vectors that were logged
_FLOAT32 = np.dtype(np.float32)

MAX_ID_BYTES: Final = 1024
MAX_TEXT_BYTES: Final = 998_000_000  # SQLite takes rows of 10**9 bytes, and metadata is up to 1.2 million of them
# squares stay within float32, whose largest is 3.4e38 and smallest normal 1.2e-38
LARGEST_HALF: Final = 65504.0


def array(given: object, what: str) -> F32:
    """Whatever holds numbers as float32, C-order. Raises InvalidInputError; ``what`` names the argument."""
    if isinstance(given, (str, bytes)):
        hint = "; the texts go into texts=" if what == "vectors" else ""
        raise InvalidInputError(f"{what} is text; embed it first{hint}")
    try:
        wide = given if type(given) is np.ndarray and given.dtype.kind in "fiu" else as_array(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInputError(f"{what} cannot be read as an array of numbers: {ragged(given) or error}") from error
    if wide.dtype.kind not in "fiu":
        told = _other_than_numbers(wide, given, what)
        row = _only_one_without_numbers(wide, given) if what == "vectors" else None
        which = what if row is None else f"vector {row}"
        raise InvalidInputError(f"{which} {'holds' if wide.ndim else 'is'} {told}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused as that
        # writable: for read-only arrays the kernels would be compiled a second time
        return np.require(wide, np.float32, ["C", "W"])


def _other_than_numbers(wide: NDArray[Any], given: object, what: str) -> str:
    """What an array that is not of numbers holds, and what to do."""
    expected = ragged(given) or "expected numbers, such as float32"
    other = (
        [value for value in wide.flat if isinstance(value, bool) or not isinstance(value, Number)][:1]
        if wide.dtype.kind in "OSU"
        else []
    )
    if other and isinstance(other[0], (str, bytes)):
        return "text; embed it first" + ("; the texts go into texts=" if what == "vectors" else "")
    names = {"b": "booleans", "c": "complex numbers"}
    found = type_of(other[0]) if other else names.get(wide.dtype.kind, f"values of type {wide.dtype}")
    return f"{found}; {expected}"


def _only_one_without_numbers(wide: NDArray[Any], given: object) -> int | None:
    """The first row that holds something else than numbers, where others hold numbers alone."""
    if wide.ndim != 2 or wide.dtype.kind not in "OSU":
        return None
    rows: Iterable[Any] = given if isinstance(given, (list, tuple)) else wide  # numpy makes text of numbers beside text
    bad = [any(isinstance(value, bool) or not isinstance(value, Number) for value in row) for row in rows]
    return bad.index(True) if True in bad and False in bad else None


def ragged(given: object) -> str | None:
    """Which row differs in length from the first, if one does."""
    rows = getattr(given, "to_pylist", None) or getattr(given, "to_list", None)  # a column of arrow, pandas or polars
    given = rows() if rows is not None else given
    if not isinstance(given, (Sequence, np.ndarray)) or not len(given) or isinstance(given[0], (str, bytes)):
        return None
    sizes = [len(row) if _is_row(row) else None for row in given]
    for i, size in enumerate(sizes):
        if size != sizes[0]:
            if sizes[0] is None or size is None:
                at = i if size is None else 0
                return f"vector {at} is {type_of(given[at])}, not a row of numbers"
            return f"vector {i} has {counted(size, 'dimension')}, vector 0 has {sizes[0]}"
    return None


def _is_row(value: Any) -> bool:
    return isinstance(value, Sized) and not isinstance(value, (str, bytes)) and getattr(value, "shape", None) != ()


def check_dim(found: int, dim: int | None, what: str) -> None:
    """Raise unless a vector's dimension is the collection's, or may become it."""
    if dim is not None and found != dim:
        raise InvalidInputError(
            f"{what} has {counted(found, 'dimension')}; this collection holds {dim}: use the embedding model it was "
            "made with"
        )
    if not 1 <= found <= MAX_DIM:
        raise InvalidInputError(f"{what} has {counted(found, 'dimension')}; expected 1 to {MAX_DIM:,}")


def check_values(
    vectors: F32, distance: str, originals: str, name: str, stored: bool = True, doubt: float = 0.0
) -> None:
    """Raise unless all values are finite, no length over- or underflows when squared, and ``originals`` can hold them.

    ``stored``: whether they are to be stored: then a vector may be zero, but else not shorter than `SHORTEST`. Under
    cosine, queries may be zero, too. ``doubt``: relative distance within which a length counts as beyond a limit.
    """
    shortest, longest = SHORTEST * (1 + doubt), LONGEST * (1 - doubt)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths: F32 = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # infinite or NaN where a value is
    doubtful = ~((lengths > shortest) & (lengths < longest))
    if originals == "float16":
        doubtful |= ~(np.abs(vectors).max(axis=1, initial=0) <= LARGEST_HALF)
    for i in np.flatnonzero(doubtful) if doubtful.any() else ():
        what = f"{name} {i}" if name == "vector" else name
        row = vectors[i].astype(np.float64)
        length, peak = float(np.sqrt(row @ row)), float(np.abs(row).max(initial=0))
        if not np.isfinite(row).all():
            raise InvalidInputError(f"{what} holds NaN or infinity; every value must be a finite float32")
        if peak == 0:
            continue  # as for an empty page: its cosine with everything is 0, as of vectors with nothing in common
        if length < shortest and distance == "cosine":
            raise InvalidInputError(f"{what} has length {length:.3g}; cosine needs at least {SHORTEST:g}: scale it up")
        if 0 < length < shortest and stored:  # the square of a difference would be lost
            expected = f"{distance} needs zero, or at least {SHORTEST:g}"
            raise InvalidInputError(f"{what} has length {length:.3g}; {expected}: scale all vectors up")
        if length > longest:
            raise InvalidInputError(f"{what} has length {length:.3g}; expected at most {LONGEST:g}: scale it down")
        if originals == "float16" and peak > LARGEST_HALF:
            raise InvalidInputError(
                f"{what} holds {peak:.6g}; originals='float16' keeps at most {LARGEST_HALF:g}: use float32"
            )


def documents_in(
    vectors: object, ids: object, texts: object, metadatas: object, head: Head, expires_at: object = None
) -> tuple[F32, Rows]:
    """Documents to add to a collection with this head: vectors float32 (n, dim) and their rows; n may be 0.

    An InvalidInputError of one document has its ``index``, and names its id.
    """
    settings = head.settings
    ids = ids if ids is None or isinstance(ids, list) else items(ids, "ids", ordered=True)
    with _telling_which(ids):
        given = vectors_in(vectors, head.dim, settings["distance"], settings["originals"])
        return given, rows_in(new_ids(ids, len(given)), texts, metadatas, expires_at)


def documents_or_skipped(
    vectors: object, ids: object, texts: object, metadatas: object, head: Head, on_error: object, expires_at: object
) -> tuple[F32, Rows, list[tuple[int, str | None, str]]]:
    """As `documents_in`; with ``on_error="skip"``, refused documents are left out and reported."""
    if on_error == "raise":  # nearly always
        return *documents_in(vectors, ids, texts, metadatas, head, expires_at), []
    check_choice("on_error", on_error, ("raise", "skip"))
    return good_documents_in(vectors, ids, texts, metadatas, head, expires_at)


def parts_in(
    ids: object, texts: object, metadatas: object, vectors: object, head: Head, expires_at: object = None
) -> tuple[list[str], list[str | None], list[Mapping[str, Any] | None], F32 | None]:
    """Parts of documents to change: ids, and for each a text and metadata, None where they stay; vectors or None."""
    with_each = (texts, metadatas, vectors, expires_at if expiry.is_each(expires_at) else None)
    names = ids_in(ids, ordered=any(each is not None for each in with_each))
    n = len(names)
    if texts is None and metadatas is None and vectors is None and expires_at is None:
        raise InvalidInputError("update() has nothing to change; expected texts=, metadatas=, vectors= or expires_at=")
    given = None
    if vectors is not None:
        with _telling_which(names):
            given = vectors_in(vectors, head.dim, head.settings["distance"], head.settings["originals"])
        if len(given) != n:
            raise InvalidInputError(
                f"vectors has {counted(len(given), 'entry')} for {counted(n, 'id')}; expected one each"
            )
    all_texts: list[Any] = [None] * n if texts is None else items(texts, "texts")
    each: list[Any] = [None] * n if metadatas is None else items(metadatas, "metadatas")
    for name, values in (("texts", all_texts), ("metadatas", each)):
        if len(values) != n:
            raise InvalidInputError(
                f"{name} has {counted(len(values), 'entry')} for {counted(n, 'id')}; expected one each"
            )
    each = expiry.with_times(each, expires_at)
    with _telling_which(names):
        checked = rows_in(names, all_texts, each)
    return names, list(checked.texts), each, given


def one_metadata_in(
    ids: object, metadata: object, expires_at: object = None
) -> tuple[list[str] | None, Mapping[str, Any]]:
    """Ids or None, and the metadata for all documents that match a filter."""
    (metadata,) = expiry.with_times([metadata], expires_at)
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata is {type_of(metadata)}; with a filter expected one dict for all that match")
    split_metadata(metadata, "metadata")
    return None if ids is None else ids_in(ids), metadata


# rows that differ are told of behind what they make impossible
_OF_ONE: Final = re.compile(
    r"(?:vectors (?:cannot be read as an array of numbers: |holds [^:;]*; ))?"
    r"(vector|metadata|text|id) (\d+)\b"
)


def _say_which(error: InvalidInputError, ids: list[Any] | None) -> None:
    """Give an error of one document its ``index``, and the id."""
    found = _OF_ONE.match(str(error))
    if found is None:
        return
    error.index = int(found[2])
    id_ = ids[error.index] if ids is not None and error.index < len(ids) else None
    if isinstance(id_, str) and found[1] != "id":
        error.args = (f"{error} (document {shown(id_)})",)


@contextmanager
def _telling_which(ids: list[Any] | None) -> Iterator[None]:
    """Errors inside of one document have its ``index``, and its id."""
    try:
        yield
    except InvalidInputError as error:
        _say_which(error, ids)
        raise


def good_documents_in(
    vectors: object, ids: object, texts: object, metadatas: object, head: Head, expires_at: object = None
) -> tuple[F32, Rows, list[tuple[int, str | None, str]]]:
    """As `documents_in` without refused documents, and for each of those its index, id and the reason.

    Raises InvalidInputError for what concerns no single document, such as lists of different lengths.
    """
    try:
        if hasattr(vectors, "to_pylist") and not hasattr(vectors, "column_names"):
            vectors = vectors.to_pylist()  # a column of arrow, whose items are its own scalars
        given = list(vectors) if isinstance(vectors, Iterable) and not isinstance(vectors, (str, bytes)) else vectors
        rows: Any = given if isinstance(given, list) else list(array(given, "vectors"))
        if isinstance(vectors, Iterable) and hasattr(vectors, "columns"):  # a frame, whose items are its columns
            rows = list(array(vectors, "vectors"))
    except TypeError as error:
        raise InvalidInputError(f"vectors cannot be read as an array of numbers: {error}") from error
    n = len(rows)
    names: list[Any] = [None] * n if ids is None else items(ids, "ids", ordered=True)
    all_texts: list[Any] = [None] * n if texts is None else items(texts, "texts")
    each: list[Any] = [None] * n if metadatas is None else items(metadatas, "metadatas")
    for name, values in (("ids", names), ("texts", all_texts), ("metadatas", each)):
        check_length(name, values, n)
    each = expiry.with_times(each, expires_at, skip=True)
    good, skipped, dim = [], [], head.dim
    for i in range(n):
        one = replace(head, dim=dim)
        try:
            if rows[i] is None:
                raise InvalidInputError("vector 0 is None, not a row of numbers")
            vector, row = documents_in([rows[i]], [names[i]], [all_texts[i]], [each[i]], one)
        except InvalidInputError as error:
            reason = _OF_ONE.sub(lambda found, i=i: f"{found[1]} {i}", str(error), count=1)  # type: ignore[misc]
            skipped.append((i, names[i] if isinstance(names[i], str) else None, reason))
            continue
        dim = vector.shape[1]
        good.append((vector, row))
    columns = zip(*(row.columns() for _, row in good), strict=True)
    merged = (
        Rows(*([value for part in column for value in part] for column in columns)) if good else rows_in([], [], [])
    )
    return np.concatenate([v for v, _ in good]) if good else np.zeros((0, dim or 1), np.float32), merged, skipped


def vectors_in(given: object, dim: int | None, distance: str, originals: str) -> F32:
    """Vectors to add: float32 (n, dim), C-order, checked; n may be 0."""
    vectors = array(given, "vectors")
    if vectors.size == 0 and (vectors.ndim < 2 or len(vectors) == 0):
        return np.zeros((0, dim or 1), np.float32)
    if vectors.ndim != 2:
        raise InvalidInputError(f"vectors has shape {vectors.shape}; expected (n, dim): one row a document")
    check_dim(vectors.shape[1], dim, "vector 0")
    check_values(vectors, distance, originals, "vector")
    return vectors


def queries_in(given: object, dim: int | None, distance: str, single: bool) -> F32:
    """Queries: float32 (m, dim), C-order, checked. ``single`` takes (dim,) only."""
    if type(given) is np.ndarray and given.dtype is _FLOAT32 and given.shape == (dim,) and given.flags.carray:
        return given[None]  # the fast path: the search kernel itself finds values that are not finite
    if type(given) is list and len(given) == dim and type(given[0]) is float:  # as embedding models return them
        try:
            if type(sum(given)) is float:  # else an item may be an array of one number, which would pass for a number
                return np.frombuffer(Floats("f", given), np.float32)[None]
        except (TypeError, OverflowError):  # it is named below
            pass
    what = "the query vector" if single else "the array of queries"
    queries = array(given, what)
    if single and queries.ndim != 1:
        raise InvalidInputError(f"{what} has shape {queries.shape}; expected (dim,); search_batch takes many")
    if queries.ndim == 1 and (single or queries.size):
        queries = queries[None]
    if queries.ndim != 2 or queries.size == 0:
        if not single and queries.size == 0 and queries.shape[:1] == (0,):
            return np.zeros((0, dim or 1), np.float32)
        expected = "(dim,)" if single else "(n, dim) or (dim,)"
        raise InvalidInputError(f"{what} has shape {queries.shape}; expected {expected}")
    check_dim(queries.shape[1], dim, "the query vector")
    check_queries(queries, distance)
    return queries


def check_queries(queries: F32, distance: str, doubt: float = 0.0) -> None:
    """Raise InvalidInputError for queries with which no score can be computed; ``doubt`` as in `check_values`."""
    check_values(queries, distance, "float32", "the query vector" if len(queries) == 1 else "vector", False, doubt)


def lengthened(queries: F32, distance: str) -> tuple[F32, NDArray[np.int32]]:
    """Checked queries; under "dot", those too short for kernels are scaled up, which does not change the order.

    Returns float32 (m, dim), and int32 (m,): the exponent of the power of two that each was multiplied by.
    """
    if distance != "dot":
        return queries, np.zeros(len(queries), np.int32)
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries))
    exponents = np.where(lengths < 2 * SHORTEST, -np.frexp(np.abs(queries).max(1))[1], 0).astype(np.int32)
    return np.ldexp(queries, exponents[:, None]), exponents


def ids_in(given: object, ordered: bool = False) -> list[str]:
    """Ids to look up. One that is too long to be stored is not an error: it is just not found."""
    ids = items(given, "ids", ordered)
    for i, id_ in enumerate(ids):
        _id_bytes(id_, i)
    return ids


def new_ids(given: object, n: int) -> list[str]:
    """Ids of new documents: n strings of 1 to 1,024 bytes; None becomes a UUID (version 4)."""
    ids: list[Any] = [None] * n if given is None else items(given, "ids")
    check_length("ids", ids, n)
    for i, id_ in enumerate(ids):
        if id_ is None:
            ids[i] = str(uuid.uuid4())
            continue
        size = _id_bytes(id_, i)
        if not 1 <= size <= MAX_ID_BYTES:
            raise InvalidInputError(f"id {i} has {size:,} bytes in UTF-8; expected 1 to {MAX_ID_BYTES:,}")
        ids[i] = str.__str__(id_)  # a subclass, such as numpy.str_ or an enumeration's, becomes its plain text
    return ids


def _id_bytes(id_: object, i: int) -> int:
    if not isinstance(id_, str):
        own = next(
            (f"its .{name}" for name in ("node_id", "id") if hasattr(id_, name)), "str(id)"
        )  # a node, a document
        raise InvalidInputError(f"id {i} is {type_of(id_)}; ids are strings: use {own}")
    return text_bytes(id_, f"id {i}")


def check_length(name: str, values: Sized, n: int) -> None:
    """Raise unless there is one value per vector."""
    if len(values) != n:
        raise InvalidInputError(
            f"{name} has {counted(len(values), 'entry')} for {counted(n, 'vector')}; expected one each"
        )


def rows_in(ids: list[str], given_texts: object, given_metadatas: object, expires_at: object = None) -> Rows:
    """The documents of a batch, checked."""
    n = len(ids)
    texts: list[Any] = [None] * n if given_texts is None else items(given_texts, "texts")
    metadatas: list[Any] = [None] * n if given_metadatas is None else items(given_metadatas, "metadatas")
    check_length("texts", texts, n)
    check_length("metadatas", metadatas, n)
    for i, text in enumerate(texts):
        if text is None:
            continue
        if not isinstance(text, str):
            raise InvalidInputError(f"text {i} is {type_of(text)}; expected a string or None")
        size = text_bytes(text, f"text {i}")
        if size > MAX_TEXT_BYTES:
            raise InvalidInputError(f"text {i} has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are kept: split it")
        texts[i] = str.__str__(text)
    metadatas = expiry.with_times(metadatas, expires_at)
    parts = [split_metadata(given, f"metadata {i}") for i, given in enumerate(metadatas)]
    return Rows(ids, texts, [p[0] for p in parts], [p[1] for p in parts], [p[2] for p in parts])


def check_documents(
    n: int, ids: object = None, texts: object = None, metadatas: object = None, expires_at: object = None
) -> None:
    """Check n documents as `Collection.add` would, before they are embedded.

    Parameters
    ----------
    n : int                                 how many documents
    ids, texts, metadatas, expires_at       as in `Collection.add`

    Raises
    ------
    InvalidInputError               the error that `Collection.add` would raise

    >>> import bqstore
    >>> bqstore.check_documents(2, ids=["a", "b"], texts=["one", "two"])
    >>> bqstore.check_documents(2, ids=["a", 7])
    Traceback (most recent call last):
    bqstore.errors.InvalidInputError: id 1 is an int; ids are strings: use str(id)
    """
    ids = ids if ids is None or isinstance(ids, list) else items(ids, "ids", ordered=True)
    with _telling_which(ids):
        rows_in(new_ids(ids, n), texts, metadatas, expires_at)


def metadata_in(
    ids: object, metadata: object, expires_at: object = None
) -> tuple[list[str], list[Mapping[str, Any] | None]]:
    """Ids, and the new metadata of each."""
    if metadata is None and expires_at is not None:
        metadata = {}
    names = ids_in(ids, ordered=not isinstance(metadata, Mapping) or expiry.is_each(expires_at))
    each = [metadata] * len(names) if isinstance(metadata, Mapping) else items(metadata, "metadata")
    if len(each) != len(names):
        raise InvalidInputError(
            f"metadata has {counted(len(each), 'entry')} for {counted(len(names), 'id')}; expected one each"
        )
    each = expiry.with_times(each, expires_at)
    with _telling_which(names):
        for i, given in enumerate(each):
            split_metadata(given, f"metadata {i}")
    return names, each


def mmr_in(k: object, fetch_k: object, lambda_mult: object) -> tuple[int, int, float]:
    """``k``, ``fetch_k`` and ``lambda_mult`` of maximal marginal relevance, checked, the default filled in."""
    expected = "a number from 0 (diversity) to 1 (relevance)"
    relevance = check_real("lambda_mult", lambda_mult, expected)
    if not 0 <= relevance <= 1:
        raise InvalidInputError(f"lambda_mult is {lambda_mult!r}; expected {expected}")
    k = check_int("k", k, 1, MAX_K)
    fetch_k = min(max(20, 4 * k), MAX_K) if fetch_k is None else check_int("fetch_k", fetch_k, k, MAX_K)
    return k, fetch_k, relevance


def refuse_private_keys(metadata: Mapping[Any, Any], which: str) -> None:
    """Refuse metadata with keys that are the adapters' own: they would be stored, but left out of what is found.

    Raises InvalidInputError. `EXPIRES_AT_KEY` is a key that a user gives.

    >>> import bqstore
    >>> bqstore.refuse_private_keys({"node": 1}, "metadata 3")
    """
    for key in metadata:
        if str(key).startswith(PRIVATE_PREFIX) and key != EXPIRES_AT_KEY:
            raise InvalidInputError(
                f"{which} has the key {key!r}; keys beginning with {PRIVATE_PREFIX!r} are reserved for the adapters: "
                "rename it"
            )


def tell_of_zeros(vectors: Iterable[Any], which: str) -> None:
    """Log one WARNING if there are vectors and all are zeros, once for each ``which``; for adapters.

    Zeros may be added, and some models return them for texts without words. But a model that returns nothing else, such
    as one whose weights are not loaded, makes searches that rank nothing.

    >>> import bqstore
    >>> bqstore.tell_of_zeros([[0.0, 0.0], [0.0, 1.0]], "of two texts")
    """
    n = 0
    with suppress(TypeError, ValueError):  # what is no vector is refused elsewhere, by name
        for vector in vectors:
            if np.any(vector):
                return
            n += 1
        if n and which not in _told:
            _told.add(which)
            _LOG.warning(
                "all %s vectors %s are zeros: searches cannot rank them; look at the embedding model", n, which
            )
