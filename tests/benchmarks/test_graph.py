"""Times of the graph; run as plain tests, they check that what is timed gives right results."""

from __future__ import annotations

import numpy as np
import pytest

from bqstore.index.threads import ALONE
from tests.benchmarks.graph import EF_CONSTRUCT, M, Walks, break_even, build
from tests.kernels.given import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")


@pytest.fixture(scope="module")
def walks():
    return Walks(6000, 256)


@pytest.mark.parametrize("encoding", [1, 4, 8])
def test_walk(benchmark, walks, encoding):
    walk, scan = walks.search("walk", 200, encoding), walks.search("scan", 0, encoding)
    found, _ = benchmark(walk.nearest, walks.queries[:50], ALONE)
    wanted, _ = scan.nearest(walks.queries[:50], ALONE)
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, wanted, strict=True)]) > 0.95


def test_building(benchmark, walks):
    graph = benchmark(build, walks.words, 3000, 1)
    assert len(graph) == 3000 and (graph.m, graph.ef_construct) == (M, EF_CONSTRUCT)


def test_the_break_even_is_found(walks):
    assert 64 <= break_even(walks, 32, 4) <= walks.n
