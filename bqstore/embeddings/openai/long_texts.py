"""What to send of a text that is longer than the model takes. It knows texts and sizes only."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .client import RefusedError
from .tokens import Counter

Vector = npt.NDArray[np.float32]

_A_BIT_LESS = 0.98  # tokens are not spread evenly
_BLIND = 0.7  # where nobody says by how much it was too long


def shortened(text: str, most: int, counter: Counter | None, refused: RefusedError | None) -> str:
    """The beginning of a text: as much as fits if that can be counted, or that much less than was refused.

    Parameters
    ----------
    most : int                          tokens that fit
    counter : callable, optional        counts tokens exactly
    refused : RefusedError, optional    what the server said to ``text``; None: it was not asked
    """
    count = 0
    if counter is not None:
        while text and (count := counter(text)) > most:
            text = text[: min(len(text) - 1, int(len(text) * most / count * _A_BIT_LESS) or 1)]
            refused = None
        if refused is None:
            return text
    if refused is None:  # some text of this length may well fit: tokens of four bytes are usual
        return text[: min(len(text) - 1, most * 4)]
    return text[: int(len(text) * (refused.fits or _BLIND))]


def halves(text: str) -> tuple[str, str]:
    """A text cut in two near its middle, between words if there are any."""
    middle = len(text) // 2
    for distance in range(min(middle, 200)):
        for at in (middle - distance, middle + distance):
            if 0 < at < len(text) and text[at].isspace():
                return text[:at], text[at:]
    return text[:middle], text[middle:]


def mean_of(parts: Sequence[tuple[Vector, int]]) -> Vector:
    """The mean of vectors, weighted by the sizes of their texts; of unit length if they are."""
    vectors = np.stack([vector for vector, _ in parts]).astype(np.float64)
    mean = np.average(vectors, axis=0, weights=[size for _, size in parts])
    length = float(np.linalg.norm(mean))
    if length > 0 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        mean /= length
    return mean.astype(np.float32)
