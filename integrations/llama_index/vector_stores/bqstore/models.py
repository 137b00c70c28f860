"""Which model made a vector, as LlamaIndex's embeddings announce; a warning where those of two models meet."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler

import bqstore

from .embeddings import model_of

_KEPT: Final = 20_000  # vectors, and calls, whose model is remembered
_made: dict[tuple[float, ...], str] = {}  # by their first values: LlamaIndex copies the lists
_running: dict[Any, str] = {}


class _Listener(BaseEventHandler):
    """Hears what embedding models announce."""

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, EmbeddingStartEvent):
            name = event.model_dict.get("model_name")
            if name not in (None, "", "unknown"):  # LlamaIndex's name for a model that has none
                _keep(_running, event.span_id, name)
        elif isinstance(event, EmbeddingEndEvent) and event.span_id in _running:
            for vector in event.embeddings:
                _keep(_made, _first_values(vector), _running[event.span_id])


def _keep(known: dict[Any, str], key: Any, name: str) -> None:
    if key:
        known[key] = name
    while len(known) > _KEPT:
        known.pop(next(iter(known)), None)


def _first_values(vector: Any) -> tuple[float, ...]:
    values = tuple(vector[:8])
    return values if len(set(values)) == 8 else ()  # toys and zeros might be anybody's


get_dispatcher("llama_index.core.base.embeddings.base").add_event_handler(_Listener())


class ModelsMet:
    """The models whose vectors have come to one store."""

    def __init__(self, collection: bqstore.Collection) -> None:
        self._collection = collection
        self._model: str | None = None
        self._told: set[str] = set()

    def before(self, vectors: Iterable[Any]) -> bool:
        """Look at the vectors of nodes that are about to be added; return whether `after` is to be called then."""
        names = self.note("nodes", vectors)
        return names == {self._model} and len(self._collection) == 0

    def after(self) -> None:
        """Store the model's name with the first nodes, so that a process that comes with another is warned, too."""
        if self._model is not None and len(self._collection):
            with suppress(bqstore.SettingsConflictError):  # another process was first
                self._collection.check_model(self._model, remember=True, writing=True)

    def note(self, what: str, vectors: Iterable[Any]) -> set[str]:
        """Warn, once for each model, of vectors that another model has made than those before, or the collection's.

        Returns the names of the models, "" among them for what nobody has announced.
        """
        unchecked = (vector for vector in vectors if model_of(vector) is None)  # others are refused
        found = {_made.get(_first_values(vector), "") for vector in unchecked}
        for name in found:
            if name and self._model is None:
                self._model = self._collection.info().embedding_model or name
            if name and name != self._model and name not in self._told:
                self._told.add(name)
                warnings.warn(
                    f"{what} embedded by {name!r} meet nodes of {self._model!r}: scores between vectors of two models "
                    "mean nothing; embed all by one, or change all by collection.reembed(embedder)",
                    RuntimeWarning,
                    stacklevel=5 if what == "nodes" else 4,
                )
        return found
