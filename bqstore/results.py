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
    memory_bytes : int          codes held in memory, of all slots
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
