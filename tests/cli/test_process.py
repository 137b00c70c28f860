"""The command as a process of its own: exit codes, signals, pipes; and its start without its extra."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bqstore
from bqstore.cli import main
from tests.conftest import HANGS, child

ROOT = Path(__file__).resolve().parents[2]
SLEEP = """
import signal, time, bqstore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
def open(*arguments, **keywords):
    print("ready", flush=True)
    time.sleep(600)
bqstore.open = open
from bqstore.cli import main
main()
"""
HELP = """
import sys
from bqstore.cli import main
sys.argv[1:] = ["--help"]
try:
    main()
finally:
    print("numba" in sys.modules)
"""
WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from bqstore.cli import main
main()
"""


def start(*words, **options):
    """A process in the sources' folder, with a plain terminal of 80 columns."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "TERM": "dumb"}
    command = [sys.executable, *map(str, words)]
    return child(
        command,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        **options,
    )


def finish(*words):
    """(exit code, stdout, stderr)"""
    with start(*words) as process:
        out, err = process.communicate(timeout=HANGS)
    return process.returncode, out, err


def test_version():
    assert finish("-m", "bqstore.cli", "--version") == (0, f"bqstore {bqstore.__version__}\n", "")


def test_help_loads_no_numba():
    status, out, _ = finish("-c", HELP)
    assert (status, out.splitlines()[-1]) == (0, "False")


@pytest.mark.slow  # the pipe that nobody reads is the same command in a process
def test_info(store):
    status, out, err = finish("-m", "bqstore.cli", "info", store)
    assert (status, err) == (0, "")
    assert "300" in out


def test_a_store_that_another_process_writes(store):
    """Both write, and the settings found by one are those of the other."""
    with bqstore.open(store) as col:
        before = col.info().search
        status, out, _ = finish("-m", "bqstore.cli", "tune", store, "--target", "0.9")
        assert status == 0 and str(col.info().search.oversampling) in out and col.info().search != before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c(store):
    with start("-c", SLEEP, "info", store) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANGS)
    assert (process.returncode, err) == (130, "Stopped.\n")


def test_a_pipe_that_nobody_reads(store):
    with start("-m", "bqstore.cli", "info", store) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait()
    assert (process.returncode, err) == (0, "")  # the exit code is the command's own: the reader has what it wanted


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing):
    status, out, err = finish("-c", WITHOUT.format(missing=missing), "info", "somewhere")
    assert (status, out) == (1, "")
    assert err == f"bqstore: this command needs {missing}: pip install typer rich plotly\n"


def test_a_part_of_bqstore_that_is_missing_is_not_mistaken_for_the_extra():
    _, _, err = finish("-c", WITHOUT.format(missing="bqstore.cli.tables"), "info", "somewhere")
    assert "Traceback" in err and "bqstore.cli.tables" in err.splitlines()[-1]


def test_warm_up_says_that_it_compiled_nothing_where_kernels_are_not_compiled(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    told = "Nothing was compiled: NUMBA_DISABLE_JIT is set, and numpy answers.\n"
    assert finish("-m", "bqstore.cli", "warm-up", "--only", "core") == (0, told, "")


def test_ctrl_c_while_the_command_is_loaded(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "bqstore.cli.moving":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "bqstore.cli.moving", raising=False)
    monkeypatch.delattr(bqstore.cli, "moving", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130 and capsys.readouterr() == ("", "Stopped.\n")


def test_the_entry_point(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bqstore", "--version"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"bqstore {bqstore.__version__}\n")
