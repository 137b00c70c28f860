"""What an embeddings API answers, checked before anything is believed. It knows no network and no SDK."""

import binascii
import re
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..protocol import Vectors

_NATIVE_DIM = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
_OPENAI = ("api.openai.com", ".azure.com", ".azure.us", ".azure.cn")

CODE = re.compile(r"[a-z_]{1,40}")  # what the API's error codes look like; a key or a sentence does not


def native_dim(endpoint: str, model: str) -> int | None:
    """The dimension of one of OpenAI's models; None elsewhere: others give their models these names, too."""
    return _NATIVE_DIM.get(model) if (urlsplit(endpoint).hostname or "").endswith(_OPENAI) else None


def decode(data: Any, n: int) -> tuple[Vectors, list[int]] | None:
    """The vectors of an answer's ``data``, float32 (n, dim), in the order of the request, and the rows without one.

    A row has none if it is null, empty, left out or not finite. None if the answer is malformed.
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
            if isinstance(values, str):  # a server that knows lists only ignores that base64 was asked for
                read = binascii.a2b_base64(values)  # leaves foreign characters out; to validate is slow in Python 3.10
                if len(values) != -(-len(read) // 3) * 4:
                    return None
                values = np.frombuffer(read, "<f4")
            with np.errstate(over="ignore"):  # infinite, then
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
    """Which text each item of an answer belongs to: by its index; by its position where no index tells them apart.

    Of fewer items than texts that no index tells apart, none is believed.
    """
    if not isinstance(data, list) or len(data) > n or not all(isinstance(item, dict) for item in data):
        return None
    places = [item.get("index") for item in data]
    if not any(place for place in places):  # left out, null, or 0 throughout
        return list(range(n)) if len(data) == n else []
    places = [0 if place is None else place for place in places]  # some servers leave out an index of 0
    if not all(isinstance(place, int) and 0 <= place < n for place in places) or len(set(places)) < len(places):
        return None
    return places


def count_tokens_of(usage: Any) -> int | None:
    """The tokens that an answer's ``usage`` tells; some servers tell ``total_tokens`` alone, floats, or just 0."""
    counts = [usage.get(name) for name in ("prompt_tokens", "total_tokens")] if isinstance(usage, dict) else []
    for count in counts:
        if isinstance(count, (int, float)) and not isinstance(count, bool) and 0 < count < 2**53:
            return round(count)
    return None


def normalized(vectors: Vectors) -> Vectors | None:
    """Vectors that a server has shortened, float32 (n, dim), at unit length again; unchanged if they have it.

    None if the length of one is 0 or beyond float32: it has no direction.
    """
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        return None
    if (np.abs(norms - 1) <= 1e-4).all():
        return vectors
    return np.asarray(vectors / norms, np.float32)
