"""Shared by all tests: where the real embeddings are, and data that has some structure."""

import os
from pathlib import Path

import numpy as np
import pytest

_NEAR = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = Path(os.environ.get("BQSTORE_DATA", _NEAR))


@pytest.fixture(scope="session")
def embeddings():
    """Load a set of real embeddings: (base, queries), float32, unit rows."""

    def load(name: str):
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{path} is not there; set BQSTORE_DATA to a folder of real embeddings to run this")
        with np.load(path) as arrays:
            out = [arrays[part].astype(np.float32) for part in ("base", "queries")]
        return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in out]

    return load


def clustered(n: int, dim: int, seed: int = 0, clusters: int = 20) -> np.ndarray:
    """float32 (n, dim): points around a few centres, so that neighbours mean something."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    return (centres[rng.integers(0, clusters, n)] + 0.7 * rng.standard_normal((n, dim))).astype(np.float32)


def exact_scores(base: np.ndarray, queries: np.ndarray, distance: str) -> np.ndarray:
    """float64 (m, n): larger is nearer, computed the slow and obvious way."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if distance == "euclid":
        return -np.sqrt(((queries[:, None, :] - base[None, :, :]) ** 2).sum(axis=2))
    scores = queries @ base.T
    if distance == "cosine":
        scores /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(base, axis=1)[None, :]
    return scores
