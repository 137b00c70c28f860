"""`BQVectorStore`: LlamaIndex's vector store interface on a `bqstore.Collection`.

It turns nodes into rows and queries into searches. Checks, files, threads and ranking are the collection's.
"""

from __future__ import annotations

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

from .embeddings import model_of, name_of
from .filters import NativeFilter, native_filter
from .nodes import node_of, row_of


class BQVectorStore(BasePydanticVectorStore):
    """A LlamaIndex vector store in a folder: small codes in memory, the original vectors on disk, no server.

    Nodes are stored whole (text, metadata, relationships), so no separate docstore is needed. The same folder can be
    read through `langchain_bqstore` and `bqstore.open`.

    Parameters
    ----------
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       a folder can hold several collections
    **settings                  keywords of `bqstore.open` (``dim``, ``distance``, ``originals``, ``embedding_model``,
                                ``threads``, ``read_only``) and the fields of `bqstore.SearchParams` (``oversampling``,
                                ``rescore``, ``hnsw_ef``), `bqstore.HnswConfig` (``m``, ``ef_construct``,
                                ``full_scan_threshold``) and `bqstore.Quantization` (``encoding`` ...)

    Raises
    ------
    UnknownKeywordError         a keyword is none of these; the nearest name is given
    BqstoreError                any other error of `bqstore.open`

    Notes
    -----
    ``embedding_model`` is stored with the collection; it may also be the ``embed_model`` itself, whose name is taken.
    If the index embeds queries with `EmbedderEmbedding`, a query of another model raises SettingsConflictError. Nodes
    cannot be checked: LlamaIndex passes their vectors as plain lists.

    ``as_retriever(vector_store_query_mode="mmr")`` selects nodes by `bqstore.Collection.max_marginal_relevance`. The
    similarities that it returns are those to the query. ``vector_store_kwargs`` then also takes:

    mmr_threshold : float       from 1, relevance alone, to 0, diversity alone; default 0.5. That of the query comes
                                first
    mmr_prefetch_factor : float choose among this many times ``similarity_top_k`` nearest nodes that match; default 4,
                                but at least 20 nodes
    mmr_prefetch_k : int        choose among exactly this many

    The examples of all methods start from this store:

    >>> from llama_index.core import MockEmbedding, VectorStoreIndex
    >>> from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    >>> from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
    >>> from llama_index.vector_stores.bqstore import BQVectorStore
    >>> store = BQVectorStore()  # in memory; BQVectorStore("folder", oversampling=4.0) keeps it on disk
    >>> source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="animals.txt")}
    >>> cat = TextNode(id_="1", text="Cats sleep.", metadata={"animal": "cat"}, relationships=source, embedding=[1, 0])
    >>> dog = TextNode(id_="2", text="Dogs bark.", metadata={"animal": "dog"}, embedding=[0, 1])
    >>> store.add([cat, dog])
    ['1', '2']

    An index on the store embeds texts itself, here with LlamaIndex's mock model:

    >>> index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=2))
    >>> retriever = index.as_retriever(similarity_top_k=5, vector_store_kwargs={"filter": {"animal": "dog"}})
    >>> [found.node_id for found in retriever.retrieve("Who barks?")]
    ['2']
    """

    model_config = ConfigDict(extra="allow", frozen=True)  # extra: the settings, as given

    # excluded, so that to_dict() returns what the constructor takes
    stores_text: bool = Field(default=True, exclude=True)
    is_embedding_query: bool = Field(default=True, exclude=True)
    flat_metadata: bool = Field(default=False, exclude=True)
    path: str | None = None
    collection_name: str = "default"

    _collection: bqstore.Collection = PrivateAttr()

    def __init__(
        self, path: str | os.PathLike[str] | None = None, collection_name: str = "default", **settings: Any
    ) -> None:
        if "embedding_model" in settings:  # an embed_model, too: its name is kept
            settings["embedding_model"] = name_of(settings["embedding_model"])
        collection = bqstore.open_flat(path, collection_name, ("path", "collection_name"), **settings)
        # absolute, so that a serialized store (to_dict, pickle) opens the same folder from anywhere
        folder = None if path is None else os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
        given = {"path": folder, "collection_name": collection_name, **settings}
        super().__init__(**{name: value for name, value in given.items() if value is not None})
        self._collection = collection

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes into a serialized store.

        >>> BQVectorStore.class_name()
        'BQVectorStore'
        """
        return "BQVectorStore"

    @classmethod
    def from_params(
        cls, path: str | os.PathLike[str] | None = None, collection_name: str = "default", **settings: Any
    ) -> BQVectorStore:
        """Open a store; other LlamaIndex stores offer their constructor under this name.

        >>> BQVectorStore.from_params(distance="dot").collection.info().distance
        'dot'
        """
        return cls(path, collection_name, **settings)

    @property
    def collection(self) -> bqstore.Collection:
        """The open `bqstore.Collection`.

        >>> store.collection.count({"animal": "cat"})
        1
        """
        return self._collection

    @property
    def client(self) -> bqstore.Collection:
        """The open `bqstore.Collection`, under LlamaIndex's name for it.

        >>> store.client is store.collection
        True
        """
        return self._collection

    # ---- writing

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes with their embeddings. They are durable and searchable when this returns.

        A node whose id exists is replaced. ``kwargs`` are ignored: `VectorStoreIndex.insert` passes on here what is
        meant for the transformations.

        Parameters
        ----------
        nodes : sequence of BaseNode    each with an ``embedding``

        Returns
        -------
        list of str                     the id of each node, in order

        Raises
        ------
        InvalidInputError               a node has no embedding or cannot be stored; nothing was added
        StorageError                    the disk refused; nothing was added

        >>> store.add([TextNode(id_="3", text="Fish swim.", embedding=[1, 1])])
        ['3']
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
        """Delete the nodes of a source document. An unknown document is no error.

        >>> store.delete("animals.txt")
        >>> [node.node_id for node in store.get_nodes()]
        ['2']
        """
        _refuse_keywords("delete", delete_kwargs)
        if not isinstance(ref_doc_id, str):
            raise bqstore.InvalidInputError(f"ref_doc_id is of type {type(ref_doc_id).__name__}; expected a string")
        self._collection.delete(filter={bqstore.REF_DOC_ID_KEY: ref_doc_id})

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id, by filters, or those of the ids that match the filters. Unknown ids are skipped.

        An empty list of ids deletes nothing. Without arguments it raises InvalidInputError: `clear` deletes everything.

        >>> store.delete_nodes(["1"])
        >>> store.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="animal", value="dog")]))
        >>> store.get_nodes()
        []
        """
        _refuse_keywords("delete_nodes", delete_kwargs)
        self._collection.delete(node_ids, filter=native_filter(filters))

    def clear(self) -> None:
        """Delete every node. The settings and the dimension stay.

        >>> store.clear()
        >>> store.get_nodes()
        []
        """
        self._collection.clear()

    # ---- reading

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return nodes by id, in the order of the ids, by filters, or by both; all nodes without arguments.

        >>> [node.get_content() for node in store.get_nodes(["2", "unknown", "1"])]
        ['Dogs bark.', 'Cats sleep.']
        """
        if node_ids is not None and filters is None:
            return [node_of(record) for record in self._collection.get(node_ids)]
        ids = None if node_ids is None else {bqstore.ID_KEY: {"$in": node_ids}}
        return [node_of(record) for record in self._collection.scroll(native_filter(filters, ids))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the ``similarity_top_k`` nearest nodes that match, nearest first; a larger similarity is nearer.

        Parameters
        ----------
        query : VectorStoreQuery    of mode DEFAULT or MMR, with a ``query_embedding``; without one, but with filters,
                                    the first nodes that match are returned, with similarities of 0. ``filters`` and
                                    ``doc_ids`` restrict unless they are None, ``node_ids`` unless it is empty:
                                    LlamaIndex's retrievers always send it, empty
        **kwargs                    a retriever's ``vector_store_kwargs``: ``filter`` and the settings of
                                    `bqstore.Collection.search`; ``search_params``, the same settings as Qdrant writes
                                    them; and those for MMR that the class lists. A ``filter`` that is a dict applies
                                    together with ``query.filters``; one that is a function of a `bqstore.Record` must
                                    come alone. ``with_vectors=True`` fills the embeddings of the nodes

        Returns
        -------
        VectorStoreQueryResult      ``nodes``, ``similarities`` and ``ids``, three lists of the same length

        Raises
        ------
        InvalidInputError           another mode, no embedding, a malformed filter
        UnknownKeywordError         a keyword is none of these; the nearest name is given
        SettingsConflictError       the query was embedded by another model than the collection's

        >>> result = store.query(VectorStoreQuery(query_embedding=[0.0, 1.0], similarity_top_k=1), exact=True)
        >>> result.ids, result.similarities, result.nodes[0].get_content()
        (['2'], [1.0], 'Dogs bark.')
        """
        vector, k = _query_vector(query, self._collection), query.similarity_top_k
        mmr = _mmr_settings(query, {name: kwargs.pop(name, None) for name in _MMR_KEYWORDS})
        settings = _search_settings(**kwargs)
        settings["filter"] = _combined_filter(query, settings.get("filter"))
        if vector is None and settings["filter"] is None:
            raise bqstore.InvalidInputError("the query has no embedding and no filters; bqstore searches by vector")
        if query.mode == VectorStoreQueryMode.MMR and vector is not None:
            hits = self._collection.max_marginal_relevance(vector, k, **mmr, **settings)
        else:
            hits = self._collection.search(vector, k, **settings)
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits], similarities=[hit.score for hit in hits], ids=[hit.id for hit in hits]
        )

    # ---- async

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Run `add` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.async_add([TextNode(id_="3", text="Fish swim.", embedding=[1, 1])]))
        ['3']
        """
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Run `delete` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.adelete("animals.txt"))
        >>> [node.node_id for node in store.get_nodes()]
        ['2']
        """
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Run `delete_nodes` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.adelete_nodes(["1"]))
        >>> [node.node_id for node in store.get_nodes()]
        ['2']
        """
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        """Run `clear` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aclear())
        >>> store.get_nodes()
        []
        """
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Run `get_nodes` in a thread.

        >>> import asyncio
        >>> [node.get_content() for node in asyncio.run(store.aget_nodes(["2"]))]
        ['Dogs bark.']
        """
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Run `query` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aquery(VectorStoreQuery(query_embedding=[0.0, 1.0], similarity_top_k=1))).ids
        ['2']
        """
        return await asyncio.to_thread(self.query, query, **kwargs)

    # ---- quality

    def health(self) -> bqstore.Health:
        """Tell whether searches find what the target recall promises, as `bqstore.Collection.health`.

        >>> store.health().ok
        True
        """
        return self._collection.health()

    def recall(self, **kwargs: Any) -> bqstore.RecallReport:
        """Measure how many of the true nearest nodes searches find, and how fast; takes seconds.

        ``kwargs`` are those of `bqstore.Collection.recall`: ``queries`` (vectors), ``k``, ``sample``, ``settings``.

        >>> store.recall(k=1).recall
        1.0
        """
        return self._collection.recall(**kwargs)

    def tune(self, target_recall: float = 0.98, k: int = 10, **kwargs: Any) -> bqstore.SearchParams:
        """Find the fastest search settings that reach a recall, and store them as the collection's defaults.

        ``kwargs`` are those of `bqstore.Collection.tune`. Raises `bqstore.TargetNotReachedError`.

        >>> _ = store.add([TextNode(text=f"{i}", embedding=[i, 1]) for i in range(300)])
        >>> store.tune(target_recall=0.1, k=2).oversampling >= 1
        True
        """
        return self._collection.tune(target_recall, k, **kwargs)

    # ---- persistence

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Do nothing: what was added is already durable in ``path``.

        `StorageContext.persist` calls this with a file name. If that file existed, `StorageContext.from_defaults`
        without ``vector_store=`` would read it as an empty store of LlamaIndex's own, in silence. Without it,
        `load_index_from_storage` fails with ``KeyError: 'default'``.

        >>> store.persist("store.json")
        """

    def close(self) -> None:
        """Close the collection and release its lock. Closing twice is fine; ``with store:`` closes too.

        >>> store.close()
        """
        self._collection.close()

    def __enter__(self) -> BQVectorStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> BQVectorStore:
        """Return the store itself: a folder has one writer."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the settings; unpickling opens the folder again. One in memory goes with its nodes."""
        if self.path is None:
            return _unpickled, (type(self), self.to_dict(), self._collection)
        return type(self).from_dict, (self.to_dict(),)


def _unpickled(cls: type[BQVectorStore], settings: dict[str, Any], collection: bqstore.Collection) -> BQVectorStore:
    """Return a store in memory around a collection."""
    store = cls.from_dict(settings)
    store._collection.close()
    store._collection = collection
    return store


_SEARCH_KEYWORDS = (
    *("filter", "score_threshold", "oversampling", "rescore", "hnsw_ef", "exact", "ignore_quantization"),
    *("with_vectors", "search_params", "mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k"),
)
_MMR_KEYWORDS = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")


def _query_vector(query: VectorStoreQuery, collection: bqstore.Collection) -> list[float] | None:
    """Return the vector of a query, after checking its mode and the model that embedded it."""
    if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        mode = VectorStoreQueryMode(query.mode).value
        raise bqstore.InvalidInputError(f"the query mode is {mode!r}; this version supports 'default' and 'mmr'")
    if query.query_embedding is None and query.mode == VectorStoreQueryMode.DEFAULT:
        return None  # the collection takes it with a filter alone
    if query.query_embedding is None:
        raise bqstore.InvalidInputError("the query has no embedding; bqstore searches by vector")
    model = model_of(query.query_embedding)
    if model is not None:
        collection.check_model(model)
    return query.query_embedding


def _mmr_settings(query: VectorStoreQuery, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for the mode MMR under the names of `bqstore.Collection.max_marginal_relevance`."""
    given = {name: value for name, value in given.items() if value is not None}
    if query.mode != VectorStoreQueryMode.MMR:
        for name in given:
            raise bqstore.UnknownKeywordError(f"{name!r} is for the query mode 'mmr'; this query's mode is 'default'")
        return {}
    settings: dict[str, Any] = {"fetch_k": given.get("mmr_prefetch_k")}
    if "mmr_prefetch_factor" in given:
        factor = given["mmr_prefetch_factor"]
        if "mmr_prefetch_k" in given:
            raise bqstore.InvalidInputError("expected mmr_prefetch_factor or mmr_prefetch_k; both are given")
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor < math.inf:
            raise bqstore.InvalidInputError(f"mmr_prefetch_factor is {factor!r}; expected a number of at least 1")
        settings["fetch_k"] = math.ceil(query.similarity_top_k * factor)
    threshold = given.get("mmr_threshold") if query.mmr_threshold is None else query.mmr_threshold
    if threshold is not None:
        settings["lambda_mult"] = threshold
    return settings


def _combined_filter(query: VectorStoreQuery, native: NativeFilter | None) -> Any:
    """Return one filter for the query's own filters, the native one, and the query's ids."""
    ids = {bqstore.ID_KEY: {"$in": query.node_ids}} if query.node_ids else None
    docs = None if query.doc_ids is None else {bqstore.REF_DOC_ID_KEY: {"$in": query.doc_ids}}
    return native_filter(query.filters, native, ids, docs)


def _search_settings(search_params: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """Return keywords of `bqstore.Collection.search`; the vector and k are refused, as the query brings them."""
    for name in ("k", "similarity_top_k", "vector", "query_embedding"):
        if name in given:
            raise bqstore.UnknownKeywordError(
                f"vector_store_kwargs has no keyword {name!r}: the retriever and VectorStoreQuery take "
                "similarity_top_k and query_embedding"
            )
    return bqstore.search_keywords(search_params, _SEARCH_KEYWORDS, **given)


def _refuse_keywords(method: str, keywords: Mapping[str, Any]) -> None:
    """Refuse any keyword: a deletion that ignored one might delete more than was meant."""
    for name in keywords:
        raise bqstore.UnknownKeywordError(f"BQVectorStore.{method}() has no keyword {name!r}")
