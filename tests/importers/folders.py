"""Folders of other stores, written by hand after their formats, so that importers are tested without those libraries.

``test_peers.py`` has the folders that the libraries themselves write.
"""

import json
import pickle
import sqlite3
import struct
import sys
import types

import numpy as np

CHROMA = """
    CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT, dimension INTEGER, database_id TEXT, {columns});
    CREATE TABLE collection_metadata (collection_id TEXT, key TEXT, str_value TEXT, int_value INTEGER,
        float_value REAL, bool_value INTEGER);
    CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT, scope TEXT, collection TEXT);
    CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id BLOB);
    CREATE TABLE embedding_metadata (id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL,
        bool_value INTEGER, PRIMARY KEY (id, key));
    CREATE TABLE max_seq_id (segment_id TEXT PRIMARY KEY, seq_id);
    CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation INTEGER, topic TEXT, id TEXT, vector BLOB,
        encoding TEXT, metadata TEXT);
"""
ARRAYS = """
    CREATE TABLE embedding_metadata_array (id INTEGER, key TEXT, string_value TEXT, int_value INTEGER,
        float_value REAL, bool_value INTEGER);
"""
ADD, UPDATE, UPSERT, DELETE = range(4)


def stand_in(monkeypatch, module, name):
    """A class under the name of another library's, to pickle: a pickle holds its name and its attributes."""
    made = type(name, (), {"__module__": module, "__init__": lambda self, **given: self.__dict__.update(given)})
    holder = types.ModuleType(module)
    setattr(holder, name, made)
    parts = module.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    monkeypatch.setitem(sys.modules, module, holder)
    return made


def flat_index(vectors, metric=1, kind=b"IxF2"):
    """faiss's file of an IndexFlat."""
    n, dim = vectors.shape
    head = struct.pack("<4siqqqBi", kind, dim, n, 1 << 20, 1 << 20, 1, metric)
    return head + struct.pack("<Q", n * dim) + vectors.tobytes()


def hnswlib_files(folder, vectors, lengths=None):
    """hnswlib's files of an index whose labels are 1, 2, ...: links, vector, label of each element; their lengths."""
    n, dim = vectors.shape
    elements = np.zeros((n, 132 + 4 * dim + 8), np.uint8)
    elements[:, 132:-8] = vectors.view(np.uint8)
    elements[:, -8:] = np.arange(1, n + 1, dtype="<u8").view(np.uint8).reshape(-1, 8)
    head = struct.pack("<i6Q", 1, 0, 1024, n, elements.shape[1], 132 + 4 * dim, 132) + bytes(48)
    (folder / "header.bin").write_bytes(head)
    (folder / "data_level0.bin").write_bytes(elements.tobytes())
    if lengths is not None:
        (folder / "length.bin").write_bytes(np.float32(lengths).tobytes() + bytes(4096))  # there is room for more


class ChromaFolder:
    """Chroma's folder, written by its own rules: a log of operations, of which the index may have taken the first."""

    def __init__(self, path, *, arrays=True, columns="config_json_str TEXT, schema_str TEXT"):
        path.mkdir()
        self.path, self.columns = path, columns.count(" TEXT")
        self.db = sqlite3.connect(path / "chroma.sqlite3", isolation_level=None)
        self.db.execute("PRAGMA synchronous=OFF")  # each row is a transaction
        self.db.executescript(CHROMA.format(columns=columns) + (ARRAYS if arrays else ""))

    def collection(self, name, config="{}", *, space=None, database="one"):
        """A collection without documents; its id."""
        id_ = f"{database}-{name}"
        marks = ", ?" * self.columns
        self.db.execute(
            f"INSERT INTO collections VALUES (?, ?, NULL, ?{marks})", (id_, name, database, *[config] * self.columns)
        )
        if space is not None:
            self.db.execute(
                "INSERT INTO collection_metadata VALUES (?, 'hnsw:space', ?, NULL, NULL, NULL)", (id_, space)
            )
        for scope in ("VECTOR", "METADATA"):
            self.db.execute("INSERT INTO segments VALUES (?, 'urn:chroma', ?, ?)", (f"{id_}-{scope}", scope, id_))
        return id_

    def document(self, collection, id_, text, metadata):
        """A row of a document; its vector comes with `log`."""
        row = self.db.execute(
            "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, 0)",
            (f"{collection}-METADATA", id_),
        ).lastrowid
        given = metadata if text is None else {**metadata, "chroma:document": text}
        for key, value in given.items():
            table = "embedding_metadata_array" if isinstance(value, list) else "embedding_metadata"
            for each in value if isinstance(value, list) else [value]:
                kinds = (str, int, float, bool)
                columns = [each if type(each) is kind else None for kind in kinds]
                self.db.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", (row, key, *columns))

    def log(self, collection, operation, id_, vector=None):
        """An operation that comes after those before it."""
        self.db.execute(
            "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding) VALUES (?, ?, ?, ?, 'FLOAT32')",
            (
                operation,
                f"persistent://default/default/{collection}",
                id_,
                vector if vector is None else vector.tobytes(),
            ),
        )

    def index(self, collection, ids, vectors, *, seen=0, number=int, pickled=dict, lengths=None):
        """The files of the index, which has taken the log up to ``seen``."""
        folder = self.path / f"{collection}-VECTOR"
        folder.mkdir()
        hnswlib_files(folder, vectors, lengths)
        labels = {id_: label for label, id_ in enumerate(ids, 1)}
        held = pickled(dimensionality=None, total_elements_added=len(ids), max_seq_id=None, id_to_label=labels)
        (folder / "index_metadata.pickle").write_bytes(pickle.dumps(held))
        if seen:
            self.db.execute("INSERT INTO max_seq_id VALUES (?, ?)", (f"{collection}-VECTOR", number(seen)))


def described(path, **collections):
    """What qdrant-client's local mode says of its collections, rewritten."""
    meta = path / "meta.json"
    told = json.loads(meta.read_bytes())
    told["collections"] |= collections
    meta.write_text(json.dumps(told))


class SqliteVecFile:
    """A file of sqlite-vec, written without it: the statements of the virtual tables, and the tables behind these."""

    def __init__(self, path, size=16):
        self.db, self.size = sqlite3.connect(path, isolation_level=None), size
        self.db.execute("PRAGMA writable_schema=ON")
        self.db.execute("PRAGMA synchronous=OFF")  # each statement is a commit

    def table(self, name, columns, *, vectors, keys=None, partition=None, values=(), auxiliary=(), gaps=()):
        """Rows 1, 2, ... as their columns have them; places in ``gaps`` are left empty, as after deletions."""
        sql = f"CREATE VIRTUAL TABLE {name} USING vec0({columns})"
        self.db.execute("INSERT INTO sqlite_master VALUES ('table', ?, ?, 0, ?)", (name, name, sql))
        run, n = self.db.execute, len(vectors[0])
        run(f"CREATE TABLE {name}_chunks (chunk_id INTEGER PRIMARY KEY, size, partition00, validity, rowids)")
        run(f"CREATE TABLE {name}_rowids (rowid INTEGER PRIMARY KEY, id, chunk_id, chunk_offset)")
        kept = [(f"vector_chunks{i:02d}", "vectors") for i in range(len(vectors))]
        kept += [(f"metadatachunks{i:02d}", "data") for i in range(len(values))]
        for table, column in kept:
            run(f"CREATE TABLE {name}_{table} (rowid PRIMARY KEY, {column} BLOB)")
        for i, each in enumerate(values):
            if isinstance(each[0], str):
                run(f"CREATE TABLE {name}_metadatatext{i:02d} (rowid PRIMARY KEY, data TEXT)")
        slots = [place for place in range(n + len(gaps) + self.size) if place not in gaps][:n]
        for chunk in range(slots[-1] // self.size + 1):
            here = {slot % self.size: row for row, slot in enumerate(slots) if slot // self.size == chunk}
            taken, rowids = np.zeros(self.size, np.uint8), np.zeros(self.size, "<i8")
            for place, row in here.items():
                taken[place], rowids[place] = 1, row + 1
                key = None if keys is None else keys[row]
                run(f"INSERT INTO {name}_rowids VALUES (?, ?, ?, ?)", (row + 1, key, chunk + 1, place))
            blobs = (np.packbits(taken, bitorder="little").tobytes(), rowids.tobytes())
            run(f"INSERT INTO {name}_chunks VALUES (?, ?, ?, ?, ?)", (chunk + 1, self.size, partition, *blobs))
            for (table, _), each in zip(kept, [*vectors, *values], strict=True):
                blob = self._blob(name, table, each, here)
                run(f"INSERT INTO {name}_{table} VALUES (?, ?)", (chunk + 1, blob))
        if auxiliary:
            columns = ", ".join(f"value{i:02d}" for i in range(len(auxiliary)))
            run(f"CREATE TABLE {name}_auxiliary (rowid INTEGER PRIMARY KEY, {columns})")
            for row, each in enumerate(zip(*auxiliary, strict=True), 1):
                run(f"INSERT INTO {name}_auxiliary VALUES (?{', ?' * len(each)})", (row, *each))

    def _blob(self, name, table, values, here):
        """The values of a chunk, each at its place."""
        if isinstance(values[0], str):
            blob = bytearray(16 * self.size)
            for place, row in here.items():
                text = values[row].encode()
                blob[16 * place : 16 * place + 16] = struct.pack("<I12s", len(text), text)
                if len(text) > 12:
                    long = table.replace("chunks", "text")
                    self.db.execute(f"INSERT INTO {name}_{long} VALUES (?, ?)", (row + 1, values[row]))
            return bytes(blob)
        given = np.asarray(values)
        blob = np.zeros((self.size, *given.shape[1:]), given.dtype)
        for place, row in here.items():
            blob[place] = given[row]
        return (np.packbits(blob, bitorder="little") if blob.dtype == bool else blob).tobytes()
