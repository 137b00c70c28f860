"""Chroma's folder: documents and metadata in SQLite, vectors in hnswlib's files, the newest operations in a queue.

Read without chromadb, which would write to the folder: the built index first, then the operations of the queue that
are newer. For cosine the index holds unit vectors; their original lengths are in a separate file. docs/moving-in.md
lists the versions that were tested.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bqstore

from ..metadata import framework_keys
from .pickles import plain_values
from .source import AT_ONCE, F32, One, Source, by_portions, chosen, damaged, database, portions, regular

_FILE = "chroma.sqlite3"
_DISTANCES = {"l2": "euclid", "ip": "dot", "cosine": "cosine"}
_KNOWN = {("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData"): "labels"}
_HEADER = struct.Struct("<i6Q")  # version, level0, capacity, elements, bytes per element, offsets of label and vector
_ADD, _UPDATE, _UPSERT, _DELETE = range(4)


def recognizes(path: Path) -> bool:
    """Whether the path is a Chroma folder, or its SQLite file."""
    return (path / _FILE).is_file() or (path.name == _FILE and path.is_file())


class _Vectors(NamedTuple):
    """Where each id's vector is: a row of the index's file, perhaps scaled to unit length, or bytes of the queue."""

    rows: dict[str, int]
    matrix: F32
    lengths: F32 | None
    queue: dict[str, bytes]

    def of(self, id_: str) -> F32 | None:
        if id_ in self.queue:
            return np.frombuffer(self.queue[id_], "<f4")
        row = self.rows.get(id_)
        if row is None:
            return None
        vector: F32 = self.matrix[row]
        return vector if self.lengths is None else vector * self.lengths[row]


def open_source(path: Path, collection: str | None) -> Source:
    """The documents of one collection of the folder."""
    folder = path.parent if path.is_file() else path
    file = folder / _FILE
    with database(file) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM collections ORDER BY name")]
        name = chosen(names, collection, path)
        segments = _segments(connection, name)
        distance = _distance(connection, name)
        vectors = _vectors(connection, folder, segments, distance == "cosine")
        ids = [id_ for _, id_ in _ids(connection, segments["METADATA"])]
    found = next((vector for vector in map(vectors.of, ids) if vector is not None), None)
    dim = 0 if found is None else len(found)
    lost = sum(1 for id_ in ids if vectors.of(id_) is None)
    notes = [f"{lost:,} documents have no vector in the folder and are left out"] if lost else []
    if distance == "cosine" and vectors.rows and vectors.lengths is None:
        notes.append("length.bin with the vectors' lengths is missing: they come at unit length, which scores the same")

    def each() -> Iterator[One]:
        with database(file) as connection:
            for id_, metadata in _documents(connection, segments["METADATA"]):
                vector = vectors.of(id_)
                if vector is not None:
                    text = metadata.pop("chroma:document", None)
                    yield One(id_, *framework_keys.with_our_keys(text, metadata), vector)

    return Source("chroma", path, name, len(ids) - lost, dim, distance, lambda: portions(each(), dim), notes)


def _segments(connection: sqlite3.Connection, name: str) -> dict[str, str]:
    """The id of the collection (key "id"), and those of its segments (keys METADATA and VECTOR)."""
    found = connection.execute("SELECT id FROM collections WHERE name = ?", (name,)).fetchall()
    if len(found) != 1:  # several of Chroma's databases may use the same name
        raise bqstore.InvalidInputError(f"{len(found)} collections are named {name!r}; rename all but one in Chroma")
    rows = connection.execute("SELECT scope, id FROM segments WHERE collection = ?", found[0]).fetchall()
    segments = {"id": found[0][0], **dict(rows)}
    if "METADATA" not in segments or "VECTOR" not in segments:
        raise bqstore.CorruptionError(f"the collection {name!r} has lost its segments")
    return segments


def _distance(connection: sqlite3.Connection, name: str) -> str:
    """The collection's distance: older versions keep it in metadata, newer ones in JSON. Chroma's default is l2."""
    row = connection.execute(
        "SELECT str_value FROM collection_metadata m JOIN collections c ON c.id = m.collection_id "
        "WHERE c.name = ? AND key = 'hnsw:space'",
        (name,),
    ).fetchone()
    if row is not None and row[0] in _DISTANCES:
        return _DISTANCES[row[0]]
    columns = {each[1] for each in connection.execute("PRAGMA table_info(collections)")}
    for column in ("config_json_str", "schema_str"):
        if column in columns:
            text = connection.execute(f"SELECT {column} FROM collections WHERE name = ?", (name,)).fetchone()[0]  # noqa: S608
            found = re.search(r'"space"\s*:\s*"(l2|ip|cosine)"', text or "")
            if found:
                return _DISTANCES[found[1]]
    return "euclid"


def _vectors(connection: sqlite3.Connection, folder: Path, segments: dict[str, str], scaled: bool) -> _Vectors:
    rows: dict[str, int] = {}
    lengths: F32 | None = None
    matrix, newest = np.zeros((0, 0), np.float32), 0
    labels = folder / segments["VECTOR"] / "index_metadata.pickle"
    if labels.is_file():
        stored = plain_values(regular(labels).read_bytes(), _KNOWN, labels)
        places, matrix = _index(labels.parent)
        by_id = stored.get("id_to_label") if isinstance(stored, dict) else None
        if not isinstance(by_id, dict):
            raise damaged(labels, "it does not map ids to labels")
        rows = {id_: places[label] for id_, label in by_id.items() if label in places}
        lengths = _lengths(labels.parent, len(matrix)) if scaled else None
        seen = connection.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segments["VECTOR"],))
        newest = max(_number(each) for each in [stored.get("max_seq_id") or 0, *(row[0] for row in seen)])
    queue: dict[str, bytes] = {}
    operations = connection.execute(
        "SELECT operation, id, vector FROM embeddings_queue WHERE topic LIKE ? AND seq_id > ? ORDER BY seq_id",
        (f"%{segments['id']}", newest),
    )
    for operation, id_, vector in operations:
        if operation == _DELETE:
            queue.pop(id_, None)
            rows.pop(id_, None)
        elif vector is not None and (operation != _ADD or (id_ not in rows and id_ not in queue)):
            queue[id_] = vector
    return _Vectors(rows, matrix, lengths, queue)


def _number(value: int | bytes) -> int:
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)


def _index(folder: Path) -> tuple[dict[int, int], F32]:
    """The row of each label in hnswlib's file, and its memory-mapped vectors, float32 (n, dim)."""
    header, level0 = folder / "header.bin", folder / "data_level0.bin"
    try:
        _, _, _, n, size, label_at, vector_at = _HEADER.unpack_from(regular(header).read_bytes())
        there = regular(level0).stat().st_size
    except (OSError, struct.error) as error:
        raise damaged(header, error) from None
    if not (0 < vector_at < label_at < size <= 1 << 24) or (label_at - vector_at) % 4 or n * size > there:
        raise damaged(header, f"it states {n:,} elements of {size:,} bytes, and the data file has {there:,} bytes")
    if n == 0:
        return {}, np.zeros((0, (label_at - vector_at) // 4), np.float32)
    data = np.memmap(level0, np.uint8, "r", shape=(n, size))
    labels = np.ascontiguousarray(data[:, label_at : label_at + 8]).view("<u8")[:, 0]
    # a view of the mapped file: a row is read when it is accessed
    vectors = np.ndarray((n, (label_at - vector_at) // 4), "<f4", data, vector_at, (size, 4))
    return {int(label): row for row, label in enumerate(labels)}, vectors


def _lengths(folder: Path, n: int) -> F32 | None:
    """The lengths of the vectors before they were scaled, float32 (n,), memory-mapped; None without that file."""
    file = folder / "length.bin"
    if n == 0 or not file.exists():
        return None
    there = regular(file).stat().st_size
    if there < 4 * n:
        raise damaged(file, f"it is of {there:,} bytes, for {n:,} lengths")
    return np.memmap(file, "<f4", "r", shape=(n,))


def _ids(connection: sqlite3.Connection, segment: str) -> Iterator[tuple[Any, ...]]:
    """(row, id) of each document."""
    sql = "SELECT id, embedding_id FROM embeddings WHERE id > ? AND segment_id = ? ORDER BY id LIMIT ?"
    return by_portions(connection, sql, segment)


def _documents(connection: sqlite3.Connection, segment: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, metadata) of each document, in insertion order."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    rows = _ids(connection, segment)
    while some := list(islice(rows, AT_ONCE)):
        first, last = some[0][0], some[-1][0]
        found: dict[int, dict[str, Any]] = {row: {} for row, _ in some}
        for table in ("embedding_metadata", "embedding_metadata_array"):
            if table not in tables:
                continue
            columns = {each[1] for each in connection.execute(f"PRAGMA table_info({table})")}
            flags = "bool_value" if "bool_value" in columns else "NULL"  # the first versions had no booleans
            values = connection.execute(
                f"SELECT id, key, string_value, int_value, float_value, {flags} FROM {table} "  # noqa: S608
                "WHERE id BETWEEN ? AND ?",
                (first, last),
            )
            for id_, key, string, whole, real, flag in values:
                value = next((each for each in (string, whole, real) if each is not None), None)
                value = bool(flag) if flag is not None else value
                if id_ in found and table == "embedding_metadata":
                    found[id_][key] = value
                elif id_ in found:
                    found[id_].setdefault(key, []).append(value)
        yield from ((id_, found[row]) for row, id_ in some)
