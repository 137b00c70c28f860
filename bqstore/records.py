"""`Records`: what a record manager has written of which documents, kept and committed with the documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from .arguments import check_bool, check_int, check_real, checked_keywords, counted, items, short_text, type_of
from .engine import records
from .engine.engine import Engine
from .errors import InvalidInputError
from .results.hits import Record
from .storage.record_table import SECOND

_LATEST: Final = 1 << 62


class Records:
    """What a record manager, such as LangChain's, has written of which documents. From `Collection.records`.

    A record has a key, which is the id of a document, perhaps a group, such as its source, and the time of the commit
    that wrote it, later than that of every record before. Records are in the file of the documents: one that is
    expected is written in the commit of its document, and one whose document is deleted goes in the same commit.

    >>> import bqstore
    >>> col = bqstore.open()
    >>> records = col.records("files")
    >>> records.expect(["1", "2"], lambda document: document.metadata["source"])
    >>> _ = col.add([[1, 0], [0, 1]], ["1", "2"], metadatas=[{"source": "a.txt"}, {"source": "b.txt"}])
    >>> records.keys(), records.keys(groups=["b.txt"])
    (['1', '2'], ['2'])
    """

    def __init__(self, *given: Any) -> None:
        if len(given) != 4 or not isinstance(given[0], Engine):
            raise InvalidInputError("Records is not made directly; use Collection.records(namespace)")
        engine, namespace, earlier, self._collection = given  # which would close at its end
        self._given = namespace, earlier
        spaces = None if earlier is None else tuple(short_text(each, "earlier") for each in items(earlier, "earlier"))
        if spaces is not None and len(spaces) != 2:
            raise InvalidInputError(f"earlier has {counted(len(spaces), 'entry')}; expected two spaces of KeyValues")
        self._engine: Engine = engine
        self._engine.check()
        self._records = records.Records(engine, short_text(namespace, "namespace", 1), spaces)
        self._is_right: bool | None = None  # whether groups are as guessed (True), or none is told (False)
        self._met: set[str] | None = None  # keys of metadata whose values were the guesses, of all documents
        self._proven: set[str] | None = None  # those that told groups can be of, as far as they were told

    @checked_keywords
    def exist(self, keys: Sequence[str], *, documents: bool = False) -> list[bool]:
        """Which of the keys have a record; with ``documents=True``, a record and a document.

        >>> records.exist(["1", "3"])
        [True, False]
        """
        wanted = _keys(keys)
        self._engine.check()
        found = set(self._records.find(wanted))
        if documents:
            found = self._records.documents([key for key in dict.fromkeys(wanted) if key in found])
        return [key in found for key in wanted]

    @checked_keywords
    def expect(self, keys: Sequence[str], group_of: Callable[[Record], str | None], *, certain: bool = False) -> None:
        """Write the records of documents with these ids in the commit that adds them. Nothing is written now.

        It is remembered in this process, for the last 50,000 keys at least.

        Parameters
        ----------
        group_of : function     of a `Record` without its vector, before the lock is taken: the group
        certain : bool          the groups are what `put` will tell. Else `put` writes the records of a first batch
                                again, and of documents where a key of the metadata that had the groups so far has
                                another value; `now` begins another one
        """
        wanted = _keys(keys)
        if not callable(group_of):
            raise InvalidInputError(f"group_of is {type_of(group_of)}; expected a function of a Record")
        is_certain = check_bool("certain", certain)
        self._engine.check()
        self._records.expect(wanted, lambda record: self._guessed(record, group_of, is_certain))

    def _guessed(
        self, record: Record, group_of: Callable[[Record], str | None], certain: bool
    ) -> tuple[str | None, bool]:
        """The group of a document, and whether it is a guess.

        Where guesses were right it is one still, if the keys that groups can be of have several values here.
        """
        if self._is_right is False and not certain:
            return None, False
        group = _group(group_of(record))
        if certain:
            return group, False
        names = {name for name, value in record.metadata.items() if _is_text(value, group)}
        if names:
            self._met = names if self._met is None else self._met & names
        if self._proven is None:
            return group, not (self._is_right and group is None)
        return group, not (self._is_right and self._proven and names >= self._proven)

    @checked_keywords
    def put(
        self,
        keys: Sequence[str],
        groups: Sequence[str | None] | None = None,
        *,
        not_before: float | None = None,
    ) -> None:
        """Write records, durably, all or none, with the time of now. Without groups those that there are keep theirs.

        Parameters
        ----------
        groups : list of str or None    one for each key
        not_before : float              a time: records that are not older, and whose groups are these, stay as they
                                        are, so that there may be nothing to write

        Raises
        ------
        InvalidInputError       something cannot be stored, or it is not yet ``not_before``

        >>> records.put(["1", "9"], ["c.txt", None])
        >>> records.keys(groups=["c.txt"])
        ['1']
        """
        wanted = _keys(keys)
        parts = None if groups is None else [_group(each) for each in items(groups, "groups")]
        if parts is not None and len(parts) != len(wanted):
            raise InvalidInputError(f"groups has {counted(len(parts), 'entry')} for {counted(len(wanted), 'key')}")
        least = _time("not_before", not_before)
        self._engine.check(writing=True)
        told = self._records.put(wanted, parts, least)
        if told is None:
            raise InvalidInputError(
                f"not_before is {not_before!r}, and the clock of this machine is behind it: nothing was written; see "
                "to the clocks of all machines that write"
            )
        if told.others_differ:
            self._is_right = None
        elif told.guessed:
            right = all(guess == group for guess, group in told.guessed)
            nothing = all(group is None for _, group in told.guessed)
            self._is_right = True if right else False if nothing else None
            if right:
                self._proven = self._met
        if self._is_right is None:
            self._met = None

    @checked_keywords
    def delete(self, keys: Sequence[str]) -> int:
        """Delete records, durably; how many there were.

        >>> records.delete(["9", "unknown"])
        1
        """
        wanted = _keys(keys)
        self._engine.check(writing=True)
        return self._records.delete(wanted)

    @checked_keywords
    def keys(
        self,
        *,
        groups: Sequence[str] | None = None,
        before: float | None = None,
        after: float | None = None,
        guessed: bool = False,
        limit: int | None = None,
    ) -> list[str]:
        """Keys in their order.

        Parameters
        ----------
        groups : list of str        only those in one of these groups
        before, after : float       only those written before, or after, this time; not at it
        guessed : bool              only those whose groups were guessed and not told: of a run that has not ended
        limit : int                 at most so many

        >>> records.keys(groups=["b.txt"], before=records.now())
        ['2']
        """
        given = None if groups is None else items(groups, "groups")
        names = None if given is None else [short_text(each, f"group {i}") for i, each in enumerate(given)]
        most = None if limit is None else check_int("limit", limit, 0, _LATEST)
        times, begun = (_time("before", before), _time("after", after)), check_bool("guessed", guessed)
        self._engine.check()
        return self._records.list_keys(names, *times, begun, most)

    def now(self) -> float:
        """The time, in seconds since 1970: later than that of every record, even where a clock was set back.

        >>> records.put(["9"])
        >>> records.keys(before=records.now())
        ['1', '2', '9']
        """
        self._engine.check()
        self._is_right = self._met = self._proven = None
        return self._records.now() / SECOND

    def __copy__(self) -> Records:
        """Return the object itself."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Records:
        """Return the object itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the collection, which is opened again where it arrives. What is expected stays here."""
        return _again, (self._collection, *self._given)


def _again(collection: Any, namespace: str, earlier: Sequence[str] | None) -> Records:
    records: Records = collection.records(namespace, earlier=earlier)
    return records


def _is_text(value: object, group: str | None) -> bool:
    """Whether it is what a group was made of."""
    return group is not None and (value == group or (isinstance(value, (int, float)) and str(value) == group))


def _time(name: str, at: float | None) -> int | None:
    if at is None:
        return None
    seconds = check_real(name, at, "a number of seconds since 1970")
    return round(min(max(seconds * SECOND, -_LATEST), _LATEST))


def _keys(keys: object) -> list[str]:
    return [short_text(key, f"key {i}", 1) for i, key in enumerate(items(keys, "keys"))]


def _group(group: object) -> str | None:
    return None if group is None else short_text(group, "a group")
