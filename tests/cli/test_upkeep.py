"""`bqstore backup`, `verify`, `repair`."""

import json

import numpy as np

import bqstore
from tests.conftest import clustered


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
    for words in ((tmp_path / "nowhere",), (store, "--collection", "other")):
        result = run("backup", words[0], tmp_path / "copy", *words[1:])
        assert result.exit_code == 1 and "there is no collection" in result.stderr
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


def test_repair_that_loses_nothing_is_0_and_one_that_would_overwrite_a_message(run, store, tmp_path):
    assert run("repair", store, "--to", tmp_path / "new").exit_code == 0
    result = run("repair", store, "--to", tmp_path / "new")
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert run("repair", store).exit_code == 2
