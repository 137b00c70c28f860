"""How a retriever's searches are done, as child runs for LangSmith and other tracers of LangChain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.tracers.base import BaseTracer

import bqstore

_TRACED: ContextVar[CallbackManager | None] = ContextVar("traced", default=None)


@contextmanager
def traced(run: CallbackManagerForRetrieverRun | AsyncCallbackManagerForRetrieverRun) -> Iterator[None]:
    """Let searches inside be child runs of a retriever's run, for its tracers alone; without one nothing is explained.

    >>> from langchain_core.callbacks import CallbackManagerForRetrieverRun
    >>> with traced(CallbackManagerForRetrieverRun.get_noop_manager()):
    ...     len(search(bqstore.open(dim=2), [1.0, 0.0], 1, {}))
    0
    """
    child = (run if isinstance(run, CallbackManagerForRetrieverRun) else run.get_sync()).get_child()
    child.set_handlers([handler for handler in child.handlers if isinstance(handler, BaseTracer)])
    token = _TRACED.set(child if child.handlers else None)
    try:
        yield
    finally:
        _TRACED.reset(token)


def search(collection: bqstore.Collection, vector: Any, k: int, settings: Mapping[str, Any]) -> list[bqstore.Hit]:
    """Return hits; where it is traced, as a run whose outputs are the number found and the `bqstore.Explanation`."""
    callbacks = _TRACED.get()
    if callbacks is None:
        return collection.search(vector, k, **settings)
    run = callbacks.on_chain_start({}, {"k": k, **settings}, name="bqstore.search")
    try:
        hits = collection.search(vector, k, **settings, explain=vector is not None or "text" in settings)
    except BaseException as error:
        run.on_chain_error(error)
        raise
    how = asdict(hits.explanation) if isinstance(hits, bqstore.ExplainedHits) else {}
    run.on_chain_end({"found": len(hits), **how})
    return hits
