"""`BQKVStore`, `BQDocumentStore`, `BQIndexStore`: with a `BQVectorStore` in the same folder, a whole `StorageContext`.

They are LlamaIndex's own classes on keys and values of `bqstore.open_key_values`; values are kept as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from typing import Any, Final

from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore
from typing_extensions import Self

import bqstore

_OWN: Final = "leave it out: the folder in path= holds keys and values"
_HERE: Final = {
    "collection": "here it is collection_name",
    **dict.fromkeys(("kvstore", "redis_kvstore", "mongo_kvstore", "postgres_kvstore"), _OWN),
}
_BY_FILE: Final = ("from_persist_dir", "from_persist_path")  # how LlamaIndex's own stores are opened


class _Closing:
    """``with`` for what has a ``close``."""

    close: Callable[[], None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@bqstore.lacking(dict.fromkeys(_BY_FILE, "BQKVStore(path) opens a folder"))
class BQKVStore(_Closing, BaseKVStore):
    """A key-value store in a folder: what is put is durable when the call returns, for any number of processes.

    Parameters
    ----------
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       the collection of the folder that it belongs to; LlamaIndex's collections are apart
    **settings                  other keywords of `bqstore.open_key_values`: ``read_only``, ``lock_timeout``, ``mode``

    Raises
    ------
    BqstoreError                any error of `bqstore.open_key_values`

    >>> from llama_index.vector_stores.bqstore import BQKVStore
    >>> store = BQKVStore()  # in memory; BQKVStore("folder") keeps it on disk
    >>> store.put("a", {"n": 1})
    """

    def __init__(
        self, path: str | PathLike[str] | None = None, collection_name: str = "default", **settings: Any
    ) -> None:
        bqstore.refuse_foreign("the store", settings, _HERE)
        self._values = bqstore.open_key_values(path, collection_name, **settings)

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Write a value.

        >>> store.put("b", {"n": 2}, collection="other")
        """
        self.put_all([(key, val)], collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """`put` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aput("a", {"n": 1}))
        """
        await bqstore.writing(self.put, key, val, collection)

    def put_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Write values, all or none of them, whatever the size of a batch.

        >>> store.put_all([("a", {"n": 1}), ("c", {"n": 3})])
        """
        if kv_pairs:  # a document store puts three lists, of which one is often empty
            self._values.put([(key, _written(key, val)) for key, val in kv_pairs], _space(collection))

    async def aput_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """`put_all` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aput_all([("a", {"n": 1}), ("c", {"n": 3})]))
        """
        await bqstore.writing(self.put_all, kv_pairs, collection, batch_size)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """The value of a key; None if there is none.

        >>> store.get("a"), store.get("z")
        ({'n': 1}, None)
        """
        found = self._values.get([key], _space(collection))[0] if key else None
        return None if found is None else _read(found)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """`get` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aget("a"))
        {'n': 1}
        """
        return await bqstore.reading(self.get, key, collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """All values by their keys, of one commit.

        >>> store.get_all()
        {'a': {'n': 1}}
        """
        return {key: _read(value) for key, value in self._values.items(_space(collection))}

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """`get_all` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aget_all())
        {'a': {'n': 1}}
        """
        return await bqstore.reading(self.get_all, collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a value; whether there was one.

        >>> store.delete("a"), store.delete("a")
        (True, False)
        """
        return bool(key) and self._values.delete([key], _space(collection)) > 0

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """`delete` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.adelete("a"))
        True
        """
        return await bqstore.writing(self.delete, key, collection)

    def close(self) -> None:
        """Give back the files. What was put is durable already.

        >>> store.close()
        """
        self._values.close()


def _checked(namespace: object) -> str | None:
    """A namespace, which is part of the names of spaces; None for LlamaIndex's own."""
    if namespace is None or (isinstance(namespace, str) and namespace):
        return namespace
    raise bqstore.InvalidInputError(f"namespace is {namespace!r:.80}; expected a string that is not empty, or None")


def _space(collection: str) -> str:
    return f"llama_index/{collection}"


def _written(key: str, val: dict[str, Any]) -> bytes:
    """A value as JSON in ASCII: text that cannot be written in UTF-8 comes back as it was."""
    try:
        return json.dumps(val, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise bqstore.InvalidInputError(
            f"the value of {key!r} cannot be written as JSON ({error}); nothing of this call was written"
        ) from None


def _read(value: bytes) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(value)
    return out


@bqstore.lacking(dict.fromkeys(_BY_FILE, "BQDocumentStore(path) opens a folder"))
class BQDocumentStore(_Closing, KVDocumentStore):
    """A document store in a folder, as that of a `BQVectorStore`: no `persist`, it is durable as it is.

    Parameters
    ----------
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       the collection of the folder that it belongs to
    namespace : str or None     documents of other namespaces are apart
    **settings                  other keywords of `bqstore.open_key_values`: ``read_only``, ``lock_timeout``, ``mode``

    >>> from llama_index.core.schema import TextNode
    >>> from llama_index.vector_stores.bqstore import BQDocumentStore
    >>> store = BQDocumentStore()  # in memory; BQDocumentStore("folder") keeps it on disk
    >>> store.add_documents([TextNode(id_="1", text="Cats sleep.")])
    >>> store.get_document("1").text
    'Cats sleep.'
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        *,
        namespace: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(BQKVStore(path, collection_name, **settings), _checked(namespace))

    def close(self) -> None:
        """Give back the files. What was added is durable already.

        >>> store.close()
        """
        self._kvstore.close()  # type: ignore[attr-defined]


@bqstore.lacking(dict.fromkeys(_BY_FILE, "BQIndexStore(path) opens a folder"))
class BQIndexStore(_Closing, KVIndexStore):
    """An index store in a folder, as that of a `BQVectorStore`: no `persist`, it is durable as it is.

    Parameters
    ----------
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       the collection of the folder that it belongs to
    namespace : str or None     indexes of other namespaces are apart
    **settings                  other keywords of `bqstore.open_key_values`: ``read_only``, ``lock_timeout``, ``mode``

    All that an index needs is then in one folder, which any process can open:

    >>> import tempfile
    >>> from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
    >>> from llama_index.core.schema import TextNode
    >>> from llama_index.vector_stores.bqstore import BQDocumentStore, BQIndexStore, BQVectorStore
    >>> folder = tempfile.mkdtemp()
    >>> def opened():
    ...     return StorageContext.from_defaults(
    ...         vector_store=BQVectorStore(folder),
    ...         docstore=BQDocumentStore(folder),
    ...         index_store=BQIndexStore(folder),
    ...     )
    >>> index = VectorStoreIndex([TextNode(text="Cats.")], storage_context=opened(), embed_model=MockEmbedding(3))
    >>> again = load_index_from_storage(opened(), embed_model=MockEmbedding(3))
    >>> again.index_id == index.index_id
    True
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        *,
        namespace: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(BQKVStore(path, collection_name, **settings), _checked(namespace))

    def close(self) -> None:
        """Give back the files. What was added is durable already.

        >>> BQIndexStore().close()
        """
        self._kvstore.close()  # type: ignore[attr-defined]
