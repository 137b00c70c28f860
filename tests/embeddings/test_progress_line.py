"""The line on a terminal while texts are embedded."""

import io
import sys
from types import SimpleNamespace

import pytest

from bqstore.embeddings import ingest


class Terminal(io.StringIO):
    def isatty(self):
        return True


def at_a_terminal(monkeypatch):
    """A terminal in place of stderr, and a clock of three looks: no fixture, as pytest sets stderr after these."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = iter([0.0, 1.0, 4.0])
    monkeypatch.setattr("bqstore.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))


def test_the_line_on_a_terminal(monkeypatch):
    at_a_terminal(monkeypatch)
    with ingest.progress_line(lambda: 0.5) as line:
        line(100, 1000)
        assert sys.stderr.getvalue() == ""
        line(500, 1000)
    assert "embedding: 500 of 1,000 (100 texts/s, $0.0000, 5 s left)" in sys.stderr.getvalue()


def test_without_a_price_and_a_number_of_all_there_is_the_rate_alone(monkeypatch):
    at_a_terminal(monkeypatch)
    for name in ("ipykernel", "tqdm.auto"):  # a notebook without tqdm has a line, too
        monkeypatch.setitem(sys.modules, name, SimpleNamespace() if name == "ipykernel" else None)
    with ingest.progress_line() as line:
        line(100, None)
        line(500, None)
    said = sys.stderr.getvalue()
    assert "(100 texts/s)" in said and "$" not in said and "left" not in said


def test_a_notebook_shows_a_bar(monkeypatch, capsys):
    """Nothing was shown: its stderr is no terminal."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(ingest, "_QUIET", 0)
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    with ingest.progress_line() as line:
        line(100, 1000)
    assert "embedding:  10%" in capsys.readouterr().err
