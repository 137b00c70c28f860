"""``cp -r`` of a collection that is being written: the copy opens at a commit that was made, or is refused."""

import sqlite3
import sys
from collections import Counter
from contextlib import closing

import numpy as np
import pytest

import bqstore
from bqstore.errors import CorruptionError

from . import torn_copies


@pytest.mark.parametrize("seed", [12, 128, 129, 165])
def test_a_copy_made_beside_a_writer_held_rows_of_two_commits_and_opened(tmp_path, seed):
    """Checksums, counts and indexes were right: documents had been changed in place, or replaced, meanwhile."""
    assert torn_copies.one(tmp_path, seed) != "WRONG"


@pytest.fixture
def older_row(tmp_path):
    """A collection with a row as it was before the last commit."""
    with bqstore.open(tmp_path, threads=1) as col:
        col.add(np.eye(3), ["a", "b", "c"])
        with closing(sqlite3.connect(tmp_path / "default/meta.db")) as database:
            before = database.execute("SELECT * FROM rows WHERE id = 'b'").fetchone()
        col.update_metadata(["b", "c"], {"x": 1})
    with closing(sqlite3.connect(tmp_path / "default/meta.db", isolation_level=None)) as database:
        database.execute("REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", before)
    return tmp_path


def test_a_row_of_an_older_commit_is_not_opened(older_row):
    with pytest.raises(CorruptionError, match="holds rows of several commits: the folder was copied"):
        bqstore.open(older_row)


def test_a_row_of_an_older_commit_is_a_problem_that_verify_names(older_row, monkeypatch):
    """The catalogue of a large collection is not looked through at opening."""
    monkeypatch.setattr(sys.modules["bqstore.storage.open_store"], "_SMALL", 0)
    with bqstore.open(older_row) as col:
        assert ["several commits" in problem for problem in col.verify().problems] == [True]


@pytest.mark.torture
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_copies_made_beside_a_writer(tmp_path, part):
    """Commits are made between two pages of the copy: far more often than beside any `cp`."""
    seeds = range(100 * part, 100 * part + 100)
    found = {seed: torn_copies.one(tmp_path, seed, n=60 if part % 2 else 600) for seed in seeds}
    print(Counter(outcome.split(":")[0] for outcome in found.values()))
    wrong = [seed for seed, outcome in found.items() if outcome == "WRONG"]
    assert len(wrong) <= 1, wrong  # a change whose page, and whose entry in `changed`, are both older than the head
