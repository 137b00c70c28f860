"""`BQVectorStore`: the calls of LlamaIndex as calls of a `bqstore.Collection`. Holds no locks, files or algorithms."""

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

import bqstore

from .embeddings import model_of
from .filters import Native, filter_of
from .nodes import node_of, row_of


class BQVectorStore(BasePydanticVectorStore):
    """A collection of bqstore as a LlamaIndex vector store: texts, metadata and vectors in a folder, no server.

        store = BQVectorStore("folder", oversampling=4.0)
        index = VectorStoreIndex.from_vector_store(store, embed_model=...)
        index.as_retriever(similarity_top_k=5, vector_store_kwargs={"filter": {"draft": True}, "exact": True})

    What is added is durable when the call returns. The folder is also readable through ``langchain_bqstore`` and
    `bqstore.open`.

    With ``vector_store_query_mode="mmr"`` nodes are taken one by one, the nearest first, as
    `bqstore.Collection.max_marginal_relevance` does; their similarities are those to the query. It has settings of its
    own in ``vector_store_kwargs``, as LlamaIndex names them: ``mmr_threshold``, from 1 (relevance) to 0
    (diversity), 0.5 if not given, and the query's own first; ``mmr_prefetch_factor`` or ``mmr_prefetch_k``: the nodes
    are chosen among so many times ``similarity_top_k`` nearest that match (if not given 4, and 20 nodes at least), or
    among so many.

    Parameters
    ----------
    path : folder of the store, made if missing; None keeps everything in memory
    collection_name : its name in the store
    settings : every keyword of `bqstore.open`, and the fields of its settings objects: ``dim``, ``distance``,
        ``originals``, ``embedding_model``, ``threads``, ``read_only``; ``oversampling``, ``rescore``, ``hnsw_ef``;
        ``m``, ``ef_construct``, ``full_scan_threshold``; ``encoding`` ...

    ``embedding_model`` is remembered. A query that `EmbedderEmbedding` has embedded says by which model: another is a
    SettingsConflictError, which names both. Of nodes LlamaIndex keeps the numbers only.

    Raises what `bqstore.open` raises; UnknownKeywordError, with the nearest name, for any other keyword.
    """

    model_config = ConfigDict(extra="allow", frozen=True)  # extra: the settings, as given

    # excluded, so that what `to_dict` returns is what the constructor takes
    stores_text: bool = Field(default=True, exclude=True)
    is_embedding_query: bool = Field(default=True, exclude=True)
    flat_metadata: bool = Field(default=False, exclude=True)
    path: str | None = None
    collection_name: str = "default"

    _collection: bqstore.Collection = PrivateAttr()

    def __init__(
        self, path: str | os.PathLike[str] | None = None, collection_name: str = "default", **settings: Any
    ) -> None:
        collection = bqstore.open_flat(path, collection_name, ("path", "collection_name"), **settings)
        # absolute, so that what is written down (to_dict, pickle) is the same folder from anywhere
        folder = None if path is None else os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
        given = {"path": folder, "collection_name": collection_name, **settings}
        super().__init__(**{name: value for name, value in given.items() if value is not None})
        self._collection = collection

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex writes beside a serialized store."""
        return "BQVectorStore"

    @classmethod
    def from_params(
        cls, path: str | os.PathLike[str] | None = None, collection_name: str = "default", **settings: Any
    ) -> "BQVectorStore":
        """The constructor, under the name that LlamaIndex's stores have for it."""
        return cls(path, collection_name, **settings)

    @property
    def collection(self) -> bqstore.Collection:
        """The open collection."""
        return self._collection

    @property
    def client(self) -> bqstore.Collection:
        """The open collection, under LlamaIndex's name for it."""
        return self._collection

    # ---- writing

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes with their embeddings, or replace those whose ids exist; durable when it returns.

        ``kwargs`` do nothing: `VectorStoreIndex.insert` sends here what is meant for the transformations too.
        """
        for node in nodes:
            if node.embedding is None:
                raise bqstore.InvalidInputError(
                    f"node {node.node_id!r} has no embedding; add it through a VectorStoreIndex or an "
                    "IngestionPipeline with an embedding model"
                )
        rows = [row_of(node) for node in nodes]
        return self._collection.add(
            [node.get_embedding() for node in nodes],
            ids=[node.node_id for node in nodes],
            texts=[text for text, _ in rows],
            metadatas=[metadata for _, metadata in rows],
        )

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a source document. An unknown one is silent."""
        _refuse("delete", delete_kwargs)
        if not isinstance(ref_doc_id, str):
            raise bqstore.InvalidInputError(f"ref_doc_id is a {type(ref_doc_id).__name__}; expected a string")
        self._collection.delete(filter={bqstore.REF_DOC_ID_KEY: ref_doc_id})

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id, by filters, or those of the ids that match the filters. Unknown ids are silent.

        An empty list of ids deletes nothing. No argument is an InvalidInputError: `clear` deletes everything.
        """
        _refuse("delete_nodes", delete_kwargs)
        self._collection.delete(node_ids, filter=filter_of(filters))

    def clear(self) -> None:
        """Delete every node."""
        self._collection.clear()

    # ---- reading

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes of these ids, in their order, those that match the filters, or both; all with no argument."""
        if node_ids is not None and filters is None:
            return [node_of(record) for record in self._collection.get(node_ids)]
        ids = None if node_ids is None else {bqstore.ID_KEY: {"$in": node_ids}}
        return [node_of(record) for record in self._collection.scroll(filter_of(filters, ids))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The ``similarity_top_k`` nearest nodes that match, nearest first; with the mode MMR, unlike each other.

        ``query.node_ids`` restricts unless it is empty: LlamaIndex's retrievers always send it, empty for a store that
        keeps the text. ``query.doc_ids`` restricts unless it is None.

        Parameters
        ----------
        kwargs : from ``as_retriever(vector_store_kwargs={...})``: ``filter``, in bqstore's own grammar, beside
            ``query.filters``, or alone as a function on `bqstore.Record`; every setting of
            `bqstore.Collection.search`; ``search_params``, the same in Qdrant's shape. ``with_vectors=True`` fills the
            embeddings of the nodes. The class says what there is for MMR
        """
        vector, k = _vector(query, self._collection), query.similarity_top_k
        diversity = _diversity(query, *(kwargs.pop(name, None) for name in _MMR_KEYWORDS))
        settings = _search_settings(**kwargs)
        settings["filter"] = _accepted(query, settings.get("filter"))
        if query.mode == VectorStoreQueryMode.MMR:
            hits = self._collection.max_marginal_relevance(vector, k, **diversity, **settings)
        else:
            hits = self._collection.search(vector, k, **settings)
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits], similarities=[hit.score for hit in hits], ids=[hit.id for hit in hits]
        )

    # ---- on an event loop: the same, each in a thread

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """`add` in a thread."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """`delete` in a thread."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """`delete_nodes` in a thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        """`clear` in a thread."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """`get_nodes` in a thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """`query` in a thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    # ---- measuring

    def recall(self, **kwargs: Any) -> bqstore.RecallReport:
        """How much of what is nearest searches find, at what latency, measured on the nodes; takes seconds.

        Keywords are those of `bqstore.Collection.recall`: ``queries`` (vectors), ``k``, ``sample``, ``settings``.
        """
        return self._collection.recall(**kwargs)

    def tune(self, target_recall: float = 0.98, k: int = 10, **kwargs: Any) -> bqstore.SearchParams:
        """Find the cheapest settings that reach a recall on these nodes; they become the collection's defaults.

        Other keywords are those of `bqstore.Collection.tune`. Raises `bqstore.TargetNotReachedError`.
        """
        return self._collection.tune(target_recall, k, **kwargs)

    # ---- life

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Nothing: what was added is durable already, in ``path``.

        `StorageContext.persist` names a file here that `StorageContext.from_defaults` would load as a store of
        LlamaIndex's own, empty and without a word. With none there, and ``vector_store=`` forgotten,
        `load_index_from_storage` fails: ``KeyError: 'default'``.
        """

    def close(self) -> None:
        """Give back the folder. Closing twice is fine."""
        self._collection.close()

    def __enter__(self) -> "BQVectorStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "BQVectorStore":
        """The store itself: one folder has one writer."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled store is where it is and how it was opened; it is opened again."""
        if self.path is None:
            raise bqstore.InvalidInputError("a store in memory cannot be pickled: give it a path")
        return type(self).from_dict, (self.to_dict(),)


_MMR_KEYWORDS = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")


def _vector(query: VectorStoreQuery, collection: bqstore.Collection) -> list[float]:
    """The vector of a query that this version can answer."""
    if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        mode = VectorStoreQueryMode(query.mode).value
        raise bqstore.InvalidInputError(f"the query mode is {mode!r}; this version takes 'default' and 'mmr'")
    if query.query_embedding is None:
        raise bqstore.InvalidInputError("the query has no embedding; bqstore searches by vector")
    model = model_of(query.query_embedding)
    if model is not None:
        collection.check_model(model)
    return query.query_embedding


def _diversity(query: VectorStoreQuery, threshold: Any, factor: Any, prefetch_k: Any) -> dict[str, Any]:
    """What the mode MMR adds to the settings of a search, in the names of the collection."""
    given = [
        name for name, value in zip(_MMR_KEYWORDS, (threshold, factor, prefetch_k), strict=True) if value is not None
    ]
    if given and query.mode != VectorStoreQueryMode.MMR:
        raise bqstore.UnknownKeywordError(f"{given[0]!r} is for the query mode 'mmr'; this query's is 'default'")
    if factor is not None:
        if prefetch_k is not None:
            raise bqstore.InvalidInputError("expected mmr_prefetch_factor or mmr_prefetch_k; both are given")
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor < math.inf:
            raise bqstore.InvalidInputError(f"mmr_prefetch_factor is {factor!r}; expected a number of at least 1")
        prefetch_k = math.ceil(query.similarity_top_k * factor)
    threshold = threshold if query.mmr_threshold is None else query.mmr_threshold
    return {"fetch_k": prefetch_k} if threshold is None else {"fetch_k": prefetch_k, "lambda_mult": threshold}


def _accepted(query: VectorStoreQuery, native: Native | None) -> Any:
    """The filter of a query: its own, the native one, and its ids."""
    ids = {bqstore.ID_KEY: {"$in": query.node_ids}} if query.node_ids else None
    docs = None if query.doc_ids is None else {bqstore.REF_DOC_ID_KEY: {"$in": query.doc_ids}}
    return filter_of(query.filters, native, ids, docs)


def _search_settings(search_params: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """Keywords of `bqstore.Collection.search`, which refuses those it does not know."""
    for name in ("k", "similarity_top_k", "vector", "query_embedding"):
        if name in given:
            raise bqstore.UnknownKeywordError(
                f"vector_store_kwargs has no keyword {name!r}: the retriever and VectorStoreQuery take "
                "similarity_top_k and query_embedding"
            )
    return bqstore.search_keywords(search_params, **given)


def _refuse(method: str, keywords: Mapping[str, Any]) -> None:
    """Raise for any keyword: one that was ignored in silence might delete more than was meant."""
    for name in keywords:
        raise bqstore.UnknownKeywordError(f"BQVectorStore.{method}() has no keyword {name!r}")
