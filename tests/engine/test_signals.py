"""What a signal, a finalizer or a second interrupt does to a write that it comes in the middle of.

Each of these once lost data, returned a wrong vector, hung, or crashed the interpreter.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import LockedError
from bqstore.storage import catalogue, head_table
from bqstore.storage.flat import FlatFiles
from tests.conftest import HANGS, child, often

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
EYE = np.eye(8)


def in_the_middle(monkeypatch, action):
    """Have a signal handler call the action when the next write begins to write its records."""
    real, done = FlatFiles.write, []

    def handler(*_):
        try:
            done.append(action())
        except bqstore.BqstoreError as error:
            done.append(error)

    def write(self, *arguments):
        monkeypatch.setattr(FlatFiles, "write", real)
        signal.raise_signal(signal.SIGUSR1)
        for _ in range(2):  # where signals are answered
            pass
        return real(self, *arguments)

    monkeypatch.setattr(FlatFiles, "write", write)
    monkeypatch.setattr(signal, "_before", signal.signal(signal.SIGUSR1, handler), raising=False)
    return done


def run_in_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("call", ["add", "delete", "clear", "update"])
def test_a_write_from_a_handler_overwrote_what_the_outer_one_had_committed(tmp_path, where, call, monkeypatch):
    with bqstore.open(tmp_path if where == "disk" else None) as col:
        col.add(EYE[:1], ["first"], metadatas=[{"x": 1}])
        calls = {
            "add": lambda: col.add(EYE[1:2], ["inner"]),
            "delete": lambda: col.delete(["first"]),
            "clear": col.clear,
            "update": lambda: col.update_metadata(["first"], {"x": 2}),
        }
        done = in_the_middle(monkeypatch, calls[call])
        col.add(EYE[2:3], ["outer"])
        assert isinstance(done[0], LockedError) and "signal handler" in str(done[0])
        assert [r.id for r in col.scroll()] == ["first", "outer"] and col.verify().ok
        np.testing.assert_array_equal(col.get(["outer"], with_vectors=True)[0].vector, EYE[2])
        assert calls[call]() is not None or call == "clear"  # between two calls it may


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_look_from_a_handler_ended_the_transaction_of_the_write(tmp_path, where, monkeypatch):
    looks = [
        len,
        lambda c: c.search(EYE[0], 3),
        lambda c: c.search_ids(EYE[0], 3),
        lambda c: c.count({"x": [0, 1]}),
        lambda c: c.search(EYE[0], filter={"_bq_id": ["d1"]}),
        lambda c: list(c.scroll()),
        lambda c: "d1" in c,
        lambda c: c.get(["d1"]),
        lambda c: c.info(),
        lambda c: c.verify(),
    ]
    for number, look in enumerate(looks):
        name = f"c{number}"
        with bqstore.open(tmp_path if where == "disk" else None, name) as col:
            col.add(EYE, [f"d{i}" for i in range(8)], metadatas=[{"x": i} for i in range(8)])
            done = in_the_middle(monkeypatch, lambda look=look, col=col: look(col))
            col.add(EYE[:2], ["e0", "e1"], metadatas=[{"x": 0}] * 2)
            assert len(done) == 1
            assert isinstance(done[0], LockedError) and "inside a write" in str(done[0])
            assert len(col) == 10 and col.count({"x": 0}) == 3 and col.verify().ok


CLOSER = """
import os, signal, sys
import numpy as np, bqstore
col = bqstore.open(sys.argv[1])
def stop(*_):
    try:
        col.close()
    finally:  # in the middle of an add it is refused: what was acknowledged is durable all the same
        os._exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
i = 0
while True:
    col.add(np.ones((1, 64)), [str(i)])
    os.write(1, b"%d\\n" % i)
    i += 1
"""


def test_closing_in_a_handler_cut_off_what_was_committed(tmp_path):
    rng = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for round_ in range(often(10)):
        path = tmp_path / str(round_)
        with child(
            [sys.executable, "-c", CLOSER, str(path)], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            for _ in range(rng.randint(1, 40)):
                process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read().split()
            assert process.wait() == 0
        with bqstore.open(path) as col:
            assert col.verify().ok and (not rest or rest[-1] in col)


def test_closing_in_a_handler_in_the_middle_of_a_write_is_refused(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        done = in_the_middle(monkeypatch, col.close)
        assert col.add(EYE[:1], ["a"]) == ["a"]
        assert isinstance(done[0], LockedError) and len(col) == 1
    with bqstore.open(tmp_path) as again:
        assert [r.id for r in again.scroll()] == ["a"] and again.verify().ok


INTERRUPTED = """
import random, signal, sys
import numpy as np, bqstore
rng, left, interrupted, number = random.Random(1), 0, 0, 0
def handler(*_):
    global left
    if left:
        left -= 1
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
sys.unraisablehook = lambda *_: None  # an interrupt in a finalizer is lost there, as Python has it
col = bqstore.open(sys.argv[1])
names = lambda: [f"d{rng.randint(0, 20)}-{i}" for i in range(8)]
ops = [
    lambda: col.add(np.eye(8), names()),
    lambda: col.delete(names()),
    lambda: col.update_metadata(names(), {"x": 1}),
    lambda: col.clear(),
]
while interrupted < int(sys.argv[2]):
    number += 1
    left = 2
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-3), rng.uniform(5e-5, 3e-4))
        ops[number % 4]()
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        left = 0
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
    col.add(np.eye(8)[:1], [f"after {number}"])
    assert f"after {number}" in col
    if number % 10 == 0:
        report = col.verify()
        assert report.ok, report
        col.close()
        col = bqstore.open(sys.argv[1])
        assert f"after {number}" in col and len(col) == sum(1 for _ in col.scroll())
"""


def run(code: str, *arguments: object) -> None:
    """Run a program of its own; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_interrupts_close_together_left_a_head_that_the_next_write_built_upon(tmp_path):
    """The second one hit what answered the first."""
    run(INTERRUPTED, tmp_path, often(200))


def test_closing_a_collection_in_memory_while_it_is_read_crashed_the_interpreter():
    code = """
import random, threading, time
import numpy as np, bqstore
ids = [str(i) for i in range(300)]
for _ in range(40):
    col = bqstore.open()
    col.add(np.random.rand(300, 8), ids, ["x" * 1000] * 300)
    wrong = []
    def read(col=col, wrong=wrong):
        try:
            while True:
                col.get(ids)
        except bqstore.ClosedError:
            pass
        except BaseException as error:
            wrong.append(error)
    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads: t.start()
    time.sleep(random.random() * 0.01)
    col.close()
    for t in threads: t.join()
    assert not wrong, wrong
"""
    run(code)


def test_who_closes_in_memory_looked_at_the_head_in_the_middle_of_a_read(monkeypatch):
    """Both began a transaction on the one connection: "cannot rollback - no transaction is active"."""
    col, errors = bqstore.open(), []
    col.add(EYE[:1], ["a"])
    store, real = col._engine.store, head_table._read_head

    def read():
        try:
            with store.snapshot():
                pass
        except bqstore.BqstoreError as error:
            errors.append(error)

    thread = threading.Thread(target=read)

    def looked(*given):
        if threading.current_thread() is threading.main_thread():
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()  # it waits
        return real(*given)

    monkeypatch.setattr(head_table, "_read_head", looked)
    col.close()
    thread.join()
    assert all(isinstance(error, bqstore.ClosedError) for error in errors)


def test_a_collection_that_outlives_its_module_ends_a_program_in_silence(tmp_path):
    """It was an AttributeError of a finalizer on stderr: the module's names were gone."""
    code = f"""
import ctypes, json, bqstore
json.kept = bqstore.open({str(tmp_path)!r})
json.kept.add([[1.0, 0.0]])
ctypes.pythonapi.Py_IncRef(ctypes.py_object(lambda: None))  # as numba keeps a function, and its module, for ever
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_many_documents_at_once_were_read_from_several_commits(tmp_path):
    with bqstore.open(tmp_path) as col:
        ids = [f"d{i}" for i in range(1500)]
        col.add(np.ones((1500, 2)), ids, metadatas=[{"v": 0}] * 1500)
        stop = threading.Event()

        def write():
            i = 0
            while not stop.is_set():
                i += 1
                col.update_metadata([ids[0], ids[-1]], {"v": i})

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(60):
                got = col.get(ids)
                assert got[0].metadata == got[-1].metadata
        finally:
            stop.set()
            thread.join()


def test_a_dimension_was_seen_before_its_commit(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        seen = []
        in_the_middle(monkeypatch, lambda: run_in_thread(lambda: seen.append(col.info().dim)))
        col.add(EYE[:1], ["a"])
        assert seen == [None] and col.info().dim == 8


def test_a_folder_taken_for_unchanging_says_so_when_a_writer_comes(tmp_path, monkeypatch):
    """SQLite would mix pages of two commits."""
    with bqstore.open(tmp_path) as col:
        col.add(EYE[:3], list("abc"), ["old"] * 3)
    real = os.access
    monkeypatch.setattr(catalogue.os, "access", lambda path, mode, **k: mode != os.W_OK and real(path, mode, **k))
    with bqstore.open(tmp_path, read_only=True) as reader:
        assert len(reader) == 3 and reader.get(["a"])[0].text == "old"
        monkeypatch.setattr(catalogue.os, "access", real)
        with bqstore.open(tmp_path) as col:
            col.add(EYE[:4], list("abcd"), ["new"] * 4)
            for call in (lambda: len(reader), lambda: reader.get(["a"]), lambda: reader.search(EYE[0], 3)):
                with pytest.raises(bqstore.StorageError, match="open it again"):
                    call()
    with bqstore.open(tmp_path, read_only=True) as reader:
        assert len(reader) == 4 and reader.get(["a"])[0].text == "new" and "d" in reader


def test_a_field_that_changes_all_the_time_kept_every_value():
    with bqstore.open() as col:
        ids = [f"d{i}" for i in range(50)]
        col.add(np.ones((50, 2)), ids, metadatas=[{"seen": 0, "tags": ["a", i % 2]} for i in range(50)])
        assert col.count({"seen": 0}) == 50 and col.count({"tags": 1}) == 25
        for i in range(1, 60):
            col.update_metadata(ids, [{"seen": i * 100 + j} for j in range(50)])
        columns = col._engine.publisher.current().columns
        assert len(columns["seen"].dictionary) <= 1200
        assert col.count({"seen": 5907}) == 1 and col.count({"seen": 107}) == 0 and col.count({"tags": [0, "z"]}) == 25
