"""`BQByteStore` and `BQRecordManager`: LangChain's byte store and record manager in the folder of a `BQVectorStore`.

Both are keys and values of `bqstore.open_key_values`, each namespace in a space of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import PurePath
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.indexing import RecordManager
from langchain_core.stores import ByteStore
from typing_extensions import Self

import bqstore

from .documents import document_of
from .stored import Stored

_LONGEST: Final = 1024  # bytes in the name of a group
_OPENED: Final = "the records are in the folder of path=, or of vector_store="
_HERE: Final = {
    "collection": "here it is collection_name",
    "root_path": "here it is path",
    **dict.fromkeys(("db_url", "engine", "engine_kwargs", "async_mode"), _OPENED),
    **dict.fromkeys(("vectorstore", "store"), "here it is vector_store"),
}


class _Closing:
    """What both have: keys and values that can be closed."""

    _values: bqstore.KeyValues

    def _open(self, path: str | PathLike[str] | None, collection_name: str, settings: dict[str, Any]) -> None:
        bqstore.refuse_foreign("the store", settings, _HERE)
        self._values = bqstore.open_key_values(path, collection_name, **settings)

    def close(self) -> None:
        """Give back the files. What was written is durable already."""
        self._values.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class BQByteStore(_Closing, ByteStore):
    """A byte store in a folder, as for the parents of `ParentDocumentRetriever` and `MultiVectorRetriever`.

    What `mset` has written is durable when it returns. Any number of processes may use one folder, beside its
    `BQVectorStore`, whose backups have it, too.

    Parameters
    ----------
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       the collection of the folder that it belongs to
    namespace : str or None     keys of other namespaces are apart; None is "default"
    **settings                  other keywords of `bqstore.open_key_values`: ``read_only``, ``lock_timeout``, ``mode``

    Raises
    ------
    BqstoreError                any error of `bqstore.open_key_values`

    >>> from langchain_bqstore import BQByteStore
    >>> store = BQByteStore()  # in memory; BQByteStore("folder") keeps it on disk
    >>> store.mset([("page 1", b"..."), ("page 2", b"...")])
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        *,
        namespace: str | None = "default",
        **settings: Any,
    ) -> None:
        self.namespace = "default" if namespace is None else _checked(namespace)
        self._open(path, collection_name, settings)
        self._space = f"langchain/bytes/{self.namespace}"

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys, None where there is none.

        >>> store.mget(["page 2", "page 3"])
        [b'...', None]
        """
        return self._values.get(keys, self._space)

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Write values, all or none of them.

        >>> store.mset([("page 3", b"...")])
        """
        self._values.put(key_value_pairs, self._space)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete keys; unknown ones are ignored.

        >>> store.mdelete(["page 1", "page 9"])
        """
        self._values.delete(keys, self._space)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """The keys that begin with ``prefix``, in order.

        >>> list(store.yield_keys(prefix="page"))
        ['page 1', 'page 2']
        """
        yield from self._values.keys(self._space, prefix=prefix or "")


class BQRecordManager(_Closing, RecordManager):
    """What `langchain_core.indexing.index` has written and when, kept with the documents themselves.

    A record is durable when `update` returns, and a backup of the collection has the records of its documents and of no
    others. Time only goes on, also where the clocks of several machines differ.

    With ``vector_store`` documents and records end as one, wherever a run of `index` or `aindex` is killed: a record
    whose document is not there does not count, so that the document is added again; and what was added without a record
    is found by the next cleanup, "full" or of its source. For that `exists` notes the keys that are not there as begun,
    until `update` has their records. A cleanup of a source finds these by the values in their metadata, or by
    ``source_id_key``, which is needed where `index` is given a function that computes the source, and wise where other
    fields have values such as sources have: numbers, say.

    Parameters
    ----------
    namespace : str             records of other namespaces are apart
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       the collection of the folder that is indexed
    vector_store                the `BQVectorStore` that is indexed, in place of both: its folder is taken
    source_id_key : str or function of a Document
                                that of `index`, if it is a function; with ``vector_store``
    **settings                  other keywords of `bqstore.open_key_values`: ``read_only``, ``lock_timeout``, ``mode``

    Raises
    ------
    BqstoreError                any error of `bqstore.open_key_values`

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
        super().__init__(_checked(namespace))
        if source_id_key is not None:
            _check_source(source_id_key, vector_store)
        self._source_id_key = source_id_key
        self._documents: bqstore.Collection | None = None
        if vector_store is None:
            _refuse_swapped(namespace, path)
        if vector_store is not None:
            path, collection_name = _place_of(vector_store, path)
            self._documents = vector_store.collection
        self._open(path, collection_name, settings)
        self._space, self._begun = f"langchain/records/{namespace}", f"langchain/begun/{namespace}"
        self._is_read_only = bool(settings.get("read_only"))

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
        return self._values.now()

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

        Raises InvalidInputError, a ValueError, where there are not as many ``group_ids`` as keys, and where now is
        before ``time_at_least``.

        >>> store.update(["key 1", "key 2"], group_ids=["a.txt", None], time_at_least=store.get_time())
        """
        pairs = [(key, b"") for key in keys]
        begun = None if self._documents is None else self._begun
        groups, keep = _groups(group_ids), group_ids is None
        self._values.put(
            pairs, self._space, groups=groups, keep_groups=keep, not_before=time_at_least, moved_from=begun
        )

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

        >>> store.update(["key 1"])
        >>> store.exists(["key 1", "key 9"])
        [True, False]
        """
        found = self._values.exist(keys, self._space)
        if self._documents is None:
            return found
        there = {record.id for record in self._documents.get(keys)}
        found = [is_found and key in there for key, is_found in zip(keys, found, strict=True)]
        begun = [(key, b"") for key, is_found in zip(keys, found, strict=True) if not is_found]
        if begun and not self._is_read_only:
            self._values.put(begun, self._begun)
        return found

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
        found = self._values.keys(self._space, **times, groups=groups, limit=limit or None)
        if self._documents is None or not before:
            return found
        begun = self._values.keys(self._begun, **times)
        left = [key for key, done in zip(begun, self._values.exist(begun, self._space), strict=True) if not done]
        if left and group_ids:
            sources = list(group_ids)  # a set may be given, and metadata be a list
            left = [record.id for record in self._documents.get(left) if self._is_of(record, sources, groups)]
        return [*found, *left][: limit or None]

    def _is_of(self, record: bqstore.Record, sources: Sequence[Any], groups: Sequence[str | None]) -> bool:
        """Whether a document that has no record yet is of one of the sources, whose groups are given, too."""
        if callable(self._source_id_key):
            return _group(self._source_id_key(document_of(record))) in groups
        if self._source_id_key is not None:
            return _group(record.metadata.get(self._source_id_key)) in groups
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
        self._values.delete(keys, self._space)
        if self._documents is not None:
            self._values.delete(keys, self._begun)

    async def adelete_keys(self, keys: Sequence[str]) -> None:
        """`delete_keys` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.adelete_keys(["key 1"]))
        """
        await bqstore.writing(self.delete_keys, keys)


def _checked(namespace: object) -> str:
    """A namespace; one that is no text would share the records of whatever has the same repr."""
    if isinstance(namespace, str) and namespace:
        return namespace
    hint = "; the folder goes into path=" if isinstance(namespace, PathLike) else ""
    raise bqstore.InvalidInputError(f"namespace is {namespace!r:.80}; expected a string that is not empty{hint}")


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


def _place_of(vector_store: Stored, path: object) -> tuple[str | None, str]:
    """Return the folder and the collection of a store."""
    if not isinstance(vector_store, Stored):
        kind = type(vector_store).__name__
        raise bqstore.InvalidInputError(f"vector_store is of type {kind}; expected a BQVectorStore")
    if path is not None:
        raise bqstore.InvalidInputError("path is given beside vector_store=, whose folder is taken; leave it out")
    info = vector_store.collection.info()
    return info.path, info.collection


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
