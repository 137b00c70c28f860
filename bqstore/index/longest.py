"""Whether what may be found is shorter than the rest, under products: then walks meet the rest, and few of it.

The nearest codes by products are those of long vectors. Where a filter accepts few of these, or they are deleted, the
beam fills with them, and what is accepted lies behind. Knows codes alone, so it is the same wherever they were read.
"""

import numpy as np
from numpy.typing import NDArray

from .quantizer import Quantizer, lengths_of

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

_NONE = np.zeros(0, np.int64)
_LOOKED_AT, _SAMPLE = 256, 4096  # codes that tell whether lengths differ, and of which the longest are kept
_LONGEST = 16  # one in so many
_DIFFER = 0.15  # deviation of lengths, relatively, from which on they count
# Fewer of the longest are accepted than four fifths of the overall share, and not by chance (in deviations).
_LEAST, _SURE = 0.8, 3.0


class Longest:
    """Some of the longest vectors of a collection, chosen anew whenever it has doubled."""

    def __init__(self) -> None:
        self._known: tuple[int, I64] = 0, _NONE

    def of(self, words: U64, n: int, quantizer: Quantizer) -> I64:
        """Ordinals, int64 (m,); none where lengths are no matter: they differ little, or the order is by no product.

        words : uint64 (>= n, columns)
        """
        measured = 1 << (n.bit_length() - 1)
        if self._known[0] != measured:
            self._known = measured, _longest(words[:measured], quantizer)
        return self._known[1]


def _longest(words: U64, quantizer: Quantizer) -> I64:
    if quantizer.arrays.linking[2] <= 0:  # no products, or of signs, which have no lengths
        return _NONE
    n = len(words)
    lengths = lengths_of(words[:: -(-n // _LOOKED_AT)], quantizer)
    if lengths.std() < _DIFFER * lengths.mean():
        return _NONE
    step = -(-n // _SAMPLE)
    lengths = lengths_of(words[::step], quantizer)
    return step * np.argsort(-lengths, kind="stable")[: len(lengths) // _LONGEST]


def are_passed_over(longest: I64, accept: U64, share: float) -> bool:
    """Whether clearly fewer of the longest are accepted than the share of all.

    accept : uint64 (ceil(n / 64),)     as of `Search`
    """
    if not len(longest):
        return False
    accepted = ((accept[longest >> 6] >> (longest & 63).astype(np.uint64)) & np.uint64(1)).mean()
    by_chance = _SURE * (share * (1 - share) / len(longest)) ** 0.5
    return bool(accepted < share - max((1 - _LEAST) * share, by_chance))
