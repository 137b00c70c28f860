"""From text to vectors: the protocol, OpenAI's models behind it, and the cache on disk. Floor 4.

Importing this package needs nothing but numpy; ``openai`` is imported when an `OpenAIEmbedder` is made.
"""

from .batch_api import BatchStatus, EmbeddingBatch
from .cache import EmbeddingCache, user_cache_folder
from .cached import CachedEmbedder
from .openai import OpenAIEmbedder
from .prices import PRICES_AS_OF
from .protocol import Embedder
from .usage import Estimate, Usage

__all__ = [
    "PRICES_AS_OF",
    "BatchStatus",
    "CachedEmbedder",
    "Embedder",
    "EmbeddingBatch",
    "EmbeddingCache",
    "Estimate",
    "OpenAIEmbedder",
    "Usage",
    "user_cache_folder",
]
