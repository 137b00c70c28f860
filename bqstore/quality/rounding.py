"""What recall is lost by keeping originals as float16 or int8, which no longer tell some of the nearest from others.

The vectors as they were added are gone, but how they were rounded is known. So those that are kept get a random error
of that size once more: about as many of the nearest change as changed by the rounding. Knows arrays, no states.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_FEW = 16  # sizes of a vector's values, where it holds counts or categories


def kept(query: F32, vectors: F32, form: str, distance: str, k: int) -> float:
    """The share of the k nearest of a query that rounding leaves among the k nearest.

    Parameters
    ----------
    query : float32 (dim,)
    vectors : float32 (m, dim)      as they are kept, those nearest to the query, nearest first; m >= k
    form : str                      "float16" or "int8"
    distance : str                  "cosine", "dot" or "euclid"
    """
    came = np.stack([vector + _error(vector, form) for vector in vectors])
    if distance == "euclid":
        scores = -np.linalg.norm(came - query, axis=1)
    else:
        scores = came @ query.astype(np.float64)
        if distance == "cosine":
            scores /= np.maximum(np.linalg.norm(came, axis=1), np.finfo(np.float64).tiny)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float(np.count_nonzero(scores[:k] >= least) / k)


def _error(vector: F32, form: str) -> F64:
    """A random error as rounding may have made it, float64 (dim,): the same for equal vectors.

    Zeros have none if most values are 0, nor have values of few sizes, such as counts and categories.
    """
    values, is_half = vector.astype(np.float64), form == "float16"
    largest, some = np.abs(values).max(), int(np.count_nonzero(values))
    steps = np.ldexp(1.0, np.frexp(values)[1] - 11) if is_half else np.full(len(values), largest / 127)
    if is_half or 2 * some < len(values):
        steps[values == 0] = 0
    if len(np.unique(np.abs(values[values != 0]))) <= min(_FEW, some // 2):
        steps[:] = 0
    random = np.random.default_rng(zlib.crc32(vector.tobytes()))
    error: F64 = steps * random.uniform(-0.5, 0.5, len(values))
    return error
