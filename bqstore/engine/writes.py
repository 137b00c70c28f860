"""The writes of a collection: what is checked already becomes rows, records and codes.

Each is one commit, but for adds of several threads at a time, which are one (`group_commit.py`).
"""

import inspect
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import numpy as np
from numpy.typing import NDArray

from .. import tracing
from ..arguments import counted
from ..errors import BqstoreError
from ..metadata.documents import with_metadata
from ..metadata.filter_tree import Tree
from ..results.outcomes import AddResult, Skipped
from ..storage import Row, Rows
from ..validate import check_dim
from . import fetch, maintenance
from .embedding_model import refuse_older
from .group_commit import Adding, distinct, joined

P = ParamSpec("P")
_LOG: Final = logging.getLogger("bqstore")
_SMALL: Final = 100  # documents of an add that waits without a thread, at most
_MUCH: Final = 10_000  # documents in memory, of which a word is said

if TYPE_CHECKING:
    from .core import Core
    from .engine import Engine


def in_two_parts(prepare: Callable[P, "Add"]) -> Callable[P, AddResult]:
    """Make a call of one that prepares an `Add`. Its attribute ``prepare`` is that one, for event loops."""

    @wraps(prepare)
    def call(*args: P.args, **kwargs: P.kwargs) -> AddResult:
        return prepare(*args, **kwargs).finish()

    call.__signature__ = inspect.signature(prepare).replace(return_annotation="AddResult")  # type: ignore[attr-defined]
    call.__annotations__ = {**prepare.__annotations__, "return": AddResult}
    call.prepare = prepare  # type: ignore[attr-defined]
    return call


class Add:
    """Documents to be added, or to replace those whose ids exist, checked and encoded; of equal ids the last counts.

    Codes are made before the lock is taken, as far as it is known how. ``skipped`` is what was left out.
    """

    def __init__(
        self, engine: "Engine", vectors: NDArray[np.float32], rows: Rows, skipped: Sequence[Skipped] = ()
    ) -> None:
        head = engine.store.head
        by = engine.encoder.encode(vectors)
        self.engine, self._ids, self._skipped = engine, rows.ids, skipped
        self._end = time.monotonic() + engine.lock_timeout
        vectors, rows, codes = distinct(vectors, rows, by[1])
        made_for, records = (head.settings["embedding_model"], head.generation), engine.core.expected.of(rows)
        self.mine = Adding(vectors, rows, by[0], codes, made_for, records)

    @property
    def may_wait(self) -> bool:
        """Whether it may wait for others without a thread: it is small, as it keeps its vectors meanwhile."""
        return 0 < len(self._ids) <= _SMALL and self.engine.core.group.has_room(len(self.mine.rows.ids))

    def waiting(self, is_awaited: Callable[[], bool]) -> AbstractContextManager[None]:
        """Within it others may commit these documents along with theirs, as long as somebody awaits it."""
        self.mine.is_awaited = is_awaited
        return self.engine.core.group.listed(self.mine)

    def give_up(self) -> None:
        """Never commit these documents, unless a commit of them has begun."""
        self.mine.is_over = True

    def finish(self) -> AddResult:
        """Commit them, unless others have; then they are durable and can be found."""
        if self._ids:
            with tracing.span("add", self.engine, len(self._ids)):
                self._commit()
        return self.result()

    def _commit(self) -> None:
        """Commit them, with those of other threads, unless one of these does it.

        When it is time to choose the encoding, or to choose it again, that is a second commit: should it fail, what was
        added stands, and a warning says so.
        """
        engine, core = self.engine, self.engine.core
        core.group.add(self.mine, self._write, max(0.0, self._end - time.monotonic()))
        if engine.encoder.due:
            try:
                engine.recode(engine.encoder.renew)
            except (BqstoreError, MemoryError) as error:  # what was added is durable, and found all the same
                reason = str(error) or "out of memory"
                message = f"codes stay as they are, and were not chosen anew: {reason}. The next add() does it"
                warnings.warn(message, RuntimeWarning, stacklevel=4)
        core.keeper.written(engine.target_recall, engine.hnsw.full_scan_threshold)
        keep_misses(engine)

    def _write(self) -> None:
        core, mine = self.engine.core, self.mine
        commit, after = (lambda: _commit(core, mine)), core.graph.after_write
        timeout = max(0.0, self._end - time.monotonic())
        core.publisher.write(commit, after, timeout, lambda: mine.committed or mine.is_over)

    def result(self) -> AddResult:
        """What `finish` returns; of documents that are committed."""
        added, replaced = len(self.mine.rows.ids), self.mine.replaced
        if replaced or len(self._ids) > added:
            _LOG.info(
                "added %s, %d of them in the place of others with their ids; %d had the id of a later one in the same "
                "call",
                counted(added, "document"),
                replaced,
                len(self._ids) - added,
            )
        if self.engine.path is None:
            _tell_of_memory(self.engine)
        return AddResult(self._ids, replaced, self._skipped)


def keep_misses(engine: "Engine") -> None:
    """Store that walks miss too many, or no longer do, for those who have codes alone to find it out with."""
    store, builder = engine.store, engine.core.graph.builder
    missed = builder.untold(store.head)
    if missed is None:
        return

    def put() -> None:
        store.put_settings({**store.head.settings, "missed_by_walks": missed}, store.head.dim)
        builder.told(missed)

    with suppress(BqstoreError, MemoryError):  # what was added is durable; the next call tries again
        engine.write(put)


def _tell_of_memory(engine: "Engine") -> None:
    """Say once that much is kept in memory alone: a path may have been forgotten."""
    n = engine.store.head.n_live
    known, engine.core.known_in_memory = engine.core.known_in_memory, n  # all that share a commit come here
    if known < _MUCH <= n:
        _LOG.warning(
            "%d documents are in memory alone, and gone when the process ends; save(path) keeps them, and "
            "bqstore.open(path) a store on disk",
            n,
        )


def _commit(core: "Core", mine: Adding) -> None:
    """Commit a thread's documents, and with them those of others that wait and may come along; under the lock."""
    together = core.group.companions(mine, is_first=core.store.head.n_live == 0)
    if not together:
        return  # its caller has been cancelled meanwhile
    vectors, rows, codes = joined(together)
    refuse_older(*mine.made_for, core.store.head)
    check_dim(vectors.shape[1], core.store.head.dim, "vector 0")  # another thread may have settled it
    by = mine.quantizer if len(codes) else None
    codes, coding = core.encoder.settled(vectors, by, codes)  # may be a commit itself
    seq = core.store.head.seq
    there = None
    if "expires" in core.store.head.settings:
        there = {row.id for row in _rows_by_id(core, rows.ids)}
    records = [record for each in together for record in each.records]
    try:
        core.store.append(rows, vectors, codes, coding, records)
    finally:
        if core.store.head.seq > seq and core.store.sound:  # also where an interrupt came behind the commit
            core.group.are_committed(together)
            core.expected.forget(records)
            core.graph.builder.hold(vectors, core.store.head)
            found = set(core.store.replaced if there is None else core.store.replaced & there)
            for each in together if found or len(rows.ids) < sum(len(each.rows.ids) for each in together) else ():
                each.replaced = len(found.intersection(each.rows.ids))
                found.update(each.rows.ids)


def update_matching(
    engine: "Engine", ids: Sequence[str] | None, tree: Tree, metadata: Mapping[str, Any], replace: bool
) -> int:
    """Merge metadata over that of the documents that match a filter, and have one of the ids; returns how many."""

    def rewrite() -> int:
        publisher = engine.publisher
        state, found = engine.acceptor.accepted(publisher.seen_at_commit(publisher.follow()), tree)
        rids = state.rids[found.ordinals()].tolist()
        rows = engine.store.rows("rid", rids)
        if ids is not None:
            some = set(ids)
            rows = [row for row in rows if row.id in some]
        changed = [with_metadata(row, metadata, replace, f"metadata of document {row.id!r}") for row in rows]
        if changed:
            engine.store.rewrite(changed)
        return len(changed)

    return engine.write(rewrite)


def update(
    engine: "Engine",
    ids: Sequence[str],
    texts: Sequence[str | None],
    metadatas: Sequence[Mapping[str, Any] | None],
    vectors: NDArray[np.float32] | None,
    replace: bool,
) -> int:
    """Change parts of documents, each None left as it is; returns how many documents were changed."""
    core, store = engine.core, engine.store

    def change() -> int:
        rows = {row.id: row for row in _rows_by_id(core, ids)}
        last: dict[str, int] = {}
        for i, id_ in enumerate(ids):
            if id_ in rows:
                row, metadata, text = rows[id_], metadatas[i], texts[i]
                if metadata is not None:
                    row = with_metadata(row, metadata, replace, f"metadata {i}")
                rows[id_] = row if text is None else row._replace(text=text)
                last[id_] = i
        changed = [rows[id_] for id_ in last]
        if not changed:
            return 0
        if vectors is None:
            store.rewrite(changed)
            return len(changed)
        check_dim(vectors.shape[1], store.head.dim, "vector 0")
        some = np.ascontiguousarray(vectors[list(last.values())])
        columns = zip(*((row.id, row.text, row.metadata, row.private, row.ref_doc_id) for row in changed), strict=True)
        codes, coding = core.encoder.settled(some, None, np.zeros((0, 1), np.uint64))
        store.append(Rows(*map(list, columns)), some, codes, coding)
        core.graph.builder.hold(some, store.head)
        return len(changed)

    changed = engine.write(change)
    keep_misses(engine)
    return changed


def update_metadata(
    engine: "Engine", ids: Sequence[str], metadatas: Sequence[Mapping[str, Any] | None], replace: bool
) -> int:
    """Merge metadata over that of documents, or put it in its place; returns how many documents were changed."""

    def rewrite() -> int:
        rows = {row.id: row for row in _rows_by_id(engine.core, ids)}
        changed = {}
        for i, (id_, given) in enumerate(zip(ids, metadatas, strict=True)):
            if id_ in rows:
                rows[id_] = changed[id_] = with_metadata(rows[id_], given or {}, replace, f"metadata {i}")
        if changed:
            engine.store.rewrite(list(changed.values()))
        return len(changed)

    return engine.write(rewrite)


def expire(engine: "Engine") -> int:
    """Delete the expired documents; returns how many."""
    return engine.write(lambda: _bury_expired(engine)) if engine.publisher.current().expired else 0


def _bury_expired(engine: "Engine") -> int:
    seen = engine.publisher.seen_at_commit(engine.publisher.follow())
    if not seen.expired:
        return 0
    rids = seen.rids[: seen.n][engine.publisher.state.live & ~seen.live].tolist()
    engine.store.bury(rids)
    return len(rids)


def compact(engine: "Engine") -> None:
    """Give back the space of what is deleted, replaced or expired.

    All under the lock that was waited for once: nobody closes the collection, or has the lock for long, between a
    commit and what is left to do behind it.
    """

    def once() -> None:
        _bury_expired(engine)
        maintenance.compact(engine.core)
        maintenance.erase(engine.core)

    engine.write(once)


def _rows_by_id(core: "Core", ids: Sequence[str]) -> list[Row]:
    """The documents of the last commit with these ids, without expired ones; under the lock."""
    rows = core.store.rows("id", list(dict.fromkeys(ids)))
    if "expires" not in core.store.head.settings:
        return rows
    return fetch.present(core.publisher.seen_at_commit(core.publisher.follow()), rows)


def delete(engine: "Engine", ids: Sequence[str] | None, tree: Tree | None) -> int:
    """Delete the documents with these ids, or that match a filter, or both; returns how many."""

    def bury() -> int:
        state = engine.publisher.seen_at_commit(engine.publisher.follow())
        doomed = set() if ids is None else set(engine.store.rids_by_id(ids).values())
        if state.expired:
            doomed &= set(state.rids[: state.n][state.live].tolist())
        if tree is not None:
            state, found = engine.acceptor.accepted(state, tree)
            matching = set(state.rids[found.ordinals()].tolist())
            doomed = matching if ids is None else doomed & matching
        if doomed:
            engine.store.bury(sorted(doomed))
        return len(doomed)

    return engine.write(bury)
