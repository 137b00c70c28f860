from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bqstore.index import warm_up
from bqstore.kernels import api, layout, metadata
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    grown,
    make_accept,
    make_candidates,
    make_codes,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    signs,
)

ROOT = Path(__file__).resolve().parents[2]
compiled = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")

COUNT_MISSES = """
from bqstore.kernels import api
from bqstore.index import warm_up
warm_up()
print(*(sum(sum(getattr(root.stats, kind).values()) for root in api.ROOTS) for kind in ("cache_hits", "cache_misses")))
"""


def test_only_two_files_hold_roots():
    """And the file of metadata."""
    expected = {"api.py": len(api.ROOTS), "metadata.py": len(metadata.ROOTS)}
    for path in (ROOT / "bqstore" / "kernels").glob("*.py"):
        roots = path.read_text(encoding="utf-8").count("\n@root\n")
        assert roots == expected.get(path.name, 0), path


@compiled
def test_warm_up_compiles_the_one_version_that_all_uses_share():
    warm_up()
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)
    for dim, n, m in ((1, 1, 1), (3, 0, 0), (70, 5, 2)):
        vectors = np.ones((n, dim), np.float32)
        queries = np.ones((m, dim), np.float32)
        api.encode(vectors, signs(dim), layout.COSINE, np.empty((n, layout.words_per_code(dim)), np.uint64))
        codes = make_codes(vectors)
        graph = grown(codes, 2, 4, np.zeros(n, np.uint8)) if n else None
        for metric, form, encoding in itertools.product(METRICS, FORMS, ENCODINGS):
            api.prepare(queries, metric, queries)
            originals = naive.make_originals(vectors, form, metric)
            for accept in (make_accept(None), make_accept(np.ones(n, bool))):
                candidates, hits = make_candidates(m, 4), make_hits(m, 3)
                for way in (make_settings(4, 6, 1, 0, encoding), make_settings(4, 6, 1, 1, encoding)):
                    held = originals if way.rescoring else no_originals(dim, metric)
                    api.search_bits(queries, codes, held, accept, way, candidates, hits)
                    if graph is not None:
                        scratch = make_scratch(n, codes.words.shape[1], 2, 6, 1, 3, dim)
                        assert api.search_graph(queries, codes, graph, held, accept, way, scratch, hits) == layout.OK
                api.search_exact(queries, originals, n, accept, hits)
                api.rescore(queries, originals, n, candidates, np.full((m or 1, 4), np.inf, np.float32), 4, hits)
        if graph is not None:
            api.check_graph(graph)
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)


@compiled
def test_a_second_process_compiles_nothing():
    """What this process has compiled, or found in the cache, the next one finds there."""
    warm_up()
    found = subprocess.run(
        [sys.executable, "-c", COUNT_MISSES],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    hits, misses = found.stdout.split()
    assert (int(hits), int(misses)) == (len(api.ROOTS), 0)
