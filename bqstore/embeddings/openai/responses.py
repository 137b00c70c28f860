"""Parses and validates the answers of an embeddings API."""

import binascii
import re
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..protocol import Vectors

_NATIVE_DIM = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
_OPENAI = ("api.openai.com", ".azure.com", ".azure.us", ".azure.cn")

CODE = re.compile(r"[a-z_]{1,40}")  # matches the API's error codes, but no key or sentence


def native_dim(endpoint: str, model: str) -> int | None:
    """The dimension of a model of OpenAI or Azure; None for other servers, which may use the same names."""
    return _NATIVE_DIM.get(model) if (urlsplit(endpoint).hostname or "").endswith(_OPENAI) else None


def decode(data: Any, n: int) -> tuple[Vectors, list[int]] | None:
    """The vectors in an answer's ``data``, float32 (n, dim), in the order of the request, and the rows without one.

    A row has no vector if that is null, empty, missing or not finite. None if the answer is malformed.
    """
    places = _places(data, n)
    if places is None:
        return None
    vectors: Vectors | None = None
    has_vector = np.zeros(n, bool)
    try:
        for place, item in zip(places, data, strict=False):
            values = item["embedding"]
            if not values:
                continue
            if isinstance(values, str):  # servers that only know lists ignore the format requested
                read = binascii.a2b_base64(values)  # skips foreign characters; validation is slow in Python 3.10
                if len(values) != -(-len(read) // 3) * 4:
                    return None
                values = np.frombuffer(read, "<f4")
            with np.errstate(over="ignore"):  # an overflow becomes infinite: no vector
                row = np.asarray(values, np.float32)  # None in a list becomes NaN
            if vectors is None:
                if row.ndim != 1:
                    return None
                vectors = np.zeros((n, row.size), np.float32)
            if row.shape != vectors.shape[1:]:
                return None
            vectors[place], has_vector[place] = row, True
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    if vectors is None:
        return (np.zeros((n, 1), np.float32), list(range(n))) if n else None
    return vectors, np.flatnonzero(~(has_vector & np.isfinite(vectors).all(axis=1))).tolist()


def _places(data: Any, n: int) -> list[int] | None:
    """The text that each item of an answer belongs to: by its index, or by position if the indices are all alike.

    If they are all alike and there are fewer items than texts, no item is used.
    """
    if not isinstance(data, list) or len(data) > n or not all(isinstance(item, dict) for item in data):
        return None
    places = [item.get("index") for item in data]
    if not any(place for place in places):  # all missing, null or 0
        return list(range(n)) if len(data) == n else []
    places = [0 if place is None else place for place in places]  # some servers omit an index of 0
    if not all(isinstance(place, int) and 0 <= place < n for place in places) or len(set(places)) < len(places):
        return None
    return places


def count_tokens_of(usage: Any) -> int | None:
    """The tokens in an answer's ``usage``; some servers state ``total_tokens`` only, floats, or just 0."""
    counts = [usage.get(name) for name in ("prompt_tokens", "total_tokens")] if isinstance(usage, dict) else []
    for count in counts:
        if isinstance(count, (int, float)) and not isinstance(count, bool) and 0 < count < 2**53:
            return round(count)
    return None


def normalized(vectors: Vectors) -> Vectors | None:
    """Vectors shortened by a server, float32 (n, dim), scaled to unit length; unchanged if they have it.

    None if the length of one is 0 or exceeds float32: it has no direction.
    """
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        return None
    if (np.abs(norms - 1) <= 1e-4).all():
        return vectors
    return np.asarray(vectors / norms, np.float32)
