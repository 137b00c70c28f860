"""`BQVectorStore`: LangChain's `VectorStore` interface on a `bqstore.Collection`.

It turns texts into vectors with the embedding model and hits into `Document`. Checks, files, threads and ranking are
the collection's.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

from langchain_core.embeddings import Embeddings
from typing_extensions import Self

import bqstore

from .documents import Ids, Metadatas, Pairs
from .embeddings import as_embeddings, model_of
from .keywords import HERE, METHODS
from .retrievers import BQRetriever, retriever_settings
from .searching import Searching
from .stored import Stored


@bqstore.lacking(METHODS)
class BQVectorStore(Searching, Stored):
    """A LangChain vector store in a folder: small codes in memory, the original vectors on disk, no server.

    Parameters
    ----------
    embedding : Embeddings or bqstore.Embedder
                                    makes the vectors of documents and queries
    path : str or path              the folder, made if missing; None keeps everything in memory
    collection_name : str           a folder can hold several collections
    distance : str                  "cosine" (default), "dot" or "euclid"
    oversampling, rescore, hnsw_ef  defaults of searches, as in `bqstore.SearchParams`
    full_scan_threshold : int       as in `bqstore.HnswConfig`
    originals : str                 "float32" (default), "float16", "int8" or "none": how original vectors are stored
    embedding_model : str           stored with the collection, which refuses another model later. Default: the
                                    ``model``, ``model_name`` or ``model_id`` of the embeddings. If one model has two
                                    names, give the stored one here
    read_only : bool                follow what another process writes
    relevance_score_fn : callable   turns a score into a relevance from 0 to 1. Default for cosine and dot: the score,
                                    clipped to that range (with dot, vectors must have unit length: a score that shows
                                    others is an InvalidInputError); for euclid: ``1 / (1 + distance)``
    collection : bqstore.Collection one that is open already, in place of ``path`` and of all settings; `close` leaves
                                    it open
    **settings                      other keywords of `bqstore.open`, and the fields of `bqstore.Quantization`,
                                    `bqstore.HnswConfig` and `bqstore.SearchParams`, such as ``m=32`` or ``threads=4``

    None means: as stored, or the default for a new collection.

    Raises
    ------
    UnknownKeywordError             a keyword is none of these; the nearest name is given
    SettingsConflictError           a setting or the embedding model differs from what is stored
    BqstoreError                    any other error of `bqstore.open`

    Notes
    -----
    Scores: larger is nearer. They are the cosine, the dot product, or minus the Euclidean distance.

    Every search, and ``as_retriever(search_kwargs={...})``, takes these keywords for that call:

    filter : dict or function       which documents may be found: ``{"lang": "en", "year": {"$gte": 2023}}``, as in
                                    `bqstore.Collection.search`, Qdrant's ``Filter``, or a function that takes a
                                    `Document`, or its metadata, and returns a bool. A dict is faster: a function is
                                    called for every document
    where_document : dict           Chroma's condition on the text: ``{"$contains": "bits"}``
    score_threshold : float         drop documents with a lower score (a lower relevance, in the calls that return
                                    relevances)
    mode : str                      "hybrid": search for the words of the query, too; "text": for these alone, and
                                    nothing is embedded. The store must be opened with ``text_index=True``. As
                                    ``search_type`` of a retriever, too
    alpha, fusion, syntax, oversampling, rescore, hnsw_ef, exact, ignore_quantization, target_recall
                                    as in `bqstore.Collection.search`
    search_params : dict            the same settings as Qdrant writes them: ``{"quantization": {"oversampling": 4.0}}``

    The attribute ``collection`` is the open `bqstore.Collection`.

    The examples of all methods start from this store:

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from langchain_bqstore import BQVectorStore
    >>> store = BQVectorStore(DeterministicFakeEmbedding(size=64))  # in memory; path="folder" keeps it on disk
    >>> store.add_texts(["Cats sleep.", "Dogs bark."], [{"animal": "cat"}, {"animal": "dog"}], ids=["1", "2"])
    ['1', '2']
    """

    @bqstore.refusing_foreign("the store", HERE["the store"])
    def __init__(
        self,
        embedding: Embeddings | bqstore.Embedder,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        *,
        distance: str | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        full_scan_threshold: int | None = None,
        originals: str | None = None,
        embedding_model: str | None = None,
        read_only: bool = False,
        relevance_score_fn: Callable[[float], float] | None = None,
        collection: bqstore.Collection | None = None,
        **settings: Any,
    ) -> None:
        self._embedding = as_embeddings(embedding)  # before anything is opened
        settings.update(distance=distance, oversampling=oversampling, rescore=rescore, hnsw_ef=hnsw_ef)
        settings.update(full_scan_threshold=full_scan_threshold, originals=originals)
        self._model = embedding_model or model_of(self._embedding)
        self._is_lent = collection is not None
        self._own_relevance = relevance_score_fn is not None
        # for `reopening`, which gives no key away
        self._given = {name: value for name, value in settings.items() if value is not None and name != "api_key"}
        settings.update(collection=collection, read_only=read_only or None)
        if collection is None:  # which has a model of its own
            settings.update(embedding_model=self._model)
        self._collection = bqstore.open_flat(path, collection_name, _OWN_KEYWORDS, **settings)
        with self._closed_on_error():
            self._check_model()
        self._relevance_score_fn = relevance_score_fn or bqstore.relevance_of(self.collection.info().distance)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | bqstore.Embedder,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,
        expires_at: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Open a store with ``kwargs`` and add texts; documents that it already holds stay.

        The first arguments are those of `add_texts`, ``kwargs`` those of the constructor.

        >>> animals = BQVectorStore.from_texts(["Fish swim."], DeterministicFakeEmbedding(size=64), ids=["3"])
        >>> animals.get_by_ids(["3"])
        [Document(id='3', metadata={}, page_content='Fish swim.')]
        """
        store = cls(embedding, **kwargs)
        with store._closed_on_error():
            store.add_texts(texts, metadatas, ids=ids, batch_size=batch_size, expires_at=expires_at)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | bqstore.Embedder,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,
        expires_at: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Run `from_texts` without blocking the event loop.

        >>> import asyncio
        >>> animals = asyncio.run(BQVectorStore.afrom_texts(["Fish swim."], DeterministicFakeEmbedding(size=64)))
        >>> len(animals.collection)
        1
        """
        store = await bqstore.writing(cls, embedding, **kwargs)
        with store._closed_on_error():
            await store.aadd_texts(texts, metadatas, ids=ids, batch_size=batch_size, expires_at=expires_at)
        return store

    @classmethod
    def from_embeddings(
        cls,
        text_embeddings: Pairs,
        embedding: Embeddings | bqstore.Embedder,
        metadatas: Metadatas = None,
        ids: Ids = None,
        *,
        batch_size: int | None = None,
        expires_at: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Open a store with ``kwargs`` and add texts whose vectors are there already, as `add_embeddings`.

        >>> fish = BQVectorStore.from_embeddings([("Fish swim.", [0.5] * 64)], DeterministicFakeEmbedding(size=64))
        >>> len(fish.collection)
        1
        """
        store = cls(embedding, **kwargs)
        with store._closed_on_error():
            store.add_embeddings(text_embeddings, metadatas, ids, batch_size=batch_size, expires_at=expires_at)
        return store

    @classmethod
    async def afrom_embeddings(
        cls,
        text_embeddings: Pairs,
        embedding: Embeddings | bqstore.Embedder,
        metadatas: Metadatas = None,
        ids: Ids = None,
        **kwargs: Any,
    ) -> Self:
        """Run `from_embeddings` without blocking the event loop.

        >>> import asyncio
        >>> pairs = [("Fish swim.", [1.0, 0.0]), ("Birds fly.", [0.0, 1.0])]
        >>> animals = asyncio.run(BQVectorStore.afrom_embeddings(pairs, DeterministicFakeEmbedding(size=2)))
        >>> len(animals.collection)
        2
        """
        return await bqstore.writing(cls.from_embeddings, text_embeddings, embedding, metadatas, ids, **kwargs)

    @classmethod
    def from_collection(
        cls,
        collection: bqstore.Collection,
        embedding: Embeddings | bqstore.Embedder,
        *,
        relevance_score_fn: Callable[[float], float] | None = None,
    ) -> Self:
        """Return a store on a collection that is open already, and that `close` leaves open.

        >>> import bqstore
        >>> embedding = DeterministicFakeEmbedding(size=64)
        >>> with bqstore.open() as collection:
        ...     BQVectorStore.from_collection(collection, embedding).add_texts(["Fish swim."], ids=["3"])
        ['3']
        """
        return cls(embedding, collection=collection, relevance_score_fn=relevance_score_fn)

    def as_retriever(self, **kwargs: Any) -> BQRetriever:
        """Return a retriever: LangChain's, with the score in the metadata on request.

        ``kwargs`` are the fields of `BQRetriever`: ``search_type``, ``search_kwargs``, ``score_key``, ``name``,
        ``tags``, ``metadata``. Keywords of searches may be given themselves, too. Any other keyword is an
        UnknownKeywordError.

        >>> retriever = store.as_retriever(k=1, filter={"animal": "cat"}, score_key="score")
        >>> [(found.id, found.metadata["score"] <= 1) for found in retriever.invoke("Cats sleep.")]
        [('1', True)]
        """
        settings = retriever_settings(kwargs)
        tags = [*(settings.pop("tags", None) or []), *self._get_retriever_tags()]
        return BQRetriever(vectorstore=self, tags=tags, **settings)

    def reopening(self) -> dict[str, Any] | None:
        """Return the keywords that open this store again, but for ``embedding``; None if none can, as in memory.

        >>> store.reopening() is None
        True
        """
        info = self.collection.info()
        if info.path is None or self._own_relevance:
            return None
        opened = {"path": info.path, "collection_name": info.collection, "read_only": info.read_only}
        model = {} if info.embedding_model is None else {"embedding_model": info.embedding_model}
        return {**opened, **self._given, **model}

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model. A `bqstore.Embedder` appears wrapped, as `EmbedderEmbeddings`.

        >>> len(store.embeddings.embed_query("Who sleeps?"))
        64
        """
        return self._embedding


_OWN_KEYWORDS = ("path", "collection_name", "collection", "relevance_score_fn")
