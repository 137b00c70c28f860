"""Damaged files: every answer is right or a BqstoreError, and nothing is written before the damage is found."""

import shutil
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import BqstoreError, CorruptionError, FormatVersionError, NotFoundError
from bqstore.storage.files import DiskFile
from bqstore.storage.format import FORMAT_VERSION, Layout, header_bytes, sum64

from .damage import check_damaged, cut, damage_all, flip, positions, refuse
from .depth import depths
from .known_collection import BITS, DIM, add, documents, leave_log, make_store, questions

FILES = ("vectors-0.bin", "codes-0.bin", "meta.db")
QUERY = np.random.default_rng(99).standard_normal(DIM).astype(np.float32)


@pytest.mark.sampled(3)
@depths("count", 25, 120)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_file_gives_right_answers_or_errors(tmp_path, name, damage, count):
    truth = make_store(tmp_path / "store")
    size = (tmp_path / "store/default" / name).stat().st_size
    outcomes = damage_all(tmp_path, name, damage, positions(size, count), [truth], tmp_path / "store")
    if name == "codes-0.bin" and damage is flip:
        assert outcomes <= {"refused", "right"}  # the header; the codes are all read at opening, and made anew
    elif damage is cut and name != "meta.db":
        assert outcomes == {"refused"}
    elif name == "vectors-0.bin":
        assert outcomes <= {"refused", "noticed"}


@depths("count", 15, 60)
@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_log_gives_a_whole_earlier_commit_or_errors(tmp_path, damage, count):
    states = leave_log(tmp_path / "store", make_store(tmp_path / "store"))
    size = (tmp_path / "store/default/meta.db-wal").stat().st_size
    damage_all(tmp_path, "meta.db-wal", damage, positions(size, count), states, tmp_path / "store")


@pytest.mark.parametrize("form", ["float16", "int8", "none"])
def test_damage_of_other_originals_is_noticed(tmp_path, form):
    with bqstore.open(tmp_path, originals=form) as col:
        add(col, documents(6))
    for name in ("vectors-0.bin", "codes-0.bin"):
        file = tmp_path / "default" / name
        if not file.exists():
            continue
        data = file.read_bytes()
        file.write_bytes(flip(data, len(data) - 1))
        if name == "codes-0.bin" and form != "none":  # they are derived
            with (
                pytest.warns(RuntimeWarning, match="1 codes in codes-0.bin were damaged"),
                bqstore.open(tmp_path) as col,
            ):
                assert len(col.search(QUERY, 6)) == 6 and col.verify().ok
            continue
        with pytest.raises(CorruptionError), bqstore.open(tmp_path) as col:
            assert not col.verify().ok
            col.search(QUERY, 6)
        file.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_damage(tmp_path, name):
    make_store(tmp_path)
    (tmp_path / "default" / name).unlink()
    refuse(tmp_path, CorruptionError, name)


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_is_damage(tmp_path, name):
    make_store(tmp_path)
    (tmp_path / "default" / name).write_bytes(b"")
    refuse(tmp_path, CorruptionError, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_collection_is_damage(tmp_path, name):
    make_store(tmp_path / "one")
    make_store(tmp_path / "two")
    shutil.copy(tmp_path / "two/default" / name, tmp_path / "one/default" / name)
    refuse(tmp_path / "one", CorruptionError, "another collection")


def test_the_files_of_one_kind_in_the_place_of_the_other_are_damage(tmp_path):
    make_store(tmp_path)
    shutil.copy(tmp_path / "default/vectors-0.bin", tmp_path / "default/codes-0.bin")
    refuse(tmp_path, CorruptionError, "does not start like a file of codes")


@pytest.mark.parametrize("name", FILES)
def test_wrong_magic_is_damage(tmp_path, name):
    make_store(tmp_path)
    file = tmp_path / "default" / name
    file.write_bytes(b"GIF89a  " + file.read_bytes()[8:])
    refuse(tmp_path, CorruptionError, name)


def test_a_database_of_another_program_is_left_alone(tmp_path):
    (tmp_path / "default").mkdir()
    with closing(sqlite3.connect(tmp_path / "default/meta.db")) as other:
        other.execute("CREATE TABLE notes (text)")
    refuse(tmp_path, CorruptionError, "another program's")


def test_a_catalogue_cut_to_a_valid_empty_database_is_damage_not_an_empty_collection(tmp_path):
    make_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "empty.db")) as empty:
        empty.execute("PRAGMA journal_mode = WAL")
    shutil.copy(tmp_path / "empty.db", tmp_path / "default/meta.db")
    (tmp_path / "empty.db").unlink()
    refuse(tmp_path, CorruptionError, "lost its head row")


def test_a_lost_log_with_the_first_commit_in_it_is_damage_not_an_empty_collection(tmp_path):
    with bqstore.open(tmp_path / "live") as col:
        add(col, documents(3))
        shutil.copytree(tmp_path / "live", tmp_path / "copy")
    (tmp_path / "copy/default/meta.db-wal").unlink()
    (tmp_path / "copy/default/meta.db-shm").unlink()
    refuse(tmp_path / "copy", CorruptionError, "head row")


def sql(path: Path, statement: str, *values: object) -> None:
    """Change the catalogue behind the library's back."""
    with closing(sqlite3.connect(path / "default/meta.db")) as connection, connection:
        connection.execute(statement, values)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM head", "lost its head row"),
        ("DROP TABLE head", "tables of a collection"),
        ("UPDATE head SET body = replace(body, '\"n_live\":8', '\"n_live\":7')", "head row"),
        ("UPDATE head SET crc = crc + 1", "head row"),
        ("UPDATE head SET body = 5", "head row"),
        ("DELETE FROM rows WHERE rid = 5", "its head row says otherwise"),
        ("DELETE FROM dead WHERE rid = 0", "its head row says otherwise"),
        ("DROP TABLE dead", "tables of a collection"),
        ("UPDATE dead SET rid = 5 WHERE rid = 0", "its head row says otherwise"),
        ("UPDATE dead SET rid = 500 WHERE rid = 0", "its list of deleted ones differs"),
        ("UPDATE rows SET rid = 500 WHERE rid = 5", "its head row says otherwise"),
    ],
)
def test_a_catalogue_that_contradicts_itself_is_refused(tmp_path, statement, words):
    make_store(tmp_path)
    sql(tmp_path, statement)
    refuse(tmp_path, CorruptionError, words)


def test_newer_formats_are_told_apart_from_damage(tmp_path):
    make_store(tmp_path)
    sql(tmp_path, "PRAGMA user_version = 3")
    refuse(tmp_path, FormatVersionError, "meta.db is in format 3; this bqstore reads formats up to 2")
    sql(tmp_path, "PRAGMA user_version = 2")  # of a collection with a text index
    refuse(tmp_path, CorruptionError, "meta.db does not have the tables")
    sql(tmp_path, "PRAGMA user_version = 1")
    sql(tmp_path, f"UPDATE head SET format = {FORMAT_VERSION + 1}")
    refuse(tmp_path, FormatVersionError, f"format {FORMAT_VERSION + 1}")
    for lower in (0, 2, 3, 4, 5, 6):  # known, but for 0, and not of a collection with codes of one bit by sign
        sql(tmp_path, "UPDATE head SET format = ?", lower)
        refuse(tmp_path, CorruptionError, "head row")
    sql(tmp_path, "UPDATE head SET format = 1")
    for name in FILES[:2]:
        file = tmp_path / "default" / name
        data = file.read_bytes()
        newer = data[:8] + struct.pack("<I", FORMAT_VERSION + 1) + data[12:56]
        newer += sum64(np.frombuffer(newer, np.uint32).reshape(1, -1), 0).tobytes()
        file.write_bytes(newer + data[64:])
        refuse(
            tmp_path,
            FormatVersionError,
            f"{name} is in format {FORMAT_VERSION + 1}; this bqstore reads formats up to {FORMAT_VERSION}",
        )
        file.write_bytes(data)
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok


@pytest.mark.parametrize(
    ("statement", "asks"),
    [
        ("UPDATE rows SET text = 'other' WHERE rid = 5", {"exact", "bits", "batch", "scrolled", "got"}),
        (
            "UPDATE rows SET metadata = '{\"n\":8}' WHERE rid = 7",  # it was 1: a filter would not find it
            {"filtered", "counted", "scrolled", "got"},
        ),
        ("UPDATE rows SET metadata = 'no JSON' WHERE rid = 5", {"filtered", "counted", "scrolled", "got"}),
        ("UPDATE rows SET metadata = x'00ff' WHERE rid = 5", {"filtered", "counted", "scrolled", "got"}),
        ("UPDATE rows SET metadata = 17 WHERE rid = 5", {"filtered", "counted", "scrolled", "got"}),
        ("UPDATE rows SET metadata = cast(x'7bff7d' AS TEXT) WHERE rid = 5", {"filtered", "counted", "got"}),
        ("UPDATE rows SET text = cast(x'ffff' AS TEXT) WHERE rid = 5", {"got"}),
        ("UPDATE rows SET id = 'someone else' WHERE rid = 5", {"ids_only", "scrolled", "filtered"}),
        ("UPDATE rows SET seq = 1 WHERE rid = 11", {"got", "ids_only"}),
    ],
)
def test_a_changed_row_is_never_an_answer(tmp_path, statement, asks):
    truth = make_store(tmp_path)
    sql(tmp_path, statement)
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        noticed = set()
        for name, ask in questions(truth):
            try:
                ask(col)
            except CorruptionError as error:
                assert "new" not in str(error) and "other" not in str(error)  # never a document's text
                noticed.add(name)
            except AssertionError:
                assert name in ("contained", "got") and "someone" in statement  # a whole row of another id: not found
        report = col.verify()
    assert noticed >= asks - ({"exact", "bits", "batch"} if "text = 'other'" in statement else set()) - {
        "got" if "someone" in statement else ""
    }
    assert not report.ok and "rid" not in report.problems[0]


def test_a_row_whose_index_entry_leads_elsewhere_is_not_deleted_for_another(tmp_path):
    """Looking up an id in the index alone had the document behind a damaged entry deleted."""
    truth = make_store(tmp_path)
    file = tmp_path / "default/meta.db"
    data = bytearray(file.read_bytes())
    victim = "id-0-6"
    places = [i for i in range(len(data)) if data.startswith(victim.encode(), i)]
    flipped = 0
    for place in places:
        end = place + len(victim)
        if data[end] == 6:  # the entry of the index ends with the rid
            data[end] = 7
            flipped += 1
    assert flipped == 1
    file.write_bytes(data)
    with bqstore.open(tmp_path) as col:
        with pytest.raises(CorruptionError):
            col.delete([victim])
        with pytest.raises(CorruptionError):
            add(col, {victim: truth[victim]})
        assert len(col) == len(truth)
        assert not col.verify().ok


@pytest.mark.parametrize("table", ["rows", "dead"])
def test_a_table_that_differs_from_its_index_is_noticed(tmp_path, table):
    """SQLite answers from whichever it likes: counts from the one, rows from the other."""
    truth = make_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "default/meta.db")) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        names = {"rows": ["rows", "sqlite_autoindex_rows_1"], "dead": ["dead", "dead_by_seq"]}[table]
        pages = [
            connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
            for name in names
        ]
    file = tmp_path / "default/meta.db"
    whole = file.read_bytes()
    for page in pages:
        for byte, place in ((0, 4), (1, 4)):  # no cells; one less
            data = bytearray(whole)
            at = (page - 1) * size + place
            data[at] = 0 if byte == 0 else data[at] - 1
            file.write_bytes(data)
            assert check_damaged(tmp_path, [truth]) in ("refused", "noticed")


def test_swapped_records_are_seen_by_verify(tmp_path):
    make_store(tmp_path)
    file = tmp_path / "default/vectors-0.bin"
    data, step = bytearray(file.read_bytes()), Layout("vectors", DIM, 0).record_bytes
    first, second = data[64 : 64 + step], data[64 + step : 64 + 2 * step]
    data[64 : 64 + 2 * step] = second + first
    file.write_bytes(data)
    with bqstore.open(tmp_path) as col:
        report = col.verify()
    assert not report.ok and "vectors-0.bin" in "".join(report.problems)


def test_codes_that_are_not_of_their_vectors_are_seen_by_verify(tmp_path):
    make_store(tmp_path)
    file = tmp_path / "default/codes-0.bin"
    records = np.frombuffer(bytearray(file.read_bytes()[64:]), np.uint32).reshape(-1, 6)
    records[3, 4] ^= 1
    records[3, :2] = sum64(records[3:4, 2:], 2).view(np.uint32)
    file.write_bytes(file.read_bytes()[:64] + records.tobytes())
    with bqstore.open(tmp_path) as col:
        assert col.verify().problems == ["codes-0.bin: record 3 is not the code of its vector"]


def test_verify_names_every_damaged_file_and_raises_nothing(tmp_path):
    make_store(tmp_path)
    with bqstore.open(tmp_path) as col:
        assert col.verify().ok
        for name in FILES[:2]:
            file = tmp_path / "default" / name
            data = bytearray(file.read_bytes())
            data[64 + 20] ^= 1
            file.write_bytes(data)
        report = col.verify()
        assert [p.partition(":")[0] for p in report.problems] == ["vectors-0.bin", "codes-0.bin"]
        for name in FILES[:2]:
            with (tmp_path / "default" / name).open("r+b") as file:
                file.truncate(100)
        assert len(col.verify().problems) == 2


CUT_UNDER_A_READER = """
import sys, numpy as np, bqstore
path = sys.argv[1]
for threshold, size in [(threshold, int(size)) for threshold in (0, 10_000) for size in sys.argv[2:]]:
    col = bqstore.open(path, read_only=True, hnsw={"full_scan_threshold": threshold})
    col.search(np.ones(12), 3)
    print(threshold, size, flush=True)
    with open(path + "/default/vectors-0.bin", "r+b") as file:
        whole = file.read()
        file.truncate(size)
        for ask in (
            lambda: col.search(np.ones(12), 3), lambda: col.search(np.ones(12), 3, exact=True),
            lambda: col.search_batch(np.ones((40, 12)), 3), lambda: col.search_ids(np.ones(12), 3),
            lambda: col.search(np.ones(12), 3, rescore=False, with_vectors=True),
            lambda: col.get(["id-0-7"], with_vectors=True),
        ):
            try:
                ask()
            except bqstore.CorruptionError as error:
                assert "cut short" in str(error)
            else:
                raise SystemExit("not noticed")
        assert not col.verify().ok
        file.seek(0)
        file.write(whole)
        file.flush()
        assert len(col.search(np.ones(12), 3)) == 3
    col.close()
print("alive")
"""


def test_a_file_cut_under_its_map_is_an_error_not_a_dead_process(tmp_path):
    """Beyond the end of a mapped file waits SIGBUS."""
    with bqstore.open(tmp_path) as col:
        add(col, documents(200))
    run = subprocess.run(
        [sys.executable, "-c", CUT_UNDER_A_READER, str(tmp_path), "0", "64", "70", "9000", "15000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0 and run.stdout.endswith("alive\n"), (run.stdout, run.stderr)


@pytest.mark.parametrize("read_only", [True, False])
def test_files_of_a_first_write_without_its_commit_are_ignored_and_replaced(tmp_path, read_only):
    with bqstore.open(tmp_path, dim=DIM) as col:
        store = col._engine.store
        store_id = store.head.store_id
    layouts = (Layout("vectors", DIM, 0), Layout("codes", DIM, 1))
    for layout in layouts:
        (tmp_path / f"default/{layout.kind}-0.bin").write_bytes(header_bytes(layout, 0, store_id) + b"\xff" * 50)
    (tmp_path / "default/codes-0.tmp").write_bytes(b"half")
    (tmp_path / "default/vectors-7.bin").write_bytes(b"of another generation")
    with bqstore.open(tmp_path, read_only=read_only) as col:
        assert len(col) == 0 and col.verify().ok
        if not read_only:
            assert {f.name for f in (tmp_path / "default").glob("*-7.*")} == set()
            truth = documents(4)
            add(col, truth)
            assert len(col) == 4 and col.verify().ok


def test_a_reader_of_nothing_is_told_so(tmp_path):
    with pytest.raises(NotFoundError):
        bqstore.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "default").mkdir()
    (tmp_path / "default/meta.db").write_bytes(b"")  # the writer was killed while it made it
    with pytest.raises(NotFoundError):
        bqstore.open(tmp_path, read_only=True)
    with bqstore.open(tmp_path) as col:
        add(col, documents(2))
        assert col.verify().ok


def test_a_path_that_cannot_be_a_folder_is_a_bqstore_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BqstoreError):
        bqstore.open(tmp_path / "file" / "below")
    (tmp_path / "store/default/LOCK").mkdir(parents=True)
    with pytest.raises(BqstoreError):
        bqstore.open(tmp_path / "store")


@pytest.mark.parametrize("estimator", ["sign", "rabitq"])
def test_damaged_codes_are_made_anew_and_written_by_who_may_write(tmp_path, estimator):
    coded = {"quantization": {"encoding": "one_bit", "estimator": estimator}}
    truth = make_store(tmp_path, 30, **coded)
    file = tmp_path / "default/codes-0.bin"
    good = file.read_bytes()
    data = bytearray(good)
    size = Layout("codes", DIM, 1 if estimator == "sign" else 4).record_bytes
    for slot in (0, 7, 8, 31):
        data[len(data) - (32 - slot) * size + 17] ^= 4
    file.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="4 codes in codes-0.bin were damaged"):
        reader = bqstore.open(tmp_path, read_only=True, hnsw=BITS)
    with reader:
        for _, ask in questions(truth):
            ask(reader)
        assert len(reader.verify().problems) == 4 and file.read_bytes() == data
        with pytest.warns(RuntimeWarning, match="4 codes in codes-0.bin were damaged"):
            writer = bqstore.open(tmp_path, hnsw=BITS)
        with writer:
            for _, ask in questions(truth):
                ask(writer)
            assert writer.verify().ok and reader.verify().ok
    assert file.read_bytes() == good
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        assert col.verify().ok


def test_a_code_that_is_damaged_with_its_vector_is_an_error(tmp_path):
    make_store(tmp_path, 30)
    for name in ("codes-0.bin", "vectors-0.bin"):
        file = tmp_path / "default" / name
        file.write_bytes(flip(file.read_bytes(), file.stat().st_size - 1))
    refuse(tmp_path, CorruptionError, "vectors-0.bin")


def test_codes_made_anew_are_used_where_the_disk_refuses_them(tmp_path, monkeypatch):
    truth = make_store(tmp_path, 30)
    file = tmp_path / "default/codes-0.bin"
    file.write_bytes(flip(file.read_bytes(), file.stat().st_size - 1))
    monkeypatch.setattr(DiskFile, "_pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(RuntimeWarning, match="1 codes"):
        col = bqstore.open(tmp_path, hnsw=BITS)
    with col:
        for _, ask in questions(truth):
            ask(col)
