"""A small store, the command run in this process, and `Collection.recall` answered from a report made by hand."""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import bqstore
from bqstore.cli import loaded
from tests.cli import given
from tests.conftest import clustered


@pytest.fixture
def run(monkeypatch):
    """Run the command as from a terminal of 80 columns; the result has exit_code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    return lambda *words: CliRunner().invoke(loaded(), [str(word) for word in words], prog_name="bqstore")


@pytest.fixture
def store(tmp_path):
    """The path of a store of 300 documents."""
    path = tmp_path / "store"
    with bqstore.open(path) as col:
        col.add(clustered(300, 32), texts=["a text that nobody else sees"] * 300)
    return path


@pytest.fixture
def asked(monkeypatch):
    """Calls of `Collection.recall`, which gives the report made by hand."""
    calls = []

    def recall(self, queries=None, k=10, sample=200, settings=None):
        calls.append({"queries": queries, "k": k, "sample": sample})
        return given.report(k=k)

    monkeypatch.setattr(bqstore.Collection, "recall", recall, raising=False)
    return calls


@pytest.fixture
def no_recall(monkeypatch):
    """A `Collection.recall` that must not be reached."""

    def recall(self, *arguments, **keywords):
        pytest.fail("what is wrong should have been told before minutes of measuring")

    monkeypatch.setattr(bqstore.Collection, "recall", recall, raising=False)


@pytest.fixture
def queries(tmp_path):
    """A file of seven queries."""
    path = tmp_path / "queries.npy"
    np.save(path, clustered(7, 32, seed=1))
    return path


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A store of three texts, and a module `own_words` in the working folder that embeds them."""
    (tmp_path / "own_words.py").write_text(given.MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_words", raising=False)
    import own_words

    path = tmp_path / "words"
    with bqstore.open(path, text_index=True) as col:
        metadatas = [{"n": n} for n in range(3)]
        bqstore.CachedEmbedder(own_words.Words(), cache=False).add_to(
            col, given.TEXTS.values(), list(given.TEXTS), metadatas
        )
    return path
