"""The edge: what comes in is checked and put in form once, here. Knows what is legal, not what is stored.

Inside, vectors are float32 (n, dim), C-order and finite; ids are distinct non-empty strings; metadata is JSON text.
Every refusal is an InvalidInputError that says what was given, what was expected, and where.
"""

import uuid
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .arguments import check_int, check_real, items, text_bytes
from .config import MAX_DIM, MAX_K
from .errors import InvalidInputError
from .kernels.layout import LONGEST, SHORTEST
from .metadata.to_json import split_metadata
from .storage import Head, Rows

F32 = NDArray[np.float32]

MAX_ID_BYTES: Final = 1024
# squares stay within float32, whose largest is 3.4e38 and smallest normal 1.2e-38
LARGEST_HALF: Final = 65504.0
SMALLEST_HALF: Final = 6e-8


def array(given: object, what: str) -> F32:
    """Whatever holds numbers as float32, C-order."""
    try:
        wide = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{what} cannot be read as an array of numbers: {ragged(given) or error}") from error
    if wide.dtype.kind not in "fiu":
        hint = ragged(given) or "expected numbers, such as float32"
        raise InvalidInputError(f"{what} holds values of type {wide.dtype}; {hint}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is refused as that
        # writable: for read-only arrays the kernels would be compiled a second time
        return np.require(wide, np.float32, ["C", "W"])


def ragged(given: object) -> str | None:
    """Which row differs in length from the first, if one does."""
    if isinstance(given, (Sequence, np.ndarray)) and len(given) and isinstance(given[0], Sized):
        for i, row in enumerate(given):
            if not isinstance(row, Sized) or len(row) != len(given[0]):
                size = f"{len(row)} dimensions" if isinstance(row, Sized) else "no length"
                return f"vector {i} has {size}, vector 0 has {len(given[0])}"
    return None


def check_dim(found: int, dim: int | None, what: str) -> None:
    """Raise unless a vector's dimension is the collection's, or may become it."""
    if dim is not None and found != dim:
        raise InvalidInputError(
            f"{what} has {found} dimensions; this collection holds {dim}: use the embedding model it was made with"
        )
    if not 1 <= found <= MAX_DIM:
        raise InvalidInputError(f"{what} has {found} dimensions; expected 1 to {MAX_DIM:,}")


def check_values(vectors: F32, distance: str, originals: str, name: str) -> F32:
    """Raise unless all values are finite and every length can be computed with; returns the lengths, float32 (n,)."""
    lengths: F32 = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # infinite or NaN where a value is, or is too large
    doubtful = ~((lengths > SHORTEST) & (lengths < LONGEST))
    if originals == "float16":
        peaks = np.abs(vectors).max(axis=1, initial=0)
        doubtful |= ~((peaks <= LARGEST_HALF) & (peaks >= SMALLEST_HALF))
    for i in np.flatnonzero(doubtful) if doubtful.any() else ():
        what = f"{name} {i}" if name == "vector" else name
        row = vectors[i].astype(np.float64)
        length, peak = float(np.sqrt(row @ row)), float(np.abs(row).max(initial=0))
        if not np.isfinite(row).all():
            raise InvalidInputError(f"{what} holds NaN or infinity; every value must be a finite float32")
        if length == 0 and distance == "cosine":
            raise InvalidInputError(f"{what} is all zeros, which has no direction; cosine needs one (dot does not)")
        if length < SHORTEST and distance == "cosine":
            raise InvalidInputError(f"{what} has length {length:.3g}; cosine needs at least {SHORTEST:g}: scale it up")
        if length > LONGEST:
            raise InvalidInputError(f"{what} has length {length:.3g}; expected at most {LONGEST:g}: scale it down")
        if originals == "float16" and peak > LARGEST_HALF:
            raise InvalidInputError(
                f"{what} holds {peak:.6g}; originals='float16' keeps at most {LARGEST_HALF:g}: use float32"
            )
        if originals == "float16" and distance == "cosine" and peak < SMALLEST_HALF:
            raise InvalidInputError(f"{what} holds nothing above {peak:.3g}; float16 would keep zeros: use float32")
    return lengths


def documents_in(vectors: object, ids: object, texts: object, metadatas: object, head: Head) -> tuple[F32, Rows]:
    """Documents to add to a collection with this head: vectors float32 (n, dim) and their rows; n may be 0."""
    settings = head.settings
    given = vectors_in(vectors, head.dim, settings["distance"], settings["originals"])
    return given, rows_in(new_ids(ids, len(given)), texts, metadatas)


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


_FLOAT32 = np.dtype(np.float32)


def queries_in(given: object, dim: int | None, distance: str, single: bool) -> F32:
    """Queries: float32 (m, dim), C-order, of the right shape. ``single`` takes (dim,) only.

    Their values are checked, but for one float32 row, whose values the search itself looks at.
    """
    if type(given) is np.ndarray and given.dtype is _FLOAT32 and given.shape == (dim,) and given.flags.carray:
        return given[None]  # the way of every hot loop: the kernel looks at the values
    what = "the query vector" if single else "query vectors"
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


def check_queries(queries: F32, distance: str) -> None:
    """Raise for a query that cannot be computed with, and say why."""
    check_values(queries, distance, "float32", "the query vector" if len(queries) == 1 else "vector")


def ids_in(given: object) -> list[str]:
    """Ids to look up: strings, and text; one that is too long to be stored is just not found."""
    ids = items(given, "ids")
    for i, id_ in enumerate(ids):
        if not isinstance(id_, str):
            raise InvalidInputError(f"id {i} is a {type(id_).__name__}; ids are strings: use str(id)")
        text_bytes(id_, f"id {i}")
    return ids


def new_ids(given: object, n: int) -> list[str]:
    """Ids to add under: n strings of 1 to 1,024 bytes; a UUID (version 4) in the place of None."""
    ids: list[Any] = [None] * n if given is None else items(given, "ids")
    check_length("ids", ids, n)
    for i, id_ in enumerate(ids):
        if id_ is None:
            ids[i] = str(uuid.uuid4())
            continue
        if not isinstance(id_, str):
            raise InvalidInputError(f"id {i} is a {type(id_).__name__}; ids are strings: use str(id)")
        size = text_bytes(id_, f"id {i}")
        if not 1 <= size <= MAX_ID_BYTES:
            raise InvalidInputError(f"id {i} has {size:,} bytes in UTF-8; expected 1 to {MAX_ID_BYTES:,}")
        ids[i] = str.__str__(id_)  # a subclass, such as numpy.str_ or an enumeration's, becomes its plain text
    return ids


def check_length(name: str, values: Sized, n: int) -> None:
    """Raise unless there is one value per vector."""
    if len(values) != n:
        raise InvalidInputError(f"{name} has {len(values):,} entries for {n:,} vectors; expected one each")


def rows_in(ids: list[str], given_texts: object, given_metadatas: object) -> Rows:
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
            raise InvalidInputError(f"text {i} is a {type(text).__name__}; expected a string or None")
        text_bytes(text, f"text {i}")
        texts[i] = str.__str__(text)
    parts = [split_metadata(given, f"metadata {i}") for i, given in enumerate(metadatas)]
    return Rows(ids, texts, [p[0] for p in parts], [p[1] for p in parts], [p[2] for p in parts])


def check_documents(n: int, ids: object = None, texts: object = None, metadatas: object = None) -> None:
    """Raise the InvalidInputError that `Collection.add` would for n documents, before they are embedded."""
    rows_in(new_ids(ids, n), texts, metadatas)


def metadata_in(ids: object, metadata: object) -> tuple[list[str], list[Mapping[str, Any] | None]]:
    """Ids, and the new metadata of each."""
    names = ids_in(ids)
    each = [metadata] * len(names) if isinstance(metadata, Mapping) else items(metadata, "metadata")
    if len(each) != len(names):
        raise InvalidInputError(f"metadata has {len(each):,} entries for {len(names):,} ids; expected one each")
    for i, given in enumerate(each):
        split_metadata(given, f"metadata {i}")
    return names, each


def mmr_in(k: object, fetch_k: object, lambda_mult: object) -> tuple[int, int, float]:
    """``k``, ``fetch_k`` and ``lambda_mult`` of maximal marginal relevance, with the default of the second."""
    expected = "a number from 0 (diversity) to 1 (relevance)"
    relevance = check_real("lambda_mult", lambda_mult, expected)
    if not 0 <= relevance <= 1:
        raise InvalidInputError(f"lambda_mult is {lambda_mult!r}; expected {expected}")
    k = check_int("k", k, 1, MAX_K)
    fetch_k = min(max(20, 4 * k), MAX_K) if fetch_k is None else check_int("fetch_k", fetch_k, k, MAX_K)
    return k, fetch_k, relevance
