"""A search with several vectors at once: their mean, or each of them, every document with its best score."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..metadata.filter_tree import Tree
from ..results.hits import Hit
from ..validate import check_dim
from . import listing, search
from .options import Options

if TYPE_CHECKING:
    from .engine import Engine

F32 = NDArray[np.float32]


def hits(
    engine: "Engine", ids: list[str], vectors: F32 | None, combine: str, tree: Tree | None, options: Options
) -> list[Hit]:
    """The hits of documents and vectors together, without the documents themselves, nearest first.

    ``options.k`` must be large enough for both: the hits, and the documents that are left out.
    """
    given = listing.vectors_of(engine, ids) if ids else []
    given += [] if vectors is None else list(vectors)
    if not given:
        raise InvalidInputError("more_like() needs ids or vectors to search with")
    for vector in given:
        check_dim(len(vector), engine.store.head.dim, "a vector to search with")
    queries = np.stack(given)
    if combine == "mean":
        queries = mean_of(queries, engine.distance)
    own = set(ids)
    best: dict[str, Hit] = {}
    for found in search.hits(engine, queries, tree, options):
        for hit in found:
            if hit.id not in own and (hit.id not in best or hit.score > best[hit.id].score):
                best[hit.id] = hit
    return sorted(best.values(), key=lambda hit: -hit.score)  # stable: equals as they were found


def mean_of(queries: F32, distance: str) -> F32:
    """The mean of vectors, float32 (1, dim); under cosine, of their directions."""
    wide = queries.astype(np.float64)
    if distance == "cosine":
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        wide = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return np.ascontiguousarray(wide.mean(axis=0, keepdims=True), np.float32)
