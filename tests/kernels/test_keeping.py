"""Where compiled kernels are kept, and what compiling them needs, on other systems and where something refuses."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest
from numba.core import event

from bqstore.kernels import background, cache, compile_notice, compile_process, dispatch


@pytest.mark.parametrize(
    ("platform", "given", "folder"),
    [
        ("darwin", {}, "home/Library/Caches"),
        ("win32", {}, "home/AppData/Local"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache"),
    ],
)
def test_a_users_cache_is_where_his_system_has_it(monkeypatch, platform, given, folder):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    for name in ("LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cache._user_cache_folder() == Path(folder)


def test_a_shared_folder_of_somebody_else_is_not_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "GIVEN", None)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    shared = tmp_path / f"bqstore-kernels-{cache.USER}"
    assert cache.folders(tmp_path)[-1] == shared
    monkeypatch.setattr(cache, "USER", cache.USER + 1)
    (tmp_path / f"bqstore-kernels-{cache.USER}").mkdir()
    assert not [folder for folder in cache.folders(tmp_path) if folder.name.startswith("bqstore-kernels")]


def files_in(folder: Path) -> cache._Files:
    files = cache._Files(str(folder), "kernel", "stamp")
    files.users = (cache.USER,)
    return files


def test_of_two_kernels_with_one_file_name_each_loads_its_own_and_old_files_go(tmp_path):
    files = files_in(tmp_path)
    files.save("one", 1)
    files.save("two", 2)
    assert files.load("one") == 1 and files.load("two") == 2
    old, new = files.paths("two")[0], files.paths("one")[0]
    old.replace(new)
    assert files.load("one") is None
    os.utime(new, (time.time() - 2 * cache._OLD,) * 2)
    files.save("two", 2)
    assert not new.exists() and files.load("two") == 2


def test_where_no_folder_takes_a_kernel_this_is_said_once(monkeypatch):
    kept = object.__new__(cache.KernelCache)
    kept._caches, kept._loaded, kept.kept = [], {}, True
    monkeypatch.setattr(cache, "_warned", [])
    with pytest.warns(RuntimeWarning, match="compiled kernels cannot be kept") as said:
        kept.save_overload("types", None)
        kept.save_overload("types", None)
    assert len(said) == 1 and not kept.kept and kept.load("types", None) is False


# ---- processes that compile


class Child(SimpleNamespace):
    """A process that has ended, or not."""

    def poll(self):
        return self.returncode


def test_a_system_that_starts_no_more_processes_leaves_compiling_to_this_one(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError("no more processes")

    for running, failed in ([], True), ([background._Child(Child(returncode=None), io.BytesIO())], False):
        children = background._Children()
        children.running = running
        children._try = refuse
        monkeypatch.setattr(background, "writable_folder", lambda: tmp_path)
        monkeypatch.setattr(background, "can_start_python", lambda: True)
        assert children.go_on() is not failed and children.failed is failed


def test_letting_go_of_processes_keeps_what_is_known_of_their_end():
    ended, going = (background._Child(Child(returncode=code), io.BytesIO()) for code in (3, None))
    children = background._Children()
    children.running = [ended, going]
    children.let_go()
    assert (ended.process.returncode, going.process.returncode) == (3, 0)
    assert ended.said.closed and going.said.closed and children.running == []


def test_without_locks_and_without_a_given_folder_a_process_is_started_all_the_same(tmp_path, monkeypatch):
    started = []

    def popen(command, env, **more):
        started.append(env)
        return Child(returncode=None, stderr=io.BytesIO())

    monkeypatch.setattr(background, "fcntl", None)
    monkeypatch.setattr(background, "GIVEN", None)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(background.subprocess, "Popen", popen)
    lock = background._lock(tmp_path)
    assert lock is not None
    background._start(("sift",), lock).said.close()
    os.close(lock)
    assert started[0]["BQSTORE_COMPILE"] == "foreground" and "NUMBA_CACHE_DIR" not in started[0]


def test_a_process_that_could_not_keep_a_kernel_says_so_by_its_end(monkeypatch):
    monkeypatch.setattr(os, "nice", lambda more: None)
    monkeypatch.setattr(dispatch, "sift", SimpleNamespace(compile=lambda: False))
    with pytest.raises(SystemExit) as end:
        compile_process.main(["sift"])
    assert end.value.code == background.NOT_KEPT


# ---- one kernel


class Root:
    """What numba has compiled, whose files are there and cannot be loaded."""

    __name__ = "root"
    targetctx = None
    _cache = SimpleNamespace(load=lambda *_: False)

    def __call__(self, *arguments):
        return "root", arguments


def test_a_kernel_without_a_twin_is_waited_for(monkeypatch):
    class Kernel(dispatch.Kernel):
        _signatures = ("types",)

        def is_there(self):
            return True

    kernel, waited = Kernel(Root(), None), []
    assert kernel._load() is False and kernel.compiled is None
    monkeypatch.setattr(background, "mode", lambda: "off")
    monkeypatch.setattr(dispatch, "wait_for", waited.append)
    assert kernel(1, 2) == ("root", (1, 2)) and waited == [[kernel]]


def test_a_program_that_set_the_level_of_numbas_log_keeps_it(monkeypatch):
    watching = []
    monkeypatch.setattr(event, "register", lambda kind, listener: watching.append(listener))
    compile_notice.watch()
    (watch,), log = watching, logging.getLogger("numba")
    for level, meanwhile in ((logging.INFO, logging.INFO), (logging.NOTSET, logging.WARNING)):
        monkeypatch.setattr(log, "level", level)
        watch.on_start(SimpleNamespace(data=None))
        assert log.level == meanwhile
        watch.on_end(None)
        assert log.level == level


def test_another_numba_without_events_is_not_watched(monkeypatch):
    monkeypatch.delattr(numba.core, "event")
    monkeypatch.setitem(sys.modules, "numba.core.event", None)
    compile_notice.watch()
