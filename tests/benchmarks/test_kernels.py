"""Times of the kernels; run as plain tests, they check that what is timed gives right results."""

from __future__ import annotations

import numpy as np
import pytest

from bqstore.kernels import api, layout
from tests import naive
from tests.benchmarks.kernel_ratio import FlatScan, measure
from tests.kernels.given import FORMS, INTERPRETED, make_accept, make_candidates, make_hits

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
N, DIM = 20_000, 1536


@pytest.fixture(scope="module")
def scan():
    return FlatScan(N, DIM)


def test_flat_scan(benchmark, scan):
    hits = benchmark(scan.bits)
    signs = np.where(scan.base[hits.ordinals[0]] > 0, 1, -1) @ np.where(scan.queries[0] > 0, 1, -1)
    np.testing.assert_allclose(hits.scores[0], signs / DIM, rtol=1e-6)


def test_float_product(benchmark, scan):
    assert benchmark(scan.floats).shape == (N,)


def test_flat_scan_of_a_batch(benchmark):
    batch = FlatScan(N, DIM, m=32)
    assert (benchmark(batch.bits).ordinals >= 0).all()


def test_packing(benchmark, scan):
    out = np.empty_like(scan.codes.words)
    benchmark(api.encode, scan.base, scan.quantizer, layout.COSINE, out)
    np.testing.assert_array_equal(out, scan.codes.words)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [30, 100])
def test_rescoring(benchmark, scan, form, count):
    originals = naive.make_originals(scan.base[:200], form, layout.COSINE)
    candidates, hits = make_candidates(1, count), make_hits(1, 10)
    candidates.ordinals[0] = np.random.default_rng(0).permutation(200)[:count]
    candidates.counts[0] = count
    reach = np.full((1, count), np.inf, np.float32)
    found = benchmark(api.rescore, scan.queries, originals, 200, candidates, reach, 200, hits)
    assert found == (layout.OK, count)


@pytest.mark.parametrize("form", FORMS)
def test_exact_scan(benchmark, scan, form):
    originals = naive.make_originals(scan.base[:200], form, layout.COSINE)
    hits = make_hits(1, 10)
    assert benchmark(api.search_exact, scan.queries, originals, 200, make_accept(None), hits) == layout.OK


def test_the_ratio_can_be_measured():
    assert all(figure > 0 for figure in measure(2000, 128, rounds=3))
