"""Collections that nobody uses give their descriptors back, and nothing is lost or taken for another by that."""

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.errors import ClosedError, CorruptionError, FolderReplacedError, LockedError, StorageError
from bqstore.storage import descriptors, platform
from bqstore.storage.place import Place
from bqstore.storage.sqlite_connection import translate
from tests.conftest import HANGS

from ..storage.depth import depths
from ..storage.interrupts import interrupted, lines_of
from ..storage.test_errors_by_name import fails
from .test_folders import as_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
ROOT = Path(bqstore.__file__).parents[1]

MANY = """
import logging, os, resource, sys
import numpy as np
count, most = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import bqstore
logging.disable()
vectors = np.random.default_rng(0).standard_normal((2, count, 3, 8)).astype("f4")
cols = [bqstore.open(sys.argv[1], f"c{at}", threads=1) for at in range(count)]
for turn in range(2):
    for at, col in enumerate(cols):
        ids = [f"{turn}-{at}-{i}" for i in range(3)]
        col.add(vectors[turn, at], ids, texts=ids, metadatas=[{"i": i, "turn": turn} for i in range(3)])
        assert col.search(vectors[turn, at, 1], 1)[0].text == ids[1]
        assert [hit.id for hit in col.search(vectors[turn, at, 1], 9, filter={"i": 2, "turn": turn})] == [ids[2]]
        assert [document.text for document in col.get(ids)] == ids
        assert len(col) == 3 * (turn + 1)
for at, col in enumerate(cols):
    found = col.get([f"{turn}-{at}-{i}" for turn in range(2) for i in range(3)], with_vectors=True)
    assert (np.stack([each.vector for each in found]) == vectors[:, at].reshape(6, 8)).all()
    assert at % 20 or col.verify().ok
    col.close()
for at in range(count):
    with bqstore.open(sys.argv[1], f"c{at}", read_only=True) as col:
        assert len(col) == 6
print("all right")
"""


@pytest.mark.parametrize("count, most", [(8, 40), pytest.param(200, 256, marks=pytest.mark.slow)])
def test_many_collections_in_a_process_that_may_have_few_descriptors(tmp_path, count, most):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MANY, str(tmp_path), str(count), str(most)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == "all right\n" and "Exception ignored" not in done.stderr, done.stderr


def held(folder: Path) -> list[str]:
    """The names of the files in a folder that this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(each.readlink())
        except FileNotFoundError:
            continue
    return sorted(each.name for each in found if each.is_relative_to(folder))


@pytest.fixture
def col(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(3), ["a", "b", "c"], ["A", "B", "C"], [{"n": i} for i in range(3)])
        yield col


def rest(col) -> None:
    assert col._engine.store.rest()
    assert held(Path(col._engine.store.folder)) == []


def look_now(col) -> None:
    col._engine.publisher._next_look = 0.0


def test_one_thread_has_one_connection(tmp_path, col):
    list(col.scroll({"n": {"$gte": 1}}))
    col.add([[1.0, 1.0, 0.0]], ["d"])
    assert col.search([1.0, 0.0, 0.0], 1, filter={"n": 0})[0].id == "a"
    assert held(tmp_path) == ["meta.db", "meta.db-shm", "meta.db-wal", "vectors-0.bin"]


def test_a_snapshot_left_the_codes_open_and_who_is_alone_the_folder(tmp_path):
    four = ["meta.db", "meta.db-shm", "meta.db-wal", "vectors-0.bin"]
    with bqstore.open(tmp_path, full_scan_threshold=0) as col:
        col.add(np.random.default_rng(0).standard_normal((2100, 8)), [str(i) for i in range(2100)])
        col.flush()
        assert list((tmp_path / "default").glob("snap-*.bin")) and held(tmp_path) == four
        assert col.add(np.ones((1, 8)), ["0"]).replaced == 1
        assert held(tmp_path) == four
    for settings, more in (({}, []), ({"read_only": True}, []), ({"exclusive": True}, ["LOCK"])):
        with bqstore.open(tmp_path, **settings) as col:
            assert len(col.search(np.ones(8), 5)) == 5 and held(tmp_path) == more + four
    with bqstore.open(tmp_path, exclusive=True) as col:
        col.add(np.ones((1, 8)), ["new"])
        assert held(tmp_path) == ["LOCK", *four]


def test_at_rest_every_call_works_and_nothing_is_folded_in(tmp_path, col):
    size = (tmp_path / "default" / "meta.db-wal").stat().st_size
    calls = [
        lambda: col.search([0.0, 1.0, 0.0], 1)[0].text == "B",
        lambda: col.search_ids(np.eye(3, dtype="f4"), 1)[0][:, 0].tolist() == ["a", "b", "c"],
        lambda: [hit.id for hit in col.search([0.0, 1.0, 0.0], 3, filter={"n": 2})] == ["c"],
        lambda: col.get(["c"], with_vectors=True)[0].vector.tolist() == [0, 0, 1],
        lambda: col.verify().ok,
        lambda: len(list(col.scroll())) == 3,
    ]
    for call in calls:
        rest(col)
        assert size == (tmp_path / "default" / "meta.db-wal").stat().st_size > 0
        assert call()
    for n, write in enumerate(
        [
            lambda: col.add([[1.0, 1.0, 0.0]], ["d"]),
            lambda: col.update_metadata(["d"], {"n": 9}),
            lambda: col.delete(["a"]),
            col.compact,
            col.flush,
        ],
        1,
    ):
        rest(col)
        write()
        assert len(col) == (4 if n < 3 else 3)
    rest(col)
    vectors = col._engine.store.vectors
    vectors.check_size(3)
    col.close()
    assert held(tmp_path) == []  # also of a collection that is closed and not forgotten
    with pytest.raises(ClosedError):
        vectors.check_size(3)
    assert not (tmp_path / "default" / "meta.db-wal").exists()  # closing has folded it in
    with bqstore.open(tmp_path) as again:
        assert again.ids() == ["b", "c", "d"] and again.verify().ok


def test_what_another_process_commits_meanwhile_is_seen(tmp_path, col):
    rest(col)
    code = "import sys, bqstore\nwith bqstore.open(sys.argv[1]) as col:\n    col.delete(['a'])\n    col.compact()\n"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert col.ids() == ["b", "c"]
    rest(col)
    col.add([[1.0, 1.0, 0.0]], ["d"])
    assert col.search([1.0, 0.0, 0.0], 3)[0].id == "d" and col.verify().ok


def test_a_search_that_had_begun_ends_though_its_files_are_removed(col):
    store = col._engine.store
    vectors, codes = store.vectors, store.codes
    before = vectors.read(0, 3)
    col.delete(["a"])
    col.compact()
    for file in (vectors, codes):
        file.rest()
        file.check_size(3)
        file.check_header()
        assert (file.read(0, 3) == file.view(3)[:3]).all()
    assert (vectors.read(0, 3) == before).all()
    with pytest.raises(bqstore.StorageError, match="not there any more"):
        vectors.check_size(300)


@pytest.mark.parametrize("call", ["lseek", "fstat", "ftruncate", "pwrite", "preadv", "pread", "fdatasync", "mmap"])
def test_the_number_of_a_descriptor_is_not_given_back_while_it_is_used(tmp_path, col, monkeypatch, call):
    """Another thread that opened a file meanwhile had the number: it was read, or cut, in the place of ours."""
    file, seen = col._engine.store.vectors, []
    module, name = (platform, "map_file") if call == "mmap" else (os, call)
    real = getattr(module, name)

    def at_rest(fd, *arguments):
        monkeypatch.setattr(module, name, real)
        file.rest()
        seen.append(Path(f"/proc/self/fd/{fd}").readlink())
        monkeypatch.setattr(module, name, at_rest)
        return real(fd, *arguments)

    before = file.read(0, 3)
    monkeypatch.setattr(module, name, at_rest)
    file.check_size(3)
    file.check_header()
    file.write(3, np.concatenate([before] * 50))
    file.sync()
    assert (file.read(0, 6) == np.concatenate([before] * 2)).all()
    assert (file.view(153)[150:153] == before).all()
    file.trim(3)
    assert file.slots == 3 and {file.path} <= set(seen) <= {file.path, file.path.parent}


def test_what_was_written_before_a_rest_is_synced_by_the_descriptor_that_wrote_it(col):
    file = col._engine.store.vectors
    records = file.read(0, 3)
    file.write(3, records)
    first = file._unsynced
    file.rest()
    file.write(6, records)
    assert file._unsynced is first is not None
    file.sync()
    assert file._unsynced is None


@pytest.mark.parametrize("how", ["removed", "replaced", "copied"])
def test_a_folder_that_was_replaced_meanwhile_is_noticed(tmp_path, col, how):
    rest(col)
    folder = tmp_path / "default"
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    if how == "replaced":
        with bqstore.open(tmp_path / "other") as other:
            other.add(np.eye(3), ["x", "y", "z"])
        (tmp_path / "other" / "default").rename(folder)
    elif how == "copied":
        copy.rename(folder)
    names = {each.name for each in folder.iterdir()} if folder.exists() else set()
    with pytest.raises(FolderReplacedError):
        col.add([[1.0, 1.0, 0.0]], ["d"])
    look_now(col)
    with pytest.raises(FolderReplacedError):
        col.search([1.0, 0.0, 0.0])
    with pytest.raises(FolderReplacedError):
        col.get(["a"])
    assert names == ({each.name for each in folder.iterdir()} if folder.exists() else set())


def test_a_folder_that_got_the_same_numbers_is_told_by_a_file_that_is_mapped(tmp_path, col, monkeypatch):
    """The system may give the inode of a removed folder to the next one."""
    rest(col)
    place: Place = col._engine.store._place
    other = tmp_path / "default" / "other"
    other.write_bytes(bytes(8))
    other.rename(tmp_path / "default" / "SEQ")
    with pytest.raises(FolderReplacedError):
        place.check()
    with pytest.raises(FolderReplacedError):
        place.names()
    with pytest.raises(FolderReplacedError):
        col.add([[1.0, 1.0, 0.0]], ["d"])
    monkeypatch.setattr(place, "check", lambda: None)  # it comes between the look at the path and the opening of it
    for change in ((tmp_path / "default" / "SEQ").unlink, lambda: setattr(place, "anchor", None)):
        with pytest.raises(FolderReplacedError):
            place.names()
        change()
    with pytest.raises(FolderReplacedError):
        place.names()


@contextmanager
def no_descriptor_left(most=0):
    """What is open stays open; nothing can be opened."""
    before = platform.resource.getrlimit(platform.resource.RLIMIT_NOFILE)
    platform.resource.setrlimit(platform.resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        platform.resource.setrlimit(platform.resource.RLIMIT_NOFILE, before)


def test_a_look_without_a_descriptor_left_was_taken_for_a_folder_that_was_replaced(col):
    """For good: SEQ was unmapped, and nothing told the folder at rest from another one any more."""
    for _ in range(2):
        with no_descriptor_left():
            look_now(col)
            assert col.search([1.0, 0.0, 0.0], 1)[0].id == "a"
            with pytest.raises(StorageError, match="Too many open files"):
                col.add([[1.0, 1.0, 0.0]], ["d"])
        assert col._engine.store.number.is_mapped
        col.add([[1.0, 1.0, 0.0]], ["d"])
    rest(col)
    with no_descriptor_left():
        look_now(col)
        for call in (lambda: col.search([1.0, 0.0, 0.0]), lambda: col.get(["a"]), lambda: col.delete(["a"])):
            with pytest.raises(StorageError):
                call()
    assert col.search([1.0, 1.0, 0.0], 1)[0].id == "d" and col.verify().ok
    col.delete(["d"])
    rest(col)


def test_at_rest_without_a_descriptor_left_was_said_to_be_unable_to_open_database_file(tmp_path, col):
    """It names the limit and what to do; where the disk refuses, no limit is named."""
    words = r"Too many open files: this process may have \d+ \(RLIMIT_NOFILE.*close files or collections, or raise the"
    calls = [lambda: col.get(["a"]), lambda: col.add(np.eye(3)[:1], ["d"]), lambda: col.search([1.0, 0.0, 0.0])]
    for call in calls:
        rest(col)
        with no_descriptor_left(), pytest.raises(StorageError, match=words) as caught:
            call()
        assert caught.value.errno == errno.EMFILE
    rest(col)
    os.close(lowest := os.dup(0))
    with no_descriptor_left(lowest + 1), pytest.raises(StorageError, match=f"cannot open meta.db: {words}"):
        col.get(["a"])  # one is left, and SQLite needs three
    assert col.get(["a"])[0].text == "A" and col.ids() == ["a", "b", "c"]


def test_a_file_that_cannot_be_opened_is_not_taken_for_a_want_of_descriptors(monkeypatch):
    refused = sqlite3.OperationalError("unable to open database file")
    assert "meta.db: unable to open database file" in str(translate(refused, "meta.db"))
    for number, words in ((errno.ENFILE, os.strerror(errno.ENFILE)), (errno.EACCES, "unable to open")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fails(number))
            assert words in str(translate(refused, "meta.db")) and "RLIMIT" not in str(translate(refused, "meta.db"))


def test_a_folder_that_is_gone_is_told_of_by_what_opens_its_lock(tmp_path, col):
    (tmp_path / "default").rename(tmp_path / "moved")
    lock = col._engine.store._lock
    with pytest.raises(FolderReplacedError, match="was removed, replaced or moved"):
        lock.open()


def test_an_older_catalogue_in_its_place_is_noticed(tmp_path, col):
    rest(col)
    folder = tmp_path / "default"
    shutil.copytree(folder, tmp_path / "older")
    col.add([[1.0, 1.0, 0.0]], ["d"])
    rest(col)
    for name in ("meta.db", "meta.db-wal"):  # in place, so that they have the same inodes
        (folder / name).write_bytes((tmp_path / "older" / name).read_bytes())
    (folder / "meta.db-shm").unlink()
    with pytest.raises(CorruptionError, match="an older one has come in its place"):
        col.add([[1.0, 1.0, 0.0]], ["e"])


def test_another_file_of_the_same_name_is_noticed(tmp_path, col):
    rest(col)
    file = tmp_path / "default" / "vectors-0.bin"
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").rename(file)
    with pytest.raises(CorruptionError, match="was replaced while open"):
        col.search([1.0, 0.0, 0.0])


def test_a_lock_for_life_is_kept(tmp_path):
    with bqstore.open(tmp_path, exclusive=True) as col:
        col.add(np.eye(3), ["a", "b", "c"])
        assert col._engine.store.rest()
        assert held(tmp_path) == ["LOCK"]
        with pytest.raises(LockedError):
            bqstore.open(tmp_path, lock_timeout=0)
        col.add([[1.0, 1.0, 0.0]], ["d"])
        assert col.search([1.0, 1.0, 0.0], 1)[0].id == "d"


def test_who_is_inside_is_not_put_to_rest(col):
    store, found = col._engine.store, []
    with store.snapshot() as seq:
        assert not store.rest()
        thread = threading.Thread(target=lambda: found.append(col.add([[1.0, 1.0, 0.0]], ["d"])))
        thread.start()  # who needs the main connection, which is lent, opens another
        thread.join()
        assert len(found) == 1 and store.rids_by_id(["d"]) == {} and not store.rest()
        with store.snapshot() as again:
            assert again == seq
    assert "d" in col
    with store.catalogue.writing():
        assert not store.rest()
    rest(col)
    store._poison = "a sync that failed"
    assert not store.rest()
    store._poison = None


def test_an_error_in_a_read_closes_the_connection_and_leaves_the_log(tmp_path, col):
    log = tmp_path / "default" / "meta.db-wal"
    size = log.stat().st_size
    with pytest.raises(ZeroDivisionError), col._engine.store.catalogue.reading() as connection:
        assert col._engine.store.catalogue._is_lent
        raise ZeroDivisionError
    assert log.stat().st_size == size and "meta.db" not in held(tmp_path)
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    col.add([[1.0, 1.0, 0.0]], ["d"])
    assert col.search([1.0, 1.0, 0.0], 1)[0].id == "d"


def test_closing_beside_a_read_leaves_the_connection_to_it(tmp_path, col):
    catalogue = col._engine.store.catalogue
    with catalogue.reading() as connection:
        catalogue.close()
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (3,)
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    with pytest.raises(ClosedError):
        catalogue.main()
    assert not catalogue.rest()


def test_a_closed_collection_was_asked_to_rest_again_and_again(col, monkeypatch):
    monkeypatch.setattr(descriptors, "_awake", {})
    store = col._engine.store
    col.close()
    store.use()  # a look of another thread that came late
    monkeypatch.setattr(platform, "most_descriptors", lambda: 16)  # two of them
    some = [One([], "a"), One([], "b")]
    for one in some:
        descriptors.used(one)
    assert [reference() for reference in descriptors._awake.values()] == some


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_one_at_rest(tmp_path, col):
    rest(col)

    def child() -> str:
        with pytest.raises(ClosedError):
            col.search([1.0, 0.0, 0.0])
        with bqstore.open(tmp_path) as own:
            own.add([[1.0, 1.0, 0.0]], ["d"])
        return f"{len(descriptors._awake)} awake"

    assert as_child(child) == "0 awake"
    assert "d" in col and col.verify().ok


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_another_thread_puts_it_to_rest_waited_for_ever(tmp_path, col, monkeypatch):
    catalogue = col._engine.store.catalogue
    inside, go_on, close = threading.Event(), threading.Event(), catalogue._close_quietly

    def slowly(connections):
        inside.set()
        go_on.wait(HANGS)
        close(connections)

    def child() -> str:
        with pytest.raises(StorageError, match="forked while another thread"):
            bqstore.open(tmp_path)
        return "refused"

    monkeypatch.setattr(catalogue, "_close_quietly", slowly)
    thread = threading.Thread(target=col._engine.store.rest)
    thread.start()
    try:
        assert inside.wait(HANGS)
        assert as_child(child) == "refused"
    finally:
        go_on.set()
        thread.join()
    assert col.ids() == ["a", "b", "c"]


def test_at_rest_no_connection_is_lent_that_an_interrupt_has_left_so(col):
    catalogue = col._engine.store.catalogue
    catalogue._borrowed()  # and Ctrl-C before it could be given back
    rest(col)
    assert not catalogue._is_lent
    with catalogue.using_main() as main, catalogue.using_main() as again:
        assert main is again


class One:
    def __init__(self, calls: list, name: str, busy: bool = False) -> None:
        self.calls, self.name, self.busy = calls, name, busy

    def rest(self) -> bool:
        self.calls.append(self.name)
        return not self.busy


def test_those_used_longest_ago_rest_first_and_busy_ones_later(monkeypatch):
    monkeypatch.setattr(descriptors, "_awake", {})
    monkeypatch.setattr(platform, "most_descriptors", lambda: 64)  # four of them
    calls: list = []
    some = [One(calls, name, busy=name == "b") for name in "abcdef"]
    for one in some[:4]:
        descriptors.used(one)
    assert calls == []
    descriptors.used(some[0])
    descriptors.used(some[4])
    assert calls == ["b", "c"]  # a was used again; b is busy, and counts as used
    descriptors.used(some[5])
    assert calls == ["b", "c", "d"] and [ref().name for ref in descriptors._awake.values()] == ["a", "e", "b", "f"]
    descriptors.forget(some[0])
    del some[:5], one
    assert [ref().name for ref in descriptors._awake.values()] == ["f"]
    monkeypatch.setattr(platform, "most_descriptors", lambda: 8)
    for busy in (more := [One(calls, "g", busy=True), One(calls, "h", busy=True)]):
        descriptors.used(busy)
    assert len(descriptors._awake) == 2 and calls[-1] == "f" and len(more) == 2


@depths("most", 25, 10_000)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks of threaded processes
def test_an_interrupt_kept_a_collection_from_rest_for_good(tmp_path, most):
    """It came where a block ends in which a connection is in use."""

    def kept():
        with bqstore.open(tmp_path) as col:
            col.add(np.eye(3), ["a", "b", "c"])

            def awaken():
                col._engine.store.rest()
                col.get(["a"])
                col.search(np.eye(3)[0], 1)

            lines = min(most, lines_of(awaken))
            found = []
            for line in range(1, lines + 1):
                interrupted(awaken, line)
                awaken()
                found += [] if col._engine.store.rest() else [line]
        return f"{found} of {lines}"

    # in a fork: a trace function can raise where no signal can, at the line that ends a `with`, and CPython 3.11 then
    # takes the thread for one that handles an exception, as long as it lives
    assert re.fullmatch(r"\[\] of [1-9][0-9]+", as_child(kept))
