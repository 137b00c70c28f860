"""What a local collection and one on a server have in common: programs written for it run on both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .metadata.filter_grammar import Filter
    from .results.hits import Hit, Record
    from .results.info import CollectionInfo
    from .results.outcomes import AddResult, StreamReport
    from .results.recall import Health, RecallReport


class SearcherProtocol(Protocol):
    """What `searcher` of both returns."""

    def search(self, vector: ArrayLike) -> list[Hit]:
        """Find the documents nearest to a vector."""

    def search_ids(self, vector: ArrayLike) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        """Find ids and scores only."""


@runtime_checkable
class CollectionProtocol(Protocol):
    """The calls of `Collection` that a collection on a Qdrant server has, too: see ``docs/scaling.md``.

    >>> import bqstore
    >>> def size(col: bqstore.CollectionProtocol) -> int:
    ...     return col.count({"lang": "en"})
    >>> with bqstore.open(dim=2) as col:
    ...     isinstance(col, bqstore.CollectionProtocol), size(col)
    (True, 0)
    """

    def add(
        self,
        vectors: ArrayLike,
        ids: Sequence[str | None] | None = None,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        expires_at: Any = None,
        on_error: str = "raise",
    ) -> AddResult:
        """Add documents, or replace those whose ids exist."""

    def add_stream(self, documents: Iterable[Any], *, batch_size: int = 1000, on_error: str = "raise") -> StreamReport:
        """Add what an iterable gives, a portion at a time."""

    def update(
        self,
        ids: Sequence[str],
        *,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        vectors: ArrayLike | None = None,
        expires_at: Any = None,
        replace: bool = False,
    ) -> int:
        """Change parts of documents."""

    def update_metadata(
        self,
        ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        expires_at: Any = None,
        filter: Filter | None = None,
        replace: bool = False,
    ) -> int:
        """Change metadata of documents by id or filter."""

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by id, by filter, or both."""

    def expire(self) -> int:
        """Delete expired documents."""

    def clear(self) -> None:
        """Delete every document."""

    def search(
        self,
        vector: ArrayLike | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        mode: str | None = None,
        fusion: str | None = None,
        alpha: float | None = None,
        syntax: str | None = None,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        rerank: Any = None,
        fetch_k: int | None = None,
        explain: bool = False,
        allow_damaged: bool = False,
    ) -> list[Hit]:
        """Find the k documents nearest to a vector."""

    def search_batch(
        self,
        vectors: ArrayLike | None = None,
        k: int = 10,
        *,
        texts: str | Sequence[str] | None = None,
        mode: str | None = None,
        fusion: str | None = None,
        alpha: float | None = None,
        syntax: str | None = None,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        rerank: Any = None,
        fetch_k: int | None = None,
        threads: int | None = None,
        allow_damaged: bool = False,
    ) -> list[list[Hit]]:
        """Run `search` for many vectors at once."""

    def search_ids(
        self,
        vectors: ArrayLike | None = None,
        k: int = 10,
        *,
        texts: str | Sequence[str] | None = None,
        mode: str | None = None,
        fusion: str | None = None,
        alpha: float | None = None,
        syntax: str | None = None,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        """Find ids and scores only."""

    def searcher(
        self,
        k: int = 10,
        *,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> SearcherProtocol:
        """Prepare a search that is made often."""

    def max_marginal_relevance(
        self,
        vector: ArrayLike,
        k: int = 10,
        fetch_k: int | None = None,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        target_recall: float | None = None,
        score_threshold: float | None = None,
        with_vectors: bool = False,
    ) -> list[Hit]:
        """Choose k documents that are near a vector and differ from each other."""

    def more_like(
        self,
        ids: Sequence[str] | None = None,
        k: int = 10,
        *,
        vectors: ArrayLike | None = None,
        combine: str = "mean",
        filter: Filter | None = None,
        oversampling: float | None = None,
        rescore: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool = False,
        ignore_quantization: bool = False,
        score_threshold: float | None = None,
        with_vectors: bool = False,
        target_recall: float | None = None,
    ) -> list[Hit]:
        """Find the k documents nearest to several at once."""

    def get(self, ids: Sequence[str], with_vectors: bool = False) -> list[Record]:
        """Return the documents with these ids."""

    def scroll(
        self,
        filter: Filter | None = None,
        batch: int = 1000,
        *,
        limit: int | None = None,
        offset: int = 0,
        with_vectors: bool = False,
        order_by: str | None = None,
        descending: bool = False,
    ) -> Iterator[Record]:
        """Iterate over every document that matches."""

    def ids(self, filter: Filter | None = None) -> list[str]:
        """Return the ids of the documents that match."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""

    def facets(
        self, field: str, filter: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> list[tuple[Any, int]]:
        """Return the values of a metadata field and how many documents have each."""

    def distinct(self, field: str, filter: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the different values of a metadata field."""

    def count(self, filter: Filter | None = None) -> int:
        """Count the documents that match."""

    def __len__(self) -> int:
        """Count all documents."""

    def __contains__(self, id_: object) -> bool:
        """Whether there is a document with this id."""

    def info(self) -> CollectionInfo:
        """Describe the collection."""

    def health(self) -> Health:
        """Tell whether searches find what they should."""

    def check_model(self, model: str, dim: int | None = None, *, remember: bool = False, writing: bool = False) -> None:
        """Raise unless a model's vectors belong here."""

    def recall(
        self,
        queries: ArrayLike | None = None,
        k: int = 10,
        sample: int = 200,
        settings: Sequence[Mapping[str, Any]] | None = None,
    ) -> RecallReport:
        """Measure how many of the true nearest documents searches find."""

    def flush(self) -> None:
        """Finish what is under way."""

    def close(self) -> None:
        """Give back files or connections."""
