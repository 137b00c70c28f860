"""`BQVectorStore`: a bqstore collection as LangChain's `VectorStore`.

Turns texts into vectors with LangChain's `Embeddings`, and hits into `Document`. Everything else (checks, files,
threads, ranking, the names of settings) is the collection's; only public names of `bqstore` are used.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from typing_extensions import Self

import bqstore

from .documents import Filter, batches_of, columns_of, document_of, filter_of
from .embeddings import avectors_of, awaitable, dim_of, embeddings_of, model_of, vectors_of


class BQVectorStore(VectorStore):
    """A LangChain vector store in a folder: one bit per dimension in memory, the original vectors on disk.

    Example::

        from langchain_bqstore import BQVectorStore
        from langchain_openai import OpenAIEmbeddings

        with BQVectorStore(OpenAIEmbeddings(), path="my-store", oversampling=4.0) as store:
            store.add_texts(["Cats sleep.", "Dogs bark."], [{"animal": "cat"}, {"animal": "dog"}], ids=["1", "2"])
            store.similarity_search("Who barks?", k=1)
            store.similarity_search("Who sleeps?", k=1, filter={"animal": "cat"}, exact=True)
            store.max_marginal_relevance_search("What do they do?", k=2, filter={"animal": {"$in": ["cat", "dog"]}})
            retriever = store.as_retriever(search_kwargs={"k": 5, "oversampling": 8.0})
            retriever.invoke("Who barks?")

    Parameters
    ----------
    embedding : Embeddings          makes the vectors of texts and of queries; or a `bqstore.Embedder`, such as
                                    `bqstore.OpenAIEmbedder`
    path : folder                   made if missing; None keeps everything in memory
    collection_name : str           one folder holds several collections
    distance : str                  "cosine" (default), "dot" or "euclid"
    oversampling, rescore, hnsw_ef, full_scan_threshold
                                    how searches are done; see `bqstore.SearchParams` and `bqstore.HnswConfig`
    originals : str                 "float32" (default), "float16", "int8" or "none": what is kept for rescoring
    embedding_model : str           remembered; another name is refused when the collection is opened again. Of a
                                    `bqstore.Embedder` its ``model``, unless told
    read_only : bool                follow what another process writes
    relevance_score_fn : callable   from a score of this store to a relevance from 0 to 1. The default is, for cosine
                                    and dot, the score kept within 0 and 1 (for dot this wants vectors of unit length,
                                    whose product is the cosine); for euclid ``1 / (1 + distance)``
    **settings                      every other keyword of `bqstore.open`, and the fields of `bqstore.Quantization`,
                                    `bqstore.HnswConfig` and `bqstore.SearchParams`: ``m=32``, ``threads=4`` ...

    None means: as stored, or the default for a new collection. ``store.collection`` is the open `bqstore.Collection`.

    Every search, and so ``as_retriever(search_kwargs={...})``, takes these keywords, for this call only:

    filter : dict or callable       which documents may be found: ``{"lang": "en", "year": {"$gte": 2023}}``, in the
                                    grammar of `bqstore.Collection.search`; or a function that takes a `Document`, as
                                    it would be found, and returns a bool. It is asked about every document, so a dict
                                    is quicker
    score_threshold : float         drop documents below it: below this score, or, where relevances are asked for,
                                    below this relevance
    oversampling, rescore, hnsw_ef, exact, ignore_quantization
                                    as in `bqstore.Collection.search`
    search_params : dict            the same in Qdrant's shape: ``{"quantization": {"oversampling": 4.0}}``

    Scores: larger is nearer; the cosine, the dot product, or minus the Euclidean distance. A keyword that does not
    exist is a `bqstore.UnknownKeywordError`.
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
        self._embedding = embeddings_of(embedding)  # before anything is opened
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
        """Open a store with ``kwargs`` and add texts to it; what it holds already stays."""
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
        """`from_texts` without blocking the event loop."""
        store = await run_in_executor(None, cls, embedding, **kwargs)
        try:
            await store.aadd_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def embeddings(self) -> Embeddings:
        """What makes the vectors."""
        return self._embedding

    def close(self) -> None:
        """Close the collection and give back its lock. Closing twice is fine."""
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_model(self, writing: bool = False) -> None:
        """Before anything is paid for. Raises as `bqstore.Collection.check_model`."""
        if self._model is not None:
            self.collection.check_model(self._model, dim_of(self._embedding), writing=writing)

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
        """Embed texts and add them, or replace those whose ids exist; durable when it returns.

        Texts, metadata and ids are checked, all of them, before the first text is embedded.

        Parameters
        ----------
        ids : any strings           a UUID where there is none or a None; the last of equal ids wins
        batch_size : int            embed and commit so many at a time; None: all in one commit
        """
        added: list[str] = []
        self._check_model(writing=True)
        for batch in batches_of(texts, metadatas, ids, batch_size, kwargs):
            vectors = vectors_of(self._embedding, batch.texts)
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
        """`add_texts` without blocking the event loop."""
        added: list[str] = []
        self._check_model(writing=True)
        for batch in await run_in_executor(None, batches_of, texts, metadatas, ids, batch_size, kwargs):
            vectors = await avectors_of(self._embedding, batch.texts)
            added += await run_in_executor(None, self.collection.add, vectors, batch.ids, batch.texts, batch.metadatas)
        return added

    def add_documents(
        self, documents: Sequence[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """`add_texts` of documents: under ``ids`` if given, else each under its own id, if it has one."""
        return self.add_texts(**columns_of(documents, ids), **kwargs)

    async def aadd_documents(
        self, documents: Sequence[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """`add_documents` without blocking the event loop."""
        return await self.aadd_texts(**columns_of(documents, ids), **kwargs)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None, **kwargs: Any) -> bool:
        """Delete by id, by filter, or those of the ids that match the filter. Unknown ids are silent: always True.

        ``filter`` is a dict or a callable, as in searches.

        No argument is an InvalidInputError, where LangChain's base class would delete everything, lest an id lost on
        the way empty the store: ``store.collection.clear()`` does that.
        """
        self.collection.delete(ids, filter=filter_of(filter), **kwargs)
        return True

    # ---- reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids, in their order; unknown ids are left out."""
        return [document_of(record) for record in self.collection.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents nearest to a text, nearest first."""
        return self.similarity_search_by_vector(self._embedding.embed_query(query), k, **kwargs)

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """`similarity_search` without blocking the event loop."""
        vector = await awaitable(self._embedding, "embed_query", query)
        return await self.asimilarity_search_by_vector(vector, k, **kwargs)

    def similarity_search_by_vector(self, embedding: Sequence[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents nearest to a vector, nearest first."""
        return [document_of(hit) for hit in self._hits(embedding, k, kwargs)]

    async def asimilarity_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """`similarity_search_by_vector` without blocking the event loop."""
        return await run_in_executor(None, self.similarity_search_by_vector, embedding, k, **kwargs)

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """The k documents nearest to a text with their scores; larger is nearer."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """`similarity_search_with_score` without blocking the event loop."""
        vector = await awaitable(self._embedding, "embed_query", query)
        return await self.asimilarity_search_with_score_by_vector(vector, k, **kwargs)

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k documents nearest to a vector with their scores; larger is nearer."""
        return [(document_of(hit), hit.score) for hit in self._hits(embedding, k, kwargs)]

    async def asimilarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """`similarity_search_with_score_by_vector` without blocking the event loop."""
        return await run_in_executor(None, self.similarity_search_with_score_by_vector, embedding, k, **kwargs)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """k documents near to a text and unlike each other; see `max_marginal_relevance_search_by_vector`."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """`max_marginal_relevance_search` without blocking the event loop."""
        vector = await awaitable(self._embedding, "embed_query", query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """k documents near to a vector and unlike each other, taken one by one: the first is the nearest.

        Parameters
        ----------
        fetch_k : int               they are chosen among so many nearest that match the filter; at least k are
        lambda_mult : float         from 1, relevance alone, to 0, diversity alone
        kwargs                      those of every search
        """
        hits = self.collection.max_marginal_relevance(
            embedding, k, _at_least(k, fetch_k), lambda_mult, **_settings(kwargs)
        )
        return [document_of(hit) for hit in hits]

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """`max_marginal_relevance_search_by_vector` without blocking the event loop."""
        search = self.max_marginal_relevance_search_by_vector
        return await run_in_executor(None, search, embedding, k, fetch_k, lambda_mult, **kwargs)

    # ---- measuring

    def recall(self, **kwargs: Any) -> bqstore.RecallReport:
        """How much of what is nearest searches find, at what latency, measured on the documents; takes seconds.

        Keywords are those of `bqstore.Collection.recall`: ``queries`` (vectors), ``k``, ``sample``, ``settings``.
        """
        return self.collection.recall(**kwargs)

    def tune(self, target_recall: float = 0.98, k: int = 10, **kwargs: Any) -> bqstore.SearchParams:
        """Find the cheapest settings that reach a recall on these documents; they become the collection's defaults.

        Other keywords are those of `bqstore.Collection.tune`. Raises `bqstore.TargetNotReachedError`.
        """
        return self.collection.tune(target_recall, k, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance_score_fn

    def _hits(self, embedding: Sequence[float], k: int, kwargs: dict[str, Any]) -> list[bqstore.Hit]:
        return self.collection.search(embedding, k, **_settings(kwargs))


def _settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a search as the collection has them."""
    if not kwargs:
        return kwargs
    if kwargs.get("with_vectors"):
        raise bqstore.InvalidInputError(
            "a Document carries no vector; store.collection.search(..., with_vectors=True) returns them"
        )
    settings = bqstore.search_keywords(kwargs.pop("search_params", None), **kwargs)
    if "filter" in settings:
        settings["filter"] = filter_of(settings["filter"])
    return settings


def _at_least(k: int, fetch_k: int) -> int:
    """``fetch_k``, or k if that is more; what cannot be compared the collection refuses."""
    try:
        return max(k, fetch_k)
    except TypeError:
        return fetch_k


def _within_0_and_1(score: float) -> float:
    """The relevance of a cosine: vectors at a right angle, or beyond, have nothing in common."""
    return min(max(score, 0.0), 1.0)


def _nearness(score: float) -> float:
    """The relevance of minus a distance: 1 at distance 0, falling at any scale, never 0."""
    return 1.0 / (1.0 - score)


_RELEVANCE = {"cosine": _within_0_and_1, "dot": _within_0_and_1, "euclid": _nearness}
_OWN_KEYWORDS = ("path", "collection_name", "relevance_score_fn")
