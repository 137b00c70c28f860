"""How a text that is longer than the model takes is truncated, or split and its vectors averaged."""

from collections.abc import Sequence

import numpy as np

from ..protocol import Vectors
from .refusals import Refusal
from .tokens import Counter

_MARGIN = 0.98  # tokens are not spread evenly over a text
_BLIND = 0.7  # where neither the counter nor the server tells by how much a text is too long


def truncated(text: str, most: int, counter: Counter | None, refusal: Refusal | None) -> str:
    """The beginning of a text: as much as fits if ``counter`` can tell; else a part of what the server refused.

    ``most`` : tokens that fit
    """
    count = 0
    if counter is not None:
        while text and (count := counter(text)) > most:
            text = text[: min(len(text) - 1, int(len(text) * most / count * _MARGIN) or 1)]
            refusal = None
        if refusal is None:
            return text
    if refusal is None:  # tokens of four characters are usual
        return text[: min(len(text) - 1, most * 4)]
    return text[: int(len(text) * (refusal.fits or _BLIND))]


def halves(text: str) -> tuple[str, str]:
    """A text cut in two near its middle, between words if there are any."""
    middle = len(text) // 2
    for distance in range(min(middle, 200)):
        for at in (middle - distance, middle + distance):
            if 0 < at < len(text) and text[at].isspace():
                return text[:at], text[at:]
    return text[:middle], text[middle:]


def weighted_mean(parts: Sequence[tuple[Vectors, int]]) -> Vectors:
    """The mean of vectors, weighted by the sizes of their texts; of unit length if they are."""
    vectors = np.stack([vector for vector, _ in parts]).astype(np.float64)
    mean = np.average(vectors, axis=0, weights=[size for _, size in parts])
    length = float(np.linalg.norm(mean))
    if length > 0 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        mean /= length
    return mean.astype(np.float32)
