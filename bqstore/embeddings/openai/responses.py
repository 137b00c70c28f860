"""What an embeddings API answers, read with suspicion. It knows no network and no SDK."""

import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def _bytes_of(text: str) -> bytes:
    """What base64 stands for; ValueError if a character was not of it. ``validate=True`` is slow before Python 3.11."""
    values = binascii.a2b_base64(text)  # leaves foreign characters out
    if len(text) != -(-len(values) // 3) * 4:
        raise ValueError("not base64")
    return values


def decode(data: Any, n: int) -> Vectors | None:
    """The vectors of an answer's ``data`` in the order of the request, float32 (n, dim); None if it is none."""
    if not isinstance(data, list) or len(data) != n:
        return None
    vectors: Vectors | None = None
    seen = bytearray(n)
    try:
        for item in data:
            index, values = item["index"], item["embedding"]
            if isinstance(values, str):  # servers that only know lists ignore that base64 was asked for
                values = np.frombuffer(_bytes_of(values), "<f4")
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
