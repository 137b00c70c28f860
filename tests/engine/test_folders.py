"""The folder of a store: relative paths, odd names, permissions, replacement while open."""

import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import InvalidInputError
from tests.conftest import end_if_it_hangs


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
        with pytest.raises(bqstore.FolderReplacedError, match="open the path again"):
            col.search([1.0, 2.0])


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

    def as_other() -> object:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        return action()

    return as_child(as_other)


def as_child(action) -> str:
    """What the action returns in a fork, or the error it raised."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        end_if_it_hangs()
        try:
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


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX")
def test_what_was_shared_with_others_was_closed_to_them_by_the_first_compaction(tmp_path, monkeypatch):
    monkeypatch.setattr("bqstore.engine.graph_builder.SMALLEST_GRAPH", 64)
    store = tmp_path / "store"
    with bqstore.open(store) as col:
        col.add(np.random.default_rng(0).standard_normal((100, 4)), [f"d{i}" for i in range(100)])
    folder = store / "default"
    root = os.geteuid() == 0
    for path in (store, folder):
        path.chmod(0o750)
    for path in folder.iterdir():
        path.chmod(0o640)
        if root:
            os.chown(path, 1234, 1235)
    (folder / "SEQ").unlink()  # made anew, as in a copy
    with bqstore.open(store) as col:
        col.delete(["d0"])
        col.compact()
        col.add([[1.0, 0.0, 0.0, 0.0]])
        col.flush()
        found = {path.name: path.stat() for path in folder.iterdir()}
    assert {"codes-1.bin", "vectors-1.bin", "meta.db-wal", "SEQ"} < found.keys()
    assert [name for name in found if name.startswith("snap-1-")]
    assert {name for name, each in found.items() if stat.S_IMODE(each.st_mode) != 0o640} == set()
    if root:
        assert {(each.st_uid, each.st_gid) for each in found.values()} == {(1234, 1235)}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "LPT9", "aux.txt", "a.", "a.b."])
def test_a_name_that_is_no_folder_of_windows_gets_another_folder_if_it_is_new(tmp_path, name):
    bqstore.open(tmp_path / "new", name).close()
    (folder,) = (tmp_path / "new").iterdir()
    assert folder.name != name and "%" in folder.name and bqstore.collections(tmp_path / "new") == [name]
    for allowed in ("console", "com", "com10", "a.b", "lpt", name):
        (tmp_path / name).mkdir(exist_ok=True)  # of an earlier release
        bqstore.open(tmp_path, allowed).close()
    assert (tmp_path / name / "meta.db").exists()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_inside_of_an_archive_is_refused_by_name(tmp_path, read_only):
    archive = tmp_path / "store.zip"
    archive.write_bytes(b"PK")
    for path in (archive, archive / "store", archive / "a" / "b"):
        with pytest.raises(bqstore.InvalidInputError, match=r"store\.zip is a file; a store is a folder: unpack"):
            bqstore.open(path, read_only=read_only)


@pytest.mark.parametrize(
    ("mode", "folders", "files"), [(None, 0o700, 0o600), (0o2770, 0o2770, 0o660), (0o755, 0o755, 0o600)]
)
def test_a_group_shares_a_folder_that_is_made_for_it(tmp_path, mode, folders, files):
    old = os.umask(0o077)
    try:
        with bqstore.open(tmp_path / "store", mode=mode) as col:
            col.add(np.eye(3), ["a", "b", "c"], metadatas=[{"n": 1}] * 3)
            col.delete(["b"])
            col.compact()
            col.flush()
            made = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
            assert len(made) >= 5 and {path.stat().st_mode & 0o7777 for path in made} == {files}
            for folder in (tmp_path / "store", tmp_path / "store" / "default"):
                assert folder.stat().st_mode & 0o7777 == folders
    finally:
        os.umask(old)
    for wrong in (0o070, "rwx", 0o600):
        with pytest.raises(bqstore.InvalidInputError, match="mode is"):
            bqstore.open(tmp_path / "other", mode=wrong)


@pytest.mark.parametrize("open_", [bqstore.open, bqstore.open_key_values])
def test_a_mode_that_the_folder_has_not_was_passed_over_in_silence(tmp_path, caplog, open_):
    with open_(tmp_path / "store", mode=0o750), open_(tmp_path / "store", mode=0o750), open_(tmp_path / "store"):
        assert not caplog.records
        with open_(tmp_path / "store", mode=0o770):  # open already, in this process
            (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "mode=0o770 is asked for" in told and "default has 0o750" in told and "chmod" in told
    with open_(tmp_path / "store", mode=0o700, read_only=True):
        assert len(caplog.records) == 2
    assert (tmp_path / "store" / "default").stat().st_mode & 0o7777 == 0o750
