"""Whole collections: names of any text, dropped, renamed, copied; from memory to disk and back, pickled, forked."""

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqstore
from bqstore.storage import folders
from tests.conftest import HANGS, clustered, end_if_it_hangs, often

DOCUMENTS = {"texts": ["one", "two", "three"], "metadatas": [{"n": 1}, {"n": 2}, {}]}


def filled(path=None, name="default", **keywords):
    col = bqstore.open(path, name, **keywords)
    col.add(np.eye(3), ["a", "b", "c"], **DOCUMENTS)
    return col


def contents(col):
    return [(r.id, r.text, r.metadata, r.vector.tolist()) for r in col.scroll(with_vectors=True)]


# ---- names


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("docs", "docs"),
        ("v1.2_x-y", "v1.2_x-y"),
        ("日本", "%e6%97%a5%e6%9c%ac"),
        ("user@mail.com", "user%40mail.com"),
        ("my docs", "my%20docs"),
        ("Docs", "%44ocs"),
        ("50%", "50%25"),
        ("con", "%63on"),
        (".hidden", "%2ehidden"),
        ("-x", "%2dx"),
        ("end.", "end%2e"),
    ],
)
def test_a_name_of_any_text_has_a_folder_of_its_own(tmp_path, name, folder):
    bqstore.open(tmp_path, name).close()
    assert [path.name for path in tmp_path.iterdir()] == [folder] and bqstore.collections(tmp_path) == [name]
    with bqstore.open(tmp_path, name) as col:
        assert col.info().collection == name


@settings(max_examples=often(200), deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=16))
)
def test_names_are_told_apart_where_case_does_not_count(names):
    found = {}
    for given_name in names:
        if given_name in (".", ".."):
            continue
        name = folders.checked_name(given_name)
        folder = folders.folder_name(name)
        assert folder == folder.lower() and folder.isascii() and folder[0] not in ".-" and folder[-1] != "."
        assert folders.unquote(folder) == name
        assert found.setdefault(folder, name) == name


def test_two_ways_to_write_a_letter_are_one_name(tmp_path):
    bqstore.open(tmp_path, "caf\u00e9").close()
    bqstore.open(tmp_path, "cafe\u0301").close()
    assert bqstore.collections(tmp_path) == ["caf\u00e9"]


def test_a_folder_of_a_version_that_took_names_as_they_are_is_found(tmp_path):
    filled(tmp_path, "docs").close()
    (tmp_path / "docs").rename(tmp_path / "MyDocs")
    with bqstore.open(tmp_path, "MyDocs") as col, bqstore.open(tmp_path, "mydocs") as other:
        assert len(col) == 3 and len(other) == 0
    assert bqstore.collections(tmp_path) == ["MyDocs", "mydocs"]


def test_what_is_no_collection_is_not_listed(tmp_path):
    assert bqstore.collections(tmp_path / "none") == []
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert bqstore.collections(tmp_path) == []


def test_collections_of_what_is_no_store_were_none_without_a_word(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "bqstore"):
        assert bqstore.collections(tmp_path / "sotre") == [] and not (tmp_path / "sotre").exists()
    assert [record.getMessage() for record in caplog.records if "there is no folder" in record.getMessage()]
    (tmp_path / "file").touch()
    with pytest.raises(bqstore.InvalidInputError, match="is a file; a store is a folder"):
        bqstore.collections(tmp_path / "file")
    bqstore.open(tmp_path / "store", "notes").close()
    with pytest.raises(bqstore.InvalidInputError, match=r"is a collection itself; .*collection='notes'"):
        bqstore.collections(tmp_path / "store" / "notes")


# ---- drop, rename, copy


def test_drop(tmp_path):
    filled(tmp_path, "a").close()
    col = filled(tmp_path, "b")
    reader = bqstore.open(tmp_path, "b", read_only=True)
    bqstore.drop(tmp_path, "b")
    for each in (col, reader):
        with pytest.raises(bqstore.FolderReplacedError):
            each.add(np.eye(3)) if each is col else each._engine.store.check_place()
        each.close()
    assert bqstore.collections(tmp_path) == ["a"] and [path.name for path in tmp_path.iterdir()] == ["a"]
    with bqstore.open(tmp_path, "b") as new:
        assert len(new) == 0
    with pytest.raises(bqstore.NotFoundError, match=r"no collection 'c' in .*; there are: 'a', 'b'"):
        bqstore.drop(tmp_path, "c")


def test_what_an_interrupted_drop_has_left_is_removed_by_the_next(tmp_path):
    filled(tmp_path, "a").close()
    (tmp_path / ".0123.dropped").mkdir()
    (tmp_path / ".0123.dropped" / "meta.db").touch()
    assert bqstore.collections(tmp_path) == ["a"]
    bqstore.drop(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_rename(tmp_path):
    col = filled(tmp_path, "old")
    bqstore.rename(tmp_path, "old", "日本")
    with pytest.raises(bqstore.FolderReplacedError):
        col.add(np.eye(3))
    with bqstore.open(tmp_path, "日本") as new:  # while the old one is still open
        new.add(np.eye(3), ["a", "d", "e"])
        assert len(new) == 5 and new.verify().ok
        col.close()
        assert len(new) == 5 and new.add(np.eye(3)[:1], ["f"]) == ["f"]
    with bqstore.open(tmp_path, "日本") as again, bqstore.open(tmp_path, "old") as other:
        assert len(again) == 6 and len(other) == 0
    with pytest.raises(bqstore.InvalidInputError, match="exists already"):
        bqstore.rename(tmp_path, "old", "日本")
    with pytest.raises(bqstore.NotFoundError):
        bqstore.rename(tmp_path, "none", "other")


@pytest.mark.parametrize(
    "call",
    [lambda path: bqstore.drop(path, "a", lock_timeout=0), lambda path: bqstore.rename(path, "a", "b", lock_timeout=0)],
)
def test_what_another_keeps_locked_is_neither_dropped_nor_renamed(tmp_path, call):
    with filled(tmp_path, "a", exclusive=True) as col:
        with pytest.raises(bqstore.LockedError):
            call(tmp_path)
        assert len(col) == 3
    call(tmp_path)


def test_copy(tmp_path):
    with filled(tmp_path, "a", distance="dot", originals="float16") as col:
        col.delete(["b"])
        bqstore.copy(tmp_path, "a", "b")
        bqstore.copy(tmp_path, "a", "A", to=tmp_path / "other" / "store")
        col.add(np.eye(3)[:1], ["d"])
        for path, name in ((tmp_path, "b"), (tmp_path / "other" / "store", "A")):
            with bqstore.open(path, name) as made:
                assert contents(made) == contents(col)[:2] and made.verify().ok and made.info().distance == "dot"
                made.add(np.eye(3), ["x", "y", "z"])
                assert len(made) == 5 and len(col) == 3
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in (tmp_path / "b").iterdir())
    with pytest.raises(bqstore.InvalidInputError, match="exists already"):
        bqstore.copy(tmp_path, "a", "b")
    assert bqstore.collections(tmp_path) == ["a", "b"]


def test_a_damaged_record_is_not_copied(tmp_path):
    filled(tmp_path, "a").close()
    (file,) = (tmp_path / "a").glob("vectors-*.bin")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(bqstore.CorruptionError):
        bqstore.copy(tmp_path, "a", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_copies_of_one_commit_while_others_write(tmp_path):
    """Each batch has one number; a copy has whole batches, from the first on."""
    stop = threading.Event()
    with bqstore.open(tmp_path, "a") as col:

        def write():
            i = 0
            while not stop.is_set():
                col.add(np.full((4, 8), i + 1.0), [f"{i}-{j}" for j in range(4)], metadatas=[{"i": i}] * 4)
                if i % 5 == 4:
                    col.delete([f"{i}-0", f"{i}-1", f"{i}-2", f"{i}-3"])
                    col.compact()
                i += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for turn in range(5):
                bqstore.copy(tmp_path, "a", f"copy {turn}")
        finally:
            stop.set()
            writer.join(HANGS)
    for turn in range(5):
        with bqstore.open(tmp_path, f"copy {turn}") as made:
            assert made.verify().ok and all(count == 4 for _, count in made.facets("i"))


OTHER = """
import sys, bqstore, numpy as np
col = bqstore.open(sys.argv[1], "a")
print("open", flush=True)
sys.stdin.readline()
try:
    col.add(np.eye(3))
except bqstore.FolderReplacedError:
    print("replaced", flush=True)
col.close()
with bqstore.open(sys.argv[1], sys.argv[2]) as col:
    print(len(col.add(np.eye(3))), len(col))
"""


@pytest.mark.long
def test_another_process_is_told_and_goes_on_under_the_new_name(tmp_path):
    filled(tmp_path, "a").close()
    command = [sys.executable, "-c", OTHER, str(tmp_path), "new name"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        bqstore.rename(tmp_path, "a", "new name")
        assert other.communicate("\n", timeout=HANGS)[0] == "replaced\n3 6\n"
    with bqstore.open(tmp_path, "new name") as col:
        assert len(col) == 6 and col.verify().ok


# ---- memory and disk


def test_save_and_load(tmp_path):
    with filled(search={"oversampling": 5.0}, embedding_model="m") as col:
        col.delete(["b"])
        col.save(tmp_path, "saved")
        with pytest.raises(bqstore.InvalidInputError, match="exists already"):
            col.save(tmp_path, "saved")
        with bqstore.open(tmp_path, "saved") as made:
            assert contents(made) == contents(col) and made.verify().ok
            assert made.info().search.oversampling == 5.0 and made.info().embedding_model == "m"
            made.save(tmp_path, "again")
    with bqstore.load(tmp_path, "again") as loaded:
        assert loaded.info().path is None and contents(loaded) == [
            ("a", "one", {"n": 1}, [1, 0, 0]),
            ("c", "three", {}, [0, 0, 1]),
        ]
        loaded.add(np.eye(3), ["x", "y", "z"])
        loaded.compact()
        assert len(loaded) == 5 and loaded.verify().ok and loaded.search([0, 0, 1], 1)[0].id == "c"
    with bqstore.open(tmp_path, "again") as made:
        assert len(made) == 2
    for empty in (bqstore.open(), bqstore.open(dim=4)):
        empty.save(tmp_path, f"empty {empty.info().dim}")
        assert len(bqstore.load(tmp_path, f"empty {empty.info().dim}")) == 0
    with pytest.raises(bqstore.NotFoundError):
        bqstore.load(tmp_path, "none")
    for threads in (0, True):
        with pytest.raises(bqstore.InvalidInputError, match=f"threads is {threads}; expected an integer from 1"):
            bqstore.load(tmp_path, threads=threads)


def test_a_graph_is_searched_the_same_after_save_and_load(tmp_path):
    base = clustered(3000, 64)
    with bqstore.open(full_scan_threshold=0, encoding="two_bits", estimator="rabitq") as col:
        col.add(base, [f"{i}" for i in range(len(base))])
        col.flush()
        wanted = col.search_ids(base[:20], 5)
        col.save(tmp_path)
        with bqstore.load(tmp_path) as loaded:
            loaded.flush()
            assert loaded.info().linked == col.info().linked == 3000
            found = loaded.search_ids(base[:20], 5)
            assert found[0].tolist() == wanted[0].tolist()
            np.testing.assert_array_equal(found[1], wanted[1])


def test_a_collection_in_memory_is_pickled_with_its_documents():
    with filled(oversampling=7.0) as col:
        made = pickle.loads(pickle.dumps(col))
        assert contents(made) == contents(col) and made.info().search.oversampling == 7.0
        made.delete(["a"])
        assert len(made) == 2 and len(col) == 3


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
quiet = pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # Python 3.12 on forks of threaded processes


def in_a_fork(what):
    """The exit status of a call in a fork."""
    child = os.fork()
    if child == 0:
        end_if_it_hangs()
        try:
            what()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@quiet
def test_a_fork_owns_its_copy_of_a_collection_in_memory():
    """It was refused, although nothing of it is shared."""
    base = clustered(2500, 32)
    with bqstore.open(full_scan_threshold=0) as col:
        col.add(base, metadatas=[{"n": i} for i in range(len(base))])
        wanted = col.search_ids(base[:5], 3)[0].tolist()

        def child():
            assert col.search_ids(base[:5], 3)[0].tolist() == wanted and col.count({"n": {"$lt": 5}}) == 5
            col.add(base[:10], [f"{i}" for i in range(10)])
            threads = [threading.Thread(target=col.add, args=(base[:2],)) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            assert len(col) == 2518
            col.close()

        assert in_a_fork(child) == 0
        assert len(col) == 2500 and in_a_fork(lambda: in_a_fork(child)) == 0


@needs_fork
@quiet
def test_a_fork_while_another_thread_was_inside_is_refused_rather_than_hung():
    with filled() as col:
        inside, go_on = threading.Event(), threading.Event()

        def hold():
            with col._engine.lifecycle.turn:
                inside.set()
                go_on.wait(HANGS)

        thread = threading.Thread(target=hold)
        thread.start()
        assert inside.wait(HANGS)

        def child():
            with pytest.raises(bqstore.ClosedError, match="fork when no other thread uses it"):
                col.search([1.0, 0, 0])

        assert in_a_fork(child) == 0
        go_on.set()
        thread.join()


def in_a_worker(col):
    return len(col), col.search([1.0, 0, 0], 1)[0].id


@pytest.mark.long
def test_the_workers_of_a_pool_get_their_own():
    with filled() as col, multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(in_a_worker, (col,)) == (3, "a")


@pytest.mark.long
def test_a_program_that_does_not_close_ends_without_a_word(tmp_path):
    """`DiskFile.__del__` found the module's names gone: "Exception ignored in ... TypeError"; so did `KeyValues`."""
    code = (
        "import sys, bqstore, numpy as np\n"
        "col = bqstore.open(sys.argv[1]); col.add(np.eye(3), ['a', 'b', 'c'])\n"
        "class Late:\n    def __del__(self): pass\n"
        "kv = bqstore.open_key_values(sys.argv[1]); kv.put({'k': b'v'})\n"
        "kept = [col, kv, col._engine.store.flat.vectors, col._engine.store.flat.codes]\n"
        "sys.modules['kept'] = kept; kept.append(kept)\n"
        "del col, kv\n"
        "from bqstore import key_values\nfrom bqstore.storage import files\nfiles.os = key_values.sys = None\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with bqstore.open(tmp_path) as col:
        assert len(col) == 3


def test_saving_a_collection_that_has_lost_a_file_never_ended(tmp_path):
    """The missing file was taken for that of a commit that another one had followed."""
    with bqstore.open(tmp_path / "store") as col:
        col.add(np.eye(4), ["a", "b", "c", "d"])
        (tmp_path / "store" / "default" / "vectors-0.bin").unlink()
        with pytest.raises(bqstore.CorruptionError, match=r"vectors-0\.bin is missing"):
            col.save(tmp_path / "copy")
    assert bqstore.collections(tmp_path / "copy") == []
