"""sqlite-vec's virtual tables in an SQLite file, read from their shadow tables: no extension is loaded.

A ``vec0`` table ``v`` keeps its rows in chunks. ``v_chunks`` holds the rowids of each chunk and which slots are in use;
``v_vector_chunks00`` the vectors of the first vector column; ``v_metadatachunks00`` the values of the first metadata
column, with texts of more than 12 bytes in ``v_metadatatext00``; ``v_auxiliary`` the columns declared with ``+``;
``v_rowids`` the place of each row, and its text key. Tested with files of sqlite-vec 0.1.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bqstore

from ..metadata import framework_keys
from .source import One, Source, chosen, damaged, database, portions
from .tables import text_and_metadata

_MAGIC = b"SQLite format 3\0"
_AT_ONCE = 500  # rowids in a statement; old SQLite allows 999
_MADE = re.compile(r"""\busing\s+["'`\[]?vec0["'`\]]?\s*\((.*)\)\s*;?\s*$""", re.I | re.S)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.S)
_COLUMN = re.compile(r"(?P<aux>\+?)\s*(?P<name>\w+)\s+(?P<type>\w+)\s*(?:\[\s*(?P<dim>\d+)\s*\])?\s*(?P<rest>.*)", re.S)
_VECTORS = {"float": "<f4", "float32": "<f4", "f32": "<f4", "int8": "i1", "i8": "i1", "bit": "bit"}
_INLINE = 12  # bytes of a text kept inline, after its length
_DISTANCES = {"l2": "euclid", "cosine": "cosine", "l1": "euclid"}


class _Vector(NamedTuple):
    name: str
    dtype: str  # of numpy, or "bit"
    dim: int
    metric: str


@dataclass
class _Table:
    """The columns of a virtual table, from its CREATE statement."""

    name: str
    key: bool = False  # whether it has a text primary key
    vectors: list[_Vector] = field(default_factory=list)
    partitions: list[str] = field(default_factory=list)
    values: list[tuple[str, str]] = field(default_factory=list)  # metadata columns: name and type
    auxiliary: list[str] = field(default_factory=list)

    def part(self, what: str, number: int | None = None) -> str:
        """The quoted name of a shadow table."""
        return _quoted(f"{self.name}_{what}" + ("" if number is None else f"{number:02d}"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def recognizes(path: Path) -> bool:
    """Whether the path is an SQLite file with a ``vec0`` table. Raises CorruptionError if SQLite cannot read it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
    with database(path) as connection:
        return bool(_made(connection))


def _made(connection: sqlite3.Connection) -> dict[str, str]:
    """The column declarations of each ``vec0`` table, by name."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND rootpage = 0 ORDER BY name")
    found = ((name, _MADE.search(_COMMENT.sub(" ", sql))) for name, sql in rows)
    return {name: match[1] for name, match in found if match}


def _declared(name: str, inside: str, file: Path) -> _Table:
    """The columns of a table, in the order of their shadow tables."""
    table = _Table(name)
    for part in (each.strip() for each in re.split(r",(?![^(]*\))", inside)):
        found = _COLUMN.fullmatch(part)
        if found is None:
            if re.match(r"\w+\s*=", part):  # chunk_size=1024
                continue
            raise damaged(file, f"the column {part!r} of {name!r} is declared in no form that is known")
        column, kind, rest = found["name"], found["type"].lower(), found["rest"].lower()
        if found["dim"] is not None and kind in _VECTORS:
            if "indexed" in rest:
                raise bqstore.InvalidInputError(f"{name}/{column} of {file} has an index of its own: not supported")
            metric = re.search(r"distance_metric\s*=\s*(\w+)", rest)
            table.vectors.append(_Vector(column, _VECTORS[kind], int(found["dim"]), metric[1] if metric else "l2"))
        elif found["aux"]:
            table.auxiliary.append(column)
        elif "primary" in rest:
            table.key = kind == "text"
        elif "partition" in rest:
            table.partitions.append(column)
        else:
            table.values.append((column, kind))
    return table


def open_source(path: Path, collection: str | None) -> Source:
    """The rows of a table; "table/column" names one of several vector columns."""
    with database(path) as connection:
        tables = [_declared(name, inside, path) for name, inside in _made(connection).items()]
        several = {
            each.name + (f"/{vector.name}" if len(each.vectors) > 1 else ""): (each, place)
            for each in tables
            for place, vector in enumerate(each.vectors)
        }
        numbers = {name: each for name, each in several.items() if each[0].vectors[each[1]].dtype != "bit"}
        name = chosen(several if collection is not None or not numbers else numbers, collection, path)
        table, place = several[name]
        vector = table.vectors[place]
        if vector.dtype == "bit":
            raise bqstore.InvalidInputError(
                f"{name!r} of {path} holds bit vectors, from which the original numbers cannot be recovered; import a "
                "column of float or int8, or embed the texts again: bqstore quantizes float vectors itself"
            )
        notes = [f"the bit vectors of {each!r} are left out" for each in several if each not in numbers]
        if vector.dtype == "i1":
            notes.append("int8 vectors are imported as integers, without a scale")
        if vector.metric not in _DISTANCES:
            raise damaged(path, f"{name!r} has the distance {vector.metric!r}")
        if vector.metric == "l1":
            notes.append("bqstore has no distance l1: euclid is used, or the one given by distance=")
        beside = _beside(connection, table, notes)
        if table.auxiliary:
            _without_bytes(connection, table, notes)
        count = connection.execute(f"SELECT count(*) FROM {table.part('rowids')}").fetchone()[0]  # noqa: S608

    def each() -> Iterator[One]:
        with database(path) as connection:
            yield from _documents(connection, path, table, place, beside)

    distance = _DISTANCES[vector.metric]
    return Source("sqlite-vec", path, name, count, vector.dim, distance, lambda: portions(each(), vector.dim), notes)


def _beside(connection: sqlite3.Connection, table: _Table, notes: list[str]) -> tuple[str, list[str]]:
    """The table that holds the documents under the same rowids, and its columns; "" if there is none.

    LangChain keeps the texts of ``docs_vec`` in ``docs``. Others do the same, or name the vector table ``vec_docs``.
    """
    for name in (table.name.removesuffix("_vec"), table.name.removeprefix("vec_")):
        known = connection.execute("SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
        row = known.fetchone()
        if name != table.name and row is not None and row[0]:
            columns = [each[1] for each in connection.execute(f"PRAGMA table_info({_quoted(name)})")]
            vectors = {vector.name for vector in table.vectors}  # LangChain stores them in both tables
            kept = [each for each in columns if each.lower() != "rowid" and each not in vectors]
            notes.append(f"texts and metadata come from the rows of {name!r} with the same rowids")
            return name, _of_values(connection, _quoted(name), dict(zip(kept, map(_quoted, kept), strict=True)), notes)
    return "", []


def _without_bytes(connection: sqlite3.Connection, table: _Table, notes: list[str]) -> None:
    columns = {name: f"value{place:02d}" for place, name in enumerate(table.auxiliary)}
    kept = _of_values(connection, table.part("auxiliary"), columns, notes)
    table.auxiliary = [name if name in kept else "" for name in table.auxiliary]


def _of_values(connection: sqlite3.Connection, where: str, columns: dict[str, str], notes: list[str]) -> list[str]:
    """The names of the columns that hold no bytes, which metadata cannot store."""
    kept = []
    for name, column in columns.items():
        if connection.execute(f"SELECT 1 FROM {where} WHERE typeof({column}) = 'blob' LIMIT 1").fetchone():  # noqa: S608
            notes.append(f"the column {name!r} holds bytes and is left out")
        else:
            kept.append(name)
    return kept


def _documents(
    connection: sqlite3.Connection, file: Path, table: _Table, place: int, beside: tuple[str, list[str]]
) -> Iterator[One]:
    vector, (docs, columns) = table.vectors[place], beside
    partitions = "".join(f", partition{i:02d}" for i in range(len(table.partitions)))
    chunks = connection.execute(
        f"SELECT chunk_id, size, validity, rowids{partitions} FROM {table.part('chunks')} ORDER BY chunk_id"  # noqa: S608
    )
    for chunk, size, validity, rowids, *keys in chunks:
        blob = partial(_blob, connection, file, chunk, size)
        taken = np.flatnonzero(np.unpackbits(_bytes(file, chunk, validity, size / 8), bitorder="little"))
        numbers = _bytes(file, chunk, rowids, size * 8).view("<i8")
        width = np.dtype(vector.dtype).itemsize * vector.dim
        matrix = blob(table.part("vector_chunks", place), "vectors", width).view(vector.dtype).reshape(size, vector.dim)
        held = [
            (name, _decoder(kind, blob, table, i, partial(_long_texts, connection, file)))
            for i, (name, kind) in enumerate(table.values)
        ]
        shared = dict(zip(table.partitions, keys, strict=True))
        for at in range(0, len(taken), _AT_ONCE):
            places = taken[at : at + _AT_ONCE]
            wanted = numbers[places].tolist()
            rows_of = _by_rowid(connection, table.part("rowids"), "chunk_id, chunk_offset, id", wanted)
            if any(rows_of.get(rowid, ())[:2] != (chunk, slot) for slot, rowid in zip(places, wanted, strict=True)):
                raise damaged(file, f"chunk {chunk} of {table.name!r} has other rows than the list of rowids says")
            columns_of = [(name, read(places, wanted)) for name, read in held]
            auxiliary: dict[int, Sequence[Any]] = {}
            if table.auxiliary:
                values = ", ".join(f"value{i:02d}" for i in range(len(table.auxiliary)))
                auxiliary = _by_rowid(connection, table.part("auxiliary"), values, wanted)
            rows = _by_rowid(connection, _quoted(docs), ", ".join(map(_quoted, columns)), wanted) if columns else {}
            for i, (slot, rowid) in enumerate(zip(places.tolist(), wanted, strict=True)):
                row = shared | {name: values[i] for name, values in columns_of}
                row |= dict(zip(table.auxiliary, auxiliary.get(rowid, ()), strict=False))
                row |= dict(zip(columns, rows.get(rowid, ()), strict=False))
                row.pop("", None)
                text, metadata = text_and_metadata({key: value for key, value in row.items() if value is not None})
                id_ = str(rows_of[rowid][2]) if table.key else str(rowid)
                yield One(id_, *framework_keys.with_our_keys(text, metadata), matrix[slot])


def _by_rowid(connection: sqlite3.Connection, where: str, columns: str, rowids: list[int]) -> dict[int, Sequence[Any]]:
    """The given columns by rowid, for those of the rowids that exist."""
    marks = ", ".join("?" * len(rowids))
    rows = connection.execute(f"SELECT rowid, {columns} FROM {where} WHERE rowid IN ({marks})", rowids)  # noqa: S608
    return {row[0]: row[1:] for row in rows}


def _bytes(file: Path, chunk: int, given: Any, length: float) -> NDArray[np.uint8]:
    if not isinstance(given, bytes) or len(given) != length:
        said = f"{len(given):,} bytes" if isinstance(given, bytes) else type(given).__name__
        raise damaged(file, f"chunk {chunk} holds {said} where there should be {length:,.0f} bytes")
    return np.frombuffer(given, np.uint8)


def _blob(
    connection: sqlite3.Connection, file: Path, chunk: int, size: int, where: str, column: str, width: float
) -> NDArray[np.uint8]:
    """The values of all slots of a chunk, ``width`` bytes each."""
    row = connection.execute(f"SELECT {column} FROM {where} WHERE rowid = ?", (chunk,)).fetchone()  # noqa: S608
    return _bytes(file, chunk, None if row is None else row[0], size * width)


def _long_texts(connection: sqlite3.Connection, file: Path, where: str, rowids: list[int]) -> dict[int, str]:
    found = _by_rowid(connection, where, "data", rowids)
    if len(found) < len(rowids):
        raise damaged(file, f"{len(rowids) - len(found):,} texts are missing in {where}")
    return {rowid: row[0] for rowid, row in found.items()}


def _decoder(
    kind: str, blob: Callable[..., NDArray[np.uint8]], table: _Table, number: int, long_texts: Callable[..., Any]
) -> Callable[[NDArray[np.int64], list[int]], list[Any]]:
    """A function that reads a metadata column's values at given slots of a chunk."""
    data = partial(blob, table.part("metadatachunks", number), "data")
    if kind in ("boolean", "bool"):
        flags = np.unpackbits(data(1 / 8), bitorder="little").astype(bool)
        return lambda places, _: flags[places].tolist()
    if kind.startswith(("int", "float", "double", "f64")):
        values = data(8).view("<i8" if kind.startswith("int") else "<f8")
        return lambda places, _: values[places].tolist()
    texts = data(4 + _INLINE).reshape(-1, 4 + _INLINE)

    def read(places: NDArray[np.int64], rowids: list[int]) -> list[Any]:
        some = texts[places]
        lengths = some[:, :4].copy().view("<u4")[:, 0].tolist()
        whole = [rowid for rowid, length in zip(rowids, lengths, strict=True) if length > _INLINE]
        long = long_texts(table.part("metadatatext", number), whole) if whole else {}
        return [
            row[4 : 4 + length].tobytes().decode() if length <= _INLINE else long[rowid]
            for row, length, rowid in zip(some, lengths, rowids, strict=True)
        ]

    return read
