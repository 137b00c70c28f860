"""Files of sqlite-vec, read without it; those that it writes itself are in ``test_peers.py``."""

import json
import sqlite3

import numpy as np
import pytest

import bqstore
from bqstore.importers import import_from, open_source
from tests.importers.folders import SqliteVecFile
from tests.importers.given import DIM, IDS, METADATAS, TEXTS, VECTORS, N, imported

COLUMNS = f"""
    tenant text partition key, -- one of several, of whose columns (each) one is
    id text PRIMARY KEY, v float[{DIM}] distance_metric=cosine /* not l2, */, n integer, share double, open boolean,
    +text text, lang text, +nothing text, chunk_size=16
"""
LANGS = [f"{'a language of a long name' if i % 3 else 'short'}, ü{i}" for i in range(N)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "old.db"


def filled(file):
    values = [[each[name] for each in METADATAS] for name in ("n", "share", "open")]
    made = SqliteVecFile(file)
    made.table(
        *("docs", COLUMNS),
        vectors=[VECTORS],
        keys=IDS,
        partition="t1",
        values=[np.array(values[0], "<i8"), np.array(values[1], "<f8"), np.array(values[2]), LANGS],
        auxiliary=[TEXTS, [None] * N],
        gaps=(0, 3, 17),
    )
    return made.db


def test_a_table_with_columns_of_every_kind(file, tmp_path):
    filled(file).close()
    metadatas = [{"tenant": "t1", **each, "lang": lang} for each, lang in zip(METADATAS, LANGS, strict=True)]
    report = imported(file, tmp_path / "store", metadatas=metadatas)
    assert (report.kind, report.collection, report.distance, report.notes) == ("sqlite-vec", "docs", "cosine", ())


@pytest.mark.parametrize(("table", "beside"), [("docs_vec", "docs"), ("vec_docs", "docs")])
def test_documents_in_a_table_beside(file, tmp_path, table, beside):
    """As LangChain's SQLiteVec has them, and many without a framework."""
    made = SqliteVecFile(file)
    made.table(table, f"rowid INTEGER PRIMARY KEY, text_embedding float[{DIM}]", vectors=[VECTORS])
    made.db.execute(f"CREATE TABLE {beside} (rowid INTEGER PRIMARY KEY, text, metadata BLOB, text_embedding BLOB, raw)")
    rows = zip(TEXTS, map(json.dumps, METADATAS), map(bytes, VECTORS), strict=True)
    made.db.executemany(f"INSERT INTO {beside} (text, metadata, text_embedding, raw) VALUES (?, ?, ?, x'00')", rows)
    made.db.close()
    report = imported(file, tmp_path / "store", ids=[str(row) for row in range(1, N + 1)])
    assert report.distance == "euclid"
    assert report.notes == (
        "texts and metadata come from the rows of 'docs' with the same rowids",
        "the column 'raw' holds bytes and is left out",
    )


def test_columns_of_several_kinds_of_vectors(file, tmp_path):
    made = SqliteVecFile(file)
    small, bits = np.arange(N * DIM, dtype=np.int8).reshape(N, DIM), VECTORS > 0
    columns = f"a INT8[{DIM}] distance_metric=L1, b bit[{DIM}], c float32[{DIM}], +raw blob, +page_content text"
    made.table("docs", columns, vectors=[small, bits, VECTORS], auxiliary=[[b"x"] * N, TEXTS])
    made.table("other", "rowid integer primary key, b bit[8]", vectors=[bits])
    made.db.close()
    with pytest.raises(bqstore.InvalidInputError, match=r"2 collections \('docs/a', 'docs/c'\)"):
        import_from(file, tmp_path / "store")
    for name in ("docs/b", "other"):
        with pytest.raises(bqstore.InvalidInputError, match=f"'{name}' of .* holds bit vectors"):
            open_source(file, from_collection=name)
    ids, nothing = [str(row) for row in range(1, N + 1)], [{}] * N
    report = imported(
        file, tmp_path / "a", ids=ids, metadatas=nothing, vectors=np.float32(small), from_collection="docs/a"
    )
    assert report.distance == "euclid" and report.notes == (
        "the bit vectors of 'docs/b' are left out",
        "the bit vectors of 'other' are left out",
        "int8 vectors are imported as integers, without a scale",
        "bqstore has no distance l1: euclid is used, or the one given by distance=",
        "the column 'raw' holds bytes and is left out",
    )
    imported(file, tmp_path / "c", ids=ids, metadatas=nothing, from_collection="docs/c", distance="dot")


def test_bit_vectors_alone_are_refused_by_name(file):
    made = SqliteVecFile(file)
    made.table("docs", "rowid integer primary key, b bit[8]", vectors=[VECTORS > 0])
    made.db.close()
    with pytest.raises(bqstore.InvalidInputError, match="import a column of float or int8, or embed the texts again"):
        open_source(file)


HOSTILE = {
    "validity": ("UPDATE docs_chunks SET validity = x'ff'", "chunk 1 holds 1 bytes where there should be 2 bytes"),
    "rowids": ("UPDATE docs_chunks SET rowids = 'text'", "chunk 1 holds str where there should be 128 bytes"),
    "size": ("UPDATE docs_chunks SET size = 1 << 60", "where there should be"),
    "a size that is no number": ("UPDATE docs_chunks SET size = 'x'", "TypeError"),
    "vectors": ("UPDATE docs_vector_chunks00 SET vectors = zeroblob(511)", "511 bytes where there should be 512"),
    "a chunk without vectors": ("DELETE FROM docs_vector_chunks00 WHERE rowid = 2", "chunk 2 holds NoneType"),
    "taken twice": ("UPDATE docs_chunks SET validity = x'ffff'", "other rows than the list of rowids says"),
    "other rowids": ("DELETE FROM docs_rowids WHERE rowid = 9", "other rows than the list of rowids says"),
    "no rowids": ("DROP TABLE docs_rowids", "no such table: docs_rowids"),
    "texts": ("DELETE FROM docs_metadatatext03", 'texts are missing in "docs_metadatatext03"'),
    "no UTF-8": (
        "UPDATE docs_metadatachunks03 SET data = CAST(replace(hex(zeroblob(8)),'0','a') AS BLOB) || zeroblob(240)",
        "old.db cannot be read",
    ),
    "a column": (
        "UPDATE sqlite_master SET sql = 'CREATE VIRTUAL TABLE docs USING vec0(v)' WHERE name = 'docs'",
        "no form that is known",
    ),
    "a distance": (
        "UPDATE sqlite_master SET sql = replace(sql, '=cosine', '=other') WHERE name = 'docs'",
        "distance 'other'",
    ),
    "an index": (
        "UPDATE sqlite_master SET sql = replace(sql, 'distance_metric=cosine', 'indexed by ivf(nlist=2, nprobe=1)') "
        "WHERE name = 'docs'",
        "has an index of its own",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_file_is_named(file, tmp_path, name):
    change, said = HOSTILE[name]
    with filled(file) as db:
        db.execute(change)
    db.close()
    with pytest.raises(bqstore.BqstoreError, match=said) as error:
        import_from(file, tmp_path / "store")
    assert "old.db" in str(error.value)


def test_other_sqlite_files_are_not_taken(file):
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE docs (id, v)")
    db.close()
    with pytest.raises(bqstore.InvalidInputError, match="is not recognized"):
        open_source(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(bqstore.CorruptionError, match=r"old\.db cannot be read"):
        open_source(file)
