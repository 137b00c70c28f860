"""`bqstore backup`, `verify`, `repair`, `reembed`."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import bqstore
from bqstore.cli.options import app
from tests.conftest import clustered
from tests.embeddings.fake_server import serve, vector_of


def test_backup_of_all_collections_of_a_store_and_an_update_of_the_copy(run, store, tmp_path):
    with bqstore.open(store, "notes") as col:
        col.add(clustered(20, 8))
    result = run("backup", store, tmp_path / "copy")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "default: 300 documents" in result.stdout and "notes: 20 documents" in result.stdout
    with bqstore.open(store) as col:
        col.add(np.ones((1, 32)), ["new"])
    again = run("backup", store, tmp_path / "copy", "--collection", "default")
    assert again.exit_code == 1 and "--incremental" in again.stderr
    result = run("backup", store, tmp_path / "copy", "--incremental")
    assert "default: 301 documents" in result.stdout and "notes: 20 documents" in result.stdout
    with bqstore.open(tmp_path / "copy") as copy:
        assert "new" in copy and copy.verify().ok


def test_backup_of_what_does_not_exist_makes_nothing(run, store, tmp_path):
    for words, said in (((tmp_path / "nowhere",), "no folder"), ((store, "--collection", "other"), "no collection")):
        result = run("backup", words[0], tmp_path / "copy", *words[1:])
        assert result.exit_code == 1 and f"there is {said}" in result.stderr
        assert not (tmp_path / "copy").exists()


def test_verify_of_a_whole_store(run, store):
    with bqstore.open(store, "notes") as col:
        col.add(clustered(20, 8))
    result = run("verify", store)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "default: 300 documents and 300 vectors read; whole" in result.stdout and "notes: 20" in result.stdout
    found = json.loads(run("verify", store, "--json").stdout)
    assert found["default"] == {"ok": True, "problems": [], "documents": 300, "vectors": 300}


def spoil(file):
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)


def test_verify_and_repair_of_a_damaged_store(run, store, tmp_path):
    spoil(store / "default/vectors-0.bin")
    result = run("verify", store)
    assert (
        result.exit_code == 1 and "does not match its checksum" in result.stdout and "bqstore repair" in result.stdout
    )
    result = run("verify", store, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["default"]["problems"]
    result = run("repair", store, "--to", tmp_path / "new")
    assert result.exit_code == 1 and "299 documents" in result.stdout and "the texts of 1 are intact" in result.stdout
    lost = [json.loads(line) for line in (tmp_path / "new/default-lost.jsonl").read_text().splitlines()]
    with bqstore.open(tmp_path / "new") as col:
        col.add(np.ones((1, 32)), [lost[0]["id"]], [lost[0]["text"]], [lost[0]["metadata"]])
        assert len(col) == 300
    assert run("verify", tmp_path / "new").exit_code == 0


def test_verify_of_a_store_that_does_not_open_any_more(run, store):
    (store / "default/vectors-0.bin").unlink()
    result = run("verify", store)
    assert (result.exit_code, result.stderr) == (1, "") and "vectors-0.bin is missing" in result.stdout


def test_repair_advised_to_add_the_texts_of_0_documents_again(run, store, tmp_path):
    path = store / "default" / "meta.db"
    path.write_bytes(path.read_bytes()[:20_000])
    result = run("repair", store, "--to", tmp_path / "new")
    assert result.exit_code == 1 and "300 were lost" in result.stdout and "default-lost.jsonl" in result.stdout
    assert "add them again" not in result.stdout


def test_help_of_backup_spoke_of_copy(run):
    assert "qdrant://" not in run("backup", "-h").stdout
    assert run("copy", "-h").stdout.count("qdrant://...") == 2


def test_repair_that_loses_nothing_is_0_and_one_that_would_overwrite_a_message(run, store, tmp_path):
    assert run("repair", store, "--to", tmp_path / "new").exit_code == 0
    result = run("repair", store, "--to", tmp_path / "new")
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert run("repair", store).exit_code == 2


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    with serve() as running:
        yield running


def test_reembed_tells_the_cost_first_and_sends_nothing_before_yes(run, server, tmp_path):
    texts = [f"text {i}" for i in range(12)]
    with bqstore.open(tmp_path / "store", embedding_model="old") as col:
        col.add(clustered(12, 32), [f"d{i}" for i in range(12)], texts)
    model = ["--model", "text-embedding-3-small", "--dimensions", "8", "--base-url", server.url]
    words = ["reembed", str(tmp_path / "store"), *model]
    result = CliRunner().invoke(app, words, input="n\n")
    assert result.exit_code == 1 and "12 texts of 74 characters" in result.stdout and "US$ 0.0" in result.stdout
    assert server.requests == []
    result = CliRunner().invoke(app, words, input="y\n")
    assert result.exit_code == 0, result.output
    assert "12 documents have vectors of text-embedding-3-small, of 8 dimensions" in result.stdout
    with bqstore.open(tmp_path / "store") as col:
        assert col.info().embedding_model == "text-embedding-3-small"
        assert [hit.id for hit in col.search(vector_of("text 7"), 1)] == ["d7"]
        assert col.verify().ok
    result = run(*words, "--yes")
    assert result.exit_code == 0 and "12 are in the cache" in result.stdout
    assert run("reembed", tmp_path / "store").exit_code == 2


def test_reembed_with_a_model_of_this_machine(run, server, tmp_path, monkeypatch):
    class TextEmbedding:
        def __init__(self, model_name):
            assert model_name == "small"

        def passage_embed(self, texts):
            return iter([vector_of(text) for text in texts])

        query_embed = passage_embed

    monkeypatch.setitem(sys.modules, "fastembed", SimpleNamespace(TextEmbedding=TextEmbedding))
    with bqstore.open(tmp_path / "store", embedding_model="old") as col:
        col.add(clustered(3, 32), ["a", "b", "c"], ["one", "two", "three"])
    result = run("reembed", tmp_path / "store", "--model", "fastembed:small", "--yes")
    assert result.exit_code == 0 and "3 documents have vectors of small, of 8 dimensions" in result.stdout
    with bqstore.open(tmp_path / "store") as col:
        assert col.search(vector_of("two"), 1)[0].id == "b" and server.requests == []
