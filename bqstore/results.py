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
    rescored : int          originals read for candidates
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


class ExplainedHits(list[Hit]):
    """The hits of a search with ``explain=True``: a list as always, with an ``explanation``."""

    explanation: Explanation


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
