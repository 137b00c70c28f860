"""`bqstore bench`."""

import json

import numpy as np
import pytest

import bqstore
from bqstore.cli import bench
from tests.conftest import clustered


@pytest.fixture
def walked(tmp_path):
    """A store whose searches use the codes, one document of it twice."""
    with bqstore.open(tmp_path / "s", encoding="one_bit", full_scan_threshold=0) as col:
        vectors = clustered(300, 64)
        col.add(np.vstack([vectors, vectors[:1]]), metadatas=[{"n": n % 3} for n in range(301)])
    return tmp_path / "s"


def test_what_is_found_is_compared_with_exact_search(run, walked):
    asked = ("bench", walked, "--sample", 20, "-k", 5)
    told = json.loads(run(*asked, "--json").stdout)
    assert (told["documents"], told["dim"], told["k"], told["queries"]) == (301, 64, 5, 20)
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == ["settings in use", "target 0.9", "target 0.95", "target 0.99", "exact"]
    assert rows["exact"]["recall"] == 1.0 and 0.5 < rows["settings in use"]["recall"] <= 1
    assert all(0 < row["milliseconds"] <= row["slowest"] and row["alone"] > 0 for row in rows.values())
    result = run(*asked, "--filter", '{"n": 1}')
    assert (result.exit_code, result.stderr) == (0, "") and "settings in use" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_queries_of_the_users_and_a_narrow_terminal(run, walked, tmp_path, monkeypatch):
    np.save(tmp_path / "q.npy", clustered(5, 64, seed=2))
    monkeypatch.setenv("COLUMNS", "50")
    result = run("bench", walked, "--queries", tmp_path / "q.npy")
    assert result.exit_code == 0 and "5 queries" in result.stdout and "in a batch" not in result.stdout
    assert "Queries were given" in result.stdout and "…" not in result.stdout
    monkeypatch.setenv("COLUMNS", "60")
    words = run("bench", walked, "--queries", tmp_path / "q.npy").stdout.split()
    assert {"settings", "target", "exact"} <= set(words)  # not broken
    result = run("bench", walked, "--queries", tmp_path / "q.npy", "--filter", '{"n": 9}', "--json")
    assert {row["recall"] for row in json.loads(result.stdout)["rows"]} == {None}


def test_what_cannot_be_measured_is_said(run, tmp_path):
    with bqstore.open(tmp_path / "a") as col:
        col.add(np.eye(1, 8))
    assert "needs two at least" in run("bench", tmp_path / "a").stderr
    with bqstore.open(tmp_path / "b", originals="none") as col:
        col.add(np.eye(8, 8))
    result = run("bench", tmp_path / "b")
    assert result.exit_code == 1 and "keeps no originals" in result.stderr


def test_recall_counts_by_score_and_leaves_out_the_query_itself():
    ids = np.array([["own", "a", "b"]], object)
    scores = np.array([[1.0, 0.5, 0.5]], np.float32)
    other = np.array([["own", "b", None]], object), np.array([[1.0, 0.5, np.nan]], np.float32)
    assert bench._recall((ids, scores), (ids, scores), ["own"], 1) == 1.0
    assert bench._recall(other, (ids, scores), ["own"], 2) == 0.5
    assert bench._recall(other, (ids, scores), None, 3) == pytest.approx(2 / 3)
