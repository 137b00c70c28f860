"""Searches for the words of a text: what ``mode`` and ``search_type`` mean for the calls of `BQVectorStore`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import bqstore

MODES: Final = ("hybrid", "text")
SEARCH_TYPES: Final = ("similarity", "similarity_score_threshold", "mmr", *MODES)
WORD_KEYWORDS: Final = ("mode", "alpha", "fusion", "syntax", "text", "rerank")


def needs_vector(query: str | None, kwargs: Mapping[str, Any]) -> bool:
    """Whether a query must be embedded.

    >>> needs_vector("Who sleeps?", {"mode": "text"}), needs_vector("Who sleeps?", {"mode": "hybrid"})
    (False, True)
    """
    if query is None:
        return False
    checked_query(query)
    return kwargs.get("mode") != "text"


def checked_query(query: object) -> str:
    """Return the text of a query. One that is none is an InvalidInputError: each model has other words for it.

    >>> checked_query("Who sleeps?")
    'Who sleeps?'
    """
    if isinstance(query, str):
        return query
    raise bqstore.InvalidInputError(
        f"query is of type {type(query).__name__}; expected a string: similarity_search_by_vector takes a vector, "
        'and of a dict that a chain is given, itemgetter("question") passes on one value'
    )


def with_words(query: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a search by vector that is to look for the words of the query, too, if it is.

    A function that reranks is given the query's text as well.

    >>> with_words("Who sleeps?", {"mode": "hybrid", "alpha": 0.3})
    {'mode': 'hybrid', 'alpha': 0.3, 'text': 'Who sleeps?'}
    """
    if "text" in kwargs or query is None:
        return dict(kwargs)
    if kwargs.get("mode") in MODES:
        return {**kwargs, "text": query}
    return {**kwargs, "text": query, "mode": "vector"} if kwargs.get("rerank") is not None else dict(kwargs)


def of_search_type(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a retriever, the search types "hybrid" and "text" as the mode of a search by similarity.

    An unknown search type is an InvalidInputError.

    >>> of_search_type({"search_type": "hybrid"})
    {'search_type': 'similarity', 'search_kwargs': {'mode': 'hybrid'}}
    """
    search_type = given.get("search_type", "similarity")
    if search_type not in SEARCH_TYPES:
        known = ", ".join(map(repr, SEARCH_TYPES))
        raise bqstore.InvalidInputError(f"search_type is {search_type!r}; expected one of {known}")
    if search_type not in MODES:
        return dict(given)
    own = {"mode": search_type, **(given.get("search_kwargs") or {})}
    return {**given, "search_type": "similarity", "search_kwargs": own}


def refuse_words(kwargs: Mapping[str, Any]) -> None:
    """Raise InvalidInputError where relevances are asked of a search for words, or of scores that a function gave.

    >>> refuse_words({"mode": "vector"})
    """
    mode = kwargs.get("mode") or ("vector" if kwargs.get("text") is None else "hybrid")
    if mode in MODES or kwargs.get("rerank") is not None:
        what = f"mode={mode!r} has" if mode in MODES else "rerank= gives"
        raise bqstore.InvalidInputError(
            f"{what} scores and no relevances from 0 to 1; use similarity_search_with_score"
        )
