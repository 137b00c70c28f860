"""`BQVectorStore`: a bqstore collection as a LlamaIndex vector store."""

try:
    from .base import BQVectorStore
    from .embeddings import EmbedderEmbedding
    from .storage import BQDocumentStore, BQIndexStore, BQKVStore
    from .tracing import SearchEvent
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "llama_index":
        raise
    raise ImportError(
        'llama_index.vector_stores.bqstore needs llama-index-core: pip install "bqstore[llama-index]"', name=error.name
    ) from error

__all__ = ["BQDocumentStore", "BQIndexStore", "BQKVStore", "BQVectorStore", "EmbedderEmbedding", "SearchEvent"]
