"""What calls return: frozen dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import HnswConfig, Quantization, SearchParams


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


def without_vector(hit: Hit) -> Hit:
    """The hit, its vector left out."""
    return Hit(hit.id, hit.score, hit.text, hit.metadata)


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
class Skipped:
    """A document that ``add(..., on_error="skip")`` has left out.

    Parameters
    ----------
    index : int         its place in the lists that were given
    id : str or None    its id, if it had one
    reason : str        the message of the error

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     added = col.add([[1.0, 0.0], [float("nan"), 0.0]], ids=["a", "b"], on_error="skip")
    >>> added, added.skipped[0].index, added.skipped[0].id
    (['a'], 1, 'b')
    """

    index: int
    id: str | None
    reason: str


class AddResult(list[str]):
    """The ids that `Collection.add` has stored, in order: a list with two attributes.

    Attributes
    ----------
    replaced : int              documents whose ids existed
    skipped : list of Skipped   what ``on_error="skip"`` has left out

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     first = col.add([[1.0, 0.0]], ids=["a"])
    ...     second = col.add([[0.0, 1.0], [1.0, 1.0]], ids=["a", "b"])
    >>> first, first.replaced, second, second.replaced
    (['a'], 0, ['a', 'b'], 1)
    """

    def __init__(self, ids: Iterable[str] = (), replaced: int = 0, skipped: Sequence[Skipped] = ()) -> None:
        super().__init__(ids)
        self.replaced, self.skipped = replaced, list(skipped)


@dataclass(frozen=True)
class Explanation:
    """How a search was done, and how much work it was.

    Parameters
    ----------
    way : str                       "exact": the original vectors of all accepted documents were scored; "scan": their
                                    codes were compared; "walk": the graph was walked
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
                                    last tried; above .02 the codes are scanned

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]], metadatas=[{"lang": "en"}, {}])
    ...     how = col.search([1.0, 0.0], filter={"lang": "en"}, explain=True).explanation
    >>> how.way, how.accepted, how.selectivity
    ('exact', 1, 0.5)
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
    kernels: str = "compiled"
    missed: float = 0.0


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
                                        or not needed, as searches are exact. ``flush()`` waits for what is due
    documents : int                     in the collection when that was measured
    searches : dict                     "scan", "walk", "filtered": the `RecallEstimate` of searches of this process, of
                                        which one in many is answered again exactly
    problems : tuple of str             what is below the target, and what would mend it

    >>> import bqstore
    >>> with bqstore.open(target_recall=0.9) as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     print(col.health())
    healthy: the target recall is 0.9; searches are exact, or not measured yet
    """

    ok: bool
    target: float
    measured: RecallEstimate | None
    documents: int
    searches: dict[str, RecallEstimate]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        known = "not measured" if self.problems else "searches are exact, or not measured yet"
        if self.measured is not None:
            known = f"measured {self.measured.recall:.3f} [{self.measured.low:.3f}, {self.measured.high:.3f}]"
        seen = (f"; {kind}: {each.recall:.3f} of {each.queries:,} searches" for kind, each in self.searches.items())
        lines = [
            f"{'healthy' if self.ok else 'unhealthy'}: the target recall is {self.target:g}; {known}{''.join(seen)}"
        ]
        return "\n".join([*lines, *self.problems])


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


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is, and how many bytes it takes.

    Parameters
    ----------
    path : str or None              the store's folder; None in memory
    collection : str                its name
    count : int                     documents
    deleted : int                   deleted and replaced documents whose space `Collection.compact` gives back
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


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of `Collection.verify`.

    Parameters
    ----------
    ok : bool                       no problems
    problems : list of str          one line each, with the damaged file and place; never a document's text
    documents, vectors : int        how many were read

    >>> import bqstore
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     col.verify()
    VerifyReport(ok=True, problems=[], documents=2, vectors=2)
    """

    ok: bool
    problems: list[str]
    documents: int
    vectors: int


@dataclass(frozen=True)
class BackupReport:
    """The outcome of `Collection.backup`: a copy that was read back, and is whole.

    Parameters
    ----------
    path, collection : str      where it is: ``bqstore.open(path, collection)``
    documents, vectors : int    how many it holds; vectors of deleted documents are among them until a `compact`
    bytes_written : int

    >>> import bqstore
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    ...     report = col.backup("my-copy")
    >>> report.documents, report.vectors
    (2, 2)
    """

    path: str
    collection: str
    documents: int
    vectors: int
    bytes_written: int


@dataclass(frozen=True)
class LostDocument:
    """A document that `repair` could not save.

    Parameters
    ----------
    id : str or None            None where nothing tells it any more
    reason : str                what of it is damaged
    text, metadata              where only the vector is damaged: embed the text again, and add it; else None

    >>> import bqstore
    >>> bqstore.LostDocument("a", "its vector is damaged", "one", {"lang": "en"}).id  # as `repair` returns it
    'a'
    """

    id: str | None
    reason: str
    text: str | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class RepairReport:
    """The outcome of `repair`.

    Parameters
    ----------
    path, collection : str      where the new collection is: ``bqstore.open(path, collection)``
    documents : int             how many were saved
    lost : list of LostDocument those that were not
    lost_file : str or None     a file of them: one JSON object a line
    problems : list of str      what is damaged in the old collection, one line each

    >>> import bqstore
    >>> with bqstore.open("my-store") as col:
    ...     ids = col.add([[1.0, 0.0], [0.0, 1.0]])
    >>> bqstore.repair("my-store", to="my-repaired-store").problems
    []
    """

    path: str
    collection: str
    documents: int
    lost: list[LostDocument]
    lost_file: str | None
    problems: list[str]


@dataclass(frozen=True)
class ReembedPlan:
    """What `Collection.reembed` would do, from `Collection.reembed_plan`.

    Parameters
    ----------
    model : str                         of the embedder
    documents : int                     whose texts would be embedded
    done : int                          embedded already, by a call that was interrupted
    characters : int                    of the texts
    without_text : tuple of str         ids of documents that have none: they must be deleted or added again before
    cached, tokens, price               as the embedder estimates them, price in US$; None where it does not

    >>> import bqstore
    >>> bqstore.ReembedPlan("m", 2, 0, 6, ()).price is None  # as `reembed_plan` returns it
    True
    """

    model: str
    documents: int
    done: int
    characters: int
    without_text: tuple[str, ...]
    cached: int | None = None
    tokens: int | None = None
    price: float | None = None


@dataclass(frozen=True)
class ReembedReport:
    """The outcome of `Collection.reembed`.

    Parameters
    ----------
    model : str         whose vectors the collection holds now
    dim : int or None   of them
    documents : int
    embedded : int      texts that this call has embedded
    resumed : int       vectors that an interrupted call had left

    >>> import bqstore
    >>> bqstore.ReembedReport("m", 8, 2, 2, 0).documents  # as `reembed` returns it
    2
    """

    model: str
    dim: int | None
    documents: int
    embedded: int
    resumed: int
