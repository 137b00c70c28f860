"""Keywords of langchain-chroma, langchain-qdrant and FAISS, and what stands in their place in LangChain's calls."""

from __future__ import annotations

from typing import Final

HERE: Final[dict[str, dict[str, str]]] = {
    "the store": {
        **dict.fromkeys(("embedding_function", "embeddings"), "here it is embedding"),
        "force_recreate": "store.reset_collection() deletes what is there",
    },
    "search": {
        "explain": "store.explain(query, ...) tells how a search is done",
        "offset": "store.get(where=, limit=, offset=) lists documents",
        "consistency": "a search sees every commit made before it; leave it out",
        "query_filter": "here it is filter",
        "hybrid_fusion": 'here it is fusion="rrf" or "relative_score"',
    },
    "max_marginal_relevance_search": dict.fromkeys(
        ("mode", "alpha", "fusion", "syntax", "text", "rerank"), 'it is for searches that are no "mmr"; leave it out'
    ),
    "delete": {"where": "here it is filter", "where_document": "here it is filter, a function of the document"},
}

_RECORDS: Final = "the records are in the folder of path=, or of vector_store="
# of the byte store and the record manager
RECORDS: Final = {
    "collection": "here it is collection_name",
    "root_path": "here it is path",
    **dict.fromkeys(("db_url", "engine", "engine_kwargs", "async_mode"), _RECORDS),
    **dict.fromkeys(("vectorstore", "store"), "here it is vector_store"),
}

_DURABLE: Final = "what was added is durable already; leave it out"
_OPENS: Final = "BQVectorStore(embedding, path, collection_name) opens a folder"
_COPIED: Final = "store.collection.save(folder) writes a copy, and bqstore.load(folder) reads it into memory"
_HOLDS: Final = "store.collection holds texts, metadata and vectors"
_VECTORS: Final = "texts alone are embedded here; add_embeddings and the searches by vector take any vectors"
# methods and attributes of other stores
METHODS: Final = {
    **dict.fromkeys(("persist", "save_local"), _DURABLE),
    **dict.fromkeys(("load_local", "load", "from_existing_collection", "from_existing_index"), _OPENS),
    **dict.fromkeys(("construct_instance", "from_client", "from_table"), _OPENS),
    **dict.fromkeys(("serialize_to_bytes", "deserialize_from_bytes", "dump"), _COPIED),
    "merge_from": "store.add_embeddings(...) takes another store's texts and vectors, which its get() returns",
    **dict.fromkeys(("docstore", "index_to_docstore_id", "index"), _HOLDS),
    **dict.fromkeys(("add_images", "encode_image", "similarity_search_by_image"), _VECTORS),
    "similarity_search_by_image_with_relevance_score": _VECTORS,
    "similarity_search_with_vectors": "store.collection.search(vector, k, with_vectors=True) returns vectors, too",
    "hybrid_search": 'open the store with text_index=True, and search with mode="hybrid"',
    "fork": "bqstore.copy(path, collection_name, new_name) copies a collection",
    **dict.fromkeys(("create_index", "get_table"), _HOLDS + ", and builds its index itself"),
    "peek": "store.get(limit=10) lists documents",
    "count": "len(store.collection), or store.collection.count(filter)",
    "delete_by_metadata_filter": "here it is delete(filter=...)",
}
