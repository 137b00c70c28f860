from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bqstore.kernels import api, layout
from tests import naive
from tests.kernels.given import (
    FORMS,
    INTERPRETED,
    METRICS,
    make_accept,
    make_candidates,
    make_codes,
    make_hits,
    no_originals,
)

ROOT = Path(__file__).resolve().parents[2]
compiled = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")

COUNT_MISSES = """
from bqstore.kernels import api
api.warm_up()
print(sum(sum(root.stats.cache_misses.values()) for root in api.ROOTS))
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
    for path in (ROOT / "bqstore" / "kernels").glob("*.py"):
        roots = path.read_text(encoding="utf-8").count("\n@root\n")
        assert roots == (len(api.ROOTS) if path.name == "api.py" else 0), path


@compiled
def test_warm_up_compiles_the_one_version_that_all_uses_share():
    api.warm_up()
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)
    for dim, n, m in ((1, 1, 1), (3, 0, 0), (70, 5, 2)):
        vectors = np.ones((n, dim), np.float32)
        queries = np.ones((m, dim), np.float32)
        packed = np.empty((n, layout.words_per_code(dim)), np.uint64)
        api.pack_signs(vectors, packed)
        for metric in METRICS:
            for form in FORMS:
                originals = naive.make_originals(vectors, form, metric)
                for accept in (make_accept(None), make_accept(np.ones(n, bool))):
                    codes, candidates, hits = make_codes(vectors), make_candidates(m, 4), make_hits(m, 3)
                    api.search_bits(queries, codes, originals, accept, 1, candidates, hits)
                    api.search_bits(queries, codes, no_originals(dim, metric), accept, 0, candidates, hits)
                    api.search_exact(queries, originals, n, accept, hits)
                    api.rescore(queries, originals, n, candidates, hits)
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)


@compiled
def test_a_second_process_compiles_nothing(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    misses = [
        int(
            subprocess.run(
                [sys.executable, "-c", COUNT_MISSES],
                env=environment,
                cwd=tmp_path,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for _ in range(2)
    ]
    assert misses == [len(api.ROOTS), 0]
