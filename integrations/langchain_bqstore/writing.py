"""Adding to a `BQVectorStore`: texts, documents, and texts with their vectors."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

import bqstore

from .documents import Ids, Metadatas, Pairs, add_arguments, pairs_of
from .embeddings import Steps, dim_of, texts_step


class Writing(bqstore.OnCollection, VectorStore):
    """The calls of `BQVectorStore` that add documents.

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
        expires_at                      when documents are over, as in `bqstore.Collection.add`: one for all, or one for
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
