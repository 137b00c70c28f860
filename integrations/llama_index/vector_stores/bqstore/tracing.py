"""How searches are done, for the handlers of LlamaIndex's instrumentation."""

from __future__ import annotations

from typing import Any

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import NullEventHandler

import bqstore

_dispatcher = get_dispatcher(__name__)


class SearchEvent(BaseEvent):
    """A search of a `BQVectorStore`, but for MMR: the numbers of nodes asked for and found, and how it was done.

    Handlers that are added to a dispatcher of LlamaIndex receive it, within the span of the query.
    """

    similarity_top_k: int
    found: int
    explanation: bqstore.Explanation

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event.

        >>> from llama_index.vector_stores.bqstore import SearchEvent
        >>> SearchEvent.class_name()
        'SearchEvent'
        """
        return "SearchEvent"


def is_watched() -> bool:
    """Return whether anybody receives events; without them a search is not explained."""
    dispatcher: Any = _dispatcher
    while dispatcher is not None:
        if any(not isinstance(handler, NullEventHandler) for handler in dispatcher.event_handlers):
            return True
        dispatcher = dispatcher.parent if dispatcher.propagate else None
    return False


def tell(similarity_top_k: int, hits: bqstore.ExplainedHits) -> None:
    """Send a `SearchEvent`."""
    _dispatcher.event(SearchEvent(similarity_top_k=similarity_top_k, found=len(hits), explanation=hits.explanation))
