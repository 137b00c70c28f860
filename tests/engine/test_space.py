"""The space of the catalogue: what is deleted is given back, and the log does not stay large."""

import sqlite3
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore.engine import core
from bqstore.storage import space, verify
from bqstore.storage.reading import Reading
from tests.conftest import HANGS

TEXT = "x" * 2000


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)


def sizes(path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in (path / "default").iterdir()}


def fill(col, count=1500):
    col.add(vectors(count), [f"d{i}" for i in range(count)], [TEXT] * count)


@pytest.mark.parametrize("earlier", [False, True])
def test_compact_and_clear_kept_the_space_of_deleted_documents(tmp_path, monkeypatch, earlier):
    """391 MB of meta.db for 100 documents; and info() counted the vectors alone."""
    if earlier:  # a file that was made without the means to shrink
        monkeypatch.setattr(space, "prepare", lambda connection: None)
        bqstore.open(tmp_path).close()
        monkeypatch.undo()
    with bqstore.open(tmp_path) as col:
        fill(col)
        full = col.info()
        assert full.disk_bytes > full.catalogue_bytes > 1500 * len(TEXT)
        col.delete([f"d{i}" for i in range(10, 1500)])
        col.compact()
        small = col.info()
        assert small.catalogue_bytes < 150_000 and small.disk_bytes < 160_000
        found = sizes(tmp_path)
        assert small.catalogue_bytes == found["meta.db"] + found["meta.db-wal"]
        assert [record.text for record in col.scroll()] == [TEXT] * 10
        fill(col)
        col.clear()
        assert col.info().disk_bytes == col.info().catalogue_bytes < 150_000
        assert col.verify().ok
        fill(col, 20)
    with bqstore.open(tmp_path) as col:
        assert len(col) == 20 and col.verify().ok


def test_documents_that_became_smaller_kept_their_space(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(vectors(200), [f"d{i}" for i in range(200)], metadatas=[{"long": "x" * 20_000}] * 200)
        col.update_metadata([f"d{i}" for i in range(200)], {"long": 1})
        col.compact()
        assert col.info().catalogue_bytes < 1_000_000  # of 4 MB; pages that are partly used stay


def test_space_that_the_disk_does_not_give_back_is_a_warning(tmp_path, monkeypatch):
    def refused(connection, most=0):
        raise sqlite3.OperationalError("database or disk is full")

    with bqstore.open(tmp_path) as col:
        fill(col, 10)
        monkeypatch.setattr(space, "give_back", refused)
        with pytest.warns(RuntimeWarning, match=r"was not given back: .*disk is full"):
            col.clear()
        assert len(col) == 0 and col.verify().ok


def test_the_log_kept_its_largest_size(tmp_path):
    """157 and 395 MB after large commits, and after closing where somebody else had the collection open."""
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        for n in (10, 12):  # of 20 and 24 MB
            col.add(vectors(n), [f"{n}-{i}" for i in range(n)], [TEXT * 1000] * n)
            assert sizes(tmp_path)["meta.db-wal"] <= space.LOG_LARGE
            assert len(reader) == len(col)
        col.add(vectors(1), ["small"])
        col.add(vectors(2), texts=[TEXT * 1500] * 2)
        assert sizes(tmp_path)["meta.db-wal"] > space.LOG_KEPT
        col.close()
        assert sizes(tmp_path)["meta.db-wal"] == 0
        assert len(reader) == 25


def test_a_log_below_the_limit_is_used_again(tmp_path):
    with bqstore.open(tmp_path) as col:
        for _ in range(40):
            col.add(vectors(2), texts=[TEXT * 100] * 2)
        assert sizes(tmp_path)["meta.db-wal"] <= space.LOG_KEPT + 2_000_000


def test_flush_waited_ten_seconds_for_a_reader_and_said_nothing(tmp_path, monkeypatch):
    """An add beside it took as long, as the lock was kept meanwhile."""
    now, added = [0.0], threading.Event()

    def sleep(seconds: float) -> None:  # between two tries, until the add is there
        assert added.wait(HANGS)
        now[0] += 1.0

    monkeypatch.setattr(core, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    with bqstore.open(tmp_path) as col:
        fill(col, 10)
        with col._engine.store.catalogue.reading() as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM rows").fetchone()
            fill(col, 20)

            def add() -> None:
                col.add(vectors(1), ["beside"])
                added.set()

            beside = threading.Thread(target=add)
            with pytest.warns(RuntimeWarning, match=r"could not be emptied: somebody has been reading"):
                beside.start()
                col.flush()
            assert added.is_set()
            beside.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            col.flush()
        assert sizes(tmp_path)["meta.db-wal"] == 0 and len(col) == 21


def test_the_list_of_changed_rows_was_never_emptied(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, 50)
        col.update_metadata([f"d{i}" for i in range(50)], {"x": 1})
        assert col.count({"x": 1}) == 50
        col.delete(["d0"])
        col.compact()
        count = col._engine.store.catalogue.main().execute("SELECT count(*) FROM changed").fetchone()
        assert count == (0,)
        col.update_metadata(["d1"], {"x": 2})
        assert (col.count({"x": 1}), col.count({"x": 2})) == (48, 1)


def test_verify_blocked_writes_for_its_whole_run(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        fill(col, 30)
        real, written = verify._records, []

        def slow(*arguments):
            """While a file is read, others write, and start another generation."""
            thread = threading.Thread(target=lambda: written.append(col.add(vectors(2), ["new", "d1"])))
            thread.start()
            thread.join(HANGS)
            col.compact()
            return real(*arguments)

        monkeypatch.setattr(verify, "_records", slow)
        report = col.verify()
        assert (report.ok, report.documents, report.vectors) == (True, 30, 30), report.problems
        assert len(written) == 2 and len(col) == 31
        monkeypatch.undo()
        assert col.verify().documents == 31


def test_verify_finds_a_moment_between_the_commits_of_others(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        fill(col, 5)
        real, commits = Reading.snapshot, []

        def busy(store, *given):
            if len(commits) < 3:
                commits.extend(col.add(vectors(1)))
            return real(store, *given)

        monkeypatch.setattr(Reading, "snapshot", busy)
        assert col.verify().documents == 5 + len(commits) == 8
        monkeypatch.setattr("bqstore.engine.info._TRIES", 0)  # always busy: writers are held off
        assert col.verify().documents == 8
