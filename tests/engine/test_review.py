"""What once went wrong outside of the storage: each test is named after it."""

import copy
import datetime
import os
import pickle
import stat
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError


def test_a_store_opened_by_a_relative_path_wrote_into_another_after_chdir(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "b")
    with bqstore.open("store") as b:
        b.add([[1.0, 2.0], [3.0, 4.0]], ["x", "y"], ["of b"] * 2)
    monkeypatch.chdir(tmp_path / "a")
    with bqstore.open("store") as a:
        monkeypatch.chdir(tmp_path / "b")
        a.add([[9.0, 9.0]], ["a1"], ["of a"])
        a.clear()
        a.add([[9.0, 9.0]], ["a1"], ["of a"])
        assert a.search([1.0, 1.0])[0].text == "of a"
    for name, ids in (("a", ["a1"]), ("b", ["x", "y"])):
        with bqstore.open(tmp_path / name / "store", read_only=True) as col:
            assert [r.id for r in col.scroll()] == ids and col.verify().ok


def test_a_folder_that_was_replaced_while_open_is_noticed(tmp_path):
    for name in ("a", "b"):
        with bqstore.open(tmp_path / name) as col:
            col.add([[1.0, 2.0]], ["x"], [name])
    with bqstore.open(tmp_path / "a", read_only=True) as col:
        (tmp_path / "a").rename(tmp_path / "c")
        (tmp_path / "b").rename(tmp_path / "a")
        with pytest.raises(bqstore.CorruptionError, match="replaced while open"):
            col.search([1.0, 2.0])


def test_a_copy_of_a_collection_closed_its_files_under_it(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 2.0], [3.0, 4.0]], ["a", "b"])
        assert copy.copy(col) is col and copy.deepcopy({"x": col})["x"] is col
        col.add([[5.0, 6.0]], ["c"])
        with pytest.raises(InvalidInputError, match="cannot be pickled"):
            pickle.dumps(col)
    with bqstore.open(tmp_path) as col:
        assert [r.id for r in col.scroll()] == ["a", "b", "c"]


def test_a_store_that_is_closed_takes_no_write_and_makes_no_files(tmp_path):
    col = bqstore.open(tmp_path)
    col.add([[1.0, 2.0]], ["a"])
    col._engine.store.close()
    with pytest.raises(bqstore.ClosedError):
        col.add([[5.0, 6.0]], ["c"])
    col.close()
    with bqstore.open(tmp_path) as again:
        assert len(again) == 1 and again.verify().ok


def nested(depth, kind):
    value = 1
    for _ in range(depth - 1):
        value = [value] if kind == "list" else {"a": value}
    return {"k": value}


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_deep_metadata_was_committed_and_then_broke_every_filter(kind):
    with bqstore.open() as col:
        col.add([[1.0, 2.0]], ["ok"], metadatas=[nested(100, kind)])
        assert col.count({"k": 1}) == 0 and col.count({"k": {"$eq": nested(100, kind)["k"]}}) == 1
        for depth in (101, 500, 900):
            with pytest.raises(InvalidInputError, match="nests more than 100 deep"):
                col.add([[1.0, 2.0]], metadatas=[nested(depth, kind)])
            with pytest.raises(InvalidInputError, match="nests more than 100 deep"):
                col.update_metadata(["ok"], nested(depth, kind))
            with pytest.raises(InvalidInputError, match="nests more than 100 deep"):
                col.count({"k": {"$eq": nested(depth, kind)}})
        assert len(col) == 1


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b", "é😀", "file:x", "a&mode=ro", "a\nb"])
def test_any_folder_name_works(tmp_path, name):
    with bqstore.open(tmp_path / name) as col:
        col.add([[1.0, 2.0]], ["a"])
    with bqstore.open(tmp_path / name, read_only=True) as col:
        assert "a" in col
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_two_slashes_were_taken_for_a_host(tmp_path):
    with bqstore.open(f"/{tmp_path}/store") as col:
        col.add([[1.0, 2.0]], ["a"])
    assert (tmp_path / "store" / "default" / "meta.db").exists()


@pytest.mark.parametrize("path", [5, b"bytes", "a\0b", "~nosuchuser/x", "a\udcff"])
def test_a_path_that_is_none_is_refused_by_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="path"):
        bqstore.open(path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_is_an_error_of_storage(tmp_path):
    with pytest.raises(bqstore.StorageError, match="too long"):
        bqstore.open(tmp_path / ("x" * 300))


def as_nobody(action) -> str:
    """What the action returns in a fork that has become a user without rights, or the error it raised."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(told, text.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(told)
    with os.fdopen(answer) as file:
        return file.read()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root, to become a user who may not write")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks of threaded processes
def test_a_folder_that_cannot_be_written_can_be_read():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o755)
        store = Path(folder) / "store"
        with bqstore.open(store) as col:
            col.add([[1.0, 2.0]], ["a"], ["text"])
            assert col.search([1.0, 2.0])[0].text == "text"
        for path in (store, *store.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        found = as_nobody(lambda: bqstore.open(store, read_only=True).search([1.0, 2.0])[0].text)
        assert found == "text"
        refused = as_nobody(lambda: bqstore.open(store))
        assert refused.startswith("StorageError") and "read_only=True" in refused


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX")
def test_the_log_was_open_to_others_in_the_first_session(tmp_path):
    with bqstore.open(tmp_path / "store") as col:
        col.add([[1.0, 2.0]], ["a"], ["secret"])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "store" / "default").iterdir()}
    assert "meta.db-wal" in modes and set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", np.array([2])),
        pytest.param("k", 10**5000, id="huge"),
        ("k", np.bool_(True)),
        ("k", "3"),
        pytest.param("oversampling", 10**400, id="beyond floats"),
        ("oversampling", np.True_),
        ("oversampling", Decimal("sNaN")),
        ("oversampling", np.array([2.0])),
        ("oversampling", "2"),
        ("oversampling", float("inf")),
        pytest.param("score_threshold", 10**400, id="beyond floats too"),
        ("score_threshold", np.array(1.0)),
        ("score_threshold", False),
    ],
)
def test_odd_numbers_raised_errors_of_their_own(name, value):
    with bqstore.open() as col:
        with pytest.raises(InvalidInputError, match=f"{name} is ") as caught:
            col.search([1.0], **{name: value})
        assert len(str(caught.value)) < 300


def test_numbers_of_other_kinds_are_numbers():
    with bqstore.open_flat(full_scan_threshold=0) as col:
        col.add(np.eye(5) + 0.1)
        query = [1.0, 0, 0, 0, 0]
        assert len(col.search(query, np.int64(2), oversampling=np.float32(2), score_threshold=Decimal("-2"))) == 2
        assert len(col.search(query, oversampling=1e308)) == 5
        assert len(col.search(query, score_threshold=-1e300)) == 5 and col.search(query, score_threshold=1e300) == []
        for hit in col.search(query, score_threshold=0.3):
            assert hit.score >= 0.3


def test_a_hit_at_the_threshold_is_above_it_as_the_caller_compares():
    with bqstore.open(distance="dot") as col:
        col.add([[0.9]], ["a"])  # as float32, 0.9 is a little less
        assert col.search([1.0], score_threshold=0.9) == []
        assert len(col.search([1.0], score_threshold=float(np.float32(0.9)))) == 1


def test_each_hit_has_a_vector_of_its_own():
    with bqstore.open() as col:
        col.add([[1.0, 2.0]], ["a"])
        (one,), (other,) = col.search_batch([[1.0, 2.0], [2.0, 1.0]], with_vectors=True)
        one.vector[:] = 7
        assert other.vector.tolist() == [1.0, 2.0] == col.get(["a"], with_vectors=True)[0].vector.tolist()


def test_numpy_dates_are_dates():
    moments = {
        "s": np.datetime64("2020-01-02T03:04:05", "ns"),
        "d": np.datetime64("2020-01-02"),
        "y": np.datetime64("2020"),
    }
    with bqstore.open() as col:
        col.add([[1.0]], ["a"], metadatas=[moments])
        assert col.get(["a"])[0].metadata == {"s": "2020-01-02T03:04:05", "d": "2020-01-02", "y": "2020-01-01"}
        assert col.count({"s": moments["s"]}) == col.count({"s": datetime.datetime(2020, 1, 2, 3, 4, 5)}) == 1
        for value in (np.datetime64("NaT", "s"), np.timedelta64(3, "s")):
            with pytest.raises(InvalidInputError):
                col.add([[1.0]], metadatas=[{"x": value}])
            with pytest.raises(InvalidInputError):
                col.count({"x": value})


@pytest.mark.parametrize(
    "condition",
    [
        {"a": np.float32("nan")},
        {"a": {"$eq": ["\ud800"]}},
        {"\ud800": 1},
        {"a": [float("inf")]},
        {"a": {"$eq": [[1j]]}},
    ],
)
def test_mistakes_deep_in_a_filter_are_mistakes(condition):
    with bqstore.open() as col, pytest.raises(InvalidInputError):
        col.count(condition)


def test_an_id_that_is_no_text_is_not_in_a_collection():
    with bqstore.open() as col:
        assert "\ud800" not in col and 5 not in col
        with pytest.raises(InvalidInputError, match="surrogate") as caught:
            col.add([[1.0]], texts=["secret words \ud800"])
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_closed_collection_is_not_entered(tmp_path):
    col = bqstore.open(tmp_path)
    col.close()
    with pytest.raises(bqstore.ClosedError), col:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks of threaded processes
def test_a_fork_of_a_collection_in_memory_is_refused_rather_than_hung():
    with bqstore.open() as col:
        col.add([[1.0]])
        child = os.fork()
        if child == 0:
            try:
                col.search([1.0])
            except bqstore.ClosedError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(col.search([1.0])) == 1
