"""`BQRecordManager`: LangChain's record manager in the file of the documents, made of `bqstore.Collection.records`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import PurePath
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.indexing import RecordManager
from typing_extensions import Self

import bqstore

from .documents import document_of
from .key_values import checked
from .keywords import RECORDS
from .stored import Stored

_KNOWN: Final = {"read_only", "lock_timeout", "mode"}
_LONGEST: Final = 1024  # bytes in the name of a group


class BQRecordManager(RecordManager):
    """What `langchain_core.indexing.index` has written and when, kept with the documents themselves.

    Records are in the file of the documents. One of a document that `exists` has asked for is written in the commit
    that adds the document, and one whose document is deleted goes in the same commit; so documents and records end as
    one, wherever a run of `index` or `aindex` is killed. `update` writes what is not there so already. A backup of the
    collection has the records of its documents and of no others. Time only goes on, also where the clocks of several
    machines differ.

    `index` tells the sources to `update` alone, behind the documents. Until then a document's source is what
    ``source_id_key`` says, or else the ``"source"`` of its metadata, as a guess: of a run that was killed, a cleanup of
    a source finds what has it as any value of the metadata. Give ``source_id_key`` where `index` is given a function,
    or another key than ``"source"``: it saves a commit for each batch, and is never wrong.

    Parameters
    ----------
    namespace : str             records of other namespaces are apart
    path : str or path          the folder; the collection is made by the first call, if missing. None: all in memory
    collection_name : str       the collection of the folder that is indexed
    vector_store                the `BQVectorStore` that is indexed, in place of both: a record whose document is not
                                there does not count, and what a killed run has left is found
    source_id_key : str or function of a Document
                                that of `index`; with ``vector_store``
    **settings                  ``read_only``; with ``path``, also ``lock_timeout`` and ``mode`` of `bqstore.open`

    Raises
    ------
    BqstoreError                any error of `bqstore.open`

    >>> from langchain_core.documents import Document
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_core.indexing import index
    >>> from langchain_bqstore import BQRecordManager, BQVectorStore
    >>> vectors = BQVectorStore(DeterministicFakeEmbedding(size=8))  # both in memory; path="folder" keeps them on disk
    >>> store = BQRecordManager("files")
    >>> pages = [Document("one", metadata={"source": "a.txt"}), Document("two", metadata={"source": "a.txt"})]
    >>> def run(pages):
    ...     done = index(pages, store, vectors, cleanup="full", source_id_key="source", key_encoder="sha256")
    ...     return done["num_added"], done["num_skipped"], done["num_deleted"]
    >>> run(pages), run(pages[:1])
    ((2, 0, 0), (0, 1, 1))
    """

    def __init__(
        self,
        namespace: str,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        *,
        vector_store: Stored | None = None,
        source_id_key: str | Callable[[Document], str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(checked(namespace))
        if source_id_key is not None:
            _check_source(source_id_key, vector_store)
        self._source_id_key = source_id_key
        self._documents: bqstore.Collection | None = None
        self._opened: bqstore.Records | None = None
        self._is_read_only = bool(settings.get("read_only"))
        bqstore.refuse_foreign("the store", settings, RECORDS)
        for name in settings.keys() - _KNOWN:
            raise bqstore.UnknownKeywordError(f"the store has no keyword {name!r}; known: {', '.join(sorted(_KNOWN))}")
        if vector_store is not None:
            self._documents = _collection_of(vector_store, path, settings)
            self._own = None
        else:
            _refuse_swapped(namespace, path)
            self._own = _Opening(path, collection_name, settings)

    @property
    def _records(self) -> bqstore.Records:
        """The records, of a collection that is opened when they are first asked for: see `_Opening`."""
        if self._opened is None:
            spaces = f"langchain/records/{self.namespace}", f"langchain/begun/{self.namespace}"
            collection = self._documents if self._own is None else self._own.collection()
            assert collection is not None
            self._opened = collection.records(self.namespace, earlier=spaces)
        return self._opened

    @property
    def _kept(self) -> bqstore.Records | None:
        """The records, to be read; None where none can be, as there is no collection yet: reading makes none."""
        return self._records if self._own is None or self._own.is_there() else None

    def close(self) -> None:
        """Give back the files that the manager has opened. What was written is durable already.

        >>> store.close()
        """
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def create_schema(self) -> None:
        """Does nothing: there is one when the folder is open.

        >>> store.create_schema()
        """

    async def acreate_schema(self) -> None:
        """Does nothing.

        >>> import asyncio
        >>> asyncio.run(store.acreate_schema())
        """

    def get_time(self) -> float:
        """The time, in seconds since 1970; later than that of every record, whatever the clocks say.

        >>> before = store.get_time()
        >>> store.update(["key"])
        >>> before < store.get_time()
        True
        """
        kept = self._kept
        return time.time() if kept is None else kept.now()

    async def aget_time(self) -> float:
        """`get_time` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aget_time()) > 0
        True
        """
        return await bqstore.reading(self.get_time)

    def update(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """Write records, all or none, with the time of now. Without ``group_ids`` those that there are keep theirs.

        With ``time_at_least`` records stay as they are that are not older, and in these groups.

        Raises InvalidInputError, a ValueError, where there are not as many ``group_ids`` as keys, and where now is
        before ``time_at_least``.

        >>> store.update(["key 1", "key 2"], group_ids=["a.txt", None], time_at_least=store.get_time())
        """
        self._check_writing()
        self._records.put(keys, _groups(group_ids), not_before=time_at_least)

    async def aupdate(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """`update` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aupdate(["key 1"]))
        """
        await bqstore.writing(self.update, keys, group_ids=group_ids, time_at_least=time_at_least)

    def exists(self, keys: Sequence[str]) -> list[bool]:
        """Which of the keys have a record; and a document, where the manager knows the ``vector_store``.

        Documents of the others are expected: when they are added to the collection, so are their records.

        >>> store.update(["key 1"])
        >>> store.exists(["key 1", "key 9"])
        [True, False]
        """
        kept = self._kept
        if kept is None:
            return [False] * len(keys)
        found = kept.exist(keys, documents=self._documents is not None)
        new = [key for key, is_found in zip(keys, found, strict=True) if not is_found]
        if new and not self._is_read_only:
            kept.expect(new, self._group_of, certain=self._source_id_key is not None)
        return found

    def _group_of(self, record: bqstore.Record) -> str | None:
        """The group of a document: what `index` will tell, as far as it is known."""
        if callable(self._source_id_key):
            return _group(self._source_id_key(document_of(record)))
        return _group(record.metadata.get("source" if self._source_id_key is None else self._source_id_key))

    async def aexists(self, keys: Sequence[str]) -> list[bool]:
        """`exists` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aexists(["key 9"]))
        [False]
        """
        return await bqstore.reading(self.exists, keys)

    def list_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """The keys written before, and after, these times, in these groups; what is None or empty leaves out none.

        >>> store.update(["key 1", "key 2"], group_ids=["b.txt", None])
        >>> store.list_keys(group_ids=["b.txt"]), store.list_keys(after=store.get_time())
        (['key 1'], [])
        """
        times: dict[str, Any] = {"before": before or None, "after": after or None}
        groups = _groups(group_ids)
        kept = self._kept
        if kept is None:
            return []
        found = kept.keys(**times, groups=groups, limit=limit or None)
        if self._documents is None or not before or not group_ids:
            return found
        left = sorted(set(kept.keys(**times, guessed=True)).difference(found))
        sources = list(group_ids)  # a set may be given, and metadata be a list
        more = [record.id for record in self._documents.get(left) if self._is_of(record, sources, groups)]
        return [*found, *more][: limit or None]

    def _is_of(self, record: bqstore.Record, sources: Sequence[Any], groups: Sequence[str | None]) -> bool:
        """Whether a document whose group was guessed is of one of the sources, whose groups are given, too."""
        if self._source_id_key is not None:
            return self._group_of(record) in groups
        # under whatever key; a page of number 1 is not the source "1"
        values = (each for each in record.metadata.values() if isinstance(each, str) or each in sources)
        return any(_group(value) in groups for value in values)

    async def alist_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """`list_keys` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.alist_keys(group_ids=["z.txt"]))
        []
        """
        return await bqstore.reading(self.list_keys, before=before, after=after, group_ids=group_ids, limit=limit)

    def delete_keys(self, keys: Sequence[str]) -> None:
        """Delete records; unknown keys are ignored.

        >>> store.delete_keys(["key 1", "key 9"])
        """
        self._check_writing()
        self._records.delete(keys)

    def _check_writing(self) -> None:
        if self._is_read_only:
            raise bqstore.ReadOnlyError("these records are open with read_only=True; open them without to write")

    async def adelete_keys(self, keys: Sequence[str]) -> None:
        """`delete_keys` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.adelete_keys(["key 1"]))
        """
        await bqstore.writing(self.delete_keys, keys)


def _refuse_swapped(namespace: str, path: object) -> None:
    """Refuse a folder in the place of the namespace: records would be kept elsewhere, or in memory, in silence.

    Namespaces may have slashes ("chroma/my_docs" in LangChain's pages), so that only what can hardly be one is taken
    for a folder: an absolute path, one that begins with a dot or ~, and one with a store in it where ``path`` has none.
    """
    is_path = PurePath(namespace).is_absolute() or namespace.startswith(("./", "../", "~/"))
    if is_path or (isinstance(path, str) and bqstore.collections(namespace) and not bqstore.collections(path)):
        raise bqstore.InvalidInputError(
            f"namespace is {namespace!r:.80}, a folder; expected a name such as 'files' there, and the folder in path="
        )


def _collection_of(vector_store: Stored, path: object, settings: Mapping[str, Any]) -> bqstore.Collection:
    """The open collection of a store."""
    if not isinstance(vector_store, Stored):
        kind = type(vector_store).__name__
        raise bqstore.InvalidInputError(f"vector_store is of type {kind}; expected a BQVectorStore")
    if path is not None:
        raise bqstore.InvalidInputError("path is given beside vector_store=, whose folder is taken; leave it out")
    for name in settings.keys() - {"read_only"}:
        raise bqstore.InvalidInputError(f"{name} is given beside vector_store=; it is set where that is opened")
    collection = vector_store.collection
    if isinstance(collection, bqstore.RemoteCollection):
        raise bqstore.InvalidInputError(
            "the collection is on a server, which keeps no records; name a folder for them: path="
        )
    return collection


class _Opening:
    """The collection of a manager that is not given a store.

    One that is not there is made when it is first needed: by then `index` has a store, whose settings are those wanted.
    """

    def __init__(self, path: str | PathLike[str] | None, name: str, settings: dict[str, Any]) -> None:
        self._open = partial(bqstore.open, path, name, **settings)
        self._path, self._name = path, name
        self._collection: bqstore.Collection | None = None
        self._is_closed = False
        if settings.get("read_only") or self.is_there():
            self.collection()

    def is_there(self) -> bool:
        """Whether there is a collection, or records that an earlier release has kept without one."""
        if self._is_closed or self._collection is not None or self._path is None:
            return True
        if self._name in bqstore.collections(self._path):
            return True
        try:
            bqstore.open_key_values(self._path, self._name, read_only=True).close()
        except bqstore.NotFoundError:
            return False
        return True

    def collection(self) -> bqstore.Collection:
        if self._collection is None:
            if self._is_closed:
                raise bqstore.ClosedError("these records are closed; open them again")
            try:
                self._collection = self._open()
            except bqstore.LockedError as error:
                raise bqstore.LockedError(f"{error}; or give the store that has it open as vector_store=") from error
        return self._collection

    def close(self) -> None:
        self._is_closed = True
        if self._collection is not None:
            self._collection.close()


def _groups(sources: Sequence[Any] | None) -> Any:
    """The groups of sources; None where there are none."""
    if not sources or isinstance(sources, str):  # which is refused
        return sources or None
    return [_group(source) for source in sources]


def _group(source: object) -> str | None:
    """The group of a source: its text, as an SQLRecordManager keeps numbers, too; of a long one a digest of it."""
    if source is None:
        return None
    text = source if isinstance(source, str) else str(source)
    if len(text) <= _LONGEST // 4:
        return text
    data = text.encode("utf-8", "surrogatepass")
    return text if len(data) <= _LONGEST else f"sha256:{hashlib.sha256(data).hexdigest()}"


def _check_source(source_id_key: object, vector_store: object) -> None:
    if not isinstance(source_id_key, str) and not callable(source_id_key):
        kind = type(source_id_key).__name__
        raise bqstore.InvalidInputError(
            f"source_id_key is of type {kind}; expected what index() is given: a key of metadata, or a function"
        )
    if vector_store is None:
        raise bqstore.InvalidInputError(
            "source_id_key is for documents that have no record yet, which are found with vector_store=; give both"
        )
