"""What `Collection.info` returns: a collection's settings, sizes, and why it is quantized as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..config import HnswConfig, Quantization, SearchParams
from .recall import Health


@dataclass(frozen=True)
class Trial:
    """One quantization that was measured on a sample, to choose one.

    Parameters
    ----------
    quantization : Quantization     nothing in it is "auto"
    code_bytes : int                of one code in memory
    recall : float                  recall@k with ``oversampling`` times k candidates rescored
    raw_recall : float              recall@k of the codes alone
    nanoseconds : float             time to compare one code

    >>> import bqstore, numpy as np
    >>> with bqstore.open() as col:
    ...     ids = col.add(np.random.default_rng(0).standard_normal((2048, 16)))
    ...     trial = col.info().choice.trials[0]
    >>> trial.quantization.encoding, trial.code_bytes
    ('one_bit', 8)
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
    reason : str                    a sentence
    vectors, queries : int          of the sample; the queries are not among the vectors
    k : int, oversampling : float   of the searches that were measured
    trials : tuple of Trial         smallest codes first

    >>> import bqstore, numpy as np
    >>> with bqstore.open() as col:
    ...     ids = col.add(np.random.default_rng(0).standard_normal((2048, 16)))
    ...     choice = col.info().choice
    >>> choice.vectors, choice.queries, len(choice.trials)
    (1536, 512, 9)
    >>> print(choice.reason)
    four bits (rabitq...): the smallest code within 1% of the best recall; among equals the one best without rescoring
    """

    reason: str
    vectors: int
    queries: int
    k: int
    oversampling: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is, and how many bytes it takes.

    Parameters
    ----------
    path : str or None              the store's folder; None in memory
    collection : str                its name
    count : int                     documents
    deleted : int                   deleted and replaced documents whose space `Collection.compact` gives back
    compact_due : bool              they are more than an eighth of ``count``: a walk takes a tenth longer than it would
                                    after `Collection.compact`. False where there is no graph
    dim : int or None               None before the first vectors
    distance, originals, hnsw, search, embedding_model, read_only
                                    as in `open`
    quantization : Quantization     how codes are made and queries encoded now: nothing in it is "auto"
    code_bytes : int                of one code in memory
    original_bytes : int            of one vector kept for rescoring; 0: none are kept
    vector_bytes : int              of one vector as float32
    compression : float             vector_bytes over code_bytes: 32.0 at a multiple of 64 dimensions
    memory_bytes : int              codes and links in memory
    way : str                       how a search for 10 without a filter goes now: "exact", "scan" or "walk"
    linked : int                    vectors in the graph; the others are scanned
    graph_bytes : int               of ``memory_bytes``, the links
    disk_bytes : int                of all its files but the reserve for a full disk; 0 in memory
    catalogue_bytes : int           of these, of the documents: SQLite's file and its log
    generation : int                how often the files were rewritten
    format_version : int            of the files
    choice : Choice or None         how the quantization was chosen; None if it was given, or is not chosen yet
    columns : dict of str to int    the metadata fields loaded for filters, and the bytes of each in memory
    recall : Health                 whether searches find what the target recall promises, as `Collection.health`
    kernels : str                   "compiled"; "compiling": in the background, numpy answers meanwhile and what is
                                    added is scanned; "uncompiled": nobody has needed them yet; "numpy": they will not
                                    be, as BQSTORE_COMPILE is off
    text_index : dict or None       as in `open`; while it is being built, also the part that is ``built``
    recent_bytes : int              in memory, of documents that searches found lately: at most 4 MiB

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     info = col.info()
    >>> info.count, info.dim, info.distance, info.way, info.quantization.encoding
    (2, 2, 'cosine', 'exact', 'one_bit')
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
    catalogue_bytes: int
    generation: int
    format_version: int
    choice: Choice | None = None
    columns: dict[str, int] = field(default_factory=dict)
    recall: Health = field(default_factory=lambda: Health(True, 0.0, None, 0, {}, ()))
    kernels: str = "compiled"
    text_index: dict[str, Any] | None = None
    recent_bytes: int = 0
    compact_due: bool = False
