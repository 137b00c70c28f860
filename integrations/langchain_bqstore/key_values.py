"""`BQByteStore`: LangChain's byte store in the folder of a `BQVectorStore`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

from langchain_core.stores import ByteStore
from typing_extensions import Self

import bqstore

from .keywords import RECORDS


class BQByteStore(ByteStore):
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
        self.namespace = "default" if namespace is None else checked(namespace)
        bqstore.refuse_foreign("the store", settings, RECORDS)
        self._values = bqstore.open_key_values(path, collection_name, **settings)
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

    def close(self) -> None:
        """Give back the files. What was written is durable already.

        >>> store.close()
        """
        self._values.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def checked(namespace: object) -> str:
    """A namespace; one that is no text would share the records of whatever has the same repr."""
    if isinstance(namespace, str) and namespace:
        return namespace
    hint = "; the folder goes into path=" if isinstance(namespace, PathLike) else ""
    raise bqstore.InvalidInputError(f"namespace is {namespace!r:.80}; expected a string that is not empty{hint}")
