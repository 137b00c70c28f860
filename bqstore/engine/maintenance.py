"""A collection made anew while searches go on: compaction and new codes. All under the lock."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import StorageError
from ..index import Originals, Quantizer
from ..progress import Progress
from ..storage.compaction import Compaction, Recode
from ..storage.open_key_values import erase as erase_entries
from .fetch import sound_ones

if TYPE_CHECKING:
    from .core import Core


def compact(core: "Core") -> None:
    """Copy live documents into a new generation with a graph of its own."""
    state = core.publisher.follow()
    if state.head.n_live == state.n:  # documents may have become smaller
        core.store.give_back()
        return
    live = np.flatnonzero(state.live)
    with Progress("copying", len(live)) as progress:
        prepared = core.store.begin_compaction(live, progress)
    assert state.data is not None, "something was deleted"
    words = np.ascontiguousarray(state.data.words[: state.n][state.live])
    _finish(core, prepared, words, state.data.quantizer, state.data.missed)


def erase(core: "Core") -> None:
    """Erase deleted rows from the catalogue; warn where the disk is too full for that."""
    try:
        core.store.erase()
        erase_entries(core.store.folder, core.store.is_alone)
    except StorageError as error:
        core.store.check_place()
        warnings.warn(
            f"deleted texts may still stand in {core.store.folder}: {error}. Make room, and call compact() again",
            RuntimeWarning,
            stacklevel=2,
        )


def recode(
    core: "Core",
    quantizer: Quantizer,
    settings: dict[str, Any],
    other: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
    dim: int | None = None,
    link_later: bool = False,
) -> None:
    """Make all codes anew, in a new generation with a graph of its own and without deleted documents.

    ``other`` gives new vectors for rids, of ``dim`` dimensions, to replace the originals. Without it, raises
    StorageError where no originals are kept. ``link_later``: the graph is linked after the commit, in the background;
    until then codes are scanned.
    """
    state = core.publisher.follow()
    live = np.flatnonzero(state.live)
    words = np.empty((len(live), quantizer.words), np.uint64)
    done = 0

    def encode(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
        nonlocal done
        codes = quantizer.encode_all(vectors, core.workers)
        words[done : done + len(codes)] = codes
        done += len(codes)
        return codes

    with Progress("encoding", len(live)) as progress:
        how = Recode(settings, quantizer.parameters, encode, other, dim)
        prepared = core.store.begin_compaction(live, progress, how)
    originals = other and (lambda slots: other(state.rids[live[slots]]))
    _finish(core, prepared, words, quantizer, other=originals, link_later=link_later)


def _finish(
    core: "Core",
    prepared: Compaction,
    words: NDArray[np.uint64],
    quantizer: Quantizer,
    missed: int = 0,
    other: Originals | None = None,
    link_later: bool = False,
) -> None:
    """Link the codes of a generation to come, and commit it; or link after the commit, as others wait to write.

    ``other`` gives its vectors, if they are new.
    """
    builder, vectors = core.graph.builder, prepared.flat.vectors
    try:
        hold = None if other is None else builder.to_hold(other, prepared.new)
        graph = builder.empty() if link_later else builder.graph_of(words, quantizer, sound_ones(vectors), missed)
        if vectors is not None:  # without address space this fails here, and not in each search after the commit
            vectors.view(len(words))
    except BaseException:
        core.store.discard_compaction(prepared)
        raise
    head = core.store.commit_compaction(prepared)
    builder.adopt(graph, head.generation, head.settings.get("missed_by_walks", 0))
    if hold is not None:
        hold()
    if link_later:
        core.graph.link_later()
