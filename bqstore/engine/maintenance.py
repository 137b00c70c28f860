"""A collection made anew while searches go on: compaction, new codes, and what `flush` does. All under the lock."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..index import Quantizer
from ..progress import Progress
from ..storage.compaction import Compaction, Recode

if TYPE_CHECKING:
    from .engine import Engine


def flush(engine: "Engine") -> None:
    """Link what is not linked yet, keep a snapshot, and fold SQLite's log into its file."""
    engine.graph.link_rest()
    engine.store.catalogue.checkpoint()


def compact(engine: "Engine") -> None:
    """Copy what is live into a new generation with a graph of its own."""
    state = engine.publisher.follow()
    if state.head.n_live == state.n:
        return
    live = np.flatnonzero(state.live)
    with Progress("copying", len(live)) as progress:
        prepared = engine.store.begin_compaction(live, progress)
    assert state.data is not None, "something was deleted"
    words = np.ascontiguousarray(state.data.words[: state.n][state.live])
    _finish(engine, prepared, words, state.data.quantizer)


def recode(engine: "Engine", quantizer: Quantizer, settings: dict[str, Any]) -> None:
    """Make all codes anew, into a new generation with a graph of its own; what is dead is dropped.

    Raises StorageError where no originals are kept.
    """
    state = engine.publisher.follow()
    live = np.flatnonzero(state.live)
    words = np.empty((len(live), quantizer.words), np.uint64)
    done = 0

    def encode(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
        nonlocal done
        codes = quantizer.encode_all(vectors, engine.workers)
        words[done : done + len(codes)] = codes
        done += len(codes)
        return codes

    with Progress("encoding", len(live)) as progress:
        prepared = engine.store.begin_compaction(live, progress, Recode(settings, quantizer.parameters, encode))
    _finish(engine, prepared, words, quantizer)


def _finish(engine: "Engine", prepared: Compaction, words: NDArray[np.uint64], quantizer: Quantizer) -> None:
    """Link the codes of a generation to come, and commit it."""
    builder = engine.graph.builder
    try:
        graph = builder.graph_of(words, quantizer)
    except BaseException:
        engine.store.discard_compaction(prepared)
        raise
    head = engine.store.commit_compaction(prepared)
    builder.adopt(graph, head.generation)
