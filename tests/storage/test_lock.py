"""The writers' lock: who gets it, in which order, what is said of its holder, and what is left of it afterwards."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore.errors import LockedError, StorageError
from bqstore.storage import lock as lock_module
from bqstore.storage import platform
from bqstore.storage.lock import WriterLock, unlock_and_close
from bqstore.storage.place import Entries
from tests.conftest import HANGS, end_if_it_hangs, wait_until

ROOT = Path(bqstore.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

HOLD = """
import sys, pathlib
from bqstore.storage.lock import WriterLock
lock = WriterLock(pathlib.Path(sys.argv[1]), "queue")
with lock.open() as file:
    lock.wait(file, 0, whole=len(sys.argv) > 2)
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def held(path, *more):
    """The lock, held by another process."""
    command = [sys.executable, "-c", HOLD, str(path), *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def lock_at(path):
    return WriterLock(path, "queue")


def take(path, timeout=0.0):
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, timeout)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "LOCK"


def test_another_process_is_named_and_its_lock_ends_when_it_is_killed(path):
    with held(path) as process:
        with pytest.raises(LockedError, match=rf"writer already: process {process.pid} \(since 20"):
            take(path)
        process.kill()
        process.wait()
        take(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_holds_within_one_process(path):
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0)
        with pytest.raises(LockedError, match="this process"):
            take(path)
    take(path)


def test_who_waits_gets_it_within_a_tenth_of_a_second(path, monkeypatch):
    """Of what it sleeps between two looks; a busy machine may let it sleep longer."""
    slept, got, sleep = [], [], time.sleep

    def record(seconds):
        slept.append(seconds)
        sleep(seconds / 10)

    monkeypatch.setattr(lock_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=record))
    with held(path) as process:
        thread = threading.Thread(target=lambda: (take(path, 2 * HANGS), got.append(len(slept))))
        thread.start()
        wait_until(lambda: sum(slept) >= 3)
        assert not got
        process.kill()
        process.wait()
        looks = len(slept)
        thread.join(HANGS)
    assert got[0] >= looks and max(slept) < 0.1


def test_waiting_ends_with_an_error_that_says_how_long(path, monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(lock_module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    with held(path), pytest.raises(LockedError, match=r"\(after waiting for 0\.\d+ s\); wait longer \(lock_timeout=\)"):
        take(path, 0.2)


def test_a_lock_for_life_is_called_so_and_nobody_waits_for_himself(path, monkeypatch):
    with held(path, "whole"), pytest.raises(LockedError, match="which has it open with exclusive=True"):
        take(path, 0.01)
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0, whole=True)
        monkeypatch.setattr(lock_module, "time", SimpleNamespace(monotonic=time.monotonic))  # nobody sleeps
        with pytest.raises(LockedError, match="this process"):
            take(path, HANGS)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped on Windows")
def test_a_holder_that_is_stopped_is_named_as_such(path):
    if platform.started(os.getpid()) is None:
        pytest.skip("this system has no /proc, which tells that a process is stopped")
    with held(path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LockedError, match=rf"process {process.pid} .*which is stopped: continue or end it"):
            take(path, 0.3)
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"host": "elsewhere", "token": "0"},
            r"process \d+ on host elsewhere \(",
        ),  # a container, with the same number here
        ({"token": "0"}, r"already: process \d+ \("),  # the number was given again
    ],
)
def test_this_process_is_told_from_another_with_its_number(path, change, said):
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0)
        text = json.loads(path.read_bytes())
        path.write_text(json.dumps({**text, **change}).ljust(512))
        with pytest.raises(LockedError, match=said):
            take(path)


@pytest.mark.parametrize("text", ["4711\n", "", "{", "[1]", "\xff", '{"pid": 1}', '{"host": 3}'])
def test_whatever_stands_in_the_file_there_is_an_error_and_no_other(path, text):
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0)
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(LockedError, match="process"):
            take(path, 0.01)


def test_a_fork_is_another_process(path):
    if not hasattr(os, "fork"):
        pytest.skip("no forks on Windows")
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0)
        pid = os.fork()
        if pid == 0:
            end_if_it_hangs()
            os._exit("this process" in said_of(path))
        assert os.waitpid(pid, 0)[1] == 0
        with pytest.raises(LockedError):  # the fork has not given it back
            take(path)
    take(path)


def said_of(path):
    try:
        take(path)
    except LockedError as error:
        return str(error)
    return "this process"


def test_a_lock_that_was_removed_is_taken_where_it_is_now(path):
    """Two writers would each hold a lock: one the file that is gone, one its successor."""
    lock = lock_at(path)
    with lock.open() as early:
        path.unlink()
        with lock.open() as late:
            lock.wait(late, 0)
            with pytest.raises(LockedError):
                lock.wait(early, 0.05)
        lock.wait(early, 1)
        with pytest.raises(LockedError):
            take(path)


def test_a_full_disk_does_not_keep_it_from_being_taken(path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    lock = lock_at(path)
    with lock.open() as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            lock.wait(file, 0)
        with pytest.raises(LockedError, match="another process"):
            take(path)


def test_a_folder_that_takes_no_lock_says_what_needs_none(path, monkeypatch):
    def fail(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Entries, "open_lock", fail)
    with pytest.raises(StorageError, match="Permission denied; read_only=True needs no lock"):
        take(path)


TAKE_OFTEN = """
import sys, pathlib, time
from bqstore.storage.lock import WriterLock
lock = WriterLock(pathlib.Path(sys.argv[1]), "queue")
print("ready", flush=True)
sys.stdin.readline()
end, longest, n = time.monotonic() + float(sys.argv[2]), 0.0, 0
while time.monotonic() < end:
    began = time.monotonic()
    with lock.open() as file:
        lock.wait(file, 60)
        longest, n = max(longest, time.monotonic() - began), n + 1
        time.sleep(0.002)  # as a commit takes
print(n, longest, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="folder stores do not work on Windows yet")
def test_none_starves(path):
    """Without the queue one process takes the lock again and again, and others wait for seconds."""
    command, pipes = [sys.executable, "-c", TAKE_OFTEN, str(path), "2"], {"stdin": -1, "stdout": -1, "text": True}
    with contextlib.ExitStack() as stack:
        those = [stack.enter_context(subprocess.Popen(command, env=ENVIRONMENT, **pipes)) for _ in range(5)]
        assert all(each.stdout.readline() == "ready\n" for each in those)
        for each in those:
            each.stdin.write("\n")
            each.stdin.flush()
        counts = [int(each.stdout.readline().split()[0]) for each in those]
    assert min(counts) > sum(counts) / len(counts) / 4, counts


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped on Windows")
def test_a_stopped_waiter_keeps_nobody_from_a_free_lock(path):
    """It is the first of the queue, which is for fairness: no veto."""
    with held(path) as holder_process, held(path.with_name("queue")) as waiter:
        holder_process.kill()
        holder_process.wait()
        waiter.send_signal(signal.SIGSTOP)
        take(path, 30)
        waiter.send_signal(signal.SIGCONT)


def test_who_has_closed_its_exclusive_lock_is_not_taken_for_its_holder(path):
    """What it had written into the file was believed when only the queue was busy."""
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0, whole=True)
    with held(path.with_name("queue")):
        take(path, 30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
def test_a_fork_that_has_the_descriptor_does_not_keep_the_lock(path):
    """Made in the moment after the file was opened, it has it without knowing."""
    lock = lock_at(path)
    with lock.open() as file:
        lock.wait(file, 0)
        inherited = os.dup(file.fileno())  # as in a fork
        unlock_and_close(file)
    take(path)
    os.close(inherited)


def test_a_queue_that_cannot_be_read_is_an_error_by_name(path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError, match=r"cannot lock .*: Input/output error"):
        take(path, 1.0)
    monkeypatch.undo()
    take(path)


def test_a_lock_is_given_back_once(path):
    file = lock_at(path).open()
    for _ in range(2):
        unlock_and_close(file)
    assert file.closed
    take(path)


class Unclosable(io.FileIO):
    """A file whose closing is an error, as on a disk that fails; it is closed all the same."""

    def close(self):
        if not self.closed:
            super().close()
            raise OSError(errno.EIO, "Input/output error")


def test_an_error_of_closing_the_lock_hid_what_had_gone_wrong(tmp_path, monkeypatch):
    def fail():
        raise bqstore.InvalidInputError("the write's own")

    with bqstore.open(tmp_path) as col:
        col.add(np.ones((1, 4), np.float32))
        monkeypatch.setattr(WriterLock, "open", lambda self: Unclosable(self._path, "r+"))
        with pytest.raises(bqstore.InvalidInputError, match="own"):
            col._engine.write(fail)
        assert len(col.add(np.ones((1, 4), np.float32))) == 1
        monkeypatch.setattr(WriterLock, "wait", lambda self, file, timeout: fail())
        with pytest.raises(bqstore.InvalidInputError, match="own"):
            col.delete(["none"])
        monkeypatch.undo()
        assert len(col) == 2
