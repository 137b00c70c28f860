from __future__ import annotations

import itertools
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from bqstore.kernels import api, dispatch, layout, metadata
from bqstore.kernels.warm_up import warm_up
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
from bqstore.kernels.warm_up import warm_up
warm_up()
print(*(sum(sum(getattr(root.stats, kind).values()) for root in api.ROOTS) for kind in ("cache_hits", "cache_misses")))
"""


def test_the_stamp_is_that_of_the_kernels():
    tool = runpy.run_path(str(ROOT / "tools" / "stamp_kernels.py"))
    assert tool["stamp"]() == api.KERNELS_STAMP, "run tools/stamp_kernels.py"


def test_the_stamp_changes_with_any_kernel_file(tmp_path):
    stamp = runpy.run_path(str(ROOT / "tools" / "stamp_kernels.py"))["stamp"]
    seen = {stamp(tmp_path)}
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2")):
        (tmp_path / name).write_text(text)
        seen.add(stamp(tmp_path))
    assert len(seen) == 4
    (tmp_path / "api.py").write_text("anything")
    assert stamp(tmp_path) in seen


def test_only_api_holds_roots():
    """And the file of metadata, whose roots call nothing outside of it."""
    text = (ROOT / "bqstore" / "kernels" / "metadata.py").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("from bqstore")] == [
        "from bqstore.kernels.jit import leaf, root"
    ]
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
def test_the_kept_entry_point_gives_what_the_root_gives():
    """`direct` skips the look at the types: the same answers, the first call's and every later one's."""
    called = dispatch.direct(api.encode)
    rng = np.random.default_rng(0)
    for dim in (1, 64, 100):
        vectors = rng.standard_normal((3, dim)).astype(np.float32)
        out = np.zeros((3, layout.words_per_code(dim)), np.uint64)
        for _ in range(2):
            out[:] = 77
            called(vectors, signs(dim), layout.COSINE, out)
            np.testing.assert_array_equal(out, naive.pack_signs(vectors))


def test_a_function_that_is_not_compiled_is_called_as_it_is():
    called = dispatch.direct(lambda *args: args)
    assert [called(1), called("a", 2), called()] == [(1,), ("a", 2), ()]


def test_a_root_with_two_versions_is_asked_each_time():
    class Root:
        overloads = MappingProxyType({"one": None, "two": None})

        def __call__(self, value):
            return value + 1

    called = dispatch.direct(Root())
    assert [called(1), called(2.5)] == [2, 3.5]


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
