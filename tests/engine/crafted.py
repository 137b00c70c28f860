"""Snapshots and catalogues with false contents and right checksums: how they are made, and what may be answered."""

import json
import random
import shutil
import sqlite3
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bqstore
from bqstore.errors import BqstoreError
from bqstore.storage import snapshot_format
from bqstore.storage.snapshot_format import Section, pieces_of, section_sum

N, DIM = 120, 8
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
METADATAS = [
    {"i": i % 5, "s": f"é{i % 7}", "t": [i % 3, [f"x{i % 4}"]], "f": i / 4, "big": 10**30 + i % 2, "d": {"k": i % 2}}
    for i in range(N)
]
FILTERS = [
    {"i": 3},
    {"s": "é5"},
    {"s": {"$ilike": "É_"}},
    {"t": {"$contains": 2}},
    {"t": {"$any": [["x1"]]}},
    {"f": {"$between": [2, 5.25]}},
    {"big": {"$gt": 10**30}},
    {"d": {"$eq": {"k": 1}}},
    {"x": {"$exists": False}},
]
# contents that only a comparison of all documents with their rows could tell from right ones: another entry, another
# text. Whoever can write such a snapshot can write the rows, too; `verify` reads those
PLAUSIBLE = ("id_bytes", "id_ends", "codes")


def make(path: Path) -> None:
    """A collection with a graph, ids and columns in a snapshot; `SMALLEST_GRAPH` must allow it."""
    with bqstore.open(path, threads=1) as col:
        col.add(VECTORS, [f"d{i}" for i in range(N)], [f"text {i}" for i in range(N)], METADATAS)
        for filter in FILTERS:
            col.count(filter)
        col.flush()


def answers(col: bqstore.Collection) -> list[object]:
    """What is asked of a collection that may be crafted."""
    found: list[object] = [col.count(filter) for filter in FILTERS]
    found.append([record.id for record in col.scroll({"i": 2})])
    found.append(col.search_ids(VECTORS[:5], 5)[0].tolist())
    found.append([[hit.id for hit in col.search(VECTORS[7], 3, filter=filter)] for filter in FILTERS[:3]])
    return found


def with_sections(data: bytes, change: Callable[[dict[str, np.ndarray], dict[str, int]], None]) -> bytes:
    """A snapshot with other arrays and numbers, and the checksums that belong to them."""
    length, *_ = struct.unpack("<I", data[12:16])
    table = json.loads(data[64:length])
    arrays = {
        name: np.frombuffer(data, dtype, int(np.prod(shape)), at).reshape(shape).copy()
        for name, dtype, shape, at, _ in table["sections"]
    }
    change(arrays, table["numbers"])
    generation, store_id, n, seq = struct.unpack("<4Q", data[16:48])
    header = snapshot_format.Header(generation, store_id, n, seq, table["codes"], table["numbers"], ())
    length, places = snapshot_format.place_sections(header, arrays)
    out = bytearray(snapshot_format.size_of(length, places))
    done = []
    for place, array in zip(places, arrays.values(), strict=True):
        out[place.offset : place.offset + place.n_bytes] = array.tobytes()
        done.append(Section(place.name, place.dtype, place.shape, place.offset, section_sum(pieces_of(array))))
    final = snapshot_format.Header(generation, store_id, n, seq, table["codes"], table["numbers"], done)
    out[:length] = final.stored(length)
    return bytes(out)


def craft_snapshot(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A snapshot with some false contents, and the section that they are in."""
    names: list[str] = []

    def change(arrays: dict[str, np.ndarray], numbers: dict[str, int]) -> None:
        name = rng.choice([*arrays, "numbers"])
        names.append(name)
        if name == "numbers":
            key = rng.choice(list(numbers))
            numbers[key] = rng.choice([0, -1, 1, 2**31, 2**62, -(2**63), numbers[key] + rng.choice([-1, 1])])
            return
        array = arrays[name]
        way = rng.randrange(8)
        if way < 4 and array.size:
            flat = array.reshape(-1).view(np.uint8)
            for _ in range(rng.choice([1, 1, 2, 20])):
                at = rng.randrange(len(flat))
                flat[at] = rng.choice([flat[at] ^ (1 << rng.randrange(8)), 0, 255, 128, rng.randrange(256)])
        elif way == 4 and array.size:
            low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice([low, high, high // 2, 0, 1])
        elif way == 5:
            arrays[name] = array[: rng.randrange(len(array) + 1)]
        elif way == 6:
            arrays[name] = np.concatenate([array, array[: rng.randrange(1, 4)]])
        else:
            other = rng.choice(list(arrays))
            arrays[name], arrays[other] = arrays[other], arrays[name]
            names.append(other)

    return with_sections(data, change), " ".join(names)


def check_snapshot(path: Path, truth: list[object], what: str) -> str:
    """Open a store with a crafted snapshot: "right", or "wrong" where nothing but the rows could tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with bqstore.open(path, read_only=True, threads=1) as col:
            found = answers(col)
    if found == truth:
        return "right"
    graph = any(name in what for name in ("links", "upper", "first", "levels", "same", "numbers"))
    if graph:  # a graph that can be walked, of other links: it finds fewer neighbors
        assert found[:-2] == truth[:-2], what
    else:
        assert any(name in what for name in PLAUSIBLE), f"wrong answers from {what}"
    return "wrong"


def craft_folder(path: Path, rng: random.Random) -> str:
    """Change the catalogue of a collection as somebody might who wants to harm its reader; what was done."""
    database = sqlite3.connect(path / "default" / "meta.db", isolation_level=None)
    try:
        way = rng.choice(_WAYS)
        try:
            way(database, rng)
        except sqlite3.Error as error:
            return f"{way.__name__}: {error}"
        return way.__name__
    finally:
        database.close()


def _head(database: sqlite3.Connection, rng: random.Random) -> None:
    """Other contents of the head row, with its CRC."""
    version, body = database.execute("SELECT format, body FROM head").fetchone()
    values = json.loads(body)
    odd = [None, -1, 0, 1, 3, 2**31, 2**62, 2**63, 10**30, 1.5, True, "", "x" * 10, [], {}, [[]], {"a": 1}, "cosine"]
    target = values
    while True:
        key = rng.choice(list(target))
        if isinstance(target[key], dict) and target[key] and rng.random() < 0.8:
            target = target[key]
            continue
        if rng.random() < 0.2:
            del target[key]
        else:
            target[key] = rng.choice(odd)
        break
    text = json.dumps(values)
    if rng.random() < 0.05:
        text = rng.choice(["[" * 100_000, "{}", "[]", "null", '"x"', text[:-1], '{"settings":' * 5000])
    version = rng.choice([version] * 8 + [0, 2, 3, -1])
    database.execute("UPDATE head SET body = ?, crc = ?, format = ?", (text, zlib.crc32(text.encode()), version))


def _schema(database: sqlite3.Connection, rng: random.Random) -> None:
    """Triggers, views, other tables and indexes, generated columns."""
    for statement in rng.sample(_STATEMENTS, rng.randrange(1, 4)):
        database.execute(statement)


_STATEMENTS = [
    "CREATE TRIGGER t AFTER DELETE ON rows BEGIN DELETE FROM head; END",
    "CREATE TRIGGER u AFTER INSERT ON rows BEGIN UPDATE head SET body = zeroblob(500000000); END",
    "CREATE VIEW v AS SELECT load_extension('x.so') FROM rows",
    "CREATE TABLE more (x TEXT DEFAULT (randomblob(1000000000)))",
    "CREATE INDEX i ON rows (abs(seq))",
    "ALTER TABLE rows ADD COLUMN y GENERATED ALWAYS AS (hex(zeroblob(500000000)))",
    "ALTER TABLE dead RENAME TO was_dead",
    "DROP INDEX dead_by_seq",
    "DROP TABLE changed",
    "CREATE VIRTUAL TABLE ft USING fts5(a)",
]


def _rewritten_schema(database: sqlite3.Connection, rng: random.Random) -> None:
    """A schema with the right words for the wrong things."""
    database.execute("PRAGMA writable_schema = ON")
    name = rng.choice(["head", "rows", "dead", "changed"])
    database.execute(
        rng.choice(
            [
                "UPDATE sqlite_master SET rootpage = rootpage + 1 WHERE name = ?",
                "UPDATE sqlite_master SET rootpage = 1 WHERE name = ?",
                "UPDATE sqlite_master SET rootpage = 100000 WHERE name = ?",
                "UPDATE sqlite_master SET type = 'view' WHERE name = ?",
                "UPDATE sqlite_master SET name = 'x', tbl_name = 'x' WHERE name = ?",
                "DELETE FROM sqlite_master WHERE name = ?",
                "UPDATE sqlite_master SET sql = replace(sql, 'INTEGER', 'BLOB') WHERE name = ?",
            ]
        ),
        (name,),
    )


def _rows(database: sqlite3.Connection, rng: random.Random) -> None:
    """Values of other types, huge cells, other numbers, in any table."""
    table, column = rng.choice([(t, c) for t, columns in _COLUMNS.items() for c in columns])
    value = rng.choice(
        [None, -1, 0, 7, 2**62, 1.5, "x", "é" * 10, b"\xff\xfe", b"", "{", "[1]", '{"i": 3}', "z" * 5_000_000]
    )
    where = rng.choice(["", "WHERE rowid % 7 = 3", "WHERE rowid = 5"])
    database.execute(f"UPDATE OR REPLACE {table} SET {column} = ? {where}", (value,))


_COLUMNS = {
    "rows": ["rid", "seq", "id", "ref_doc_id", "metadata", "key_crc", "text", "private", "crc"],
    "dead": ["rid", "seq"],
    "changed": ["rid", "seq"],
    "head": ["one", "format", "body", "crc"],
}


def _more_rows(database: sqlite3.Connection, rng: random.Random) -> None:
    """Rows that are missing, doubled or dead, too."""
    database.execute(
        rng.choice(
            [
                "DELETE FROM rows WHERE rid = 5",
                "DELETE FROM rows",
                "DELETE FROM head",
                "INSERT INTO dead SELECT rid, 1 FROM rows",
                "INSERT INTO changed SELECT rid, 2 FROM rows",
                "INSERT INTO rows SELECT rid + 1000, seq, id || 'x', ref_doc_id, metadata, key_crc, text, private, crc "
                "FROM rows",
                "UPDATE rows SET rid = rid + 1",
            ]
        )
    )


_WAYS = [_head, _head, _head, _schema, _rewritten_schema, _rows, _rows, _more_rows]


def damage_pages(path: Path, rng: random.Random) -> str:
    """Bytes of any file changed at random."""
    file = rng.choice([p for p in (path / "default").iterdir() if p.suffix in (".db", ".bin")])
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 3, 50])):
        data[rng.randrange(min(len(data), rng.choice([100, 4096, len(data)])))] = rng.randrange(256)
    file.write_bytes(data)
    return f"bytes of {file.name}"


def check_folder(template: Path, work: Path, rng: random.Random) -> str:
    """Open and ask a crafted folder: BqstoreErrors and answers are fine, other exceptions are not."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    what = damage_pages(work, rng) if rng.random() < 0.3 else craft_folder(work, rng)
    outcome = "answered"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for read_only in (True, False):
            try:
                with bqstore.open(work, read_only=read_only, threads=1) as col:
                    for ask in (lambda col=col: answers(col), lambda col=col: list(col.scroll()), col.verify, col.info):
                        try:
                            ask()
                        except BqstoreError:
                            outcome = "refused"
                    if not read_only:
                        col.delete(["d3"])
                        col.add(VECTORS[:1], ["new"])
            except BqstoreError:
                outcome = "refused"
            except Exception as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return outcome
