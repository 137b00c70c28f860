"""The line on stderr while kernels are compiled: once, and not when they come from the cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bqstore
from bqstore.kernels import notice
from tests.kernels.given import INTERPRETED

ROOT = Path(bqstore.__file__).parents[1]
CODE = """
import numpy as np
from bqstore.kernels import metadata
for marks in (np.zeros(1, np.uint32), np.zeros(3, np.uint32)):
    metadata.sift(marks, np.zeros(1 << 16, np.uint8), np.zeros(3, np.int32))
"""


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_the_first_compilation_is_announced_once_and_a_cached_kernel_is_not(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert said == [notice.LINE, ""]
