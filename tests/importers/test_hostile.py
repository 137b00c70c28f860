"""Sources that are damaged, or made to run a program."""

import json
import os
import pickle
import pickletools
import sqlite3
import struct
import tracemalloc
import zipfile
from contextlib import closing, suppress

import numpy as np
import pytest

import bqstore
from bqstore.importers import import_from, open_source, pickles, tables
from bqstore.importers.pickles import load, plain
from tests.conftest import FULL
from tests.importers.folders import ChromaFolder, flat_index
from tests.importers.given import DIM, VECTORS


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def folder(path, pickled, index=None):
    path.mkdir()
    (path / "index.faiss").write_bytes(flat_index(VECTORS) if index is None else index)
    (path / "index.pkl").write_bytes(pickled)
    return path


def test_a_pickle_that_runs_a_program_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    source = folder(tmp_path / "old", pickle.dumps((Evil(mark), {})))
    with pytest.raises(bqstore.CorruptionError, match=r"names (posix|nt)\.system, which no such store needs"):
        import_from(source, tmp_path / "store")
    assert not mark.exists() and not (tmp_path / "store").exists()


HOSTILE = {
    "builtins": b"cbuiltins\neval\n(S'1'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
    "numpy": b"cnumpy.core.multiarray\nscalar\n.",
    "copyreg": b"ccopyreg\n_reconstructor\n.",
    "ours": b"cbqstore\nopen\n(S'/tmp/x'\ntR.",
    "cut": b"(lp0\nI1",
    "empty": b"",
    "no pickle": b"\x93NUMPY",
    "stack": b"0" * 40,
    "a pair of numbers": pickle.dumps((1, 2)),
    "long": b"\x8e" + b"\xff" * 8 + b"x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_by_name(tmp_path, name):
    source = folder(tmp_path / "old", HOSTILE[name])
    with pytest.raises(bqstore.CorruptionError, match=r"index\.pkl"):
        import_from(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_values_that_are_nested_without_end_are_refused(tmp_path):
    deep = {}
    for _ in range(200):
        deep = {"a": deep}
    source = folder(tmp_path / "old", pickle.dumps((deep, {})))
    with pytest.raises(bqstore.CorruptionError, match="more than 100 deep"):
        import_from(source, tmp_path / "store")


def test_classes_that_a_pickle_may_name_keep_nothing_of_it(tmp_path):
    known = {("lib", "Document"): "document"}
    first = load(b"clib\nDocument\n)R}S'changed'\nI1\nsb.", known, tmp_path)
    assert first.state == {"changed": 1} and not hasattr(type(load(b"clib\nDocument\n)R.", known, tmp_path)), "changed")
    with suppress(bqstore.CorruptionError):  # attributes of the class itself
        load(b"clib\nDocument\n(N(S'name'\nS'stolen'\ndtb.", known, tmp_path)
    assert load(b"clib\nDocument\n)R.", known, tmp_path).name == "document"


@pytest.mark.parametrize(
    "index",
    [
        flat_index(VECTORS)[:-1],
        flat_index(VECTORS)[:20],
        flat_index(VECTORS)[:4] + struct.pack("<iq", 8, 1 << 40) + flat_index(VECTORS)[16:],
        flat_index(VECTORS, metric=7),
        b"",
    ],
)
def test_an_index_that_does_not_agree_with_its_header_is_refused(tmp_path, index):
    source = folder(tmp_path / "old", pickle.dumps(({}, {})), index)
    with pytest.raises(bqstore.BqstoreError):
        import_from(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def chroma_like(path):
    """Two documents whose vectors are in the index."""
    made = ChromaFolder(path)
    docs = made.collection("docs")
    for id_ in ("a", "b"):
        made.document(docs, id_, None, {})
    made.index(docs, ["a", "b"], VECTORS[:2], seen=2)
    return made


def header(n=2, size=172, label_at=164, vector_at=132):
    return struct.pack("<i6Q", 1, 0, 1000, n, size, label_at, vector_at) + bytes(48)


@pytest.mark.parametrize(
    "given",
    [
        header(n=3),
        header(n=1 << 60),
        header(size=0),
        header(label_at=131),
        header(vector_at=0),
        header(size=171, label_at=163),
        header()[:20],
        b"",
    ],
)
def test_an_index_of_chroma_that_does_not_agree_with_its_header(tmp_path, given):
    source = chroma_like(tmp_path / "old").path
    (source / "one-docs-VECTOR" / "header.bin").write_bytes(given)
    with pytest.raises(bqstore.CorruptionError):
        import_from(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_index_of_chroma_with_fewer_lengths_than_vectors(tmp_path):
    made = ChromaFolder(tmp_path / "old")
    docs = made.collection("docs", space="cosine")
    made.index(docs, ["a", "b"], VECTORS[:2])
    (made.path / f"{docs}-VECTOR" / "length.bin").write_bytes(bytes(7))
    with pytest.raises(bqstore.CorruptionError, match=r"length\.bin cannot be read: it is of 7 bytes, for 2 lengths"):
        open_source(made.path)


def test_a_database_that_is_none(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "chroma.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(bqstore.CorruptionError, match=r"chroma\.sqlite3"):
        import_from(tmp_path / "old", tmp_path / "store")


def test_a_page_of_documents_that_is_damaged_is_an_error_by_name(tmp_path):
    """It is read after the source was opened: SQLite's own error came out of the middle of an import."""
    made = chroma_like(tmp_path / "old")
    source = made.path
    made.db.execute("INSERT INTO embedding_metadata VALUES (1, 'lost', ?, NULL, NULL, NULL)", ("x" * 9000,))
    made.db.close()
    data = bytearray((source / "chroma.sqlite3").read_bytes())
    at = data.index(b"lost") // 4096 * 4096
    data[at : at + 4096] = b"\xff" * 4096
    (source / "chroma.sqlite3").write_bytes(data)
    with pytest.raises(bqstore.CorruptionError, match=r"chroma\.sqlite3"):
        import_from(source, tmp_path / "store")


def test_a_file_that_goes_away_while_it_is_read_is_an_error_by_name(tmp_path):
    lines = tmp_path / "all.jsonl"
    lines.write_text('{"id": "a", "vector": [1, 0]}')
    source = open_source(lines)
    lines.unlink()
    with pytest.raises(bqstore.CorruptionError, match=r"all\.jsonl cannot be read"):
        import_from(source, tmp_path / "store")


# ---- sources that are waited for without end, or that take all memory


def named_many_times():
    """A list that holds 2 ** 40 values, of a few hundred bytes."""
    found = ["ha"]
    for _ in range(40):
        found = [found, found]
    return found


def points_of(path, sql, *rows):
    """A folder of Qdrant's local mode, whose points a statement makes."""
    (path / "collection" / "docs").mkdir(parents=True)
    space = {"size": DIM, "distance": "Cosine"}
    (path / "meta.json").write_text(json.dumps({"collections": {"docs": {"vectors": space}}}))
    with closing(sqlite3.connect(path / "collection" / "docs" / "storage.sqlite")) as db, db:
        db.execute(sql)
        if rows:
            db.executemany("INSERT INTO points VALUES (?, ?)", rows)
    return path


def test_lists_that_a_pickle_names_over_and_over_took_all_memory(tmp_path, monkeypatch):
    if not FULL:
        monkeypatch.setattr(pickles, "_FEW", 10_000)  # else a million values are counted, twice
    source = folder(tmp_path / "faiss", pickle.dumps((named_many_times(), {})))
    with pytest.raises(bqstore.CorruptionError, match="repeats its values without end"):
        open_source(source)
    point = {"id": 1, "vector": [1.0] * DIM, "payload": {"text": "x", "a": named_many_times()}}
    source = points_of(tmp_path / "qdrant", "CREATE TABLE points (id, point)", ("1", pickle.dumps(point)))
    with pytest.raises(bqstore.CorruptionError, match="repeats its values without end"):
        import_from(source, tmp_path / "store")


PROTOCOL, STACK = pickle.PROTO + b"\x02", pickle.EMPTY_LIST
ASKS_FOR_MUCH = {
    "a number of 2 ** 28": PROTOCOL + STACK + pickle.LONG_BINPUT + struct.pack("<I", 1 << 28) + pickle.STOP,
    "the same in words": STACK + pickle.PUT + b"268435456\n.",
    "a length of 2 ** 40": pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40) + b"x.",
    "empty sets": STACK + pickle.MARK + pickle.EMPTY_SET * 60_000 + pickle.APPENDS + pickle.STOP,
    "empty objects": b"ccollections\nOrderedDict\nq\x00(" + b"h\x00)R" * 60_000 + b"l.",
}


@pytest.mark.parametrize("name", ASKS_FOR_MUCH)
def test_a_few_bytes_of_a_pickle_took_all_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pickles, "_LITTLE", 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(bqstore.CorruptionError, match=r"x\.pkl .* asks for far more memory than its .* bytes can"):
            load(ASKS_FOR_MUCH[name], {}, tmp_path / "x.pkl")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_no_pickle_that_python_writes_asks_for_more_than_it_holds(tmp_path):
    values = [{f"Gpr.\n{i}": [i / 7, -(1 << i), "ä" * i, [i] * i, (), (i,), None]} for i in range(80)]
    values = [*values, np.random.default_rng(0).random(2500).tolist(), [{}] * 3]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for data in (pickle.dumps(values, protocol), pickletools.optimize(pickle.dumps(values, protocol))):
            assert load(data, {}, tmp_path) == values


def test_metadata_that_documents_share_is_no_repetition_without_end():
    shared = {f"key{i}": i for i in range(50)}
    found = pickle.dumps([{"id": f"document {i}", "text": "some text", "metadata": shared} for i in range(2000)])
    assert plain(pickle.loads(found), len(found))[-1]["metadata"] == shared
    chapters = [f"chapter {i}" for i in range(1000)]
    found = pickle.dumps([{"id": str(i), "text": "a short one", "chapters": chapters} for i in range(500)])
    assert plain(pickle.loads(found), len(found))[-1]["chapters"] == chapters


EMPTY = b"clangchain_community.docstore.in_memory\nInMemoryDocstore\n)R}S'_dict'\n}sb}\x86."  # no documents


@pytest.mark.skipif(os.name == "nt", reason="no pipes with a name")
@pytest.mark.parametrize("name", ["index.pkl", "index.faiss", "chroma", "meta.json", "all.json"])
def test_a_pipe_in_the_place_of_a_file_was_waited_for_without_end(tmp_path, name):
    old = tmp_path / "old"
    if name.startswith("index"):
        made = folder(old, EMPTY)
        (old / name).unlink()
        os.mkfifo(old / name)
        with pytest.raises(bqstore.CorruptionError, match=rf"{name} cannot be read: it is no regular file"):
            open_source(made)
    elif name == "chroma":
        made = ChromaFolder(old)
        docs = made.collection("docs")
        made.index(docs, ["a"], VECTORS[:1])
        (old / f"{docs}-VECTOR" / "header.bin").unlink()
        os.mkfifo(old / f"{docs}-VECTOR" / "header.bin")
        with pytest.raises(bqstore.CorruptionError, match="no regular file"):
            open_source(old)
    else:
        old.mkdir()
        os.mkfifo(old / name)
        with pytest.raises(bqstore.InvalidInputError, match="not recognized"):
            open_source(old)


@pytest.mark.parametrize("name", ["points", "collections"])
def test_a_view_under_the_name_of_a_table_had_rows_without_end(tmp_path, name):
    endless = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id, x AS name, x AS point FROM c"
    )
    if name == "points":
        source = points_of(tmp_path / "old", f"CREATE VIEW points AS {endless}")
    else:
        source = tmp_path / "old"
        source.mkdir()
        with closing(sqlite3.connect(source / "chroma.sqlite3")) as db:
            db.execute(f"CREATE VIEW collections AS {endless}")
    with pytest.raises(bqstore.CorruptionError, match=r"not authorized|prohibited"):
        open_source(source)


def test_a_line_without_end_took_all_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LONGEST", 1000)
    (tmp_path / "all.jsonl").write_text('{"id": "a", "vector": [1, 0]}\n' + "x" * 1001)
    with pytest.raises(bqstore.CorruptionError, match="a line of more than 1,000 bytes"):
        open_source(tmp_path / "all.jsonl")


def test_a_source_larger_than_memory_is_told_by_name(tmp_path, monkeypatch):
    def no_room(path):
        raise MemoryError

    source = folder(tmp_path / "old", pickle.dumps(({}, {})))
    monkeypatch.setattr(type(source), "read_bytes", no_room)
    with pytest.raises(bqstore.StorageError, match="old takes more memory to read than the system gives"):
        open_source(source)


def npz(path, shape, data, *, by_columns=False, name="vectors.npy"):
    """An npz with one array whose header says what it likes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole, whole.open(name, "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": by_columns, "shape": shape})
        file.write(data)
    return path


def test_an_npz_was_in_memory_as_a_whole_whatever_its_header_says(tmp_path, monkeypatch):
    source = npz(tmp_path / "liar.npz", (10**12, 1000), bytes(8000))
    assert open_source(source).count == 10**12
    with pytest.raises(bqstore.CorruptionError, match=r"vectors\.npy ends before its 1,000,000,000,000 rows do"):
        import_from(source, tmp_path / "store")
    for shape in ((10**13, 0), (-5, DIM)):  # the first was gone through row by row
        with pytest.raises(bqstore.InvalidInputError, match=r"of shape \(.*\); expected real numbers of \(n, dim\)"):
            open_source(npz(tmp_path / "none.npz", shape, b""))
    monkeypatch.setattr(tables, "_PORTION", 4 * DIM * 4)  # three rows and some
    some = npz(tmp_path / "a.npz", (40, DIM), VECTORS.tobytes())
    np.testing.assert_array_equal(list(tables._arrays(some)["vectors"]), VECTORS)
    turned = npz(tmp_path / "b.npz", (40, DIM), np.asfortranarray(VECTORS).tobytes("F"), by_columns=True)
    np.testing.assert_array_equal(list(tables._arrays(turned)["vectors"]), VECTORS)
    monkeypatch.setattr(tables, "_LONGEST", 100)
    for path, said in (
        (turned, "columns, not rows"),
        (npz(tmp_path / "c.npz", (1, 26), bytes(104)), "row of 104 bytes"),
    ):
        with pytest.raises(bqstore.InvalidInputError, match=said):
            list(tables._arrays(path)["vectors"])
