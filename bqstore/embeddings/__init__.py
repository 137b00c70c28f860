"""From text to vectors: the protocol, OpenAI's models behind it, and the cache on disk. Floor 4.

Importing this package needs nothing but numpy; ``openai`` is imported when an `OpenAIEmbedder` is made.
"""

from .cache import EmbeddingCache, user_cache_folder
from .openai import OpenAIEmbedder
from .protocol import Embedder

__all__ = ["Embedder", "EmbeddingCache", "OpenAIEmbedder", "user_cache_folder"]
