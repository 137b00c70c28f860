"""What goes wrong is told in one message on stderr: never a traceback, never a store made by a mistake."""

import importlib.util
import pickle

import numpy as np
import pytest

import bqstore

COMMANDS = (["info"], ["recall"], ["tune", "--target", "0.9"])


def refused(result, *words):
    """One message, exit code 1, nothing on stdout."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.startswith("bqstore: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_path(run, tmp_path, command):
    result = run(*command, tmp_path / "nowhere")
    refused(result, f"bqstore: there is no folder {tmp_path / 'nowhere'}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_a_store(run, tmp_path, command):
    refused(run(*command, tmp_path), "there is no collection 'default'", "is that the folder of a store?")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_collection_is_told_with_those_there_are(run, store, command):
    bqstore.open(store, "second").close()
    refused(run(*command, store, "--collection", "frist"), "'frist'", "default, second")
    assert not (store / "frist").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_for_a_store(run, tmp_path, command):
    (tmp_path / "file").write_text("no store")
    refused(run(*command, tmp_path / "file"), "is a file; a store is a folder")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["", "../other", "<b>", "[red]", "\x1b[31m", "a\nb"])
def test_a_hostile_name(run, store, command, name):
    result = run(*command, store, "--collection", name)
    refused(result)
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("path", ["", "[red]x[/red]", "\x1b[31mred", "a\nb", "nul\0", "\udcff", "x" * 5000])
def test_a_hostile_path(run, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    result = run("info", path)
    refused(result)
    assert "\x1b" not in result.stderr
    assert "[red]" not in path or path in result.stderr


def test_a_locked_store(run, store):
    with bqstore.open(store, exclusive=True):
        refused(run("tune", store, "--target", "0.9"))
        assert run("info", store).exit_code == 0  # reading needs no lock


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_store(run, store, command):
    (flat,) = (store / "default").glob("vectors-*.bin")
    with flat.open("r+b") as file:
        file.truncate(flat.stat().st_size // 2)
    refused(run(*command, store), "vectors-")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_database(run, store, command):
    (store / "default" / "meta.db").write_bytes(b"not a database" * 500)
    refused(run(*command, store), "meta.db")


def test_ctrl_c(run, store, monkeypatch):
    def stopped(self, *arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(bqstore.Collection, "info", stopped)
    result = run("info", store)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Stopped.\n")


# ---- the file of queries


class Bomb:
    """Raises where it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _pickled(path):
    path.write_bytes(pickle.dumps(Bomb()))


def _objects(path):
    np.save(path, np.array([[Bomb()]], dtype=object), allow_pickle=True)


def _truncated(path):
    np.save(path, np.ones((100, 32)))
    path.write_bytes(path.read_bytes()[:-100])


def _archive(path):
    with path.open("wb") as file:
        np.savez(file, queries=np.ones((2, 32)))


def _huge(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("0.1, 0.2, 0.3"), "cannot be read"),
        (_pickled, "cannot be read"),
        (_objects, "cannot be read"),
        (_truncated, "cannot be read"),
        (_huge, "cannot be read"),
        (_archive, "is an archive of arrays"),
        (lambda path: np.save(path, np.ones(32)), "shape (32,)"),
        (lambda path: np.save(path, np.ones((2, 3, 32))), "shape (2, 3, 32)"),
        (lambda path: np.save(path, np.ones((0, 32))), "shape (0, 32)"),
        (lambda path: np.save(path, np.ones((2, 32), bool)), "type bool"),
        (lambda path: np.save(path, np.ones((2, 32), complex)), "type complex128"),
        (lambda path: np.save(path, np.array([["a", "b"]])), "type <U1"),
    ],
)
def test_a_wrong_file_of_queries(run, store, tmp_path, no_recall, write, words):
    path = tmp_path / "queries.npy"
    write(path)
    refused(run("recall", store, "--queries", path), "queries.npy", words)


def test_queries_that_do_not_fit_the_collection(run, store, tmp_path):
    np.save(tmp_path / "queries.npy", np.ones((2, 31)))
    refused(run("recall", store, "--queries", tmp_path / "queries.npy"), "31", "32")


# ---- the page


def test_a_report_that_could_not_be_written(run, store, tmp_path, no_recall):
    refused(run("recall", store, "--report", tmp_path), "is a folder")
    refused(run("recall", store, "--report", tmp_path / "none" / "report.html"), "there is no folder")


def test_a_report_without_plotly(run, store, tmp_path, no_recall, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("bqstore.cli.files.find_spec", lambda name: None if name == "plotly" else found(name))
    refused(run("recall", store, "--report", tmp_path / "report.html"), "pip install plotly")


# ---- debug


def test_debug_shows_where_an_error_comes_from(run, tmp_path):
    for words in (("--debug", "info", tmp_path / "nowhere"), ("info", tmp_path / "nowhere", "--debug")):
        result = run(*words)
        assert isinstance(result.exception, bqstore.NotFoundError)
    refused(run("info", tmp_path / "nowhere"), "there is no folder")  # not of the next command
    refused(run("search", tmp_path / "nowhere", "--mode", "text", "--", "--debug"), "there is no folder")


def test_an_error_of_the_system_names_the_file_without_its_number(run, store, asked, tmp_path):
    target = tmp_path / "locked"
    target.mkdir()
    (target / "report.html").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bqstore.cli.commands.check_report_path", lambda path: None)
        result = run("recall", store, "--report", target / "report.html")
    assert result.exit_code == 1 and result.stderr == f"bqstore: {target / 'report.html'}: Is a directory\n"
