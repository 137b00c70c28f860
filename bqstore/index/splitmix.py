"""Random numbers that are a hash of (seed, place): the same on every machine, in any order."""

import numpy as np
from numpy.typing import NDArray


def splitmix64(seed: int, start: int, stop: int) -> NDArray[np.uint64]:
    """The numbers of the places from start to stop, uint64 (stop - start,) (Steele, Lea and Flood 2014)."""
    word = np.uint64
    x = np.arange(start + 1, stop + 1, dtype=word) * word(0x9E37_79B9_7F4A_7C15) + word(seed)
    x = (x ^ (x >> word(30))) * word(0xBF58_476D_1CE4_E5B9)
    x = (x ^ (x >> word(27))) * word(0x94D0_49BB_1331_11EB)
    return x ^ (x >> word(31))
