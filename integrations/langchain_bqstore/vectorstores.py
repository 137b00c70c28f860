"""`BQVectorStore`: LangChain's `VectorStore` interface on a `bqstore.Collection`.

It turns texts into vectors with the embedding model and hits into `Document`. Checks, files, threads and ranking are
the collection's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from typing_extensions import Self

import bqstore

from .documents import Filter, add_arguments, batches_of, document_of, native_filter, telling
from .embeddings import aembed_texts, as_embeddings, call_async, dim_of, embed_texts, model_of


class BQVectorStore(VectorStore):
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
                                    clipped to that range (with dot, vectors should have unit length); for euclid:
                                    ``1 / (1 + distance)``
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
                                    `bqstore.Collection.search`, or a function that takes a `Document` and returns a
                                    bool. A dict is faster: a function is called for every document
    score_threshold : float         drop documents with a lower score (a lower relevance, in the calls that return
                                    relevances)
    oversampling, rescore, hnsw_ef, exact, ignore_quantization
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

    def __init__(
        self,
        embedding: Embeddings | bqstore.Embedder,
        *,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        distance: str | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        full_scan_threshold: int | None = None,
        originals: str | None = None,
        embedding_model: str | None = None,
        read_only: bool = False,
        relevance_score_fn: Callable[[float], float] | None = None,
        **settings: Any,
    ) -> None:
        self._embedding = as_embeddings(embedding)  # before anything is opened
        settings.update(distance=distance, oversampling=oversampling, rescore=rescore, hnsw_ef=hnsw_ef)
        settings.update(full_scan_threshold=full_scan_threshold, originals=originals)
        self._model = embedding_model or model_of(self._embedding)
        settings.update(embedding_model=self._model, read_only=read_only)
        self.collection = bqstore.open_flat(path, collection_name, _OWN_KEYWORDS, **settings)
        try:
            self._check_model()
        except BaseException:
            self.collection.close()
            raise
        self._relevance_score_fn = relevance_score_fn or _RELEVANCE[self.collection.info().distance]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | bqstore.Embedder,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Open a store with ``kwargs`` and add texts; documents that it already holds stay.

        The first arguments are those of `add_texts`, ``kwargs`` those of the constructor.

        >>> animals = BQVectorStore.from_texts(["Fish swim."], DeterministicFakeEmbedding(size=64), ids=["3"])
        >>> animals.get_by_ids(["3"])
        [Document(id='3', metadata={}, page_content='Fish swim.')]
        """
        store = cls(embedding, **kwargs)
        try:
            store.add_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        except BaseException:
            store.close()
            raise
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
        **kwargs: Any,
    ) -> Self:
        """Run `from_texts` without blocking the event loop.

        >>> import asyncio
        >>> animals = asyncio.run(BQVectorStore.afrom_texts(["Fish swim."], DeterministicFakeEmbedding(size=64)))
        >>> len(animals.collection)
        1
        """
        store = await run_in_executor(None, cls, embedding, **kwargs)
        try:
            await store.aadd_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model. A `bqstore.Embedder` appears wrapped, as `EmbedderEmbeddings`.

        >>> len(store.embeddings.embed_query("Who sleeps?"))
        64
        """
        return self._embedding

    def close(self) -> None:
        """Close the collection and release its lock. Closing twice is fine; ``with store:`` closes too.

        >>> store.close()
        """
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_model(self, writing: bool = False) -> None:
        """Refuse a wrong model before texts are sent to it; see `bqstore.Collection.check_model`."""
        if self._model is not None:
            self.collection.check_model(self._model, dim_of(self._embedding), writing=writing, remember=writing)

    # ---- writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and add them as documents. They are durable and searchable when this returns.

        A document whose id exists is replaced. Without ids, adding the same texts twice keeps them twice.

        Parameters
        ----------
        texts : n strings
        metadatas : n dicts or None     JSON of at most 16 MiB each, and dates; see ``docs/collection.md``
        ids : n strings or None         a None gets a UUID; of equal ids the last wins
        batch_size : int or None        embed and commit so many texts at a time; None: all at once

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
        added: list[str] = []
        self._check_model(writing=True)
        for batch in batches_of(texts, metadatas, ids, batch_size, kwargs):
            with telling(added):
                vectors = embed_texts(self._embedding, batch.texts)
                added += self.collection.add(vectors, batch.ids, batch.texts, batch.metadatas)
        return added

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Run `add_texts` without blocking the event loop; texts are embedded by the model's async method.

        >>> import asyncio
        >>> asyncio.run(store.aadd_texts(["Fish swim."], ids=["3"]))
        ['3']
        """
        added: list[str] = []
        self._check_model(writing=True)
        for batch in await run_in_executor(None, batches_of, texts, metadatas, ids, batch_size, kwargs):
            with telling(added):
                vectors = await aembed_texts(self._embedding, batch.texts)
                add = self.collection.add
                added += await run_in_executor(None, add, vectors, batch.ids, batch.texts, batch.metadatas)
        return added

    def add_documents(
        self, documents: Sequence[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Add documents, as `add_texts` does; each under its own id, unless ``ids`` are given.

        >>> from langchain_core.documents import Document
        >>> store.add_documents([Document("Cats purr.", id="1", metadata={"animal": "cat"})])  # replaces document 1
        ['1']
        """
        return self.add_texts(**add_arguments(documents, ids), **kwargs)

    async def aadd_documents(
        self, documents: Sequence[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Run `add_documents` without blocking the event loop.

        >>> import asyncio
        >>> from langchain_core.documents import Document
        >>> asyncio.run(store.aadd_documents([Document("Fish swim.", id="3")]))
        ['3']
        """
        return await self.aadd_texts(**add_arguments(documents, ids), **kwargs)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None, **kwargs: Any) -> bool:
        """Delete documents by id, by filter, or those of the ids that match the filter. Returns True.

        Unknown ids are skipped. ``filter`` is a dict or a function, as in searches.

        Without arguments it raises InvalidInputError, where LangChain's base class deletes everything: a variable that
        is None by mistake must not empty the store. ``store.collection.clear()`` does.

        >>> store.delete(["1", "unknown"])
        True
        >>> store.delete(filter={"animal": "dog"})
        True
        >>> len(store.collection)
        0
        """
        self.collection.delete(ids, filter=native_filter(filter), **kwargs)
        return True

    # ---- reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in the order of the ids; unknown ids are left out.

        >>> store.get_by_ids(["2", "unknown"])
        [Document(id='2', metadata={'animal': 'dog'}, page_content='Dogs bark.')]
        """
        return [document_of(record) for record in self.collection.get(ids)]

    def similarity_search(self, query: str | None, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the k documents nearest to a text, nearest first.

        ``kwargs`` are the keywords of searches, which the class lists. With a filter the text may be None: then the
        first k documents that match are returned, and nothing is embedded.

        >>> store.similarity_search("Dogs bark.", k=1)
        [Document(id='2', metadata={'animal': 'dog'}, page_content='Dogs bark.')]
        >>> store.similarity_search("Dogs bark.", k=1, filter={"animal": "cat"}, exact=True)
        [Document(id='1', metadata={'animal': 'cat'}, page_content='Cats sleep.')]
        >>> store.as_retriever(search_kwargs={"k": 1, "oversampling": 8.0}).invoke("Cats sleep.")
        [Document(id='1', metadata={'animal': 'cat'}, page_content='Cats sleep.')]
        """
        return self.similarity_search_by_vector(self._vector_of(query), k, **kwargs)

    async def asimilarity_search(self, query: str | None, k: int = 4, **kwargs: Any) -> list[Document]:
        """Run `similarity_search` without blocking the event loop.

        >>> import asyncio
        >>> [document.id for document in asyncio.run(store.asimilarity_search("Dogs bark.", k=1))]
        ['2']
        """
        vector = None if query is None else await call_async(self._embedding, "embed_query", query)
        return await run_in_executor(None, self.similarity_search_by_vector, vector, k, **kwargs)

    def similarity_search_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents nearest to a vector, nearest first.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [document.id for document in store.similarity_search_by_vector(vector, k=1)]
        ['2']
        """
        return [document_of(hit) for hit in self._hits(embedding, k, kwargs)]

    def similarity_search_with_score(
        self, query: str | None, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents nearest to a text, with their scores; a larger score is nearer.

        >>> [(document.id, round(score, 3)) for document, score in store.similarity_search_with_score("Dogs bark.", 1)]
        [('2', 1.0)]
        """
        return self.similarity_search_with_score_by_vector(self._vector_of(query), k, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str | None, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Run `similarity_search_with_score` without blocking the event loop.

        >>> import asyncio
        >>> [(found, score)] = asyncio.run(store.asimilarity_search_with_score("Dogs bark.", k=1))
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        vector = None if query is None else await call_async(self._embedding, "embed_query", query)
        return await self.asimilarity_search_with_score_by_vector(vector, k, **kwargs)

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents nearest to a vector, with their scores; a larger score is nearer.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, score)] = store.similarity_search_with_score_by_vector(vector, k=1)
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        return [(document_of(hit), hit.score) for hit in self._hits(embedding, k, kwargs)]

    async def asimilarity_search_with_score_by_vector(
        self, embedding: Sequence[float] | None, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Run `similarity_search_with_score_by_vector` without blocking the event loop.

        >>> import asyncio
        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> [(found, score)] = asyncio.run(store.asimilarity_search_with_score_by_vector(vector, k=1))
        >>> found.id, round(score, 3)
        ('2', 1.0)
        """
        return await run_in_executor(None, self.similarity_search_with_score_by_vector, embedding, k, **kwargs)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return k documents that are near a text and differ from each other.

        The parameters are those of `max_marginal_relevance_search_by_vector`.

        >>> [document.id for document in store.max_marginal_relevance_search("Dogs bark.", k=2)]
        ['2', '1']
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Run `max_marginal_relevance_search` without blocking the event loop.

        >>> import asyncio
        >>> [document.id for document in asyncio.run(store.amax_marginal_relevance_search("Dogs bark.", k=2))]
        ['2', '1']
        """
        vector = await call_async(self._embedding, "embed_query", query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return k documents that are near a vector and differ from each other; the first is the nearest.

        Parameters
        ----------
        embedding : sequence of float
        k : int                     documents to return
        fetch_k : int               choose among this many nearest documents that match the filter, at least k
        lambda_mult : float         from 1, relevance alone, to 0, diversity alone
        **kwargs                    the keywords of searches, which the class lists

        See `bqstore.Collection.max_marginal_relevance` for the rule. Raises InvalidInputError where no original
        vectors are stored.

        >>> vector = store.embeddings.embed_query("Dogs bark.")
        >>> found = store.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.3)
        >>> [document.id for document in found]
        ['2', '1']
        """
        with suppress(TypeError):  # k or fetch_k is not a number: the collection's error says which
            fetch_k = max(k, fetch_k)
        hits = self.collection.max_marginal_relevance(embedding, k, fetch_k, lambda_mult, **_search_settings(kwargs))
        return [document_of(hit) for hit in hits]

    # ---- quality

    def health(self) -> bqstore.Health:
        """Tell whether searches find what the target recall promises, as `bqstore.Collection.health`.

        >>> store.health().ok
        True
        """
        return self.collection.health()

    def recall(self, **kwargs: Any) -> bqstore.RecallReport:
        """Measure how many of the true nearest documents searches find, and how fast; takes seconds.

        ``kwargs`` are those of `bqstore.Collection.recall`: ``queries`` (vectors), ``k``, ``sample``, ``settings``.

        >>> store.recall(k=1).recall
        1.0
        """
        return self.collection.recall(**kwargs)

    def tune(self, target_recall: float = 0.98, k: int = 10, **kwargs: Any) -> bqstore.SearchParams:
        """Find the fastest search settings that reach a recall, and store them as the collection's defaults.

        ``kwargs`` are those of `bqstore.Collection.tune`. Raises `bqstore.TargetNotReachedError`.

        >>> _ = store.add_texts([f"Number {i}" for i in range(300)])
        >>> store.tune(target_recall=0.9).oversampling >= 1
        True
        """
        return self.collection.tune(target_recall, k, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance_score_fn

    def _vector_of(self, query: str | None) -> Any:
        return None if query is None else self._embedding.embed_query(query)

    def _hits(self, embedding: Sequence[float] | None, k: int, kwargs: dict[str, Any]) -> list[bqstore.Hit]:
        return self.collection.search(embedding, k, **_search_settings(kwargs))


def _search_settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a search in the form that `bqstore.Collection.search` takes."""
    if not kwargs:
        return kwargs
    if kwargs.pop("with_vectors", None):
        raise bqstore.InvalidInputError(
            "a Document carries no vector; store.collection.search(..., with_vectors=True) returns them"
        )
    settings = bqstore.search_keywords(kwargs.pop("search_params", None), _SEARCH_KEYWORDS, **kwargs)
    if "filter" in settings:
        settings["filter"] = native_filter(settings["filter"])
    return settings


def _clipped(score: float) -> float:
    """Return a cosine as a relevance: vectors at a right angle, or beyond, have nothing in common."""
    return min(max(score, 0.0), 1.0)


def _inverse_distance(score: float) -> float:
    """Return minus a Euclidean distance as a relevance: 1 at distance 0, and never 0."""
    return 1.0 / (1.0 - score)


_RELEVANCE = {"cosine": _clipped, "dot": _clipped, "euclid": _inverse_distance}
_SEARCH_KEYWORDS = (
    *("k", "filter", "score_threshold", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization"),
    "search_params",
)
_OWN_KEYWORDS = ("path", "collection_name", "relevance_score_fn")
