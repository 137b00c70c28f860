"""`bqstore search`: by a vector, a text, its words, a filter; and what is refused."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import bqstore
from bqstore.cli import console, main, tables


def ids(result):
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return [hit["id"] for hit in json.loads(result.stdout)["hits"]]


def test_a_text_is_embedded_by_a_factory_of_the_users(run, words):
    asked = ("search", words, "what is exact", "--embedder", "own_words:Words", "-k", 1)
    assert ids(run(*asked, "--json")) == ["floats"]
    text = run(*asked).stdout
    assert text.startswith("1. 0.") and "floats" in text and "Floats are exact" in text and '{"n": 1}' in text


def test_words_a_filter_a_vector_and_both(run, words, tmp_path):
    assert set(ids(run("search", words, "quick", "--mode", "text", "--json"))) == {"bits", "cats"}
    assert ids(run("search", words, "--filter", '{"n": {"$gte": 2}}', "--json")) == ["cats"]
    np.save(tmp_path / "v.npy", np.eye(1, 64))
    found = ids(run("search", words, "--vector", tmp_path / "v.npy", "--filter", '{"n": 0}', "--json", "--exact"))
    assert found == ["bits"]
    hits = json.loads(run("search", words, "exact", "--vector", tmp_path / "v.npy", "--json", "-k", 1).stdout)["hits"]
    assert hits[0]["id"] == "floats" and "text" in hits[0]["scores"]


def test_explain_and_hostile_texts(run, words, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(1, 64)[0])
    told = json.loads(run("search", words, "--vector", tmp_path / "v.npy", "--explain", "--json").stdout)["explanation"]
    assert (told["way"], told["accepted"]) == ("exact", 3)
    text = run("search", words, "quick indeed", "--mode", "text", "--explain").stdout
    assert "How it was searched" in text and "words were looked up" in text and "indeed" in text
    assert "Cats are quick <b>\\u202e indeed" in text and "\u202e" not in text


def test_why_the_graph_is_not_walked_was_not_said(capsys):
    how = bqstore.Explanation("scan", "scalar4bits", accepted=9)
    for shorter in (False, True):
        console.show(tables.explanation(replace(how, shorter=shorter)))
        assert ("vectors that match are shorter" in capsys.readouterr().out) == shorter


def test_nothing_found_is_said(run, words):
    result = run("search", words, "--filter", '{"n": 77}')
    assert (result.exit_code, result.stdout) == (0, "Nothing was found.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to search for"),
        (["quick"], "the model that embedded the documents (words)"),
        (["quick", "--mode", "txt"], "expected one of vector, text, hybrid"),
        (["--filter", "{lang: en}"], "--filter is no JSON"),
        (["--filter", "[1]"], "expected an object"),
        (["quick", "--embedder", "own_words"], "expected openai:MODEL"),
        (["quick", "--embedder", "no_such_module:f"], "there is no module 'no_such_module'"),
        (["quick", "--embedder", "own_words:none"], "has no 'none'"),
        (["quick", "--embedder", "own_words:broken"], "raised RuntimeError: no weights"),
        (["quick", "--embedder", "own_words:other"], "other"),
        (["quick", "--embedder", "needs_more:f"], "needs not_there, which is not installed"),
        (["--vector", "none.npy"], "there is no file none.npy"),
        (["--vector", "two.npy"], "expected one vector"),
    ],
)
def test_what_cannot_be_searched_is_one_line(run, words, tmp_path, arguments, said):
    (tmp_path / "needs_more.py").write_text("import not_there")
    np.save(tmp_path / "two.npy", np.ones((2, 64)))
    result = run("search", words, *arguments)
    assert (result.exit_code, result.stdout) == (1, "") and said in result.stderr and result.stderr.count("\n") == 1


def test_an_object_of_a_module_and_a_model_without_a_name(run, words):
    result = run("search", words, "exact", "--embedder", "own_words:nameless")
    assert result.exit_code == 1 and "own_words:nameless" in result.stderr and "words" in result.stderr


def test_a_terminal_without_unicode_shows_text_escaped(tmp_path, monkeypatch):
    with bqstore.open(tmp_path / "store") as col:
        col.add(np.eye(1, 8), ids=["café"], texts=["naïve — 日本"])
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", write_through=True))
    monkeypatch.setattr(sys, "argv", ["bqstore", "search", str(tmp_path / "store"), "--filter", "{}"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0 and shown.getvalue() == b"1. 0  caf\\xe9\n   na\\xefve \\u2014 \\u65e5\\u672c\n"


def test_a_model_of_this_machine_whose_library_is_missing_is_named(run, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastembed", None)
    result = run("search", words, "exact", "--embedder", "fastembed:some-model")
    assert result.exit_code == 1 and "pip install fastembed" in result.stderr and result.stderr.count("\n") == 1


def test_a_damaged_document_closed_the_search_of_the_command(run, store, tmp_path):
    with bqstore.open(store) as col:
        first = col.ids()[0]
        (record,) = col.get([first], with_vectors=True)
    np.save(tmp_path / "v.npy", record.vector)
    file = store / "default/vectors-0.bin"
    data = bytearray(file.read_bytes())
    data[64 + 40] ^= 1
    file.write_bytes(data)
    words = ("search", store, "--vector", tmp_path / "v.npy", "-k", 2)
    result = run(*words)
    assert result.exit_code == 1 and "`bqstore verify` lists all" in result.stderr
    assert "--allow-damaged leaves it out" in result.stderr
    result = run(*words, "--allow-damaged", "--json")
    assert result.exit_code == 0 and len(json.loads(result.stdout)["hits"]) == 2
    assert result.stderr == f"bqstore: damaged documents were left out: {first}\n"
