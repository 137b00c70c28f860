"""recall@10 of sign bits on real embeddings, compared with a numpy version: `python -m tests.benchmarks.recall`."""

import json
import sys

import numpy as np

from tests.conftest import DATA
from tests.quality.test_recall import SETS, recalls


def main() -> None:
    if not DATA.exists():
        sys.exit(f"{DATA} is not there; set BQSTORE_DATA to a folder of real embeddings")
    reference = json.loads((DATA / "reference.json").read_text())
    print("recall@10: sign bits alone, then rescored at oversampling 2, 3, 4, 8; largest difference to numpy's")
    for name in SETS:
        with np.load(DATA / f"{name}.npz") as arrays:
            base, queries = (arrays[part].astype(np.float32) for part in ("base", "queries"))
        base, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries))
        got = recalls(base, queries)
        numpy_ = reference[f"{name}.npz"]["recall@10 at oversampling 1,2,3,4,8 after exact rescoring"]["sign"]
        worst = max(abs(a - b) for a, b in zip(got, numpy_, strict=True))
        print(f"{name:24} {len(base):7,} " + " ".join(f"{r:.4f}" for r in got) + f"   {worst:.4f}")


if __name__ == "__main__":
    main()
