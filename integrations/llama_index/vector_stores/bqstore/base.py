"""`BQVectorStore`: LlamaIndex's vector store interface on a `bqstore.Collection`.

It turns nodes into rows and queries into searches. Checks, files, threads and ranking are the collection's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from os import PathLike
from typing import Any, Final

import numpy as np
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

import bqstore

from .embeddings import name_of
from .filters import native_filter
from .models import ModelsMet
from .nodes import Steps, check_ids, node_of, nodes_in, row_of
from .queries import WORDS, answer, check_keywords, explanation
from .words import is_of_words

_OWN_KEYWORDS: Final = ("path", "collection_name", "collection")
_INDEX: Final = "the index embeds: VectorStoreIndex.from_vector_store(store, embed_model=...)"
_HERE: Final = dict.fromkeys(("embedding", "embeddings", "embedding_function", "embed_model"), _INDEX)


class BQVectorStore(bqstore.OnCollection, BasePydanticVectorStore):
    """A LlamaIndex vector store in a folder: small codes in memory, the original vectors on disk, no server.

    Nodes are stored whole (text, metadata, relationships), so no separate docstore is needed. The same folder can be
    read through `langchain_bqstore` and `bqstore.open`.

    Parameters
    ----------
    path : str or path          the folder, made if missing; None keeps everything in memory
    collection_name : str       a folder can hold several collections
    collection                  an open `bqstore.Collection`, in place of all the rest; `close` leaves it open
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
    If the index embeds queries with `EmbedderEmbedding`, a query of another model raises SettingsConflictError. For
    other models there is a RuntimeWarning where nodes or queries of two of them meet in a store, or of another than the
    collection's: LlamaIndex passes vectors as plain lists, whose model is known from its events, and in the process
    that embedded them alone.

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
    _is_lent: bool = PrivateAttr(default=False)
    _models: ModelsMet = PrivateAttr()

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        collection_name: str = "default",
        *,
        collection: bqstore.Collection | None = None,
        **settings: Any,
    ) -> None:
        if "embedding_model" in settings:  # an embed_model, too: its name is kept
            settings["embedding_model"] = name_of(settings["embedding_model"])
        bqstore.refuse_foreign("the store", settings, _HERE)
        opened = bqstore.open_flat(path, collection_name, _OWN_KEYWORDS, collection=collection, **settings)
        info = opened.info()  # an absolute path: a serialized store (to_dict, pickle) opens it from anywhere
        settings.pop("api_key", None)  # a key is in no repr and no serialized store, which takes QDRANT_API_KEY's
        given = {"path": info.path, "collection_name": info.collection, **settings}
        super().__init__(**{name: value for name, value in given.items() if value is not None})
        self._collection, self._is_lent, self._models = opened, collection is not None, ModelsMet(opened)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes into a serialized store.

        >>> BQVectorStore.class_name()
        'BQVectorStore'
        """
        return "BQVectorStore"

    @classmethod
    def from_params(
        cls, path: str | PathLike[str] | None = None, collection_name: str = "default", **settings: Any
    ) -> BQVectorStore:
        """Open a store; other LlamaIndex stores offer their constructor under this name.

        >>> BQVectorStore.from_params(distance="dot").collection.info().distance
        'dot'
        """
        return cls(path, collection_name, **settings)

    @classmethod
    def from_collection(cls, collection: bqstore.Collection) -> BQVectorStore:
        """Return a store on a collection that is open already, and that `close` leaves open.

        >>> with bqstore.open() as collection:
        ...     BQVectorStore.from_collection(collection).add([TextNode(id_="3", text="Fish swim.", embedding=[1, 1])])
        ['3']
        """
        return cls(collection=collection)

    @classmethod
    def from_persist_dir(
        cls, persist_dir: str = DEFAULT_PERSIST_DIR, namespace: str = "default", fs: Any = None, **settings: Any
    ) -> BQVectorStore:
        """Open the store that a folder holds, under the name that LlamaIndex's own stores have for it.

        ``namespace`` is the collection. Raises NotFoundError if the folder has no such collection, where the
        constructor would make one, and InvalidInputError for an ``fs``: the folder must be on a local disk.

        >>> BQVectorStore("storage").close()
        >>> BQVectorStore.from_persist_dir("storage").get_nodes()
        []
        """
        if fs is not None:
            raise bqstore.InvalidInputError("fs is given; bqstore reads a folder on a local disk, by its path")
        if namespace not in bqstore.collections(persist_dir):
            raise bqstore.NotFoundError(
                f"{persist_dir} holds no collection {namespace!r}; BQVectorStore(path) makes one"
            )
        return cls(persist_dir, namespace, **settings)

    # ---- writing

    @bqstore.in_steps
    def add(self, nodes: Iterable[BaseNode], *, expires_at: Any = None, **kwargs: Any) -> Steps[list[str]]:
        """Add nodes with their embeddings. They are durable and searchable when this returns.

        A node whose id exists is replaced. ``kwargs`` are ignored: `VectorStoreIndex.insert` passes on here what is
        meant for the transformations.

        Parameters
        ----------
        nodes : iterable of BaseNode    each with an ``embedding``
        expires_at                      when nodes expire, as in `bqstore.Collection.add`: one for all, or one for
                                        each. A node brings its own in its metadata, as `bqstore.EXPIRES_AT_KEY`

        Returns
        -------
        list of str                     the id of each node, in order

        Raises
        ------
        InvalidInputError               a node has no embedding or cannot be stored, or ``nodes`` are none; nothing was
                                        added
        StorageError                    the disk refused; nothing was added

        >>> store.add([TextNode(id_="3", text="Fish swim.", embedding=[1, 1])])
        ['3']
        """
        documents, is_first = yield partial(self._documents, nodes)
        ids: list[str] = yield partial(self._collection.add, **documents, expires_at=expires_at)
        if is_first:
            yield self._models.after
        return ids

    def _documents(self, nodes: Iterable[BaseNode]) -> tuple[dict[str, Any], bool]:
        """What the collection is given of nodes, and whether they are the first that come from a known model."""
        given = nodes_in(nodes)
        vectors = [node.get_embedding() for node in given]
        bqstore.tell_of_zeros(vectors, f"of nodes for {self.collection_name!r}")
        rows = [row_of(node) for node in given]
        documents = {
            "vectors": [np.array(vector) for vector in vectors],  # one by one: a large list holds off other threads
            "ids": [node.node_id for node in given],
            "texts": [text for text, _ in rows],
            "metadatas": [metadata for _, metadata in rows],
        }
        return documents, self._models.before(vectors)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a source document. An unknown document is no error.

        >>> store.delete("animals.txt")
        >>> [node.node_id for node in store.get_nodes()]
        ['2']
        """
        check_keywords("delete", delete_kwargs)
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
        check_keywords("delete_nodes", delete_kwargs)
        with bqstore.words_of(WORDS):
            check_ids(node_ids)
            native = native_filter(filters)
            if node_ids is None and native is None:
                raise bqstore.InvalidInputError(
                    "delete_nodes() needs node_ids, or filters that restrict; clear() deletes everything"
                )
            self._collection.delete(node_ids, filter=native)

    def clear(self, **kwargs: Any) -> None:
        """Delete every node. The settings and the dimension stay.

        >>> store.clear()
        >>> store.get_nodes()
        []
        """
        check_keywords("clear", kwargs)
        self._collection.clear()

    # ---- reading

    def get_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        *,
        with_vectors: bool = True,
        **kwargs: Any,
    ) -> list[BaseNode]:
        """Return nodes by id, in the order of the ids, by filters, or by both; all nodes without arguments.

        They come with their embeddings, so that they can be changed and added again; ``with_vectors=False`` leaves
        these out, which saves most of the memory and time.

        >>> [node.get_content() for node in store.get_nodes(["2", "unknown", "1"])]
        ['Dogs bark.', 'Cats sleep.']
        """
        check_keywords("get_nodes", kwargs)
        with bqstore.words_of(WORDS):
            check_ids(node_ids)
            records = self._stored(node_ids, native_filter(filters), with_vectors=with_vectors)
        return [node_of(record) for record in records]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the ``similarity_top_k`` nearest nodes that match, nearest first; a larger similarity is nearer.

        Parameters
        ----------
        query : VectorStoreQuery    of mode DEFAULT or MMR; in a store opened with ``text_index=True`` of HYBRID (by the
                                    embedding and the words of ``query_str``, with ``alpha``; by the words alone if the
                                    embedding is of zeros), TEXT_SEARCH or SPARSE (by the words alone), too.
                                    ``hybrid_top_k`` or ``sparse_top_k`` nodes are returned, if given. ``filters``,
                                    ``doc_ids`` and ``node_ids`` restrict unless they are None or empty; ``filters``
                                    may also be a dict in bqstore's grammar. ``output_fields`` names the metadata that
                                    the nodes bring ("embedding": the vector, too). Without a ``query_embedding``, but
                                    with filters, and with one of zeros (unless the distance is "euclid") the first
                                    nodes that match are returned, and ``similarities`` is None
        **kwargs                    a retriever's ``vector_store_kwargs``: ``filter`` and the settings of
                                    `bqstore.Collection.search`; ``search_params``, the same settings as Qdrant writes
                                    them; and those for MMR that the class lists. ``filter`` applies together with
                                    ``query.filters``; if it is a function of a `bqstore.Record`, it is called with
                                    those that match the rest. ``with_vectors=True`` fills the embeddings of the nodes

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
        if isinstance(query, VectorStoreQuery) and query.query_embedding is not None:
            self._models.note("queries", [query.query_embedding])
        self._check_mode(query)
        return answer(self._collection, query, kwargs)

    def explain(self, query: VectorStoreQuery, **kwargs: Any) -> bqstore.Explanation:
        """Tell how a query is done: by a scan or the graph, and how much is compared and rescored.

        ``kwargs`` are those of `query`. Handlers of LlamaIndex's instrumentation receive the same of every query, as
        a `SearchEvent`. Raises InvalidInputError for the mode MMR and for a query without an embedding, too.

        >>> store.explain(VectorStoreQuery(query_embedding=[0.0, 1.0])).way
        'exact'
        """
        self._check_mode(query)
        return explanation(self._collection, query, kwargs)

    def _check_mode(self, query: VectorStoreQuery) -> None:
        if is_of_words(query) and query.query_str is not None:
            self._check_words(f"the query mode {VectorStoreQueryMode(query.mode).value!r}")

    # ---- async

    async def async_add(self, nodes: Iterable[BaseNode], **kwargs: Any) -> list[str]:
        """Run `add` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.async_add([TextNode(id_="3", text="Fish swim.", embedding=[1, 1])]))
        ['3']
        """
        return await self._add_later(nodes, **kwargs)

    _add_later = bqstore.awaited(add).writing

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Run `delete` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.adelete("animals.txt"))
        >>> [node.node_id for node in store.get_nodes()]
        ['2']
        """
        await bqstore.writing(self.delete, ref_doc_id, **delete_kwargs)

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
        await bqstore.writing(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self, **kwargs: Any) -> None:
        """Run `clear` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aclear())
        >>> store.get_nodes()
        []
        """
        await bqstore.writing(self.clear, **kwargs)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **kwargs: Any
    ) -> list[BaseNode]:
        """Run `get_nodes` in a thread.

        >>> import asyncio
        >>> [node.get_content() for node in asyncio.run(store.aget_nodes(["2"]))]
        ['Dogs bark.']
        """
        return await bqstore.reading(self.get_nodes, node_ids, filters, **kwargs)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Run `query` in a thread.

        >>> import asyncio
        >>> asyncio.run(store.aquery(VectorStoreQuery(query_embedding=[0.0, 1.0], similarity_top_k=1))).ids
        ['2']
        """
        return await bqstore.reading(self.query, query, **kwargs)

    # ---- persistence

    def persist(self, persist_path: str = "", fs: Any = None) -> None:
        """Do nothing: what was added is already durable in ``path``.

        `StorageContext.persist` calls this with a file name. If that file existed, `StorageContext.from_defaults`
        without ``vector_store=`` would read it as an empty store of LlamaIndex's own, in silence. Without it,
        `load_index_from_storage` fails with ``KeyError: 'default'``.

        >>> store.persist("store.json")
        """

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
    store._collection, store._models = collection, ModelsMet(collection)
    return store
