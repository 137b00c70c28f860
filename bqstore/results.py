"""What calls return: frozen dataclasses. Floor 3: knows no files."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import HnswConfig, Quantization, SearchParams


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found by a search. ``score``: larger is nearer. ``vector``: float32 (dim,) when asked for."""

    id: str
    score: float
    text: str | None
    metadata: dict[str, Any]
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


def without_vector(hit: Hit) -> Hit:
    """The hit, its vector left out."""
    return Hit(hit.id, hit.score, hit.text, hit.metadata)


@dataclass(frozen=True, slots=True)
class Record:
    """A stored document. ``vector``: float32 (dim,) when asked for."""

    id: str
    text: str | None
    metadata: dict[str, Any]
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Explanation:
    """How a search went, and how much it did.

    Parameters
    ----------
    way : str               "exact": the originals of all that were accepted were scored; "scan": their codes were
                            scanned; "walk": the graph was walked
    query_encoding : str    how the query was compared with codes
    hnsw_ef : int           accepted nodes in the walk's beam; 0 unless walked
    candidates : int        codes that were kept for the second pass; 0 in an exact scan
    accepted : int          documents that could have been found
    linked, tail : int      slots in the graph, and slots behind it that were scanned
    distances : int         codes (originals in an exact scan) that were compared with the query
    hops : int              nodes whose links were followed on level 0
    rescored : int          originals read for candidates: more than ``candidates`` where, under a filter, the last of
                            them brought hits
    selectivity : float     ``accepted`` as a part of all documents; 1 without a filter
    truncate_dim : int or None
                            values of each vector that codes are made of; None: all
    """

    way: str
    query_encoding: str
    hnsw_ef: int
    candidates: int
    accepted: int
    linked: int
    tail: int
    distances: int
    hops: int
    rescored: int
    selectivity: float = 1.0
    truncate_dim: int | None = None


class ExplainedHits(list[Hit]):
    """The hits of a search with ``explain=True``: a list as always, with an ``explanation``."""

    explanation: Explanation


@dataclass(frozen=True)
class Trial:
    """One way to quantize, measured on a sample before it was chosen or left.

    Parameters
    ----------
    quantization : Quantization     nothing in it is "auto"
    code_bytes : int                of one code in memory
    recall : float                  recall@k with ``oversampling`` times k candidates rescored
    raw_recall : float              recall@k of the codes alone
    nanoseconds : float             of one code in a scan of the sample
    """

    quantization: Quantization
    code_bytes: int
    recall: float
    raw_recall: float
    nanoseconds: float


@dataclass(frozen=True)
class Choice:
    """Why a collection is quantized as it is.

    Parameters
    ----------
    reason : str                    a sentence for people
    vectors, queries : int          of the sample; the queries are not among the vectors
    k : int, oversampling : float   what was asked of each
    trials : tuple of Trial         in the order of their cost
    """

    reason: str
    vectors: int
    queries: int
    k: int
    oversampling: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class RecallPoint:
    """One setting, measured.

    Parameters
    ----------
    quantization : Quantization     nothing in it is "auto"
    oversampling, rescore, hnsw_ef  as in `SearchParams`; ``hnsw_ef`` None: the default rule
    stored : bool                   measured as searches of this collection go. Else of another encoding: its codes were
                                    made for this report, and scanned
    way : str                       "exact", "scan" or "walk"
    recall : float                  share of the true k nearest that were found, over all queries
    low, high : float               its 95% confidence interval, by a bootstrap over queries
    milliseconds, slowest : float   of one query on one thread: median, and 95th percentile
    memory_bytes : int              codes and links in memory
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
    neighbors : counts              scores of the true k nearest
    others : counts                 scores of documents picked at random
    """

    edges: tuple[float, ...]
    neighbors: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True)
class RecallReport:
    """What searches of a collection find, measured against exact search on the same vectors.

    Parameters
    ----------
    recall, low, high, milliseconds
                                    of ``current``, the setting that searches without keywords use
    k, queries : int                hits asked for, and queries measured
    held_out : bool                 the queries are documents of the collection, each left out of its own answer
    documents : int                 in the collection; ``scanned`` of them for the encodings that are not stored
    current : RecallPoint
    points : tuple of RecallPoint   all that were measured, ``current`` among them
    scores : Histogram
    suits_one_bit : bool            whether one bit a dimension reaches 0.95 at oversampling 4
    verdict : str                   that, in a sentence for people
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
        """The two sentences that matter; `points` has the rest."""
        of = f"{self.queries:,} {'documents held out' if self.held_out else 'queries'}"
        return (
            f"recall@{self.k} {self.recall:.4f} [{self.low:.4f}, {self.high:.4f}] of {of}, "
            f"{self.milliseconds:.3f} ms a query. {self.verdict}"
        )


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is and what it takes.

    Parameters
    ----------
    path : str or None          the store's folder; None in memory
    count : int                 documents
    deleted : int               slots of deleted and replaced documents, in the files until compaction
    code_bytes, original_bytes : int
                                bytes of one code in memory and of one vector kept for rescoring (0: none kept)
    vector_bytes : int          bytes of one vector as float32
    compression : float         vector_bytes over code_bytes: 32.0 at a multiple of 64 dimensions
    memory_bytes : int          codes and links held in memory, of all slots
    way : str                   how a search for 10 without a filter goes now: "exact", "scan" or "walk"
    linked : int                slots in the graph; those behind it are scanned
    graph_bytes : int           of ``memory_bytes``, the links
    disk_bytes : int            committed records of the flat files, headers included; 0 in memory
    quantization : Quantization how codes are made and queries encoded now: nothing in it is "auto"
    choice : Choice or None     what was measured to choose it; None where it was given, or is not chosen yet
    columns : dict              the metadata fields that filters have columns of, and the bytes of each in memory
    """

    path: str | None
    collection: str
    count: int
    deleted: int
    dim: int | None
    distance: str
    originals: str
    quantization: Quantization
    hnsw: HnswConfig
    search: SearchParams
    embedding_model: str | None
    read_only: bool
    code_bytes: int
    original_bytes: int
    vector_bytes: int
    compression: float
    memory_bytes: int
    way: str
    linked: int
    graph_bytes: int
    disk_bytes: int
    generation: int
    format_version: int
    choice: Choice | None = None
    columns: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifyReport:
    """What reading everything found.

    Parameters
    ----------
    ok : bool               no problems
    problems : list of str  one line each, damaged file and place named; documents' text never
    documents, vectors : int
                            how many were read
    """

    ok: bool
    problems: list[str]
    documents: int
    vectors: int
