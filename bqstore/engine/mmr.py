"""Maximal marginal relevance: of many hits, those that are near the query and differ from each other.

Carbonell and Goldstein, "The use of MMR", SIGIR 1998: the next hit has the largest
``lambda * relevance - (1 - lambda) * similarity to the nearest hit chosen before``.
"""

import numpy as np
from numpy.typing import NDArray

from ..results.hits import Hit, without_vector

F32 = NDArray[np.float32]


def chosen(hits: list[Hit], k: int, relevance: float, distance: str, with_vectors: bool) -> list[Hit]:
    """Choose k of hits that have their vectors, in the order in which they are taken."""
    if not hits:
        return []
    scores = np.array([hit.score for hit in hits], np.float32)
    vectors = np.stack([hit.vector for hit in hits if hit.vector is not None])
    places = taken(scores, vectors, k, relevance, distance)
    return [hits[place] if with_vectors else without_vector(hits[place]) for place in places]


def taken(scores: F32, vectors: F32, k: int, relevance: float, distance: str) -> list[int]:
    """The places of k candidates in the order in which they are taken; the first is the nearest.

    Parameters
    ----------
    scores : float32 (m,)       larger is nearer, the nearest first
    vectors : float32 (m, dim)  of the candidates
    relevance : float           lambda: 1 takes by the scores alone, 0 by difference alone
    distance : str              the measure of scores, and so of what is similar
    """
    wide = vectors.astype(np.float64)
    if distance == "cosine":
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        wide = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    gains = relevance * scores.astype(np.float64)
    nearest = np.full(len(scores), -np.inf)
    left = np.ones(len(scores), bool)
    order: list[int] = []
    place = 0
    while len(order) < min(k, len(scores)):
        order.append(place)
        left[place] = False
        similar = -np.linalg.norm(wide - wide[place], axis=1) if distance == "euclid" else wide @ wide[place]
        np.maximum(nearest, similar, out=nearest)
        worth = gains - (1.0 - relevance) * nearest if relevance < 1.0 else gains
        place = int(np.where(left, worth, -np.inf).argmax())
    return order
