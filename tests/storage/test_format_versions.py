"""Format 1 stays as it was, to the byte; 2 and 3 are what older versions refuse; what none wrote is damage."""

import json
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.errors import CorruptionError, FormatVersionError
from bqstore.storage import coding_of, head, head_table, open_store
from bqstore.storage import format as fmt
from bqstore.storage.format import HEADER_BYTES, Layout, header_bytes
from bqstore.storage.verify import problems_of

from .crash import SETTINGS
from .damage import bytes_of
from .store_model import DIM, StoreModel
from .test_code_forms import filled, resealed

# what the last version that knew format 1 only wrote for one document, byte by byte
OLD = {
    "vectors-1.bin": (
        "425153547665637301000000400000000400000000000000400000000000000001000000000000000500000000000000"
        "00000000000000009c0680660174ccb1"
        "a4cade85f350cdf5070000000000000076a412400000803f00000000000000000000003f000080bf0000000000000040"
        "00000000000000000000000000000000"
    ),
    "codes-1.bin": (
        "42515354636f646501000000400000000400000001000000180000000000000001000000000000000500000000000000"
        "0000000000000000d294c8716ca17eae"
        "d3c4bf397b73716207000000000000000900000000000000"
    ),
}
OLD_BODY = (
    '{"store_id":5,"seq":3,"meta_seq":0,"generation":1,"n_slots":1,"n_live":1,"next_rid":8,"dim":4,"settings":{"distance":'
    '"dot","originals":"float32","embedding_model":null,"quantization":{"encoding":"one_bit","query_encoding":"binary",'
    '"estimator":"sign"},"hnsw":{"m":16},"search":{}}}'
)
OLD_ROW = (7, 3, "a", None, "{}", 707146974, "é", None, 1825836054)


def write_old(folder: Path) -> None:
    """A store as that version left it."""
    folder.mkdir(parents=True)
    for name, data in OLD.items():
        (folder / name).write_bytes(bytes.fromhex(data))
    with closing(sqlite3.connect(folder / "meta.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA application_id = 0x42515354")
        db.execute("PRAGMA user_version = 1")
        for statement in head_table.STATEMENTS:
            db.execute(statement)
        db.execute("INSERT INTO head VALUES (1, 1, ?, 2262463654)", (OLD_BODY,))
        db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", OLD_ROW)
        db.commit()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_of_the_version_before_opens(tmp_path, read_only):
    write_old(tmp_path / "default")
    before = bytes_of(tmp_path)
    store = open_store(tmp_path / "default", {}, None, read_only)
    assert problems_of(store) == ([], 1, 1) and store.parameters.shape == (0,)
    assert (store.head.store_id, store.head.seq, store.head.dim) == (5, 3, 4)
    assert coding_of(store.head.settings)["encoding"] == "one_bit"
    assert fmt.vectors_of(store.vectors.layout, store.vectors.read(0, 1)).tolist() == [[0.5, -1, 0, 2]]
    assert [array.tolist() for array in store.read_codes(0, 1)] == [[7], [[9]]]
    assert store.rows("rid", [7])[0].text == "é"
    store.close()
    assert bytes_of(tmp_path) == before


def test_what_is_written_for_signs_is_what_that_version_wrote(tmp_path):
    write_old(tmp_path / "old")
    layouts = {"vectors-1.bin": Layout("vectors", 4, 0), "codes-1.bin": Layout("codes", 4, 1)}
    vectors = np.array([[0.5, -1, 0, 2]], np.float32)
    rids = np.array([7])
    records = {
        "vectors-1.bin": fmt.vector_records(layouts["vectors-1.bin"], rids, vectors),
        "codes-1.bin": fmt.code_records(layouts["codes-1.bin"], rids, np.array([[9]], np.uint64)),
    }
    for name, layout in layouts.items():
        assert (header_bytes(layout, 1, 5) + records[name].tobytes()).hex() == OLD[name]
    stored = head.Head.from_stored(1, OLD_BODY, 2262463654, "meta.db").stored()
    assert stored == (1, OLD_BODY, 2262463654)
    # and through a store: another document beside the one there is, then all in a new generation
    store = open_store(tmp_path / "old", {}, None, False)
    store.start_writing()
    rows = head.Rows(["b"], [None], ["{}"], [None], [None])
    store.append(rows, -vectors, np.array([[2]], np.uint64))
    assert store.commit_compaction(store.begin_compaction(np.arange(2))).generation == 2
    store.close()
    for name, data in OLD.items():
        found = (tmp_path / "old" / name.replace("1", "2")).read_bytes()
        assert found[8:16] == bytes.fromhex(data)[8:16] and found[64:].startswith(bytes.fromhex(data)[64:])
    assert version_of(tmp_path / "old") == (1, 1)


def version_of(folder: Path) -> tuple[int, int]:
    """The version of the tables, and that of the collection."""
    with closing(sqlite3.connect(folder / "meta.db")) as db:
        (tables,), (collection,) = (
            db.execute("PRAGMA user_version").fetchone(),
            db.execute("SELECT format FROM head").fetchone(),
        )
    return tables, collection


def test_the_head_row_says_2_exactly_as_long_as_codes_are_of_another_form(tmp_path):
    with StoreModel(tmp_path) as model:
        folder = tmp_path / "default"
        assert version_of(folder) == (1, 1)
        for form, version in [(1, 1), (4, 2), (6, 2), (1, 1), (2, 2)]:
            model.form = form
            model.add(3) if form == 1 else None
            model.recode(form)
            assert version_of(folder) == (1, version)
            model.delete(1)
            assert version_of(folder) == (1, version)
            with (folder / f"codes-{model.store.head.generation}.bin").open("rb") as file:
                assert struct.unpack("<I", file.read(12)[8:])[0] == version
            with (folder / f"vectors-{model.store.head.generation}.bin").open("rb") as file:
                assert struct.unpack("<I", file.read(12)[8:])[0] == 1
            model.check()
        model.clear()
        assert version_of(folder) == (1, 1)


def test_a_version_that_knows_format_1_only_refuses_format_2_and_reads_what_is_1_again(tmp_path, monkeypatch):
    with filled(tmp_path, 4) as model:
        monkeypatch.setattr(head, "FORMAT_VERSION", 1)  # what `from_stored` compares with, and comes to first
        with pytest.raises(FormatVersionError, match=r"meta.db is in format 2; .* upgrade bqstore"):
            open_store(tmp_path / "default", SETTINGS, None, True)
        monkeypatch.undo()
        model.recode(1)
        monkeypatch.setattr(head, "FORMAT_VERSION", 1)
        with StoreModel(tmp_path, read_only=True) as reader:
            reader.documents = model.documents
            reader.check()
        monkeypatch.undo()


def test_the_head_row_says_3_exactly_as_long_as_codes_are_of_truncated_vectors(tmp_path):
    """The codes file is as one of so many dimensions always was, the vectors file that of the whole."""
    with StoreModel(tmp_path) as model:
        folder = tmp_path / "default"
        model.form, model.part = 4, 7
        model.add(9)
        steps = [(4, 7, 3), (1, 5, 3), (1, None, 1), (6, 1, 3), (2, DIM, 3), (3, None, 2), (3, 11, 3)]
        for step, (form, part, version) in enumerate(steps):
            if step:
                model.recode(form, part=part)
            assert version_of(folder) == (1, version)
            model.delete(1)
            model.compact()
            assert version_of(folder) == (1, version)
            generation = model.store.head.generation
            for kind, dim, own in (("codes", part or DIM, 1 if form == 1 else 2), ("vectors", DIM, 1)):
                fields = struct.unpack("<3I", (folder / f"{kind}-{generation}.bin").read_bytes()[8:20])
                assert (fields[0], fields[2]) == (own, dim)
            assert model.store.codes.layout == Layout("codes", part or DIM, form)
            model.check()
        model.clear()
        assert version_of(folder) == (1, 1) and "coding" not in model.store.head.settings


@pytest.mark.parametrize("form", range(1, 7))
def test_a_version_without_truncation_refuses_it_and_reads_whole_codes_again(tmp_path, monkeypatch, form):
    with StoreModel(tmp_path) as model:
        model.form, model.part = form, 5
        model.add(9)
        for read_only in (True, False):
            monkeypatch.setattr(head, "FORMAT_VERSION", 2)
            with pytest.raises(bqstore.BqstoreError) as raised:
                open_store(tmp_path / "default", SETTINGS, None, read_only)
            monkeypatch.undo()
            assert isinstance(raised.value, FormatVersionError if read_only else bqstore.LockedError)
        model.recode(form)
        monkeypatch.setattr(head, "FORMAT_VERSION", 2)
        with StoreModel(tmp_path, read_only=True) as reader:
            reader.documents = model.documents
            reader.check()
        monkeypatch.undo()


def test_the_head_row_says_4_from_the_first_half_with_a_scale_on(tmp_path, monkeypatch):
    """So that a version that would read it without its scale refuses; vectors as they usually are change nothing."""
    folder, long = tmp_path / "default", np.eye(4, dtype=np.float32)
    with bqstore.open(tmp_path, originals="float16") as col:
        col.add(long, list("abcd"))
        assert version_of(folder) == (1, 1)
        col.add(long[:1] / 256, ["e"])
        assert version_of(folder) == (1, 1)
        col.add(long[:1] / 257, ["f"])
        assert version_of(folder) == (1, 4)
        col.delete(["f"])
        col.compact()
        assert version_of(folder) == (1, 4)
        col.clear()
        assert version_of(folder) == (1, 1)
        col.add([[1e-9, 0, 0, 0], [0, 0, 0, 1]], ["g", "h"])
        assert version_of(folder) == (1, 4)
    monkeypatch.setattr(head, "FORMAT_VERSION", 3)
    with pytest.raises(FormatVersionError, match=r"meta.db is in format 4; .* upgrade bqstore"):
        bqstore.open(tmp_path, read_only=True)
    monkeypatch.undo()
    with bqstore.open(tmp_path) as col:
        assert [hit.id for hit in col.search([1.0, 0, 0, 0], 1, with_vectors=True)] == ["g"]
        assert col.get(["g"], with_vectors=True)[0].vector[0] == pytest.approx(1e-9, rel=2**-11)


@pytest.mark.parametrize("originals", ["float32", "int8", "none"])
def test_no_other_form_of_originals_is_marked_for_short_vectors(tmp_path, originals):
    with bqstore.open(tmp_path, originals=originals) as col:
        col.add([[1e-9, 0, 0, 0]], ["a"])
        assert version_of(tmp_path / "default") == (1, 1)


@pytest.mark.parametrize("part", [0, -1, DIM + 1, 10**30, 5.0, True, None, "5", [5], {}])
@pytest.mark.parametrize("form", [1, 4])
def test_an_impossible_truncate_dim_is_damage(tmp_path, form, part):
    with StoreModel(tmp_path) as model:
        model.form, model.part = form, 5
        model.add(9)
        coding = model.store.head.settings["coding"]
    rewrite_head(tmp_path / "default", 3, coding={**coding, "truncate_dim": part})
    before = bytes_of(tmp_path)
    for read_only in (True, False):
        with pytest.raises(CorruptionError, match=r"head row of meta\.db"):
            open_store(tmp_path / "default", SETTINGS, None, read_only)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("part", [4, 6, DIM])
def test_a_codes_file_of_another_truncate_dim_is_damage(tmp_path, part):
    """Also where records are of the same length."""
    with StoreModel(tmp_path) as model:
        model.form, model.part = 1, 5
        model.add(9)
        coding = model.store.head.settings["coding"]
    rewrite_head(tmp_path / "default", 3, coding={**coding, "truncate_dim": part})
    with pytest.raises(CorruptionError, match=r"header of codes-0\.bin"):
        open_store(tmp_path / "default", SETTINGS, None, True)


def test_signs_after_other_codes_are_the_bytes_of_a_store_that_had_no_others(tmp_path):
    found = []
    for name, forms in (("never", []), ("once", [6, 2])):
        with StoreModel(tmp_path / name) as model:
            model.add(20)
            documents = model.documents
            for form in forms:
                model.recode(form)
            while model.store.head.generation < 3:
                model.recode(1)
            assert model.documents == documents
        files = [(tmp_path / name / f"default/{kind}-3.bin").read_bytes() for kind in ("vectors", "codes")]
        found.append([data[:40] + data[48:56] + data[64:] for data in files])  # but the store id and the checksum
    assert found[0] == found[1]


def rewrite_head(folder: Path, version: int, **settings: object) -> None:
    """Another head row that agrees with its checksum."""
    with closing(sqlite3.connect(folder / "meta.db")) as db, db:
        body = json.loads(db.execute("SELECT body FROM head").fetchone()[0])
        body["settings"].update(settings)
        text = json.dumps(body)
        db.execute("UPDATE head SET format = ?, body = ?, crc = ?", (version, text, zlib.crc32(text.encode())))


@pytest.mark.parametrize(
    "coding",
    [
        {"encoding": "three_bits", "estimator": "rabitq", "rotate": False},
        {"encoding": "one_and_half_bits", "estimator": "rabitq", "rotate": False},
        {"encoding": "two_bits"},
        {"encoding": [], "estimator": {}},
        "two_bits",
        [],
        None,
        7,
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_coding_that_no_version_wrote_is_damage(tmp_path, coding, version):
    with filled(tmp_path, 4):
        pass
    rewrite_head(tmp_path / "default", version, coding=coding)
    before = bytes_of(tmp_path)
    for read_only in (True, False):
        with pytest.raises(CorruptionError, match=r"head row of meta\.db"):
            open_store(tmp_path / "default", SETTINGS, None, read_only)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize(("form", "version"), [(1, 2), (4, 1), (4, 0), (1, 0), (4, -2), (1, 3), (4, 3)])
def test_a_version_that_contradicts_the_coding_is_damage(tmp_path, form, version):
    with filled(tmp_path, form):
        pass
    rewrite_head(tmp_path / "default", version)
    with pytest.raises(CorruptionError, match=r"head row of meta\.db"):
        open_store(tmp_path / "default", SETTINGS, None, True)


def test_a_later_version_is_named(tmp_path):
    with filled(tmp_path, 4):
        pass
    rewrite_head(tmp_path / "default", 8, coding={"encoding": "of tomorrow", "estimator": "?"})
    with pytest.raises(FormatVersionError, match=r"meta\.db is in format 8; this bqstore reads formats up to 7"):
        open_store(tmp_path / "default", SETTINGS, None, True)


def test_a_codes_file_of_another_form_is_damage(tmp_path):
    """Of a copy that is not whole, say: the head row of one, the codes of the other."""
    paths = [tmp_path / "one", tmp_path / "other"]
    for path, form in zip(paths, (4, 6), strict=True):
        with filled(path, form) as model:
            model.check()
    data = bytearray((paths[1] / "default/codes-0.bin").read_bytes())
    data[40:48] = (paths[0] / "default/codes-0.bin").read_bytes()[40:48]  # of the same store, too
    data[:HEADER_BYTES] = resealed(bytes(data[:HEADER_BYTES]), 32, "<Q", 0)
    (paths[0] / "default/codes-0.bin").write_bytes(data)
    with pytest.raises(CorruptionError, match=r"header of codes-0\.bin"):
        open_store(paths[0] / "default", SETTINGS, None, True)
