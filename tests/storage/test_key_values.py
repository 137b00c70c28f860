"""Keys and values against a dictionary, in other processes, killed, damaged, and given what they cannot store."""

import copy
import errno
import gc
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bqstore
from bqstore import (
    ClosedError,
    CorruptionError,
    FolderReplacedError,
    InvalidInputError,
    LockedError,
    ReadOnlyError,
    StorageError,
)
from bqstore.storage import platform
from bqstore.storage.key_values import Held
from tests.conftest import HANGS, child, often

from ..engine.other_process import other_process
from ..engine.test_descriptors import held
from ..engine.test_durability import small_disk
from .damage import flip, positions
from .interrupts import interrupted, lines_of, some_lines

ROOT = Path(bqstore.__file__).parents[1]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.sampled_from(
    ["a", "a\0", "ab", "\U0010ffff"]
)
KEYS = TEXTS.filter(bool)
SPACES = st.sampled_from(["", "s", "s/t"])
GROUPS = st.none() | st.sampled_from(["g", "h", ""])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), SPACES, st.lists(st.tuples(KEYS, st.binary(max_size=9), GROUPS), max_size=4)),
        st.tuples(st.just("delete"), SPACES, st.lists(KEYS, max_size=4)),
        st.tuples(st.just("reopen"), SPACES, st.none()),
    ),
    max_size=12,
)


def check_same(kv: bqstore.KeyValues, truth: dict, prefixes: list[str]) -> None:
    """Everything that can be asked is answered as a dictionary of (value, group, time) would."""
    for space in ("", "s", "s/t"):
        mine = dict(sorted(truth.get(space, {}).items()))
        assert kv.items(space) == [(key, value) for key, (value, _, _) in mine.items()]
        asked = [*mine, "missing"]
        assert kv.get(asked, space) == [*(value for value, _, _ in mine.values()), None]
        assert kv.exist(asked, space) == [*(True for _ in mine), False]
        for prefix in prefixes:
            assert kv.keys(space, prefix=prefix) == [key for key in mine if key.startswith(prefix)]
            assert [key for key, _ in kv.items(space, prefix=prefix)] == kv.keys(space, prefix=prefix)
        for groups in ([], ["g"], ["h", "g"], [""]):
            assert kv.keys(space, groups=groups) == [key for key, (_, group, _) in mine.items() if group in groups]
        for at in {time for _, _, time in mine.values()}:
            assert kv.keys(space, before=at) == [key for key, (_, _, time) in mine.items() if time < at]
            assert kv.keys(space, after=at) == [key for key, (_, _, time) in mine.items() if time > at]
            assert (
                kv.keys(space, after=at, groups=["g"], limit=1)
                == [key for key, (_, group, time) in mine.items() if time > at and group == "g"][:1]
            )
        assert kv.keys(space, limit=2) == list(mine)[:2]


@settings(max_examples=often(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, prefixes=st.lists(TEXTS, max_size=3), in_memory=st.booleans())
def test_entries_are_those_of_a_dictionary(tmp_path_factory, steps, prefixes, in_memory):
    path = None if in_memory else tmp_path_factory.mktemp("kv")
    kv, truth, last = bqstore.open_key_values(path), {}, 0.0
    for kind, space, what in steps:
        mine = truth.setdefault(space, {})
        if kind == "put":
            at = kv.put([pair[:2] for pair in what], space, groups=[pair[2] for pair in what])
            assert at > last and kv.now() > at
            mine.update({key: (value, group, at) for key, value, group in what})
            last = at
        elif kind == "delete":
            assert kv.delete(what, space) == len(set(what) & mine.keys())
            for key in what:
                mine.pop(key, None)
        elif not in_memory:
            kv.close()
            kv = bqstore.open_key_values(path)
    check_same(kv, truth, prefixes)
    kv.close()
    if not in_memory and truth:
        with bqstore.open_key_values(path, read_only=True) as reader:
            check_same(reader, truth, prefixes)


@pytest.mark.long
def test_two_processes_see_each_others_commits_at_once(tmp_path):
    with bqstore.open_key_values(tmp_path) as kv, other_process(None) as other:
        other(f"kv = bqstore.open_key_values({str(tmp_path)!r})")
        for i in range(10):
            at = kv.put({f"mine {i}": b"x"})
            assert other(f"kv.get(['mine {i}'])") == [b"x"]
            assert other(f"kv.put({{'theirs {i}': b'y'}})") > at
            assert kv.get([f"theirs {i}"]) == [b"y"]
        assert other("kv.delete(['mine 3'])") == 1
        assert kv.exist(["mine 3", "mine 4"]) == [False, True]


WRITER = """
import sys, bqstore
path, name = sys.argv[1:]
kv = bqstore.open_key_values(path)
print("open", flush=True)
for i in range(10**9):
    kv.put({f"{name} {i} {j}": str(i).encode() for j in range(3)}, groups=[name] * 3)
    if i % 3 == 2:
        kv.delete([f"{name} {i - 1} {j}" for j in range(3)])
    print(i, flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("round_", range(often(5)))
def test_nothing_acknowledged_is_lost_when_writers_are_killed(tmp_path, round_):
    """Two write, one after the other is killed with SIGKILL, and a call is there as a whole or not at all."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    said: dict[str, int] = {}
    with child([*command, "one"], **pipes) as one, child([*command, "two"], **pipes) as two:
        for name, process in (("one", one), ("two", two)):
            lines = [process.stdout.readline() for _ in range(4 + 5 * round_)]
            assert lines[0] == "open\n"
            process.send_signal(signal.SIGKILL)
            rest = process.communicate()[0].splitlines(keepends=True)
            said[name] = int([line for line in lines + rest if line.endswith("\n")][-1])
    with bqstore.open_key_values(tmp_path) as kv:
        for name, last in said.items():
            for i in range(last + 2):  # the one after the last may have been committed, or its deletion
                there = set(kv.exist([f"{name} {i} {j}" for j in range(3)]))
                assert len(there) == 1, "a commit is half there"
                deleted = i % 3 == 1
                if i < last or (i == last and not deleted):
                    assert there == {not deleted}
        kv.put({"after": b"all"})
        assert kv.get(["after"]) == [b"all"]


def test_threads_write_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with bqstore.open_key_values(tmp_path) as kv, bqstore.open_key_values(tmp_path) as second:
        with ThreadPoolExecutor(6) as pool:
            times = list(pool.map(lambda i: (kv, second)[i % 2].put({str(i): b"x"}), range(24)))
        assert len(set(times)) == 24 and len(kv.keys()) == 24


@pytest.mark.long
def test_entries_can_be_written_beside_an_exclusive_collection_of_this_process_only(tmp_path):
    with bqstore.open(tmp_path, exclusive=True) as col, bqstore.open_key_values(tmp_path, lock_timeout=0.1) as kv:
        col.add([[1.0, 0.0]])
        kv.put({"a": b"1"})
        with other_process(None) as other, pytest.raises(AssertionError, match="LockedError"):
            other(f"kv = bqstore.open_key_values({str(tmp_path)!r}, lock_timeout=0.1)")
        col.compact()
        assert kv.get(["a"]) == [b"1"]


def test_time_goes_on_where_a_clock_was_set_back(tmp_path, monkeypatch):
    import time

    with bqstore.open_key_values(tmp_path) as kv:
        at = kv.put({"a": b"1"})
        monkeypatch.setattr(time, "time", lambda: at - 3600)
        start = kv.now()
        assert start > at
        later = kv.put({"b": b"1"}, not_before=start)
        assert later >= start and kv.keys(before=start) == ["a"]
        with pytest.raises(InvalidInputError, match="the clock of this machine is behind it"):
            kv.put({"c": b"1"}, not_before=at + 60)
        assert kv.keys() == ["a", "b"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda kv: kv.put({"": b""}), "key 0 is empty"),
        (lambda kv: kv.put({"é" * 600: b""}), "key 0 has 1,200 bytes; expected at most 1,024"),
        (lambda kv: kv.put({"a": b"1", "\ud800": b""}), "key 1 holds a lone surrogate"),
        (lambda kv: kv.put({"a": b"1", 3: b""}), "key 1 is an int; expected a string"),
        (lambda kv: kv.put({"a": "text"}), "value 0 is a str; expected bytes: encode it first"),
        (lambda kv: kv.put([("a", b"1"), "b"]), "value 1 is a str; expected a pair of key and value"),
        (lambda kv: kv.put({"a": b"1"}, groups=[]), "groups has 0 entries for 1 value"),
        (lambda kv: kv.put({"a": b"1"}, 5), "space is an int; expected a string"),
        (lambda kv: kv.put({"a": b"1"}, group=["g"]), "no keyword 'group'; did you mean 'groups'"),
        (lambda kv: kv.get("abc"), "keys is a str; expected a list"),
        (lambda kv: kv.delete({"a": 1}), "keys is a dict; expected a list"),
        (lambda kv: kv.keys(before=float("nan")), "before is nan"),
        (lambda kv: kv.keys(limit=-1), "limit is -1"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, call, words):
    with bqstore.open_key_values(tmp_path) as kv:
        with pytest.raises(InvalidInputError, match=words):
            call(kv)
        assert kv.keys() == []


def test_a_value_that_is_too_large_is_refused_before_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("bqstore.key_values.MAX_VALUE_BYTES", 8)
    with bqstore.open_key_values(tmp_path) as kv:
        kv.put({"a": bytes(8)})
        for large in (bytes(9), memoryview(bytes(12)).cast("i")):
            with pytest.raises(InvalidInputError, match=r"value 0 has (9|12) bytes; expected at most 8"):
                kv.put({"b": large})
        assert kv.keys() == ["a"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"read_only": True}, "read_only=True needs a path: what is in memory begins empty"),
        ({"mode": 0o1070, "path": "x"}, "mode is 0o1070; expected one in which the owner may do everything"),
    ],
)
def test_key_values_are_not_opened_by_settings_that_cannot_be(tmp_path, monkeypatch, settings, words):
    """Of the mode only the size was checked: a folder was made that its owner could not enter."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=words):
        bqstore.open_key_values(**settings)
    assert not list(tmp_path.iterdir())


def test_an_object_that_was_never_opened_goes_in_silence():
    """Its finalizer would print an AttributeError, which pytest makes an error."""
    with pytest.raises(TypeError):
        bqstore.KeyValues()
    with pytest.raises(InvalidInputError, match=r"not made directly; use bqstore.open_key_values\("):
        bqstore.KeyValues("folder")
    gc.collect()


def test_a_reader_and_a_closed_one_are_told_so(tmp_path):
    with pytest.raises(bqstore.NotFoundError, match="there are no entries"):
        bqstore.open_key_values(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()
    kv = bqstore.open_key_values(tmp_path)
    kv.put({"a": b"1"})
    with (
        bqstore.open_key_values(tmp_path, read_only=True) as reader,
        pytest.raises(ReadOnlyError, match="read_only=True"),
    ):
        reader.put({"b": b"2"})
    kv.close()
    kv.close()
    with pytest.raises(ClosedError, match="these entries are closed"):
        kv.get(["a"])


FORK = """
import os, sys, bqstore
kv = bqstore.open_key_values(sys.argv[1])
kv.put({"parent": b""})
if os.fork() == 0:
    for call in (lambda: kv.put({"x": b""}), lambda: kv.get(["parent"])):
        try:
            call()
        except bqstore.ClosedError:
            print("closed", flush=True)
    kv.close()
    with bqstore.open_key_values(sys.argv[1]) as own:
        own.put({"child": b""})
    os._exit(0)
os.wait()
kv.put({"after": b""})
print(kv.keys())
"""


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_opens_entries_of_its_own(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["closed", "closed", "['after', 'child', 'parent']", ""]


@pytest.mark.long
def test_a_write_waits_for_a_collection_that_writes(tmp_path):
    with bqstore.open_key_values(tmp_path, lock_timeout=0.05) as kv, other_process(tmp_path, "exclusive=True"):
        assert kv.keys() == []  # reads wait for nobody
        with pytest.raises(LockedError, match="has a writer already"):
            kv.put({"a": b"1"})


def test_a_folder_that_was_replaced_is_noticed(tmp_path):
    kv = bqstore.open_key_values(tmp_path / "store")
    kv.put({"a": b"1"})
    (tmp_path / "store").rename(tmp_path / "moved")
    bqstore.open_key_values(tmp_path / "store").close()
    for call in (lambda: kv.put({"b": b"2"}), lambda: kv.get(["a"])):
        with pytest.raises(FolderReplacedError):
            call()
    kv.close()
    with bqstore.open_key_values(tmp_path / "store") as other:
        assert other.keys() == []


def test_no_flipped_bit_is_taken_for_a_value(tmp_path):
    with bqstore.open_key_values(tmp_path) as kv:
        kv.put({f"key {i}": f"value {i}".encode() * 20 for i in range(12)}, groups=["g"] * 12)
        whole = dict(kv.items())
    file = tmp_path / "default/kv.db"
    data, noticed = file.read_bytes(), 0
    used = [place for place, byte in enumerate(data) if byte]
    for place in (used[at] for at in positions(len(used), often(100))):
        file.write_bytes(flip(data, place))
        try:
            with bqstore.open_key_values(tmp_path) as kv:
                for key, value in kv.items():
                    assert whole[key] == value
                assert {*kv.keys()} <= whole.keys() and {*kv.keys(groups=["g"])} <= whole.keys()
        except bqstore.BqstoreError:
            noticed += 1
        for each in (tmp_path / "default").glob("kv.db-*"):
            each.unlink()
    assert noticed > often(100) // 3


def test_a_file_that_lost_a_row_or_has_another_schema_is_refused(tmp_path):
    with bqstore.open_key_values(tmp_path) as kv:
        kv.put({"a": b"1", "b": b"2"})
    file = tmp_path / "default/kv.db"
    data = file.read_bytes()
    for statement, words in [
        ("DELETE FROM entries WHERE key = 'a'", "holds 1 entries, its own row counts 2"),
        ("CREATE TABLE other (x)", "does not have the tables of entries"),
        ("DELETE FROM about", "has lost the row about its entries"),
    ]:
        file.write_bytes(data)
        with closing(sqlite3.connect(file)) as raw, raw:
            raw.execute(statement)
        with pytest.raises(CorruptionError, match=words):
            bqstore.open_key_values(tmp_path)
    file.write_bytes(data)
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute("PRAGMA user_version = 2")
    with pytest.raises(bqstore.FormatVersionError, match=r"kv\.db is in format 2"):
        bqstore.open_key_values(tmp_path)


def test_the_format_document_is_enough_to_read_entries(tmp_path):
    with bqstore.open_key_values(tmp_path) as kv:
        at = kv.put({"k": b"\0\xff", "é": b""}, "s", groups=["g", None])
    with closing(sqlite3.connect(tmp_path / "default/kv.db")) as raw:
        rows = raw.execute("SELECT space, key, part, time, key_crc, value, crc FROM entries").fetchall()
    assert [row[:4] + (row[5],) for row in rows] == [("s", "k", "g", at, b"\0\xff"), ("s", "é", None, at, b"")]
    for (_, key, part, time, key_crc, value, crc), head in zip(rows, ["1,1,1", "1,1,-"], strict=True):
        assert key_crc == zlib.crc32(f"{head},{time!r}:s{key}{part or ''}".encode())
        assert crc == zlib.crc32(value, key_crc)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_line_leaves_a_call_done_or_not_done(tmp_path):
    with bqstore.open_key_values(tmp_path) as kv:
        kv.put({"a": b"0"})

        def write() -> None:
            kv.put({"a": str(step).encode(), f"{step}": b""})
            kv.delete(["a"])

        step = -1
        count, came = lines_of(write), 0
        for step, line in enumerate(some_lines(count, max(1, count // often(60)))):
            kv.put({"a": b"old"})
            came += interrupted(write, line)
            assert kv.get(["a"])[0] in (b"old", str(step).encode(), None)
            assert kv.exist([str(step)]) == [kv.get(["a"])[0] != b"old"]
            kv.put({"goes on": b""})
        assert came > 10
    with bqstore.open_key_values(tmp_path) as kv:  # what it counts is what there is
        assert kv.exist(["goes on"]) == [True]


@pytest.mark.long
def test_on_a_full_disk_nothing_is_lost_deleting_works_and_nothing_must_be_opened_again(tmp_path):
    path = small_disk(tmp_path, "6m")
    try:
        with bqstore.open_key_values(path) as kv:
            truth = {str(i): b"x" * 3000 for i in range(100)}
            kv.put(truth)
            with pytest.raises(OSError, match="No space"), (path / "filler").open("ab", buffering=0) as file:
                while True:
                    file.write(b"z" * 4096)
            with pytest.raises(StorageError) as caught:
                kv.put({f"more {i}": b"x" * 9000 for i in range(1000)})
            assert caught.value.errno == errno.ENOSPC and dict(kv.items()) == truth
            assert kv.delete(["0", "1"]) == 2
            (path / "filler").unlink()
            kv.put({"2": b"new"})
            truth = {**truth, "2": b"new"}
            del truth["0"], truth["1"]
            assert dict(kv.items()) == truth
        with bqstore.open_key_values(path) as kv:
            assert dict(kv.items()) == truth
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_pickles_lead_to_the_same_folder_and_copies_are_the_same_object(tmp_path):
    with bqstore.open_key_values(tmp_path, "notes") as kv:
        kv.put({"a": b"1"})
        with pickle.loads(pickle.dumps(kv)) as other:
            other.put({"b": b"2"})
        assert kv.keys() == ["a", "b"]
        assert copy.copy(kv) is kv and copy.deepcopy(kv) is kv
    with pytest.raises(InvalidInputError, match="in memory cannot be pickled"):
        pickle.dumps(bqstore.open_key_values())


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_entries_that_nobody_used_kept_their_descriptors(tmp_path, monkeypatch):
    """With many of them open, as caches of tenants are, the process had none left."""
    monkeypatch.setattr(platform, "most_descriptors", lambda: 64)  # four may be awake
    many = [bqstore.open_key_values(tmp_path, f"c{i}") for i in range(12)]
    for turn in ("one", "two"):
        for i, kv in enumerate(many):
            kv.put({f"{turn} {i}": b"value"})
            assert kv.get([f"{turn} {i}"]) == [b"value"]
    assert len(held(tmp_path)) <= 4 * 4 + 8  # all of four, and each folder's
    one = many[0]
    assert one._entries.rest() and held(tmp_path / "c0") == ["c0"]
    with bqstore.open_key_values(tmp_path, "c0") as other:
        other.put({"other": b"by another"})
    assert one.items() == [("one 0", b"value"), ("other", b"by another"), ("two 0", b"value")]
    with one._entries.standing():
        assert not one._entries.rest()
    assert one._entries.rest() and one.delete(["other"]) == 1 and one.keys() == ["one 0", "two 0"]
    one.close()
    assert one._entries.rest() and held(tmp_path / "c0") == []
    last = many[-1]
    assert last._entries.rest()
    (tmp_path / "c11").rename(tmp_path / "moved")
    with bqstore.open_key_values(tmp_path, "c11") as new:
        new.put({"new": b"of another folder"})
        with pytest.raises(FolderReplacedError):
            last.get(["new"])
    for kv in many:
        kv.close()
    assert held(tmp_path) == []


def test_an_interrupt_at_the_end_of_a_write_locked_its_thread_out_for_good(tmp_path):
    """Where the lock is held and no block holds it any more."""
    with bqstore.open_key_values(tmp_path) as kv:
        kv._entries._turn.lock.acquire()
        assert kv.get(["a"]) == [None] and not kv._entries._turn.is_held()
        thread = threading.Thread(target=kv.put, args=({"a": b"by another"},))
        thread.start()
        thread.join(HANGS)
        assert kv.get(["a"]) == [b"by another"]
        held_ = Held(kv._entries._turn)
        held_.__enter__()
        del held_  # as the end of a frame does
        assert not kv._entries._turn.lock._is_owned()
