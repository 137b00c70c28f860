"""`bqstore backup`."""

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
