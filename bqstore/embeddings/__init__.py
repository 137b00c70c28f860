"""From text to vectors: the `Embedder` protocol, OpenAI's models behind it, and the cache on disk.

May import `validate` and the layers below it, and the files and locks of `storage`; it reaches collections only through
`base.CollectionLike`. Importing it needs numpy only; ``openai`` is imported when an `OpenAIEmbedder` is made. Start
with `protocol.py`, then `openai/embedder.py`.
"""

from .cached import CachedEmbedder
from .disk_cache import EmbeddingCache, user_cache_folder
from .openai.embedder import OpenAIEmbedder
from .openai.estimate import Estimate
from .openai.prices import PRICES_AS_OF, Usage
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
