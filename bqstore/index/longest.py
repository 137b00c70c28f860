"""Under dot, whether the accepted vectors are shorter than the others: then a walk meets mostly rejected ones.

The nearest codes by inner product are those of long vectors. If a filter rejects most of these, or they are deleted,
they fill the beam, and the accepted ones come after it. Goes by codes alone, so that the answer is the same in every
process.
"""

import numpy as np
from numpy.typing import NDArray

from .quantizer import Quantizer, lengths_of

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

_NONE = np.zeros(0, np.int64)
_LOOKED_AT, _SAMPLE = 256, 4096  # codes by which it is told whether lengths differ; and to take the longest from
_LONGEST = 16  # the longest one in so many is kept
_DIFFER = 0.15  # lengths with a smaller relative deviation count as equal
# The longest are passed over if the share of accepted ones among them is below four fifths of the overall share, and
# lower by so many standard deviations.
_LEAST, _SURE = 0.8, 3.0


class Longest:
    """Some of the longest vectors of a collection, chosen anew whenever it has doubled."""

    def __init__(self) -> None:
        self._known: tuple[int, I64] = 0, _NONE

    def of(self, words: U64, n: int, quantizer: Quantizer) -> I64:
        """Ordinals of the longest, int64 (m,); none if lengths differ little, or codes are not compared by products.

        words : uint64 (>= n, columns)
        """
        measured = 1 << (n.bit_length() - 1)
        if self._known[0] != measured:
            self._known = measured, _longest(words[:measured], quantizer)
        return self._known[1]


def _longest(words: U64, quantizer: Quantizer) -> I64:
    if quantizer.arrays.linking[2] <= 0:  # not by products, or by those of signs, which have no lengths
        return _NONE
    n = len(words)
    lengths = lengths_of(words[:: -(-n // _LOOKED_AT)], quantizer)
    if lengths.std() < _DIFFER * lengths.mean():
        return _NONE
    step = -(-n // _SAMPLE)
    lengths = lengths_of(words[::step], quantizer)
    return step * np.argsort(-lengths, kind="stable")[: len(lengths) // _LONGEST]


def are_passed_over(longest: I64, accept: U64, share: float) -> bool:
    """Whether the share of accepted vectors is clearly lower among the longest than among all.

    accept : uint64 (ceil(n / 64),)     as of `Search`
    """
    if not len(longest):
        return False
    accepted = ((accept[longest >> 6] >> (longest & 63).astype(np.uint64)) & np.uint64(1)).mean()
    by_chance = _SURE * (share * (1 - share) / len(longest)) ** 0.5
    return bool(accepted < share - max((1 - _LEAST) * share, by_chance))
