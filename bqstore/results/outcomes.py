"""What writes and upkeep return: what was added, skipped, checked, copied, saved, embedded again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


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
class StreamReport:
    """The outcome of `Collection.add_stream`.

    Parameters
    ----------
    added, replaced : int       documents stored, and how many of them took the place of others
    skipped : list of Skipped   what ``on_error="skip"`` has left out; its ``index`` counts in the whole stream

    >>> import bqstore
    >>> with bqstore.open() as col:
    ...     col.add_stream([float(i), 1.0] for i in range(3))
    StreamReport(added=3, replaced=0, skipped=[])
    """

    added: int
    replaced: int
    skipped: list[Skipped]


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


@dataclass(frozen=True)
class CopyReport:
    """The outcome of `bqstore.copy` to or from a server.

    Parameters
    ----------
    documents, there : int      in the source, and in the copy
    copied : int                by this call
    resumed : int               that an interrupted call had copied
    same_ids : bool             whether source and copy have the same ids, by a digest of all
    compared : int              documents of a sample that were read back, with text, metadata and vector
    differing : tuple of str    ids of those that were not equal
    recall : float or None      share of the true ten nearest in the source that searches of the copy find; None: not
                                measured
    seconds : float

    >>> import bqstore
    >>> bqstore.CopyReport(2, 2, 2, 0, True, 2, (), 1.0, 0.5).ok  # as `copy` returns it
    True
    """

    documents: int
    there: int
    copied: int
    resumed: int
    same_ids: bool
    compared: int
    differing: tuple[str, ...]
    recall: float | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the copy has what the source has."""
        return self.same_ids and not self.differing
