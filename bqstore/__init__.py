"""bqstore: an embedded vector store with one bit per dimension in memory and the original vectors on disk.

>>> import bqstore
>>> with bqstore.open("my-store") as col:
...     ids = col.add([[1.0, 0.2], [0.1, 1.0]], ids=["a", "b"], texts=["one", "two"], metadatas=[{"lang": "en"}, {}])
...     for hit in col.search([1.0, 0.0], k=5, filter={"lang": "en"}):
...         print(hit.id, hit.text)
a one

Names load when they are first used, so that importing a part (`bqstore.storage`, say) does not load numba.
"""

from importlib import import_module

TYPE_CHECKING = False  # not typing's: the command begins with this module, and Ctrl-C is only handled behind it
if TYPE_CHECKING:
    from ._version import __version__
    from .adapters.adding import add_batches, batches_of, listed
    from .adapters.async_calls import Waits, awaited, in_steps, reading, writing
    from .adapters.on_collection import OnCollection
    from .adapters.relevance import relevance_of
    from .arguments import words_of
    from .clock import EXPIRES_AT_KEY
    from .collection import Collection
    from .config import HnswConfig, Quantization, SearchParams, search_keywords
    from .copying import copy
    from .embeddings import CachedEmbedder, Embedder, OpenAIEmbedder
    from .engine.searcher import Searcher
    from .errors import (
        BqstoreError,
        ClosedError,
        CorruptionError,
        EmbeddingError,
        FolderReplacedError,
        FormatVersionError,
        InvalidInputError,
        LockedError,
        NotFoundError,
        NotReadyError,
        ReadOnlyError,
        ServerError,
        SettingsConflictError,
        StorageError,
        TargetNotReachedError,
        UnknownKeywordError,
    )
    from .index import warm_up
    from .key_values import KeyValues, open_key_values
    from .metadata.text_filters import translate_filter
    from .metadata.to_json import ID_KEY, PRIVATE_PREFIX, REF_DOC_ID_KEY
    from .opening import load, open, open_flat
    from .other_stores import lacking, refuse_foreign, refusing_foreign
    from .protocol import CollectionProtocol
    from .records import Records
    from .remote import RemoteCollection
    from .repairing import repair
    from .results.hits import ExplainedHits, Explanation, Hit, PartialHits, Record
    from .results.info import Choice, CollectionInfo, Trial
    from .results.outcomes import (
        AddResult,
        BackupReport,
        CopyReport,
        LostDocument,
        ReembedPlan,
        ReembedReport,
        RepairReport,
        Skipped,
        StreamReport,
        VerifyReport,
    )
    from .results.recall import Health, Histogram, RecallEstimate, RecallPoint, RecallReport
    from .stores import collections, drop, rename
    from .validate import check_documents, refuse_private_keys, tell_of_zeros

# the modules of the names that are no errors
_HOME = {
    "__version__": "_version",
    **dict.fromkeys(("load", "open", "open_flat"), "opening"),
    **dict.fromkeys(("collections", "drop", "rename"), "stores"),
    "copy": "copying",
    "repair": "repairing",
    **dict.fromkeys(("lacking", "refuse_foreign", "refusing_foreign"), "other_stores"),
    **dict.fromkeys(("add_batches", "batches_of", "listed"), "adapters.adding"),
    "relevance_of": "adapters.relevance",
    "words_of": "arguments",
    "OnCollection": "adapters.on_collection",
    **dict.fromkeys(("KeyValues", "open_key_values"), "key_values"),
    "Collection": "collection",
    "CollectionProtocol": "protocol",
    "Records": "records",
    "RemoteCollection": "remote",
    "Searcher": "engine.searcher",
    "warm_up": "index",
    **dict.fromkeys(("HnswConfig", "Quantization", "SearchParams", "search_keywords"), "config"),
    **dict.fromkeys(("CachedEmbedder", "Embedder", "OpenAIEmbedder"), "embeddings"),
    "EXPIRES_AT_KEY": "clock",
    **dict.fromkeys(("ID_KEY", "PRIVATE_PREFIX", "REF_DOC_ID_KEY"), "metadata.to_json"),
    **dict.fromkeys(("check_documents", "refuse_private_keys", "tell_of_zeros"), "validate"),
    **dict.fromkeys(("Waits", "awaited", "in_steps", "reading", "writing"), "adapters.async_calls"),
    "translate_filter": "metadata.text_filters",
    **dict.fromkeys(("ExplainedHits", "Explanation", "Hit", "PartialHits", "Record"), "results.hits"),
    **dict.fromkeys(("AddResult", "BackupReport", "CopyReport", "LostDocument", "ReembedPlan"), "results.outcomes"),
    **dict.fromkeys(("ReembedReport", "RepairReport", "Skipped", "StreamReport", "VerifyReport"), "results.outcomes"),
    **dict.fromkeys(("Health", "Histogram", "RecallEstimate", "RecallPoint", "RecallReport"), "results.recall"),
    **dict.fromkeys(("Choice", "CollectionInfo", "Trial"), "results.info"),
}

__all__ = [
    "EXPIRES_AT_KEY",
    "ID_KEY",
    "PRIVATE_PREFIX",
    "REF_DOC_ID_KEY",
    "AddResult",
    "BackupReport",
    "BqstoreError",
    "CachedEmbedder",
    "Choice",
    "ClosedError",
    "Collection",
    "CollectionInfo",
    "CollectionProtocol",
    "CopyReport",
    "CorruptionError",
    "Embedder",
    "EmbeddingError",
    "ExplainedHits",
    "Explanation",
    "FolderReplacedError",
    "FormatVersionError",
    "Health",
    "Histogram",
    "Hit",
    "HnswConfig",
    "InvalidInputError",
    "KeyValues",
    "LockedError",
    "LostDocument",
    "NotFoundError",
    "NotReadyError",
    "OnCollection",
    "OpenAIEmbedder",
    "PartialHits",
    "Quantization",
    "ReadOnlyError",
    "RecallEstimate",
    "RecallPoint",
    "RecallReport",
    "Record",
    "Records",
    "ReembedPlan",
    "ReembedReport",
    "RemoteCollection",
    "RepairReport",
    "SearchParams",
    "Searcher",
    "ServerError",
    "SettingsConflictError",
    "Skipped",
    "StorageError",
    "StreamReport",
    "TargetNotReachedError",
    "Trial",
    "UnknownKeywordError",
    "VerifyReport",
    "Waits",
    "__version__",
    "add_batches",
    "awaited",
    "batches_of",
    "check_documents",
    "collections",
    "copy",
    "drop",
    "in_steps",
    "lacking",
    "listed",
    "load",
    "open",
    "open_flat",
    "open_key_values",
    "reading",
    "refuse_foreign",
    "refuse_private_keys",
    "refusing_foreign",
    "relevance_of",
    "rename",
    "repair",
    "search_keywords",
    "tell_of_zeros",
    "translate_filter",
    "warm_up",
    "words_of",
    "writing",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME.get(name, "errors")
    _keep_quiet()
    try:
        value = getattr(import_module(f".{home}", __name__), name)
    except OSError as error:  # no descriptor is left, say
        words = f"cannot load bqstore.{name}: {error.strerror} ({error.filename}); the next use of the name tries again"
        raise import_module(".errors", __name__).StorageError(error.errno, words) from error
    globals()[name] = value
    return value


def _keep_quiet() -> None:
    """Log warnings alone, also where the root logger lets everything through; a level of the program's goes before."""
    import logging  # here, as it takes longer than the rest of this module

    if not (log := logging.getLogger(__name__)).level:
        log.setLevel(logging.WARNING)


def __dir__() -> list[str]:
    return sorted(__all__)
