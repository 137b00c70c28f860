"""An embedder as the embedding model of LangChain or LlamaIndex. Neither is imported before it is asked for."""

from importlib import import_module
from typing import Any


class FrameworkMixin:
    """Gives an `Embedder` the methods `as_langchain` and `as_llama_index`."""

    def as_langchain(self) -> Any:
        """This embedder as a LangChain ``Embeddings``. Raises ImportError if LangChain is missing.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=8) as embedder:
        ...     embeddings = embedder.as_langchain()
        ...     len(embeddings.embed_query("Which animals purr?"))
        8
        """
        return _adapter("langchain_bqstore", "EmbedderEmbeddings", "langchain")(self)

    def as_llama_index(self) -> Any:
        """This embedder as a LlamaIndex ``embed_model``. Raises ImportError if LlamaIndex is missing.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=8) as embedder:
        ...     embed_model = embedder.as_llama_index()
        ...     len(embed_model.get_query_embedding("Which animals purr?"))
        8
        """
        return _adapter("llama_index.vector_stores.bqstore", "EmbedderEmbedding", "llama-index")(self)


def _adapter(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        message = f'{name} needs a package that is not installed: pip install "bqstore[{extra}]"'
        raise ImportError(message, name=error.name) from error
