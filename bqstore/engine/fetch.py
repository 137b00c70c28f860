"""Rows and vectors of ordinals, checked against the state that asks for them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RESTORE, CorruptionError, StorageError
from ..storage import Row, Store
from ..storage.files import RecordFile
from ..storage.format import damaged, vectors_of
from ..storage.reading import Block
from .recent_rows import Document
from .state import ChangedError, State

_SEED = 0x6271_7377


def rows(store: Store, state: State, ordinals: NDArray[Any]) -> dict[int, Row]:
    """The rows of ordinals; ChangedError if one was changed or deleted after the state's commit."""
    rids = state.rids[ordinals].tolist()
    try:
        found = {row.rid: row for row in store.rows("rid", rids)}
    except CorruptionError as error:
        raise _named(store, rids, error) from error
    out = {}
    for ordinal, rid in zip(ordinals.tolist(), rids, strict=True):
        row = found.get(rid)
        if row is None or row.seq > state.head.seq:
            raise ChangedError
        out[ordinal] = row
    return out


def documents(store: Store, state: State, ordinals: NDArray[Any]) -> list[Document]:
    """As `rows`, in the order of the ordinals, for the few of a search: rows read lately are not read again."""
    recent, rids = state.recent, state.rids[ordinals].tolist()
    known = recent.all(rids)
    if known is not None:
        return known
    found = [recent.get(rid) for rid in rids]
    missing = [ordinal for ordinal, document in zip(ordinals.tolist(), found, strict=True) if document is None]
    there = rows(store, state, np.array(missing, np.int64)) if missing else {}  # all may be about to be dropped
    read = iter([recent.keep(row) for row in there.values()])
    return [document or next(read) for document in found]


def present(state: State, rows: list[Row]) -> list[Row]:
    """The rows that are in a state, without those that have expired. The state must not be older than the rows."""
    if not state.expired:
        return rows
    places = state.ordinals(row.rid for row in rows)
    if len(places) < len(rows):
        raise ChangedError
    return [row for row, live in zip(rows, state.live[places].tolist(), strict=True) if live]


class DamagedError(CorruptionError):
    """Documents cannot be read; ``rids`` says which."""

    rids: frozenset[int]


def damaged_documents(message: str, rids: Iterable[int]) -> DamagedError:
    """The error for documents that cannot be read."""
    error = DamagedError(message)
    error.rids = frozenset(rids)
    return error


def _named(store: Store, rids: list[int], error: CorruptionError) -> CorruptionError:
    """The error of reading several rows, with the rids of the damaged ones; the same error where none of them is."""
    bad = []
    for rid in rids:
        try:
            store.rows("rid", [rid])
        except CorruptionError:
            bad.append(rid)
    return damaged_documents(str(error), bad) if bad else error


@contextmanager
def at_commit_of(store: Store, state: State, block: Block) -> Iterator[None]:
    """Within it reads by id see the state's commit or an older one; ChangedError if there is a newer commit already.

    An answer from a commit that is not published yet would be newer than the answer of the next search.
    """
    with store.snapshot(block) as seq:
        if seq > state.head.seq:
            raise ChangedError
        yield


def vectors(state: State, ordinals: NDArray[Any]) -> dict[int, NDArray[np.float32]]:
    """The originals of ordinals, float32 (dim,) each; CorruptionError if a record does not agree with its checksum."""
    if not len(ordinals):
        return {}
    assert state.data is not None and state.vectors is not None
    state.vectors.check_size(state.n)
    records = state.data.records[ordinals]
    bad = damaged(records)
    if bad.any():
        raise damaged_documents(
            f"record {int(ordinals[bad.argmax()]):,} of {state.vectors.name} does not agree with its checksum; "
            f"{RESTORE}",
            state.rids[ordinals[bad]].tolist(),
        )
    return dict(zip(ordinals.tolist(), vectors_of(state.vectors.layout, records), strict=True))


def vectors_of_rows(state: State, rows: list[Row]) -> dict[int, NDArray[np.float32]]:
    """The originals of rows by rid; ChangedError if the state is older than one of them."""
    rids = sorted(row.rid for row in rows)
    ordinals = state.ordinals(rids)
    if len(ordinals) < len(rids):
        raise ChangedError
    return dict(zip(rids, vectors(state, ordinals).values(), strict=True))


def sound_ones(file: RecordFile | None) -> Callable[[NDArray[np.int64]], NDArray[np.float32]] | None:
    """The function that reads originals of slots, float32 (at most n, dim); None if none are kept.

    Slots may lie anywhere. Damaged ones are left out: a search that needs them says so.
    """
    return None if file is None else partial(_sound_ones, file)


def _sound_ones(file: RecordFile, slots: NDArray[np.int64]) -> NDArray[np.float32]:
    found = [np.zeros((0, file.layout.dim), np.float32)]
    for at in range(len(slots)):
        with suppress(CorruptionError, StorageError):
            found.append(vectors_of(file.layout, file.read_checked(slots[at : at + 1])))
    return np.concatenate(found)


def sample(state: State, count: int) -> NDArray[np.float32]:
    """The originals of at most ``count`` live ordinals, float32 (m, dim); of more, a random part in their order."""
    live = np.flatnonzero(state.live)
    if len(live) > count:
        live = np.sort(np.random.default_rng(_SEED).choice(live, count, replace=False))
    found = list(vectors(state, live).values())
    return np.stack(found) if found else np.zeros((0, state.head.dim or 1), np.float32)
