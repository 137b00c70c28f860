"""Measure every figure that the documentation gives, on one machine, in one run: `make bench`."""

import os
import subprocess
import sys

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "MKL", "OMP")}

MODULES = """
recall settings quantization kernel_ratio graph filters embedding adding many_writers langchain_overhead cold_start
"""

for module in MODULES.split():
    print(f"\n== {module}", flush=True)
    environment = {**os.environ, **(ONE_THREAD if module == "kernel_ratio" else {})}
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}"], env=environment, check=True)
