"""bqstore for LangChain: ``from langchain_bqstore import BQVectorStore``."""

try:
    import langchain_core  # noqa: F401 - only to name the extra when it is missing
except ImportError as error:
    raise ImportError('langchain_bqstore needs langchain-core: pip install "bqstore[langchain]"') from error

from .embeddings import EmbedderEmbeddings
from .key_values import BQByteStore
from .records import BQRecordManager
from .retrievers import BQRetriever, loading
from .semantic_cache import BQSemanticCache
from .translator import BQTranslator
from .vectorstores import BQVectorStore

__all__ = [
    "BQByteStore",
    "BQRecordManager",
    "BQRetriever",
    "BQSemanticCache",
    "BQTranslator",
    "BQVectorStore",
    "EmbedderEmbeddings",
    "loading",
]
