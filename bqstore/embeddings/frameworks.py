"""An embedder as the frameworks want it. It imports none of them before it is asked."""

from importlib import import_module
from typing import Any


class ForFrameworks:
    """What makes an `Embedder` an embedding model of LangChain's or LlamaIndex's."""

    def as_langchain(self) -> Any:
        """A LangChain ``Embeddings``. Raises ImportError if LangChain is missing."""
        return _class("langchain_bqstore", "EmbedderEmbeddings", "langchain")(self)

    def as_llama_index(self) -> Any:
        """A LlamaIndex ``embed_model``. Raises ImportError if LlamaIndex is missing."""
        return _class("llama_index.vector_stores.bqstore", "EmbedderEmbedding", "llama-index")(self)


def _class(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        message = f'{name} needs what is not installed: pip install "bqstore[{extra}]"'
        raise ImportError(message, name=error.name) from error
