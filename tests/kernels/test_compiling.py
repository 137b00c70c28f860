"""What a person sees of a compilation, and where compiled kernels are kept, whatever is wrong with the folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bqstore
from bqstore.kernels import cache, compile_notice
from tests.kernels.given import INTERPRETED

ROOT = Path(bqstore.__file__).parents[1]
pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")

KERNEL = """
import logging, sys, warnings
import numpy as np
records = []
class Count(logging.Handler):
    def emit(self, record):
        records.append(record)
if "log" in sys.argv:
    logging.basicConfig(level=logging.DEBUG, handlers=[Count()])
from bqstore.kernels import metadata
for marks in (np.zeros(1, np.uint32), np.zeros(3, np.uint32)):
    assert metadata.sift(marks, np.ones(1 << 16, np.uint8), np.zeros(3, np.int32)) == len(marks)
print(sum(metadata.sift.stats.cache_hits.values()), len(records))
"""


def run(*arguments, program=KERNEL, **environment):
    """Standard output and standard error of a process that calls one kernel."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def files(folder):
    return sorted(folder.rglob("*.nbc"))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A cache that a process has filled, and what that process said."""
    folder = tmp_path_factory.mktemp("first")
    return folder, run(NUMBA_CACHE_DIR=str(folder))


@pytest.fixture
def filled(tmp_path, first):
    """A copy of that cache."""
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_first_compilation_is_announced_once(first):
    assert first[1] == (["0", "0"], compile_notice.LINE)


def test_a_kernel_from_the_cache_is_not_announced_and_loads_nothing_that_only_compiling_needs(filled):
    """It imported a tenth of numba and scipy's linear algebra; whoever compiles afterwards gets them as ever."""
    after = """
import numba
assert not {"scipy.linalg", "numba.np.linalg"} & set(sys.modules)
assert numba.njit(lambda a: (a @ a).sum())(np.eye(3)) == 3
"""
    assert run(program=KERNEL + after, NUMBA_CACHE_DIR=str(filled)) == (["1", "0"], "")


def test_a_program_that_logs_everything_gets_nothing_from_numba(tmp_path):
    assert run("log", NUMBA_CACHE_DIR=str(tmp_path))[0] == ["0", "0"]


@pytest.mark.long
@pytest.mark.sampled(1)
@pytest.mark.parametrize("damage", ["cut", "flip", "middle", "empty"])
def test_a_damaged_file_is_made_again(filled, damage):
    """It was an EOFError or an UnpicklingError at every start."""
    (file,) = files(filled)
    data = file.read_bytes()
    half = len(data) // 2
    damaged = {
        "cut": data[:half],
        "flip": b"\xff" * 40 + data[40:],
        "middle": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        "empty": b"",
    }
    file.write_bytes(damaged[damage])
    assert [run(NUMBA_CACHE_DIR=str(filled))[0][0] for _ in range(2)] == ["0", "1"]


def test_a_folder_that_cannot_be_written_costs_a_warning_and_nothing_else(tmp_path):
    """It was a RuntimeError: no locator available."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    out, errors = run(NUMBA_CACHE_DIR=str(blocked / "cache"))
    assert out == ["0", "0"] and errors.count("cannot be kept") == 1 and "set NUMBA_CACHE_DIR" in errors


def test_kernels_that_an_image_was_warmed_up_with_are_found_by_a_user_who_may_only_read(tmp_path, monkeypatch):
    """The folders are tried in their order, for reading and for writing."""
    monkeypatch.setattr(cache, "GIVEN", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "package").mkdir()
    first, second, third = cache.folders(tmp_path / "package")
    assert first == tmp_path / "package" / "__pycache__" and second == tmp_path / "home" / "bqstore" / "kernels"
    assert third.name.startswith("bqstore-kernels-")

    def twice(value):
        return 2 * value

    monkeypatch.setattr(cache, "folders", lambda package: [first, second])
    kept = cache.KernelCache(twice)
    (tmp_path / "package").rmdir()
    (tmp_path / "package").write_text("no folder")  # root may write everywhere else
    import numba

    dispatcher = numba.njit(twice)
    dispatcher._cache = kept
    assert dispatcher(2) == 4 and files(second)
    again = numba.njit(twice)
    again._cache = cache.KernelCache(twice)
    assert again(3) == 6 and sum(again.stats.cache_hits.values()) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to give a file away")
def test_kernels_of_another_user_are_not_loaded(filled):
    for file in files(filled):
        os.chown(file, 12345, 12345)
    assert run(NUMBA_CACHE_DIR=str(filled))[0] == ["0", "0"]


@pytest.mark.slow  # seconds of four processes
def test_two_hosts_with_one_home_have_a_file_each(tmp_path):
    """With an index, each could overwrite the other's, and load machine code of another processor."""
    run(NUMBA_CACHE_DIR=str(tmp_path))
    run(NUMBA_CACHE_DIR=str(tmp_path), NUMBA_CPU_NAME="generic")
    assert len(files(tmp_path)) == 2
    assert [run(NUMBA_CACHE_DIR=str(tmp_path), **host)[0][0] for host in ({}, {"NUMBA_CPU_NAME": "generic"})] == [
        "1",
        "1",
    ]


def test_a_change_of_any_kernel_makes_all_of_them_anew(tmp_path, monkeypatch):
    """A root holds the code of the leaves it calls."""
    tmp_path = tmp_path / "kernels"
    tmp_path.mkdir()
    for name, text in (("one.py", "1"), ("two.py", "2")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "one.py"))
    before = cache.stamp.__wrapped__()
    assert cache.stamp.__wrapped__() == before
    (tmp_path / "two.py").write_text("3")
    between = cache.stamp.__wrapped__()
    assert between != before
    (tmp_path.parent / "record_words.py").write_text("1")  # what they know of records
    assert cache.stamp.__wrapped__() not in (before, between)


@pytest.mark.slow  # seconds of four processes
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be two users")
def test_users_who_share_a_folder_have_their_own_files(tmp_path):
    """The second could not replace the first one's file, and compiled at every start."""
    tmp_path.chmod(0o1777)
    run(NUMBA_CACHE_DIR=str(tmp_path))
    (first,) = files(tmp_path)
    assert first.name.endswith("-0.nbc")
    os.chown(first, 12345, 12345)
    assert [run(NUMBA_CACHE_DIR=str(tmp_path))[0][0] for _ in range(2)] == ["0", "1"]


def test_the_folder_of_the_package_is_for_all_who_can_read_it(tmp_path):
    """An image that is warmed up as root is run by others, also where pip has left no __pycache__."""
    before = os.umask(0o022)
    try:
        cache._make(tmp_path / "package" / "__pycache__")
        cache._make(tmp_path / "own")
    finally:
        os.umask(before)
    assert (tmp_path / "package" / "__pycache__").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
