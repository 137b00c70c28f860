"""Who compiles the kernels, and what answers meanwhile: real processes, each with a cache of its own."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import bqstore
from bqstore.errors import InvalidInputError, StorageError
from bqstore.kernels import background, dispatch
from tests.conftest import FULL, HANGS, child
from tests.kernels.given import INTERPRETED

ROOT = Path(bqstore.__file__).parents[1]
pytestmark = pytest.mark.skipif(INTERPRETED or os.name == "nt", reason="nothing is compiled, or there is no lock")

# two kernels that compile in a second stand for all
FEW = """
import sys, time
import numpy as np
from bqstore.kernels import background, dispatch
background.HALVES = (("sift",), ("numbers_between",))
def sift():
    out = np.zeros(3, np.int32)
    return dispatch.sift(np.zeros(3, np.uint32), np.ones(1 << 16, np.uint8), out), out.tolist()
"""
ONE = FEW if FULL else FEW + "background._free_memory = lambda: 0.0  # one process for both\n"
USE = """
import os
start, looked = background.subprocess.Popen, f"{os.environ['NUMBA_CACHE_DIR']}/looked-{os.getpid()}"
until = 'until [ -e "$0" ] || ! kill -0 $PPID; do sleep 0.01; done; exec "$@"'
def once_looked(command, **more):  # nothing is compiled before the first look, however late that comes
    return start(["sh", "-c", until, looked, *command], **more)
background.subprocess.Popen = once_looked
for kernel in (dispatch.sift, dispatch.numbers_between):
    kernel.root._cache.save_overload = lambda *_: print("compiled here")
first = sift(), dispatch.sift.is_compiled()
open(looked, "w").close()
dispatch.wait_for([dispatch.sift, dispatch.numbers_between])
print(first, sift(), dispatch.sift.is_compiled(), background._here.tries)
"""


def environment(cache, mode="background", **more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache), "BQSTORE_COMPILE": mode, **more}


def run(script, cache, mode="background", **more):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment(cache, mode, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_numpy_answers_until_another_process_has_compiled_and_says_nothing(tmp_path):
    said, errors = run(FEW + USE, tmp_path)
    assert said == ["((3, [0, 1, 2]), False) (3, [0, 1, 2]) True 1"] and errors == ""
    assert run(FEW + USE, tmp_path)[0] == ["((3, [0, 1, 2]), True) (3, [0, 1, 2]) True 0"]


@pytest.mark.long
def test_of_programs_that_start_at_once_one_compiles(tmp_path):
    """The others wait for its lock, and find what it has left."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ONE + USE], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
        )
        for _ in range(6 if FULL else 2)
    ]
    tries = [int(process.communicate(timeout=HANGS)[0].split()[-1]) for process in running]
    assert sum(tries) == 1


@pytest.mark.slow
@pytest.mark.long
def test_the_next_program_goes_on_where_a_killed_compilation_ended(tmp_path):
    lock = (
        ONE
        + """
held = background._lock(__import__("pathlib").Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(600)
"""
    )
    arguments = [sys.executable, "-c", lock, str(tmp_path)]
    with child(arguments, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        waiting = (
            ONE
            + """
assert not dispatch.sift.is_compiled() and background.mode() == "background"
time.sleep(1)
print(background._here.tries, dispatch.sift.is_compiled(), background._here.tries)
"""
        )
        assert run(waiting, tmp_path)[0] == ["0 False 0"]
        other.kill()
    assert run(ONE + USE, tmp_path)[0][0].endswith("True 1")


@pytest.mark.long
@pytest.mark.sampled(1)
@pytest.mark.parametrize("broken", ["sys.executable = '/usr/bin/uwsgi'", "sys.executable = None", "sys.frozen = True"])
def test_where_no_python_can_be_started_this_process_compiles(tmp_path, broken):
    script = (
        ONE
        + f"""
{broken}
print(sift(), dispatch.sift.is_compiled(), background.mode())
"""
    )
    said, errors = run(script, tmp_path)
    assert said == ["(3, [0, 1, 2]) True foreground"] and "compiling" in errors


@pytest.mark.slow
@pytest.mark.long
def test_children_that_die_are_started_twice_and_then_this_process_compiles(tmp_path):
    """Killed for their memory, or ended by a broken installation."""
    script = (
        ONE
        + """
background.parts = lambda: (("no_such_kernel",),)
dispatch.wait_for([dispatch.sift])
print(background._here.tries, background.mode(), sift())
"""
    )
    said, errors = run(script, tmp_path)
    assert said == ["2 foreground (3, [0, 1, 2])"]
    assert errors.count("ended with exit code 1 (AttributeError") == 1 and "compiles the kernels itself" in errors


@pytest.mark.slow  # seconds of a process that stands for little
def test_a_cache_that_takes_no_file_is_given_up_at_once(tmp_path):
    """A full disk: not compiled twice elsewhere for nothing first."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    script = (
        limit + ONE + "dispatch.wait_for([dispatch.sift])\nprint(background._here.tries, background.mode(), sift())"
    )
    said, errors = run(script, tmp_path)
    assert said == ["1 foreground (3, [0, 1, 2])"] and errors.count("set NUMBA_CACHE_DIR") == 1


def test_no_process_is_started_where_nothing_can_be_kept(tmp_path):
    """The warning says what to set, once."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    said, errors = run(ONE + "print(sift(), background.mode(), background._here.tries)", blocked / "cache")
    assert said == ["(3, [0, 1, 2]) foreground 0"] and errors.count("set NUMBA_CACHE_DIR") == 1


def test_compiling_can_be_switched_off(tmp_path):
    """What is in the cache is used all the same."""
    off = ONE + "print(sift(), dispatch.sift.is_compiled(), background._here.tries)\n"
    assert run(off + "dispatch.sift.compile()", tmp_path, "off")[0] == ["(3, [0, 1, 2]) False 0"]
    assert run(off, tmp_path, "off")[0] == ["(3, [0, 1, 2]) True 0"]


def test_without_a_compiler_at_all_a_store_works(tmp_path):
    """NUMBA_DISABLE_JIT, as a debugger sets it: numpy answers, past the size of the first graph too."""
    script = """
    import bqstore, numpy as np
    rng = np.random.default_rng(0)
    with bqstore.open() as col:
        vectors = rng.standard_normal((3000, 16)).astype(np.float32)
        col.add(vectors, metadatas=[{"even": i % 2 == 0} for i in range(3000)])
        col.flush()
        found = col.search(vectors[8], k=3, filter={"even": True}, explain=True)
        print(found[0].score > 0.999, found.explanation.kernels, col.info().kernels, col.info().linked)
    """
    assert run(script, tmp_path, NUMBA_DISABLE_JIT="1")[0] == ["True numpy numpy 0"]


def test_an_unknown_way_to_compile_is_an_error(monkeypatch):
    monkeypatch.setenv("BQSTORE_COMPILE", "later")
    with pytest.raises(
        InvalidInputError, match="BQSTORE_COMPILE is 'later'; expected one of background, foreground, off"
    ):
        background.mode()


def test_a_fork_forgets_the_processes_of_its_parent(tmp_path):
    script = (
        ONE
        + """
import os, warnings
warnings.simplefilter("error")
sift()
assert background._here.running
fork = os.fork()
if fork == 0:
    assert not background._here.running and background._here.tries == 0
    assert sift() == (3, [0, 1, 2]) and background.mode() == "background"
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), sift())
"""
    )
    said, errors = run(script, tmp_path)
    assert said == ["7 (3, [0, 1, 2])"] and errors == ""


def test_every_kernel_is_compiled_by_one_half():
    names = [kernel.name for kernel in dispatch.PARTS["all"]]
    assert sorted(background.HALVES[0] + background.HALVES[1]) == sorted(names)


@pytest.mark.parametrize(("cores", "memory", "count"), [(1, 8e9, 1), (2, 8e9, 2), (2, 5e8, 1), (8, float("inf"), 2)])
def test_a_second_process_where_there_is_room_for_it(monkeypatch, cores, memory, count):
    monkeypatch.setattr(background.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(background, "_free_memory", lambda: memory)
    assert len(background.parts()) == count and sum(map(len, background.parts())) == 16


@pytest.mark.slow  # seconds of a process that stands for little
def test_the_path_of_a_module_beside_the_program_is_not_looked_at(tmp_path):
    """A file numba.py in the working folder is the user's own; the process that compiles must not run it."""
    (tmp_path / "numba.py").write_text("raise SystemExit(3)")
    script = (
        ONE
        + """
import os
os.chdir(sys.argv[1])
dispatch.wait_for([dispatch.sift])
print(background._here.tries, background.mode())
"""
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(arguments, env=environment(tmp_path / "cache"), capture_output=True, text=True, check=True)
    assert done.stdout == "1 background\n"


@pytest.mark.slow  # seconds of a process that stands for little
def test_a_relative_cache_stays_where_it_was(tmp_path):
    """Whatever folder the program goes to."""
    script = (
        ONE
        + """
import os
os.chdir("/")
dispatch.wait_for([dispatch.sift])
print(background._here.tries, background.mode())
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment("kernels"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANGS,
    )
    assert done.stdout == "1 background\n" and list((tmp_path / "kernels").glob("*sift*.nbc"))


@pytest.mark.slow  # seconds of a process that stands for little
def test_processes_that_have_ended_leave_the_table_of_processes(tmp_path):
    """They stayed as zombies for the life of the program."""
    script = (
        ONE
        + """
dispatch.wait_for([dispatch.sift, dispatch.numbers_between])
children = [child.process for child in background._here.running]
for child in children:
    while child.returncode is None:  # set by who has waited for it; poll() would wait itself
        time.sleep(0.01)
print(len(children))
"""
    )
    assert run(script, tmp_path)[0] == ["2"]


def test_a_fork_waits_for_a_look_that_is_under_way(tmp_path):
    """A child forked while a thread was inside of LLVM found its lock taken for ever."""
    script = (
        ONE
        + """
import os, threading
dispatch.sift.compile()
seen = []
def slow(self):
    seen.append("looking")
    time.sleep(0.5)
    seen.append("done")
    return False
dispatch.Kernel._load = slow
background.is_compiling = lambda: True
thread = threading.Thread(target=dispatch.numbers_between.is_compiled)
thread.start()
while not seen:
    time.sleep(0.01)
fork = os.fork()
if fork == 0:
    assert dispatch._looking.acquire(timeout=60)
    os._exit(0 if seen == ["looking", "done"] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
"""
    )
    assert run(script, tmp_path)[0] == ["0"]


def test_who_only_asks_compiles_nothing(tmp_path):
    """`info()` of an empty collection took a minute."""
    script = (
        ONE
        + """
import os
import bqstore
for os.environ["BQSTORE_COMPILE"] in "foreground", "background":
    with bqstore.open() as col:
        print(col.info().kernels, background._here.tries)
"""
    )
    assert run(script, tmp_path) == (["uncompiled 0"] * 2, "")


def test_an_unknown_way_to_compile_is_refused_at_opening(monkeypatch):
    monkeypatch.setenv("BQSTORE_COMPILE", "Foreground")
    with pytest.raises(InvalidInputError, match="BQSTORE_COMPILE is 'Foreground'; expected one of background, "):
        bqstore.open()


def test_the_first_call_of_a_process_without_descriptors_raised_a_bare_error(monkeypatch):
    """Numba imports modules then."""

    def refused(self):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    bqstore.warm_up(only="core")
    kernel = dispatch.Kernel(dispatch.encode.root, None)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch.Kernel, "_load", refused)
        patch.setattr(dispatch.Kernel, "compile", refused)
        with pytest.raises(
            StorageError, match=r"cannot load compiled kernels: Too many open files; close files"
        ) as caught:
            kernel.is_compiled()
        assert caught.value.errno == errno.EMFILE
    assert kernel.is_compiled()
