"""What a `BQVectorStore` does with documents: add, get, update and delete them, and reset the collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

import bqstore

from .documents import Filter, Ids, Metadatas, Pairs, add_arguments, document_of, documents_in, native_filter, pairs_of
from .embeddings import Steps, dim_of, texts_step
from .keywords import HERE

_PARTS = ("documents", "metadatas", "embeddings")


class Stored(bqstore.OnCollection, VectorStore):
    """The calls of `BQVectorStore` on documents: add, get, update and delete them.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_bqstore import BQVectorStore
    >>> store = BQVectorStore(DeterministicFakeEmbedding(size=64))
    >>> store.add_texts(["Cats sleep.", "Dogs bark."], [{"animal": "cat"}, {"animal": "dog"}], ids=["1", "2"])
    ['1', '2']
    """

    _embedding: Embeddings
    _model: str | None

    def _check_model(self, writing: bool = False) -> None:
        """Refuse a wrong model before texts are sent to it; see `bqstore.Collection.check_model`."""
        if self._model is not None:
            self.collection.check_model(self._model, dim_of(self._embedding), writing=writing, remember=writing)

    @bqstore.in_steps
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Metadatas = None,
        ids: Ids = None,
        *,
        batch_size: int | None = None,
        expires_at: Any = None,
        **kwargs: Any,
    ) -> Steps[list[str]]:
        """Embed texts and add them as documents. They are durable and searchable when this returns.

        A document whose id exists is replaced. Without ids, adding the same texts twice keeps them twice.

        Parameters
        ----------
        texts : n strings
        metadatas : n dicts or None     JSON of at most 16 MiB each, and dates; see ``docs/collection.md``
        ids : n strings or None         a None gets a UUID; of equal ids the last wins
        batch_size : int or None        embed and commit so many texts at a time; None: all at once
        expires_at                      when documents expire, as in `bqstore.Collection.add`: one for all, or one for
                                        each. A document brings its own in its metadata, as `bqstore.EXPIRES_AT_KEY`

        Returns
        -------
        list of str                     the id of each text, in order

        Raises
        ------
        InvalidInputError               a text, metadata or id cannot be stored. All are checked before the first text
                                        is embedded
        StorageError                    the disk refused; earlier batches stay

        Whatever is raised, the error's ``added`` lists the ids that earlier batches have stored. To go on, add
        ``texts[len(error.added):]``; texts that are given these ids replace what is stored.

        >>> store.add_texts(["Fish swim.", "Birds fly."], [{"legs": 0}, {"legs": 2}], ids=["3", "4"], batch_size=1)
        ['3', '4']
        """
        return (yield from self._adding(texts, metadatas, ids, batch_size, expires_at, unknown=kwargs))

    aadd_texts = bqstore.awaited(add_texts).writing

    def add_documents(self, documents: Iterable[Document], *, ids: Ids = None, **kwargs: Any) -> list[str]:
        """Add documents, as `add_texts` does; each under its own id, unless ``ids`` are given.

        >>> from langchain_core.documents import Document
        >>> store.add_documents([Document("Cats purr.", id="1", metadata={"animal": "cat"})])  # replaces document 1
        ['1']
        """
        return self.add_texts(**add_arguments(documents, ids), **kwargs)

    async def aadd_documents(self, documents: Iterable[Document], *, ids: Ids = None, **kwargs: Any) -> list[str]:
        """Run `add_documents` without blocking the event loop.

        >>> import asyncio
        >>> from langchain_core.documents import Document
        >>> asyncio.run(store.aadd_documents([Document("Fish swim.", id="3")]))
        ['3']
        """
        return await self.aadd_texts(**add_arguments(documents, ids), **kwargs)

    @bqstore.in_steps
    def add_embeddings(
        self,
        text_embeddings: Pairs,
        metadatas: Metadatas = None,
        ids: Ids = None,
        *,
        batch_size: int | None = None,
        expires_at: Any = None,
    ) -> Steps[list[str]]:
        """Add texts whose vectors are there already, as pairs; nothing is embedded. Else as `add_texts`.

        >>> store.add_embeddings([("Fish swim.", [0.5] * 64)], [{"legs": 0}], ids=["3"])
        ['3']
        """
        texts, vectors = yield partial(pairs_of, text_embeddings)
        return (yield from self._adding(texts, metadatas, ids, batch_size, expires_at, vectors=vectors))

    aadd_embeddings = bqstore.awaited(add_embeddings).writing

    def _adding(self, texts: Iterable[str], *given: Any, **more: Any) -> Steps[list[str]]:
        """Add what `bqstore.batches_of` takes, in steps."""
        yield partial(self._check_model, writing=True)
        batches = yield partial(bqstore.batches_of, texts, *given, **more)
        return (yield from bqstore.add_batches(self.collection, batches, partial(texts_step, self._embedding)))

    # ---- reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in the order of the ids; unknown ids are left out.

        >>> store.get_by_ids(["2", "unknown"])
        [Document(id='2', metadata={'animal': 'dog'}, page_content='Dogs bark.')]
        """
        return [document_of(record) for record in self.collection.get(ids)]

    aget_by_ids = bqstore.awaited(get_by_ids).reading

    def get(
        self,
        ids: str | Sequence[str] | None = None,
        where: Filter = None,
        limit: int | None = None,
        offset: int | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents"),
    ) -> dict[str, Any]:
        """Return stored documents in columns, as langchain-chroma does; `get_by_ids` returns them as documents.

        Parameters
        ----------
        ids : str, strings or None      in the order of the ids, without unknown ones; None: all, oldest first
        where : dict or function        a filter, as in searches
        limit, offset : int             at most so many documents, after leaving out so many
        where_document : dict           Chroma's condition on the text: ``{"$contains": "bits"}``
        include : names                 of "documents" (the texts), "metadatas" and "embeddings" (arrays of float32)

        Returns
        -------
        dict                            ``ids``, ``documents``, ``metadatas``, ``embeddings``: lists of the same length,
                                        or None for what is not included

        >>> store.get(where={"animal": "dog"}, include=["documents"])
        {'ids': ['2'], 'documents': ['Dogs bark.'], 'metadatas': None, 'embeddings': None}
        """
        for part in include:
            if part not in _PARTS:
                raise bqstore.InvalidInputError(f"include has {part!r}; expected some of {', '.join(_PARTS)}")
        vectors = "embeddings" in include
        records = self._stored(ids, native_filter(where, where_document), limit, offset, vectors)
        documents = [document_of(record) for record in records]
        return {
            "ids": [record.id for record in records],
            "documents": [document.page_content for document in documents] if "documents" in include else None,
            "metadatas": [document.metadata for document in documents] if "metadatas" in include else None,
            "embeddings": [record.vector for record in records] if vectors else None,
        }

    # ---- changing

    def update_document(self, document_id: str, document: Document) -> None:
        """Replace the text, metadata and vector of a document; an unknown id is skipped.

        >>> from langchain_core.documents import Document
        >>> store.update_document("1", Document("Cats purr."))
        >>> store.get_by_ids(["1"])
        [Document(id='1', metadata={}, page_content='Cats purr.')]
        """
        self.update_documents([document_id], [document])

    @bqstore.in_steps
    def update_documents(self, ids: Sequence[str], documents: Iterable[Document]) -> Steps[None]:
        """Replace the text, metadata and vector of each document, in one commit; unknown ids are skipped.

        >>> from langchain_core.documents import Document
        >>> store.update_documents(["1", "unknown"], [Document("Cats purr."), Document("Nobody.")])
        >>> len(store.collection)
        2
        """
        yield partial(self._check_model, writing=True)
        given = documents_in(documents)
        texts, metadatas = [each.page_content for each in given], [each.metadata for each in given]
        yield partial(bqstore.batches_of, texts, metadatas, ids)
        if texts:
            vectors = yield texts_step(self._embedding, texts)
            change = partial(self.collection.update, ids, texts=texts, metadatas=metadatas, vectors=vectors)
            yield partial(change, replace=True)

    aupdate_documents = bqstore.awaited(update_documents).writing

    def update_metadata(
        self,
        ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        expires_at: Any = None,
        filter: Filter = None,
        replace: bool = False,
    ) -> int:
        """Change metadata without embedding anything, as `bqstore.Collection.update_metadata`; returns of how many.

        >>> store.update_metadata(filter={"animal": "cat"}, metadata={"legs": 4})
        1
        """
        return self.collection.update_metadata(
            ids, metadata, expires_at=expires_at, filter=native_filter(filter), replace=replace
        )

    # ---- deleting

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter = None, **kwargs: Any) -> bool:
        """Delete documents by id, by filter, or those of the ids that match the filter. Returns True.

        Unknown ids are skipped, as by LangChain's own store, Chroma's and Qdrant's (FAISS raises ValueError);
        ``store.collection.delete(ids)`` returns how many there were. ``filter`` is a dict or a function, as in
        searches.

        Without arguments it raises InvalidInputError, where LangChain's base class deletes everything: a variable that
        is None by mistake must not empty the store. ``store.collection.clear()`` does.

        >>> store.delete(["1", "unknown"])
        True
        >>> store.delete(filter={"animal": "dog"})
        True
        >>> len(store.collection)
        0
        """
        bqstore.refuse_foreign("delete", kwargs, HERE["delete"])
        self.collection.delete(ids, filter=native_filter(filter), **kwargs)
        return True

    adelete = bqstore.awaited(delete).writing

    def reset_collection(self) -> None:
        """Delete every document; the settings stay. What is added next may be of another model and dimension.

        >>> store.reset_collection()
        >>> len(store.collection)
        0
        """
        self.collection.clear()

    def delete_collection(self) -> None:
        """Remove the collection from its folder, durably, and close it: the store cannot be used afterwards.

        >>> store.delete_collection()
        """
        self._drop()
