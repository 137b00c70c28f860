"""Quantization on real embeddings: recall of every encoding, reads saved, and the cost of each form of originals.

    python -m tests.benchmarks.quantization [SET.npz or a folder with base.npy and queries.npy ...]

Without sets, those of ``../shared/data`` are used. Codes are scanned, so the figures do not depend on a graph.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import bqstore
from bqstore.index import ENCODINGS, Plan, Quantizer, Search, Searchable, Work
from bqstore.index.search import METRICS, NO_RECORDS
from bqstore.index.threads import ALONE
from bqstore.storage.format import Layout, vector_records

DATA = Path(__file__).parents[3] / "shared" / "data"
K = 10
WAYS = (
    ("one_bit", "sign", False),
    ("one_and_half_bits", "sign", False),
    ("two_bits", "sign", False),
    ("one_bit", "rabitq", False),
    ("one_bit", "rabitq", True),
    ("two_bits", "rabitq", False),
    ("two_bits", "rabitq", True),
    ("four_bits", "rabitq", False),
    ("four_bits", "rabitq", True),
)


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors and the queries of a set, at unit length."""
    if path.is_dir():
        both = np.load(path / "base.npy"), np.load(path / "queries.npy")
    else:
        held = np.load(path)
        both = held["base"], held["queries"]
    base, queries = (np.ascontiguousarray(each, np.float32) for each in both)
    return base / np.linalg.norm(base, axis=1, keepdims=True), queries / np.linalg.norm(queries, axis=1, keepdims=True)


def nearest(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the true nearest as int (m, K), by exact scores."""
    out = []
    for at in range(0, len(queries), 100):
        scores = queries[at : at + 100] @ base.T
        out.append(np.argpartition(-scores, K - 1, axis=1)[:, :K])
    return np.concatenate(out)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)]))


def codes(base: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> None:
    """Print the recall of every encoding with every query encoding, at 1, 2, 3 and 4 times the candidates."""
    train = base[np.random.default_rng(0).permutation(len(base))[:20_000]]
    for encoding, estimator, rotate in WAYS:
        quantizer = Quantizer.train(train, encoding, estimator, rotate, METRICS["cosine"])
        data = Searchable(quantizer.encode(base), NO_RECORDS, len(base), base.shape[1], 0, 0, quantizer)
        for query in ("binary", "scalar4bits", "scalar8bits"):
            search = Search(data, None, len(base), 4 * K, Plan("scan", False, 4 * K), ENCODINGS[query])
            found, _ = search.nearest(queries, ALONE)
            shares = [
                np.mean([len(np.intersect1d(a[: K * n], b)) / K for a, b in zip(found, truth, strict=True)])
                for n in (1, 2, 3, 4)
            ]
            name = f"{encoding} {estimator}{' rotated' if rotate else ''}"
            print(
                f"  {name:32}{query:12}",
                *(f"{share:.4f}" for share in shares),
                f"{8 * quantizer.words} bytes",
                flush=True,
            )


def reads(base: np.ndarray, queries: np.ndarray) -> None:
    """Print how many of 30 and 40 candidates are read when hopeless ones are skipped; the hits must not change."""
    records = vector_records(Layout("vectors", base.shape[1], 0), np.arange(len(base)), base)
    records.flags.writeable = False
    train = base[np.random.default_rng(0).permutation(len(base))[:20_000]]
    for encoding, query in (("one_bit", "scalar4bits"), ("two_bits", "scalar4bits"), ("four_bits", "scalar8bits")):
        for rotate in (False, True):
            quantizer = Quantizer.train(train, encoding, "rabitq", rotate, METRICS["cosine"])
            data = Searchable(quantizer.encode(base), records, len(base), base.shape[1], 0, 0, quantizer)
            row = []
            for candidates in (30, 40):
                search = Search(data, None, len(base), K, Plan("scan", True, candidates), ENCODINGS[query])
                work = Work()
                spared, _ = search.nearest(queries, ALONE, None, work)
                search.settings = search.settings._replace(prune=0)
                whole, _ = search.nearest(queries, ALONE)
                changed = int((spared != whole).any(1).sum())
                row.append(f"{work.rescored / len(queries):.1f} of {candidates} read, {changed} results changed")
            print(f"  {encoding} rabitq{' rotated' if rotate else ''}:", "; ".join(row), flush=True)


def originals(base: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> None:
    """Print bytes on disk, recall and time of each form of originals, with the encoding that "auto" chooses."""
    with tempfile.TemporaryDirectory() as folder:
        told, paths = {}, {}
        for form in ("float32", "float16", "int8", "none"):
            with bqstore.open(Path(folder) / form, originals=form, hnsw={"full_scan_threshold": 0}) as col:
                col.add(base, [str(i) for i in range(len(base))])
                paths[form] = Path(folder) / form
        cols = {form: bqstore.open(path) for form, path in paths.items()}
        for form, col in cols.items():
            used, words = col.info().quantization, []
            for oversampling in (3.0, 4.0)[: 1 if form == "none" else 2]:
                found = col.search_ids(queries, K, oversampling=oversampling)[0].astype(np.int64)
                words.append(f"{oversampling:.0f}: {recall(found, truth):.4f}")
            told[form] = (
                f"{used.encoding} {used.estimator}{' rotated' if used.rotate else ''}, recall at {', '.join(words)}"
            )
        times: dict[str, list[float]] = {form: [] for form in cols}
        for _ in range(5):  # in turns, as the machine may be busy
            for form, col in cols.items():
                began = time.perf_counter()
                for query in queries[:200]:
                    col.search_ids(query, K)
                times[form].append((time.perf_counter() - began) / len(queries[:200]))
        for form, col in cols.items():
            col.close()
            size = sum(file.stat().st_size for file in paths[form].rglob("vectors*.bin"))
            spent = 1e6 * float(np.median(times[form]))
            print(f"  {form:8} {told[form]}; {size / len(base):.0f} bytes a vector, {spent:.0f} us a query", flush=True)


def main() -> None:
    """Measure each set."""
    sets = [Path(name) for name in sys.argv[1:]] or sorted(DATA.glob("*.npz"))
    if not sets:
        print(f"no real embeddings: {DATA} is not there; name sets on the command line")
    bqstore.warm_up()
    for path in sets:
        base, queries = load(path)
        truth = nearest(base, queries)
        shape = f"{len(base):,} x {base.shape[1]}"
        print(f"{path.stem}: {shape}, {len(queries):,} queries; recall@{K} at oversampling 1, 2, 3, 4")
        codes(base, queries, truth)
        reads(base, queries)
        originals(base, queries, truth)


if __name__ == "__main__":
    main()
