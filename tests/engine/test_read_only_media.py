"""A store on a medium that this process cannot write, and that somebody else may write after all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bqstore
from bqstore.errors import StorageError


@pytest.fixture
def both(tmp_path):
    """A folder, and the same folder on a read-only mount."""
    written, medium = tmp_path / "written", tmp_path / "medium"
    written.mkdir()
    medium.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting takes root on Linux")
    if subprocess.run(["mount", "--bind", written, medium], check=False, capture_output=True).returncode:
        pytest.skip("this system forbids mounting")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", medium], check=True)
        yield written, medium
    finally:
        subprocess.run(["umount", "-l", medium], check=True)


def ids(col):
    return [hit.id for hit in col.search([1.0, 0.2])]


def test_a_reader_of_a_read_only_medium_stayed_at_an_old_commit_for_ever(both):
    """And took what a writer elsewhere had changed for damage."""
    written, medium = both
    with bqstore.open(written) as col:
        col.add([[1.0, 0.0]], ["a"], ["one"], [{"x": 1}])
    with bqstore.open(medium, read_only=True) as reader:
        assert ids(reader) == ["a"] and reader.count({"x": 1}) == 1
        assert [record.text for record in reader.scroll()] == ["one"]
        with bqstore.open(written) as col:
            col.add([[0.0, 1.0]], ["b"], ["two" * 5000])
            for ask in (lambda: ids(reader), lambda: reader.get(["a"]), lambda: reader.count({"y": 1})):
                with pytest.raises(StorageError, match="close the collection and open it again"):
                    ask()
            with bqstore.open(medium, read_only=True) as again:  # beside a writer, whose -shm file it reads
                assert ids(again) == ["a", "b"]
                col.add([[1.0, 1.0]], ["c"])
                assert ids(again) == ["a", "c", "b"] and again.verify().ok
    with bqstore.open(medium, read_only=True) as reader:
        assert ids(reader) == ["a", "c", "b"]


def test_a_log_that_cannot_be_read_there_was_no_file_that_cannot_be_opened(both):
    written, medium = both
    with bqstore.open(written / "store") as col:
        col.add([[1.0, 0.0]], ["a"])
        shutil.copytree(written / "store", written / "copy")  # as a crash leaves it
    (written / "copy/default/meta.db-shm").unlink()
    with pytest.raises(StorageError, match=r"commits are in its -wal file.*open the collection once where"):
        bqstore.open(medium / "copy", read_only=True)
    with bqstore.open(written / "copy") as col:
        assert ids(col) == ["a"]
    with bqstore.open(medium / "copy", read_only=True) as col:
        assert ids(col) == ["a"]


def test_an_empty_log_keeps_nobody_from_reading(both):
    written, medium = both
    with bqstore.open(written) as col:
        col.add([[1.0, 0.0]], ["a"])
    Path(written / "default/meta.db-wal").touch()
    with bqstore.open(medium, read_only=True) as col:
        assert ids(col) == ["a"] and col.verify().ok
