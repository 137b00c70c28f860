"""`repair`: of a damaged collection what is intact comes back as it was, nothing else does, and the rest is listed."""

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError, InvalidInputError, LockedError, NotFoundError
from bqstore.storage.format import row_crc
from bqstore.storage.sqlite_pages import Pages
from tests.conftest import clustered, often

from .storage.damage import bytes_of, flip
from .storage.known_collection import BITS, Document, add, documents, leave_log, make_store, questions

PAGE = 4096
ORDER = (0, 1, 2, 6, 4, 7, 3)  # of a row's columns in its checksum


def repaired(path: Path, to: Path, truth, lost_at_most: int | None = None) -> bqstore.RepairReport:
    """Repair a store, and compare what came back and what was lost with the truth; the store stays as it is."""
    before = bytes_of(path)
    report = bqstore.repair(path, to)
    assert {name: data for name, data in bytes_of(path).items() if not name.endswith("-wal")} == {
        name: data for name, data in before.items() if not name.endswith("-wal")
    }
    with bqstore.open(to, hnsw=BITS) as col:
        found = {r.id: Document(r.vector, r.text, r.metadata) for r in col.get(list(truth), with_vectors=True)}
        assert len(found) == len(col) == report.documents
        assert found == {id_: truth[id_] for id_ in found}
        for name, ask in questions(found) if found else ():
            if len(found) <= 50 or name not in ("filtered", "ids_only"):  # these ask for 50
                ask(col)
        assert col.verify().ok
    for each in report.lost:
        assert each.id is None or (each.id in truth and each.id not in found)
        if each.text is not None or each.metadata is not None:
            assert (each.text, each.metadata) == (truth[each.id].text, truth[each.id].metadata)
    named = [each for each in report.lost if each.id is not None]
    assert len(found) + len(named) <= len(truth) <= len(found) + len(report.lost), "each document is saved or listed"
    if report.lost:
        lines = [json.loads(line) for line in Path(report.lost_file).read_text().splitlines()]
        assert [line["id"] for line in lines] == [each.id for each in report.lost]
        assert Path(report.lost_file).stat().st_mode & 0o777 == 0o600
        assert report.problems
    assert lost_at_most is None or len(report.lost) <= lost_at_most
    assert {each.name for each in to.iterdir()} <= {"default", "default-lost.jsonl"}
    return report


def test_a_whole_collection_is_copied_and_nothing_is_lost(tmp_path):
    truth = make_store(tmp_path / "store", 30)
    report = repaired(tmp_path / "store", tmp_path / "new", truth, lost_at_most=0)
    assert report.problems == [] and report.lost_file is None


def spoil(file: Path, page: int, how: int) -> None:
    """Overwrite a page: with zeros, noise, or one flipped byte."""
    data = bytearray(file.read_bytes())
    end = min(len(data), (page + 1) * PAGE)
    rng = random.Random(page)
    if how == 0:
        data[page * PAGE : end] = bytes(end - page * PAGE)
    elif how == 1:
        data[page * PAGE : end] = rng.randbytes(end - page * PAGE)
    else:
        data[rng.randrange(page * PAGE, end)] ^= 255
    file.write_bytes(data)


def large(path: Path) -> dict:
    """A store whose tables have inner pages, and whose texts take several pages; some documents are deleted."""
    truth = documents(260, 1)
    for i, doc in enumerate(truth.values()):
        doc.text = f"{i} " + "long text é " * (5 + 30 * (i % 7)) if i % 5 else None
    with bqstore.open(path, hnsw=BITS) as col:
        add(col, truth)
        for id_ in list(truth)[::9]:
            col.delete([id_])
            del truth[id_]
        for id_ in list(truth)[::20]:
            col.update_metadata([id_], {"new": 1})
            truth[id_].metadata["new"] = 1
    return truth


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "store"
    return path, large(path)


@pytest.mark.parametrize("name", ["vectors-0.bin", "codes-0.bin", "meta.db"])
def test_a_damaged_page_of_any_file_loses_what_was_on_it_and_no_more(tmp_path, original, name):
    store, truth = original
    pages = -(-(store / "default" / name).stat().st_size // PAGE)
    rng = random.Random(name)
    cases = [
        (0, 0),
        (0, 1),
        (2, 0),
        *((page, page % 3) for page in rng.sample(range(2, pages), min(often(60), pages - 2))),
    ]
    settings = (store / "default/meta.db").read_bytes().index(b'"store_id"') // PAGE
    for page, how in cases:
        if page >= pages or (name == "meta.db" and page == settings):  # the head row's own page: see below
            continue
        copy, new = tmp_path / "copy", tmp_path / "new"
        shutil.copytree(store, copy)
        spoil(copy / "default" / name, page, how)
        report = repaired(copy, new, truth)
        if name == "codes-0.bin":
            assert not report.lost
        else:
            assert len(report.lost) <= {"vectors-0.bin": 90, "meta.db": 60}[name]
        if name == "vectors-0.bin":
            assert all(each.id is not None and each.reason == "its vector is damaged" for each in report.lost)
        shutil.rmtree(copy)
        shutil.rmtree(new)


def test_a_lost_first_page_of_the_catalogue_loses_no_document(tmp_path, original):
    store, truth = original
    shutil.copytree(store, tmp_path / "copy")
    spoil(tmp_path / "copy/default/meta.db", 0, 0)
    with pytest.raises(CorruptionError):
        bqstore.open(tmp_path / "copy")
    repaired(tmp_path / "copy", tmp_path / "new", truth, lost_at_most=0)


@pytest.mark.parametrize("missing", [["codes-0.bin"], ["vectors-0.bin"], ["codes-0.bin", "vectors-0.bin"]])
def test_missing_files(tmp_path, missing):
    truth = make_store(tmp_path / "store", 20)
    for name in missing:
        (tmp_path / "store/default" / name).unlink()
    report = repaired(tmp_path / "store", tmp_path / "new", truth)
    assert len(report.lost) == (len(truth) if "vectors-0.bin" in missing else 0)


def test_the_vectors_of_another_collection_are_not_taken_for_its_own(tmp_path):
    truth = make_store(tmp_path / "store", 20)
    make_store(tmp_path / "other", 20, seed=5)
    shutil.copy(tmp_path / "other/default/vectors-0.bin", tmp_path / "store/default/vectors-0.bin")
    report = repaired(tmp_path / "store", tmp_path / "new", truth)
    assert report.documents == 0 and len(report.lost) == len(truth)


def test_with_the_first_pages_of_all_files_lost_documents_were_not_listed_and_deleted_ones_were(tmp_path):
    """A row was looked for by its record alone, and that of a damaged vector was in no list, nor was its text."""
    truth = make_store(tmp_path / "store", 60, quantization={"estimator": "rabitq"})
    with bqstore.open(tmp_path / "store") as col:
        doomed = list(truth)[5:20]
        col.delete(doomed)
        col.flush()
    kept = {id_: document for id_, document in truth.items() if id_ not in doomed}
    for name in ("meta.db", "vectors-0.bin", "codes-0.bin"):
        file = tmp_path / "store/default" / name
        data = file.read_bytes()
        size = PAGE if name == "meta.db" else len(data) // 2
        file.write_bytes(b"\xab" * size + data[size:])
    report = repaired(tmp_path / "store", tmp_path / "new", kept, lost_at_most=40)
    assert report.lost and all(each.id and each.metadata is not None for each in report.lost)
    assert {each.reason for each in report.lost} == {"its vector is damaged"}


def test_a_row_whose_text_is_damaged_is_listed_by_its_id(tmp_path):
    truth = make_store(tmp_path / "store", 20)
    file = tmp_path / "store/default/meta.db"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"text 7 ", b"text x ", 1))
    report = repaired(tmp_path / "store", tmp_path / "new", truth, lost_at_most=1)
    assert [(each.id, each.reason, each.text) for each in report.lost] == [("id-0-7", "its row is damaged", None)]


@pytest.mark.parametrize("settings", [{}, {"quantization": {"encoding": "one_bit", "estimator": "rabitq"}}])
def test_codes_are_the_truth_where_no_originals_are_kept(tmp_path, settings):
    vectors = clustered(50, 16)
    with bqstore.open(tmp_path / "store", originals="none", **settings) as col:
        col.add(vectors, [f"d{i}" for i in range(50)], [f"text {i}" for i in range(50)])
        col.delete(["d5"])
        ids, _ = col.search_ids(vectors[:4], 5)
    file = tmp_path / "store/default/codes-0.bin"
    file.write_bytes(flip(file.read_bytes(), file.stat().st_size - 1))
    report = bqstore.repair(tmp_path / "store", tmp_path / "new")
    assert [(each.id, each.text) for each in report.lost] == [("d49", "text 49")] and report.documents == 48
    with bqstore.open(tmp_path / "new") as col:
        again, _ = col.search_ids(vectors[:4], 5)
        assert col.verify().ok
    kept = [[id_ for id_ in row if id_ != "d49"] for row in ids]
    assert [row.tolist()[: len(want)] for row, want in zip(again, kept, strict=True)] == kept


def test_what_stands_in_the_log_alone_is_saved(tmp_path):
    states = leave_log(tmp_path / "store", make_store(tmp_path / "store", 10))
    (tmp_path / "store/default/codes-0.bin").unlink()
    repaired(tmp_path / "store", tmp_path / "new", states[-1], lost_at_most=0)


def test_settings_model_and_private_metadata_come_along(tmp_path):
    given = {
        "distance": "euclid",
        "originals": "float16",
        "embedding_model": "m",
        "target_recall": 0.9,
        "hnsw": {"m": 24},
        "search": {"hnsw_ef": 99},
    }
    with bqstore.open(tmp_path / "store", **given) as col:
        col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"_bq_ref_doc_id": "r", "_bq_x": 1, "k": 2}, {}, {}])
        before, kept, promised = col.info(), col.get(["a"]), col.health().target
    bqstore.repair(tmp_path / "store", tmp_path / "new")
    with bqstore.open(tmp_path / "new") as col:
        after = col.info()
        assert col.get(["a"]) == kept and col.health().target == promised == 0.9
    for name in ("distance", "originals", "embedding_model", "hnsw", "search", "dim", "quantization"):
        assert getattr(before, name) == getattr(after, name)


def test_an_empty_collection(tmp_path):
    bqstore.open(tmp_path / "store").close()
    assert bqstore.repair(tmp_path / "store", tmp_path / "new").documents == 0


def test_what_cannot_be_repaired_or_must_not_be_overwritten(tmp_path):
    make_store(tmp_path / "store")
    with pytest.raises(InvalidInputError, match="exists already"):
        bqstore.repair(tmp_path / "store", tmp_path / "store")
    with pytest.raises(NotFoundError):
        bqstore.repair(tmp_path / "nowhere", tmp_path / "new")
    with bqstore.open(tmp_path / "store", exclusive=True), pytest.raises(LockedError):
        bqstore.repair(tmp_path / "store", tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "store/default/meta.db")) as connection, connection:
        connection.execute("UPDATE head SET crc = 5")
    with pytest.raises(CorruptionError, match="head row"):
        bqstore.repair(tmp_path / "store", tmp_path / "new")
    (tmp_path / "store/default/meta.db").unlink()
    with pytest.raises(CorruptionError, match=r"no meta\.db"):
        bqstore.repair(tmp_path / "store", tmp_path / "new")
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_a_repair_onto_a_disk_that_fails_says_so(tmp_path, monkeypatch):
    make_store(tmp_path / "store")
    flush = bqstore.Collection.flush

    def failing(self):
        flush(self)
        file = next((tmp_path / "new").rglob("vectors-*"))
        file.write_bytes(flip(file.read_bytes(), file.stat().st_size - 5))

    monkeypatch.setattr(bqstore.Collection, "flush", failing)
    with pytest.raises(CorruptionError, match=r"what was written to .*new.* is damaged .*its disk is failing, too"):
        bqstore.repair(tmp_path / "store", tmp_path / "new")
    with pytest.raises(NotFoundError):
        bqstore.open(tmp_path / "new", read_only=True)


def test_an_interrupted_repair_leaves_no_collection_and_can_be_repeated(tmp_path, monkeypatch):
    truth = make_store(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(bqstore.Collection, "verify", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bqstore.repair(tmp_path / "store", tmp_path / "new")
    with pytest.raises(NotFoundError):
        bqstore.open(tmp_path / "new", read_only=True)
    repaired(tmp_path / "store", tmp_path / "new", truth, lost_at_most=0)


@pytest.mark.parametrize("seed", range(3))
def test_many_damaged_bytes_bring_back_nothing_that_was_not_there(tmp_path, seed):
    truth = make_store(tmp_path / "store", 40)
    rng = random.Random(seed)
    for name in ("vectors-0.bin", "codes-0.bin", "meta.db"):
        file = tmp_path / "store/default" / name
        data = bytearray(file.read_bytes())
        for _ in range(6):
            data[rng.randrange(PAGE if name == "meta.db" else 0, len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    try:
        report = bqstore.repair(tmp_path / "store", tmp_path / "new")
    except CorruptionError as error:
        assert "head row" in str(error)
        return
    with bqstore.open(tmp_path / "new") as col:
        for record in col.get(list(truth), with_vectors=True):
            assert Document(record.vector, record.text, record.metadata) == truth[record.id]
        assert len(col) == report.documents


def test_rows_are_found_page_by_page_as_sqlite_finds_them(original):
    store, truth = original
    with Pages(store / "default/meta.db") as pages:
        raw = {row[2]: row[6] for row in pages.records(9) if row_crc(*(row[i] for i in ORDER)) == row[8]}
    assert {id_: doc.text for id_, doc in truth.items()} == {id_: text for id_, text in raw.items() if id_ in truth}


@pytest.mark.parametrize("how", ["head", "gone", "empty", "half"])
@pytest.mark.parametrize("name", ["codes-0.bin", "vectors-0.bin", "meta.db"])
def test_an_error_that_names_repair_is_of_what_repair_can_read(tmp_path, name, how):
    truth = make_store(tmp_path / "s", 30)
    path = tmp_path / "s" / "default" / name
    if how == "gone":
        path.unlink()
    elif how == "head":
        path.write_bytes(random.Random(0).randbytes(64) + path.read_bytes()[64:])
    else:
        os.truncate(path, 0 if how == "empty" else path.stat().st_size // 2)
    with pytest.raises(CorruptionError) as caught, bqstore.open(tmp_path / "s") as col:
        col.verify()
    if "bqstore repair" in str(caught.value):
        repaired(tmp_path / "s", tmp_path / "to", truth)
    else:
        assert name == "meta.db" and how in ("gone", "empty")
        with pytest.raises(CorruptionError, match="from a copy"):
            bqstore.repair(tmp_path / "s", tmp_path / "to")
