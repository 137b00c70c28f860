"""What an embeddings API answers, checked before anything is believed. It knows no network and no SDK."""

import binascii
import re
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

NATIVE_DIM = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}

CODE = re.compile(r"[a-z_]{1,40}")  # what the API's error codes look like; a key or a sentence does not


def decode(data: Any, n: int) -> Vectors | None:
    """The vectors of an answer's ``data``, float32 (n, dim), in the order of the request; None if it is malformed."""
    if not isinstance(data, list) or len(data) != n:
        return None
    vectors: Vectors | None = None
    seen = bytearray(n)
    try:
        for item in data:
            index, values = item["index"], item["embedding"]
            if isinstance(values, str):  # a server that knows lists only ignores that base64 was asked for
                values = np.frombuffer(_from_base64(values), "<f4")
            if not 0 <= index < n or seen[index]:
                return None
            row = np.asarray(values, np.float32)
            if vectors is None:
                if row.ndim != 1 or row.size == 0:
                    return None
                vectors = np.empty((n, row.size), np.float32)
            if row.shape != vectors.shape[1:]:
                return None
            vectors[index], seen[index] = row, 1
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return vectors if vectors is not None and np.isfinite(vectors).all() else None


def _from_base64(text: str) -> bytes:
    """Decode, or raise ValueError for a foreign character; ``validate=True`` is slow before Python 3.11."""
    values = binascii.a2b_base64(text)  # leaves foreign characters out
    if len(text) != -(-len(values) // 3) * 4:
        raise ValueError("not base64")
    return values


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
    restored: Vectors = (vectors / norms).astype(np.float32)
    return restored
