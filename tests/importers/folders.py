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


def hnswlib_files(folder, vectors):
    """hnswlib's files of an index whose labels are 1, 2, ...: links, vector, label of each element."""
    n, dim = vectors.shape
    elements = np.zeros((n, 132 + 4 * dim + 8), np.uint8)
    elements[:, 132:-8] = vectors.view(np.uint8)
    elements[:, -8:] = np.arange(1, n + 1, dtype="<u8").view(np.uint8).reshape(-1, 8)
    head = struct.pack("<i6Q", 1, 0, 1024, n, elements.shape[1], 132 + 4 * dim, 132) + bytes(48)
    (folder / "header.bin").write_bytes(head)
    (folder / "data_level0.bin").write_bytes(elements.tobytes())


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

    def index(self, collection, ids, vectors, *, seen=0, number=int, pickled=dict):
        """The files of the index, which has taken the log up to ``seen``."""
        folder = self.path / f"{collection}-VECTOR"
        folder.mkdir()
        hnswlib_files(folder, vectors)
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
