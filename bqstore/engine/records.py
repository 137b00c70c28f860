"""The records that a record manager keeps of documents: expected, written in the commits of the documents, and told.

LangChain's `index()` asks which keys there are, adds documents, and tells the sources of the records only then. What it
asked for and is not there is expected: the document's own commit writes its record, with the source as far as it can be
guessed. So what is told afterwards seldom differs, and what does not differ is no commit.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from ..metadata.documents import record_of
from ..results.hits import Record
from ..storage import Rows, record_table
from ..storage import key_value_tables as tables
from ..storage.open_key_values import entries_of, open_key_values
from ..storage.reading import Block
from ..storage.record_table import SECOND, Connection, KeyRecord
from .fetch import at_commit_of
from .state import State

if TYPE_CHECKING:
    from .engine import Engine

T = TypeVar("T")
GroupOf = Callable[[Record], tuple[str | None, bool]]  # and whether it is a guess, which will be told
_MOST: Final = 100_000  # ids that are expected; a document that is forgotten gets its record when that is told


class Expected:
    """Ids of documents that are about to be added, and how their groups are told. Nothing of it is on disk."""

    def __init__(self) -> None:
        self._by_id: dict[str, dict[str, GroupOf]] = {}

    def announce(self, namespace: str, keys: Iterable[str], group_of: GroupOf) -> None:
        """Expect documents."""
        if len(self._by_id) >= _MOST:  # before: all of these are expected, however many
            for key in list(self._by_id)[: -_MOST // 2]:
                self._by_id.pop(key, None)
        for key in keys:
            self._by_id[key] = {**self._by_id.pop(key, {}), namespace: group_of}  # the newest is the last

    def of(self, rows: Rows) -> list[KeyRecord]:
        """The records of those rows that are expected."""
        if not self._by_id:  # as in most collections: it costs an add nothing
            return []
        found = []
        for row in rows.numbered(0, 0):
            for namespace, group_of in list(self._by_id.get(row.id, {}).items()):
                group, is_guess = group_of(record_of(row))
                found.append(KeyRecord(namespace, row.id, group, begun=int(is_guess)))
        return found

    def forget(self, records: Iterable[KeyRecord]) -> None:
        """They have their records now."""
        for record in records:
            left = self._by_id.pop(record.key, {})
            if others := {name: each for name, each in left.items() if name != record.namespace}:
                self._by_id[record.key] = others  # announced meanwhile


class Told(NamedTuple):
    """What was known when groups were told: of records that were begun, and of others."""

    guessed: list[tuple[str | None, str | None]]  # group as guessed, and as told
    others_differ: bool


class Records:
    """The records of one namespace.

    ``earlier``: two spaces of keys and values where earlier releases have kept them, the second with keys that were
    noted before their documents were added.
    """

    def __init__(self, engine: "Engine", namespace: str, earlier: tuple[str, str] | None) -> None:
        self.engine, self.namespace = engine, namespace
        self._earlier = earlier
        if earlier is not None and not engine.store.read_only:
            self._move(earlier)
            self._earlier = None

    # ---- reading

    def find(self, keys: Sequence[str]) -> dict[str, KeyRecord]:
        """The records of those keys that have one."""
        found = self._in_earlier()
        return {key: found[key] for key in keys if key in found} | self._known(keys)

    def documents(self, ids: Sequence[str]) -> set[str]:
        """Those ids that documents have."""
        engine = self.engine

        def answer(state: State) -> set[str]:
            with Block() as block, at_commit_of(engine.store, state, block):
                rids = engine.store.rids_by_id(ids)
                live = state.live[state.ordinals(rids.values())].tolist()
                return {id_ for id_, is_live in zip(rids, live, strict=True) if is_live}

        return engine.publisher.whole(answer) if ids else set()

    def list_keys(
        self, groups: Sequence[str] | None, before: int | None, after: int | None, begun: bool, limit: int | None
    ) -> list[str]:
        """Keys in their order; see `record_table.list_keys`."""

        def listed(connection: Connection, name: str) -> list[str]:
            return record_table.list_keys(connection, self.namespace, name, groups, before, after, begun, limit)

        some = set() if groups is None else set(groups)
        earlier = {
            key
            for key, each in self._in_earlier().items()
            if (groups is None or each.group in some)
            and (each.begun or not begun)
            and (before is None or each.time < before)
            and (after is None or each.time > after)
        }
        found = self._read(listed, list[str]())
        return sorted(earlier.union(found))[:limit] if earlier else found

    def now(self) -> int:
        """The time in microseconds, later than that of every record, whatever the clocks say."""
        earlier = [each.time + 1 for each in self._in_earlier().values()]
        at = self._read(lambda connection, name: record_table.now(connection, self.namespace), record_table.clock())
        return max([at, *earlier])

    def _read(self, answer: Callable[[Connection, str], T], without: T) -> T:
        """What a function reads from the last commit; ``without`` where there is no table yet."""
        store = self.engine.store
        if not store.head.settings.get("records"):
            return without
        with store.connection() as connection:
            return answer(connection, store.catalogue.name)

    def _known(self, keys: Sequence[str]) -> dict[str, KeyRecord]:
        def found(connection: Connection, name: str) -> dict[str, KeyRecord]:
            return record_table.find(connection, self.namespace, keys, name)

        return self._read(found, dict[str, KeyRecord]())

    # ---- writing

    def expect(self, keys: Iterable[str], group_of: GroupOf) -> None:
        """Write the records of documents with these ids when they are added."""
        self.engine.core.expected.announce(self.namespace, keys, group_of)

    def put(self, keys: Sequence[str], groups: Sequence[str | None] | None, least: int | None) -> Told | None:
        """Write what differs: groups that are others, times before ``least``; all where that is None.

        Without groups those that there are stay, guesses as guesses. None, and nothing is written, if the time is
        before ``least``.
        """
        asked = dict(zip(keys, [None] * len(keys) if groups is None else groups, strict=True))

        def differing() -> tuple[Told, list[KeyRecord]]:
            known = self.find(list(asked))
            new, guessed, others = [], [], False
            for key, group in asked.items():
                old = known.get(key)
                if old is not None and groups is None:
                    record = old._replace(time=0)
                else:
                    record = KeyRecord(self.namespace, key, group)
                if old is not None and groups is not None and old.begun:
                    guessed.append((old.group, group))
                others |= old is not None and groups is not None and not old.begun and old.group != group
                if old is None or least is None or old.time < least or record._replace(time=old.time) != old:
                    new.append(record)
            return Told(guessed, others), new

        def write() -> Told | None:
            told, new = differing()
            if new and least is not None and self.now() < least:
                return None
            if new:
                self.engine.store.change_records(lambda connection: record_table.write(connection, new))
            return told

        before, new = differing()  # most often there is nothing to write, and so no lock to take
        return before if not new or self.engine.write(write) is not None else None

    def delete(self, keys: Sequence[str]) -> int:
        """Delete records; how many there were."""

        def write() -> int:
            found = self.find(keys)
            if found:
                self.engine.store.change_records(
                    lambda connection: record_table.remove(connection, self.namespace, found), len(found)
                )
            return len(found)

        return self.engine.write(write) if self.find(keys) else 0

    # ---- of earlier releases

    def _in_earlier(self) -> dict[str, KeyRecord]:
        """What is there still. It is read before the table, so that what is moved meanwhile is in one of them."""
        if self._earlier is None:
            return {}
        whole, noted = self._earlier
        with entries_of(self.engine.store.folder) as entries:
            if entries is None:
                return {}
            found = [
                KeyRecord(self.namespace, key, group, round(at * SECOND), begun)
                for begun, space in ((1, noted), (0, whole))
                for key, group, at in entries.read(partial(tables.times_of, space))
            ]
        return {record.key: record for record in found}

    def _move(self, earlier: tuple[str, str]) -> None:
        """Move them into the collection's own file: first one commit there, then one that deletes them.

        What a kill leaves in both is not moved again. Keys that were noted and never added are left out.
        """
        engine = self.engine
        if not self._in_earlier():
            return

        def write() -> dict[str, KeyRecord]:
            found = self._in_earlier()  # under the lock: what another has moved meanwhile may be deleted already
            added = engine.store.rids_by_id([key for key, record in found.items() if record.begun])
            known = self._known(list(found))
            new = [each for key, each in found.items() if key not in known and (not each.begun or key in added)]
            if new:
                engine.store.change_records(lambda connection: record_table.write(connection, new))
            return found

        found = engine.write(write)
        assert engine.store.folder is not None
        with closing(open_key_values(engine.store.folder, False, engine.lock_timeout)) as entries:
            for space in earlier:
                entries.delete(space, list(found))
