"""Scores as relevances from 0 to 1, which frameworks compare with thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import InvalidInputError


def relevance_of(distance: str) -> Callable[[float], float]:
    """Return the function from the scores of a distance to relevances from 0 to 1; for adapters.

    "cosine": the score, not below 0. "dot": the same, of vectors of unit length; a score that shows others is an
    InvalidInputError. "euclid": ``1 / (1 + distance)``.

    >>> import bqstore
    >>> bqstore.relevance_of("cosine")(-0.2), bqstore.relevance_of("euclid")(-3.0)
    (0.0, 0.25)
    """
    return _RELEVANCE[distance]


def _clipped(score: float) -> float:
    """A cosine as a relevance: vectors at a right angle, or beyond, have nothing in common."""
    return min(max(score, 0.0), 1.0)


def _of_unit_length(score: float) -> float:
    if abs(score) > _LARGEST:
        raise InvalidInputError(
            f'a score is {score:.3g}: relevances under distance="dot" need vectors of unit length; use '
            'distance="cosine", which needs none, give relevance_score_fn=, or ask for scores'
        )
    return _clipped(score)


def _inverse_distance(score: float) -> float:
    """Minus a Euclidean distance as a relevance: 1 at distance 0, and never 0."""
    return 1.0 / (1.0 - score)


_LARGEST: Final = 1.01  # vectors of unit length that were kept in float16, or rounded by their model
_RELEVANCE: Final = {"cosine": _clipped, "dot": _of_unit_length, "euclid": _inverse_distance}
