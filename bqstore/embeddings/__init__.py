"""From text to vectors: the protocol, OpenAI's models behind it, and the cache on disk. Floor 4.

Importing this package needs nothing but numpy; ``openai`` is imported when an `OpenAIEmbedder` is made.
"""

from .cache import EmbeddingCache, user_cache_folder
from .cached import CachedEmbedder
from .openai.embedder import OpenAIEmbedder
from .openai.prices import PRICES_AS_OF
from .openai.usage import Estimate, Usage
from .openai_batch.batch import BatchStatus, EmbeddingBatch
from .protocol import Embedder

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
