"""What measurements of recall return: estimates, whether a target is kept, and the report of `Collection.recall`."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Quantization


@dataclass(frozen=True)
class RecallEstimate:
    """The recall of searches that were answered again exactly, with its 95% confidence interval.

    Parameters
    ----------
    recall, low, high : float
    queries : int               searches that were checked

    >>> import bqstore
    >>> bqstore.RecallEstimate(0.97, 0.95, 0.99, 200).recall
    0.97
    """

    recall: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Health:
    """Whether a collection's searches find what its target recall promises.

    Parameters
    ----------
    ok : bool                           nothing is known to be below the target
    target : float                      the share of the true nearest that searches should find; 0: none was promised
    measured : RecallEstimate or None   of the settings in use, on documents that were held out; None: not measured yet,
                                        or not needed, as searches are exact. ``flush()`` waits for what is due. If
                                        ``way`` is "exact": what codes found when it was measured
    documents : int                     in the collection when that was measured
    searches : dict                     "scan", "walk", "filtered": the `RecallEstimate` of searches of this process, of
                                        which one in many is answered again exactly
    problems : tuple of str             what is below the target, and what would mend it
    way : str                           of searches without a filter: "exact", "scan" of the codes, or "walk"

    >>> import bqstore
    >>> with bqstore.open(target_recall=0.9) as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     print(col.health())
    healthy: the target recall is 0.9; searches are exact
    """

    ok: bool
    target: float
    measured: RecallEstimate | None
    documents: int
    searches: dict[str, RecallEstimate]
    problems: tuple[str, ...]
    way: str = "exact"

    def __str__(self) -> str:
        word, known = "healthy" if self.ok else "unhealthy", "searches are exact"
        if self.measured is None and self.way != "exact":
            known = "not measured"
            if self.ok and self.target:
                word, known = "unknown", "not measured yet: flush() waits until it is"
        elif self.measured is not None and (self.way != "exact" or self.measured.recall < self.target):
            how = "searches are exact, as by codes they found" if self.way == "exact" else "measured"
            known = f"{how} {self.measured.recall:.3f} [{self.measured.low:.3f}, {self.measured.high:.3f}]"
        seen = (f"; {kind}: {each.recall:.3f} of {each.queries:,} searches" for kind, each in self.searches.items())
        return "\n".join([f"{word}: the target recall is {self.target:g}; {known}{''.join(seen)}", *self.problems])


@dataclass(frozen=True)
class RecallPoint:
    """The recall and the speed of one setting.

    Parameters
    ----------
    quantization : Quantization     nothing in it is "auto"
    oversampling, rescore, hnsw_ef  as in `SearchParams`
    stored : bool                   the collection's own codes. False: codes of another encoding were made for the
                                    report, and scanned
    way : str                       "exact", "scan" or "walk", as in `Explanation`
    recall : float                  share of the true k nearest that were found, over all queries
    low, high : float               its 95% confidence interval, by a bootstrap over queries
    milliseconds, slowest : float   of one query on one thread: median, and 95th percentile
    memory_bytes : int              codes and links in memory

    >>> import bqstore, numpy as np
    >>> with bqstore.open() as col:
    ...     ids = col.add(np.random.default_rng(0).standard_normal((500, 32)))
    ...     point = col.recall(settings=[{"oversampling": 8}]).points[1]
    >>> point.oversampling, point.way, point.low <= point.recall <= point.high
    (8.0, 'scan', True)
    """

    quantization: Quantization
    oversampling: float
    rescore: bool
    hnsw_ef: int | None
    stored: bool
    way: str
    recall: float
    low: float
    high: float
    milliseconds: float
    slowest: float
    memory_bytes: int


@dataclass(frozen=True)
class Histogram:
    """How often scores fall between edges: ``edges`` has one more than each of the two lists of counts.

    Parameters
    ----------
    edges : tuple of float
    neighbors : tuple of int        counts of the scores of the true k nearest
    others : tuple of int           counts of the scores of documents picked at random

    >>> import bqstore, numpy as np
    >>> with bqstore.open() as col:
    ...     ids = col.add(np.random.default_rng(0).standard_normal((500, 32)))
    ...     scores = col.recall(k=5, sample=100).scores
    >>> len(scores.edges), sum(scores.neighbors)
    (41, 500)
    """

    edges: tuple[float, ...]
    neighbors: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True)
class RecallReport:
    """The recall of a collection's searches, measured against exact search on the same vectors.

    Parameters
    ----------
    recall, low, high, milliseconds
                                    of ``current``, the setting that searches without keywords use
    k, queries : int                hits asked for, and queries measured
    held_out : bool                 the queries are documents of the collection, each left out of its own answer
    documents : int                 in the collection
    scanned : int                   documents that encodings other than the collection's were measured on
    distance : str, dim : int       of the collection
    current : RecallPoint           the setting in use
    points : tuple of RecallPoint   all that were measured, ``current`` first
    scores : Histogram
    suits_one_bit : bool            whether one bit a dimension reaches a recall of 0.95 at oversampling 4
    verdict : str                   the recall in use and the next step, in a few sentences

    >>> import bqstore, numpy as np
    >>> with bqstore.open() as col:
    ...     ids = col.add(np.random.default_rng(0).standard_normal((500, 32)))
    ...     report = col.recall()
    >>> print(report)
    Your searches find 100.0% of the true 10 nearest [98.5, 100.0]: ... Measured with 200 held-out documents; ...
    """

    recall: float
    low: float
    high: float
    milliseconds: float
    k: int
    queries: int
    held_out: bool
    documents: int
    scanned: int
    distance: str
    dim: int
    current: RecallPoint
    points: tuple[RecallPoint, ...]
    scores: Histogram
    suits_one_bit: bool
    verdict: str

    def __str__(self) -> str:
        """The verdict, and what was measured; `points` has the rest."""
        queries = f"{self.queries:,} {'held-out documents' if self.held_out else 'queries'}"
        return f"{self.verdict} Measured with {queries}; {self.milliseconds:.3f} ms a query."
