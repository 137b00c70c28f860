"""`bqstore demo`: without a clone, a key or a network."""

import json

import pytest

from bqstore.cli import demo, manual

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


@pytest.fixture
def small(monkeypatch):
    """A manual of some passages, which is read once."""
    few = list(manual._of_builtin("functools")) + [*manual._of_builtin("math")]
    found = [manual.Passage(f"{e.kind}:{e.title}", f"{e.title}\n\n{e.text}", e.title, e.kind, e.module) for e in few]
    found = list({each.id: each for each in found}.values())[:60]
    calls = []
    monkeypatch.setattr(demo, "passages", lambda limit: calls.append(limit) or found)
    monkeypatch.setattr(demo, "_LIMIT", len(found))
    return calls


def test_the_demo_answers_and_can_be_searched(run, tmp_path, small):
    path = tmp_path / "demo"
    result = run("demo", "which function gives the cosine?", "--path", path)
    assert (result.exit_code, result.stderr) == (0, "") and "math.cos" in result.stdout
    assert "bqstore ingest my-store FOLDER" in result.stdout and max(map(len, result.stdout.splitlines())) < 200
    again = json.loads(run("demo", "the square root of a number", "--path", path, "--json").stdout)
    assert len(small) == 1 and again["answers"][0]["hits"] and again["passages"] == demo._LIMIT
    hits = json.loads(run("search", path, "the square root", "-k", 3, "--json").stdout)["hits"]
    assert any("sqrt" in hit["id"] for hit in hits)


def test_a_demo_that_was_interrupted_goes_on(run, tmp_path, small, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(demo.bqstore.Collection, "add", interrupted)
        assert run("demo", "--path", tmp_path / "d").exit_code == 130
    told = json.loads(run("demo", "--path", tmp_path / "d", "--json").stdout)
    assert told["passages"] == demo._LIMIT and len(told["answers"]) == len(demo.QUESTIONS)


def test_the_demo_without_its_library(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    result = run("demo", "--path", tmp_path / "d")
    assert (result.exit_code, result.stderr) == (
        1,
        "bqstore: the embedder lsa needs scikit-learn: pip install scikit-learn\n",
    )
    assert not (tmp_path / "d").exists()
