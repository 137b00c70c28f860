"""Recall on real embeddings, against the same made with numpy (`reference.json` beside the data)."""

import json

import numpy as np
import pytest

import bqstore
from tests.conftest import DATA

OVERSAMPLING = (1, 2, 3, 4, 8)
SETS = ("openai_3small_1536", "openai_ada002_1536", "openai_3large_3072", "minilm_l6_v2_384", "mpnet_base_v2_768")


def recalls(base: np.ndarray, queries: np.ndarray, k: int = 10) -> list[float]:
    """recall@k: sign bits alone (that is oversampling 1), then rescored at the other oversamplings."""
    with bqstore.open_flat(full_scan_threshold=0, encoding="one_bit") as col:
        col.add(base, [str(i) for i in range(len(base))])
        truth, _ = col.search_ids(queries, k, exact=True)
        answers = [col.search_ids(queries, k, rescore=False)[0]]
        answers += [col.search_ids(queries, k, oversampling=o)[0] for o in OVERSAMPLING[1:]]
        rescored, _ = col.search_ids(queries, k, oversampling=1)
    assert all(set(a) == set(b) for a, b in zip(answers[0], rescored, strict=True))  # the same candidates, in order
    return [
        float(np.mean([len(set(a) & set(t)) / k for a, t in zip(answer, truth, strict=True)])) for answer in answers
    ]


LARGE = ("openai_3small_1536", "minilm_l6_v2_384")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in SETS]
)
def test_recall_agrees_with_numpy(embeddings, name):
    base, queries = embeddings(f"{name}.npz")
    reference = json.loads((DATA / "reference.json").read_text())[f"{name}.npz"]
    expected = reference["recall@10 at oversampling 1,2,3,4,8 after exact rescoring"]["sign"]
    got = recalls(base, queries)
    np.testing.assert_allclose(got, expected, atol=0.005)
    assert got == sorted(got)  # recall never falls as oversampling grows


def test_recall_grows_with_oversampling_and_nothing_stored_changes(tmp_path):
    rng = np.random.default_rng(3)
    base = rng.standard_normal((3000, 128)).astype(np.float32)
    queries = base[:100] + 0.5 * rng.standard_normal((100, 128)).astype(np.float32)
    with bqstore.open_flat(tmp_path, full_scan_threshold=0, encoding="one_bit") as col:
        col.add(base)
        before = {file: file.read_bytes() for file in tmp_path.rglob("*.bin")}
        truth, _ = col.search_ids(queries, 10, exact=True)
        found = []
        for oversampling in (1, 2, 4, 8, 300):
            ids, _ = col.search_ids(queries, 10, oversampling=oversampling)
            found.append(np.mean([len(set(a) & set(t)) / 10 for a, t in zip(ids, truth, strict=True)]))
        assert found == sorted(found) and found[0] < found[2] < found[4] == 1
        assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.bin")}
