"""`open_key_values`: keys and values in the folder of a collection, for what belongs to its documents."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, Final

from .arguments import (
    check_bool,
    check_int,
    check_mode,
    check_real,
    check_seconds,
    checked_keywords,
    counted,
    items,
    short_text,
    type_of,
)
from .errors import InvalidInputError
from .paths import absolute, tell_of_another_mode
from .storage import key_value_tables as tables
from .storage.folders import collection_folder
from .storage.key_value_tables import Entry
from .storage.key_values import EntryFile
from .storage.open_key_values import open_key_values as open_entries

MAX_VALUE_BYTES: Final = 500_000_000


@checked_keywords
def open_key_values(
    path: str | PathLike[str] | None = None,
    collection: str = "default",
    *,
    read_only: bool = False,
    lock_timeout: float = 30.0,
    mode: int | None = None,
) -> KeyValues:
    """Open the keys and values that are kept with a collection, or begin with none.

    They are in the collection's folder, in a file of their own; the collection need not be there yet. Any number of
    threads and processes may have them open, and write, while the collection is open or not. `Collection.backup`,
    `verify` and `save`, `bqstore.copy`, `rename`, `drop` and `repair` take them along with the documents;
    `Collection.clear` leaves them alone, and `load` leaves them on disk.

    Parameters
    ----------
    path : str or path      folder of the store, made if missing; None keeps them in memory
    collection : str        the collection that they belong to
    read_only : bool        write nothing and take no lock; follow what others write
    lock_timeout : float    seconds to wait while another process writes: at opening, and before each write
    mode : int              permissions of folders that are made, as in `open`

    Raises
    ------
    NotFoundError           ``read_only=True``, and there are none
    LockedError             another process has written, or kept the lock, for ``lock_timeout`` seconds
    CorruptionError, FormatVersionError, StorageError
                            they cannot be read; nothing was changed

    >>> import bqstore
    >>> with bqstore.open_key_values("my-store") as pages:
    ...     at = pages.put({"page 1": b"...", "page 2": b"..."})
    >>> with bqstore.open_key_values("my-store") as pages:
    ...     pages.get(["page 2", "page 3"])
    [b'...', None]
    """
    read_only, timeout = check_bool("read_only", read_only), check_seconds("lock_timeout", lock_timeout)
    permissions = check_mode(mode)
    if path is None and read_only:
        raise InvalidInputError("read_only=True needs a path: what is in memory begins empty")
    where = None if path is None else absolute(path)
    folder = None if where is None else collection_folder(where, collection)
    entries = open_entries(folder, read_only, timeout, permissions)
    if mode is not None and folder is not None:
        tell_of_another_mode(folder, permissions)
    return KeyValues(
        entries,
        path=where and str(where),
        collection=collection,
        read_only=read_only,
        lock_timeout=timeout,
        mode=mode,
    )


class KeyValues:
    """Keys and values of bytes, durable when a call returns. From `open_key_values`.

    Keys are in spaces, which have nothing to do with each other. A call is one commit: all of it is there or nothing.
    Closing is optional; with ``with`` it happens at once.

    >>> import bqstore
    >>> pages = bqstore.open_key_values("my-store")
    """

    def __init__(self, entries: EntryFile, **opening: Any) -> None:
        if not isinstance(entries, EntryFile) or "path" not in opening:
            raise InvalidInputError(
                "KeyValues is not made directly; use bqstore.open_key_values(path, collection, ...)"
            )
        self._entries, self._opening = entries, opening

    @checked_keywords
    def put(
        self,
        values: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
        space: str = "",
        *,
        groups: Sequence[str | None] | None = None,
        not_before: float | None = None,
    ) -> float:
        """Write values, durably, in the place of those with the same keys; the last of equal keys wins.

        Parameters
        ----------
        values : mapping, or pairs      keys of 1 to 1,024 bytes in UTF-8, and their values
        groups : list of str or None    one for each value, to list keys by
        not_before : float              write only if the time of the commit is at least this

        Returns
        -------
        float   the time of the commit, in seconds since 1970; later than that of every earlier one

        Raises
        ------
        InvalidInputError   something is no text, no bytes or too long, or it is not yet ``not_before``

        >>> at = pages.put({"a": b"one", "b": b"two"}, groups=["left", "right"])
        >>> pages.put([("a", b"three")]) > at
        True
        """
        named = _checked_space(space)
        pairs = list(values.items()) if isinstance(values, Mapping) else items(values, "values")
        parts = [None] * len(pairs) if groups is None else items(groups, "groups")
        if len(parts) != len(pairs):
            raise InvalidInputError(f"groups has {counted(len(parts), 'entry')} for {counted(len(pairs), 'value')}")
        least = _checked_time("not_before", not_before)
        entries = {}
        for i, (pair, part) in enumerate(zip(pairs, parts, strict=True)):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InvalidInputError(f"value {i} is {type_of(pair)}; expected a pair of key and value")
            key, group = short_text(pair[0], f"key {i}", 1), None if part is None else short_text(part, f"group {i}")
            entries[key] = Entry(named, key, group, 0.0, _checked_value(pair[1], i))
        at = self._entries.put(list(entries.values()), least)
        if at is None:
            raise InvalidInputError(
                f"not_before is {least!r}, and the clock of this machine is behind it: nothing was written; see to the "
                "clocks of all machines that write"
            )
        return at

    @checked_keywords
    def get(self, keys: Sequence[str], space: str = "") -> list[bytes | None]:
        """The values of keys, None where there is none.

        >>> _ = pages.put({"a": b"one"})
        >>> pages.get(["a", "z"])
        [b'one', None]
        """
        wanted, named = _checked_keys(keys), _checked_space(space)
        found = self._entries.read(lambda connection, name: tables.find(connection, named, wanted, name))
        return [found.get(key) for key in wanted]

    @checked_keywords
    def exist(self, keys: Sequence[str], space: str = "") -> list[bool]:
        """Which of the keys there are.

        >>> _ = pages.put({"a": b"one"})
        >>> pages.exist(["a", "z"])
        [True, False]
        """
        wanted, named = _checked_keys(keys), _checked_space(space)
        found = self._entries.read(lambda connection, name: tables.present(connection, named, wanted, name))
        return [key in found for key in wanted]

    @checked_keywords
    def delete(self, keys: Sequence[str], space: str = "") -> int:
        """Delete keys, durably; how many there were.

        >>> _ = pages.put({"a": b"one"})
        >>> pages.delete(["a", "z"])
        1
        """
        wanted, named = _checked_keys(keys), _checked_space(space)
        return self._entries.delete(named, list(dict.fromkeys(wanted)))

    @checked_keywords
    def keys(
        self,
        space: str = "",
        *,
        prefix: str = "",
        groups: Sequence[str] | None = None,
        before: float | None = None,
        after: float | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """The keys of a space, in order.

        Parameters
        ----------
        prefix : str                what they begin with
        groups : list of str        only those written with one of these groups
        before, after : float       only those written before, or after, this time; not at it
        limit : int                 at most so many

        >>> at = pages.put({"b": b"two", "a": b"one"}, groups=["left", None])
        >>> pages.keys(), pages.keys(groups=["left"]), pages.keys(before=at)
        (['a', 'b'], ['b'], [])
        """
        named, begin = _checked_space(space), short_text(prefix, "prefix")
        given = None if groups is None else items(groups, "groups")
        names = None if given is None else [short_text(each, f"group {i}") for i, each in enumerate(given)]
        end, start = _checked_time("before", before), _checked_time("after", after)
        most = None if limit is None else check_int("limit", limit, 0, 1 << 62)
        return self._entries.read(
            lambda connection, name: tables.list_keys(connection, named, name, begin, names, end, start, most)
        )

    @checked_keywords
    def items(self, space: str = "", *, prefix: str = "") -> list[tuple[str, bytes]]:
        """Keys and values of a space, in the order of the keys, of one commit.

        >>> _ = pages.put({"b": b"two", "a": b"one"})
        >>> pages.items()
        [('a', b'one'), ('b', b'two')]
        """
        named, begin = _checked_space(space), short_text(prefix, "prefix")
        found = self._entries.read(lambda connection, name: tables.all_of(connection, named, begin, name))
        return list(found.items())

    def now(self) -> float:
        """The time, in seconds since 1970: later than every commit so far, even where a clock was set back.

        >>> pages.put({"a": b"one"}) < pages.now()
        True
        """
        return self._entries.now()

    def close(self) -> None:
        """Give back the files. Closing twice is fine.

        >>> pages.close()
        """
        self._entries.close()

    def __enter__(self) -> KeyValues:
        return self

    def __copy__(self) -> KeyValues:
        """Return the object itself: it has one set of files."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> KeyValues:
        """Return the object itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the folder and how it was opened, to open it there again."""
        if self._opening["path"] is None:
            raise InvalidInputError("keys and values in memory cannot be pickled; keep them in a folder: path=")
        return partial(open_key_values, **self._opening), ()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # given as a default, as the module's names may be gone at the end of a program
        if hasattr(self, "_entries") and not ending():
            self._entries.close()


def _checked_space(space: object) -> str:
    return short_text(space, "space")


def _checked_time(name: str, at: float | None) -> float | None:
    return None if at is None else check_real(name, at, "a number of seconds since 1970")


def _checked_keys(keys: object) -> list[str]:
    return [short_text(key, f"key {i}", 1) for i, key in enumerate(items(keys, "keys"))]


def _checked_value(value: Any, i: int) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        hint = ": encode it first" if isinstance(value, str) else ""
        raise InvalidInputError(f"value {i} is {type_of(value)}; expected bytes{hint}")
    size = memoryview(value).nbytes
    if size > MAX_VALUE_BYTES:  # before it is copied
        raise InvalidInputError(f"value {i} has {size:,} bytes; expected at most {MAX_VALUE_BYTES:,}")
    return bytes(value)
