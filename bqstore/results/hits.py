"""What searches and `get` return: hits, records, and how a search was done."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found by a search.

    Parameters
    ----------
    id : str
    score : float                   larger is nearer
    text : str or None
    metadata : dict
    vector : float32 (dim,) or None the stored vector, if ``with_vectors=True``
    scores : dict or None           of a search for words, each side's that has found it: "vector" and "text"; with
                                    ``rerank`` what it was found by, and "rerank"

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0]], ids=["a"], texts=["one"])
    ...     col.search([1.0, 0.0])
    [Hit(id='a', score=1.0, text='one', metadata={}, vector=None)]
    """

    id: str
    score: float
    text: str | None
    metadata: dict[str, Any]
    vector: NDArray[np.float32] | None = field(default=None, compare=False)
    scores: dict[str, float] | None = field(default=None, compare=False, repr=False)


class _Open:
    """A hit while it is made: the fields of `Hit`, in memory as they are there."""

    __slots__ = tuple(each.name for each in fields(Hit))

    def __init__(
        self,
        id: str,
        score: float,
        text: str | None,
        metadata: dict[str, Any],
        vector: NDArray[np.float32] | None,
        scores: dict[str, float] | None,
    ) -> None:
        self.id, self.score, self.text, self.metadata = id, score, text, metadata
        self.vector, self.scores = vector, scores


def hit_of(
    id: str,
    score: float,
    text: str | None,
    metadata: dict[str, Any],
    vector: NDArray[np.float32] | None = None,
    scores: dict[str, float] | None = None,
) -> Hit:
    """A `Hit`, in a third of the time that a frozen dataclass takes to fill itself: ten are made for each search."""
    made: Any = _Open(id, score, text, metadata, vector, scores)
    made.__class__ = Hit
    return made  # type: ignore[no-any-return]


def without_vector(hit: Hit) -> Hit:
    """The hit, its vector left out."""
    return Hit(hit.id, hit.score, hit.text, hit.metadata, None, hit.scores)


@dataclass(frozen=True, slots=True)
class Record:
    """A stored document.

    Parameters
    ----------
    id : str
    text : str or None
    metadata : dict
    vector : float32 (dim,) or None the stored vector, if ``with_vectors=True``

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0]], ids=["a"], metadatas=[{"lang": "en"}])
    ...     col.get(["a"])
    [Record(id='a', text=None, metadata={'lang': 'en'}, vector=None)]
    """

    id: str
    text: str | None
    metadata: dict[str, Any]
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Explanation:
    """How a search was done, and how much work it was.

    Parameters
    ----------
    way : str                       "exact": the original vectors of all accepted documents were scored; "scan": their
                                    codes were compared; "walk": the graph was walked; "text": words were looked up
    query_encoding : str            as in `Quantization`
    hnsw_ef : int                   length of the walk's candidate list; 0 unless walked
    candidates : int                codes kept for the second pass; 0 in an exact scan
    accepted : int                  documents that match the filter
    linked, tail : int              vectors in the graph, and vectors after it that were scanned
    distances : int                 codes (in an exact scan, vectors) that were compared with the query
    hops : int                      nodes whose links were followed on level 0
    rescored : int                  vectors read for candidates: more than ``candidates`` where, under a filter, the
                                    last of them still brought hits
    selectivity : float             ``accepted`` as a part of all documents; 1 without a filter
    truncate_dim : int or None      as in `Quantization`
    kernels : str                   "compiled", or "numpy" where it answered because kernels were still being compiled
    missed : float                  the part of what a scan of codes finds that a wide walk missed when the graph was
                                    last tried; above .012 the codes are scanned (a trial is a sample: .02 is meant)
    mode : str                      "vector", "text" or "hybrid"
    shorter : bool                  whether codes are scanned because a filter (or deletions) leaves shorter vectors
                                    under "dot", where a walk would meet the longer ones and find few others
    words, common : tuples of str   the words of the text that documents were ranked by; those that more than half of
                                    the texts have, which tell nothing

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]], metadatas=[{"lang": "en"}, {}])
    ...     how = col.search([1.0, 0.0], filter={"lang": "en"}, explain=True).explanation
    >>> how.way, how.accepted, how.selectivity
    ('exact', 1, 0.5)
    """

    way: str
    query_encoding: str
    hnsw_ef: int = 0
    candidates: int = 0
    accepted: int = 0
    linked: int = 0
    tail: int = 0
    distances: int = 0
    hops: int = 0
    rescored: int = 0
    selectivity: float = 1.0
    truncate_dim: int | None = None
    kernels: str = "compiled"
    missed: float = 0.0
    mode: str = "vector"
    words: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    shorter: bool = False


class ExplainedHits(list[Hit]):
    """The hits of a search with ``explain=True``: a list with an ``explanation``.

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     hits = col.search([1.0, 0.0], explain=True)
    >>> len(hits), hits.explanation.way
    (2, 'exact')
    """

    explanation: Explanation
    left_out: tuple[str | None, ...] = ()  # with ``allow_damaged=True``: see `PartialHits`


class PartialHits(list[Hit]):
    """The hits of a search with ``allow_damaged=True``: a list that says which documents were ``left_out``.

    ``left_out`` holds the ids of those that came into question and cannot be read; None where the id is damaged, too.

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     hits = col.search([1.0, 0.0], allow_damaged=True)
    >>> len(hits), hits.left_out
    (2, ())
    """

    left_out: tuple[str | None, ...] = ()
