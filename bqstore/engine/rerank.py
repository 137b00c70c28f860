"""Hits in the order of scores by a user's function, a cross-encoder say."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arguments import check_int, type_of
from ..config import MAX_K
from ..convert import as_array
from ..errors import InvalidInputError, UnknownKeywordError
from ..results.hits import Hit

Rerank = Callable[[str | None, list[Hit]], Sequence[float]]


def candidates(rerank: object, fetch_k: object, k: Any) -> Any:
    """How many hits to search for where one of these is given. Raises InvalidInputError, UnknownKeywordError."""
    if rerank is None:
        raise UnknownKeywordError(
            "fetch_k belongs to max_marginal_relevance() and to searches with rerank=; here oversampling= says how "
            "many candidates are compared"
        )
    if not callable(rerank):
        raise InvalidInputError(f"rerank is {type_of(rerank)}; expected a function of a text and a list of hits")
    if fetch_k is None:
        return min(max(20, 4 * k), MAX_K) if isinstance(k, int) and 0 < k <= MAX_K else k
    return check_int("fetch_k", fetch_k, check_int("k", k, 1, MAX_K), MAX_K)


def reranked(rerank: Rerank, text: str | None, hits: list[Hit], k: int, least: float | None) -> list[Hit]:
    """The k hits with the highest scores by the function, without those below ``least``; ties as they came.

    The list is changed in place, so that it keeps its class. Raises InvalidInputError if the scores are no numbers.
    """
    if not hits:
        return hits
    given: Any = rerank(text, list(hits))
    if inspect.isawaitable(given):
        given.close() if inspect.iscoroutine(given) else None
        raise InvalidInputError("rerank is an async function; expected one that returns the scores at once")
    expected = f"expected {len(hits)} numbers, one for each hit in their order"
    try:
        found = as_array(given if hasattr(given, "__len__") else list(given))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"rerank returned {type_of(given)}; {expected}") from error
    if found.dtype.kind not in "biuf":  # numpy would make numbers of texts, dates and the real part of a complex one
        raise InvalidInputError(f"rerank returned {type_of(given)} of what are no numbers; {expected}")
    scores = found.astype(np.float64)
    if scores.shape != (len(hits),):
        raise InvalidInputError(f"rerank returned an array of shape {scores.shape}; {expected}")
    if np.isnan(scores).any():
        bad = int(np.isnan(scores).argmax())
        raise InvalidInputError(f"rerank returned NaN for hit {bad}, {hits[bad].id!r}; {expected}")
    order = np.argsort(-scores, kind="stable")
    hits[:] = [_with_score(hits[i], float(scores[i])) for i in order.tolist() if least is None or scores[i] >= least]
    del hits[k:]
    return hits


def _with_score(hit: Hit, score: float) -> Hit:
    before = {"vector": hit.score} if hit.scores is None else hit.scores
    return replace(hit, score=score, scores={**before, "rerank": score})
