"""The words of the rows' texts: an FTS5 index of SQLite in `meta.db`, which keeps no second copy of the texts.

It changes in the transactions that change the rows, by statements here that the writers call. Triggers would be code in
a file that may be anybody's, which our connections do not run, and would index a text again whenever its metadata
changes. To remove a row FTS5 must be given the text that it has indexed, so `forget` comes before the row changes, and
`take` after it.

An index of existing rows is built in portions, each one commit. Meanwhile it covers the rows before ``built`` and those
from ``until`` on, the first rid that was free when the build began; it is not searched before it is complete.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import CorruptionError, InvalidInputError, StorageError

Connection = sqlite3.Connection  # as `engine` names it
TOKENIZERS: Final = {
    "unicode61": "unicode61 remove_diacritics 2",
    "porter": "porter unicode61 remove_diacritics 2",
    "trigram": "trigram",
}
TABLES_VERSION: Final = 2  # `user_version` of a catalogue that has this index: older releases refuse it
_PARTS: Final = frozenset({"words_config", "words_data", "words_docsize", "words_idx"})  # tables that FTS5 makes
_COVERED: Final = "text IS NOT NULL AND (rid < {0.built} OR rid >= {0.until})"
_PORTION, _PORTION_LENGTH = 1000, 1 << 20  # rows, and characters, that are indexed in one commit of a build
_IN_SQL: Final = 4000  # rids that a statement lists


@dataclass(frozen=True)
class TextIndex:
    """What the settings say of the index.

    Parameters
    ----------
    tokenize : str          a key of `TOKENIZERS`
    built, until : int      rids from ``built`` on and before ``until`` are not indexed yet; equal: all are
    """

    tokenize: str
    built: int = 0
    until: int = 0

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "TextIndex | None":
        """The index of a collection with these settings; None if it has none. Raises CorruptionError."""
        given = settings.get("text_index")
        if given is None:
            return None
        try:
            found = cls(**given)
            numbers = [found.built, found.until]
            good = found.tokenize in TOKENIZERS and all(type(each) is int and 0 <= each < 1 << 62 for each in numbers)
        except TypeError:
            good = False
        if not good or found.built > found.until:
            raise CorruptionError(f"text_index={given!r} is not known to this format")
        return found

    @property
    def is_whole(self) -> bool:
        """Whether every text is indexed."""
        return self.built == self.until

    def stored(self) -> dict[str, Any]:
        """As in the settings."""
        out: dict[str, Any] = {"tokenize": self.tokenize}
        return out if self.is_whole else {**out, "built": self.built, "until": self.until}

    # ---- with the rows

    def forget(self, connection: sqlite3.Connection, rids: Iterable[int]) -> None:
        """Forget rows, which must still be as they were indexed."""
        connection.executemany(
            f"INSERT INTO words (words, rowid, text) SELECT 'delete', rid, text FROM rows WHERE rid = ? AND "  # noqa: S608
            f"{_COVERED.format(self)}",
            ((rid,) for rid in rids),
        )

    def take(self, connection: sqlite3.Connection, rids: Iterable[int]) -> None:
        """Index rows as they are now."""
        connection.executemany(f"{self._taking} AND rid = ?", ((rid,) for rid in rids))

    def take_since(self, connection: sqlite3.Connection, rid: int) -> None:
        """Index the rows from a rid on."""
        connection.execute(f"{self._taking} AND rid >= ?", (rid,))

    @property
    def _taking(self) -> str:
        return f"INSERT INTO words (rowid, text) SELECT rid, text FROM rows WHERE {_COVERED.format(self)}"  # noqa: S608

    # ---- whole

    def create(self, connection: sqlite3.Connection) -> None:
        """Make the table, empty. Raises StorageError where this SQLite cannot."""
        check_available(self.tokenize)
        connection.execute(self.statement)
        connection.execute(f"PRAGMA user_version = {TABLES_VERSION}")

    @property
    def statement(self) -> str:
        """What makes the table."""
        tokenizer = TOKENIZERS[self.tokenize]
        return (
            f"CREATE VIRTUAL TABLE words USING fts5(text, content='rows', content_rowid='rid', tokenize='{tokenizer}')"
        )

    def next(self, connection: sqlite3.Connection) -> "TextIndex":
        """The index as it will be when the next portion of the missing rows is indexed."""
        end, length, count = self.built, 0, 0
        rows = connection.execute(
            "SELECT rid, length(text) FROM rows WHERE rid >= ? AND rid < ? ORDER BY rid", (self.built, self.until)
        )
        with closing(rows):
            for rid, size in rows:
                if count == _PORTION or length > _PORTION_LENGTH:
                    break
                end, count, length = rid + 1, count + 1, length + (size or 0)
            else:
                end = self.until
        return TextIndex(self.tokenize) if end == self.until else replace(self, built=end)

    def grow(self, connection: sqlite3.Connection, new: "TextIndex") -> None:
        """Index the rows that ``new`` covers and this one does not."""
        end = self.until if new.is_whole else new.built
        connection.execute(f"{new._taking} AND rid >= ? AND rid < ?", (self.built, end))


def check_available(tokenize: str) -> None:
    """Raise StorageError where the SQLite of this Python has no FTS5, or not this tokenizer."""
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{TOKENIZERS[tokenize]}')")
    except sqlite3.Error as error:
        raise StorageError(
            f"a text index with tokenize={tokenize!r} needs an SQLite that has FTS5 and this tokenizer (trigram: from "
            f"3.34 on); that of this Python, {sqlite3.sqlite_version}, says: {error}"
        ) from error


def changed_texts(connection: sqlite3.Connection, rows: Iterable[tuple[int, str | None]]) -> list[int]:
    """The rids of those rows whose stored text is not the given one."""
    sql = "SELECT 1 FROM rows WHERE rid = ? AND text IS NOT ?"
    return [rid for rid, text in rows if connection.execute(sql, (rid, text)).fetchone()]


def drop(connection: sqlite3.Connection, version: int) -> None:
    """Remove the table, if there is one."""
    connection.execute("DROP TABLE IF EXISTS words")
    connection.execute(f"PRAGMA user_version = {version}")


def empty(connection: sqlite3.Connection) -> None:
    """Forget everything."""
    connection.execute("INSERT INTO words (words) VALUES ('delete-all')")


def optimize(connection: sqlite3.Connection) -> None:
    """Write the index anew: until then it still contains what was forgotten."""
    connection.execute("INSERT INTO words (words) VALUES ('optimize')")


def are_tables(found: dict[str, str], index: TextIndex | None) -> bool:
    """Whether the tables beside those of every collection are those of its index: name to statement."""
    return found.keys() == (_PARTS | {"words"} if index else set()) and (
        index is None or found["words"] == index.statement
    )


# ---- searching


def indexed(connection: sqlite3.Connection) -> int:
    """How many rows are indexed."""
    return int(connection.execute("SELECT count(*) FROM words_docsize").fetchone()[0])


def count(connection: sqlite3.Connection, expression: str, most: int) -> int:
    """How many rows match, counted up to ``most``."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
    return int(connection.execute(sql, (expression, most)).fetchone()[0])


def ranked(
    connection: sqlite3.Connection,
    expression: str,
    limit: int = -1,
    among: Sequence[int] | None = None,
    every: int = 1,
) -> Iterator[list[tuple[int, float]]]:
    """(rid, score) of the rows that match, the highest first, then by rid; in portions.

    The score is BM25 as FTS5 computes it (k1 = 1.2, b = .75) over all indexed rows. ``among``: the few rids that may
    match. ``every``: only about one rid in so many is scored.
    """
    few = "" if among is None else f" AND +rowid IN ({','.join(map(str, among))})"
    if every > 1:  # ordered by `rank`, FTS5 would score all
        sql = (
            "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? "  # noqa: S608
            f"AND (((rowid & 0xffffffff) * 2654435761) >> 15) % {every} = 0 ORDER BY score DESC, rowid LIMIT ?"
        )
        yield from _portions(connection, sql, expression, limit)
        return
    sql = f"SELECT rowid, -rank FROM words WHERE words MATCH ?{few} ORDER BY rank, rowid LIMIT ?"  # noqa: S608
    yield from _portions(connection, sql, expression, limit)


def in_order(
    connection: sqlite3.Connection, expression: str, limit: int = -1, among: Sequence[int] | None = None
) -> Iterator[list[tuple[int, float]]]:
    """The same without scores, by rid; reads no more than the caller takes."""
    few = "" if among is None else f" AND +rowid IN ({','.join(map(str, among))})"
    sql = f"SELECT rowid, 0.0 FROM words WHERE words MATCH ?{few} ORDER BY rowid LIMIT ?"  # noqa: S608
    yield from _portions(connection, sql, expression, limit)


def can_list(count: int) -> bool:
    """Whether so many rids may be given as ``among``."""
    return count <= _IN_SQL


def _portions(
    connection: sqlite3.Connection, sql: str, expression: str, limit: int
) -> Iterator[list[tuple[int, float]]]:
    with closing(connection.execute(sql, (expression, limit))) as rows:
        while portion := rows.fetchmany(256):
            yield portion


def check_expression(connection: sqlite3.Connection, expression: str) -> None:
    """Raise InvalidInputError for what is no expression of FTS5."""
    try:
        connection.execute("SELECT 1 FROM words WHERE words MATCH ? LIMIT 1", (expression,)).fetchone()
    except sqlite3.OperationalError as error:
        words = str(error)
        if not words.startswith(("fts5:", "unterminated string", "no such column", "unknown special query")):
            raise
        raise InvalidInputError(
            f"text is no expression of FTS5 ({words}); see https://sqlite.org/fts5.html, or leave syntax='fts5' out, "
            "and any text is searched for its words"
        ) from error


# ---- verifying


def problems_of(connection: sqlite3.Connection, index: TextIndex, name: str, whole: bool) -> list[str]:
    """How the index differs from the rows, one line each: in which rows it has; with ``whole``, also in any word.

    The texts are indexed again, in a file that SQLite removes, and the two are compared word by word.
    """
    covered = _COVERED.format(index)
    try:
        other = connection.execute(
            f"SELECT (SELECT count(*) FROM rows WHERE {covered} AND rid NOT IN (SELECT id FROM words_docsize)), "  # noqa: S608
            f"(SELECT count(*) FROM words_docsize WHERE id NOT IN (SELECT rid FROM rows WHERE {covered}))"
        ).fetchone()
        if other != (0, 0):
            return [f"{name}: the text index lacks {other[0]:,} texts, and has {other[1]:,} that are gone; {_REMEDY}"]
        if whole and not _are_same(connection, index, covered):
            return [f"{name}: the text index does not hold the words of the rows; {_REMEDY}"]
    except sqlite3.Error as error:
        return [f"{name}: the text index cannot be read ({error}); {_REMEDY}"]
    return []


_REMEDY: Final = "nothing is lost: set_text_index() makes it anew"


def _are_same(connection: sqlite3.Connection, index: TextIndex, covered: str) -> bool:
    with closing(sqlite3.connect("", isolation_level=None)) as again:
        again.execute(
            f"CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZERS[index.tokenize]}')"
        )
        again.execute("BEGIN")
        again.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            connection.execute(f"SELECT rid, text FROM rows WHERE {covered}"),  # noqa: S608
        )
        again.execute("COMMIT")
        return all(mine == theirs for mine, theirs in zip(*map(_contents, (connection, again)), strict=False))


def _contents(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Whatever an answer depends on: the words with their places, the lengths of rows, and the sums over all rows."""
    only = connection.execute("PRAGMA query_only").fetchone()[0]
    connection.execute("PRAGMA query_only = OFF")  # a temporary table is no change of the file
    try:
        connection.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.places_of_words USING fts5vocab('main', 'words', 'instance')"
        )
        yield from connection.execute("SELECT term, doc, offset FROM temp.places_of_words")
        yield ("",)
        yield from connection.execute("SELECT id, sz FROM words_docsize ORDER BY id")
        for (block,) in connection.execute("SELECT block FROM words_data WHERE id = 1"):  # sums over all rows
            yield (block if any(block) else b"",)  # zeros where there were rows, nothing where there never were
        yield ("",)
    finally:
        connection.execute("DROP TABLE IF EXISTS temp.places_of_words")
        connection.execute(f"PRAGMA query_only = {only}")
