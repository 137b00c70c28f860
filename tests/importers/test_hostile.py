"""Sources that are damaged, or made to run a program."""

import os
import pickle
import struct
from contextlib import suppress

import pytest

import bqstore
from bqstore.importers import import_from, open_source
from bqstore.importers.pickles import load
from tests.importers.folders import ChromaFolder, flat_index
from tests.importers.given import VECTORS


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
