"""The tables and curves of docs/choosing.md: `python -m tests.benchmarks.settings [--svg FILE]`.

On real embeddings. Work is counted, not timed: codes that are compared, originals that are read.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import bqstore
from tests.conftest import DATA

SETS = {
    "openai_3small_1536": "OpenAI 3-small, 1,536",
    "mpnet_base_v2_768": "all-mpnet-base-v2, 768",
    "minilm_l6_v2_384": "all-MiniLM-L6-v2, 384",
}
ENCODINGS: dict[str, dict[str, str]] = {
    "signs": {"encoding": "one_bit", "estimator": "sign", "query_encoding": "binary"},
    "1 bit": {"encoding": "one_bit", "estimator": "rabitq"},
    "2 bits": {"encoding": "two_bits", "estimator": "rabitq"},
    "4 bits": {"encoding": "four_bits", "estimator": "rabitq"},
}
COLORS = {"signs": "#8a8a8a", "1 bit": "#d1495b", "2 bits": "#2a7fb8", "4 bits": "#2e933c"}
OVERSAMPLING = (1, 2, 3, 4, 6, 8, 10)
ALL_CODES = 4096  # an hnsw_ef with which a walk costs more than a scan of these sets
QUERIES, EXPLAINED = 300, 50
Curves = dict[str, dict[str, list[float]]]


def loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries of a set, of unit length."""
    with np.load(DATA / f"{name}.npz") as arrays:
        base, queries = (arrays[part].astype(np.float32) for part in ("base", "queries"))
    queries = queries[np.random.default_rng(0).permutation(len(queries))[:QUERIES]]
    return base / np.linalg.norm(base, axis=1, keepdims=True), queries / np.linalg.norm(queries, axis=1, keepdims=True)


class Measured:
    """A set's queries and their true nearest."""

    def __init__(self, base: np.ndarray, queries: np.ndarray) -> None:
        self.queries = queries
        self.truth = np.argsort(-(queries @ base.T), axis=1)[:, :100]

    def recall(self, col: bqstore.Collection, k: int = 10, **settings: Any) -> float:
        found = col.search_ids(self.queries, k, **settings)[0].astype(int)
        return float(np.mean([len({*a} & {*b}) / k for a, b in zip(found, self.truth[:, :k], strict=True)]))

    def work(self, col: bqstore.Collection, k: int = 10, **settings: Any) -> str:
        how = [col.search(query, k, explain=True, **settings).explanation for query in self.queries[:EXPLAINED]]
        codes, read = (np.mean([getattr(each, part) for each in how]) for part in ("distances", "rescored"))
        return f"{how[0].way}, {codes:,.0f} codes, {read:.0f} originals"


def measure(name: str) -> dict[str, list[float]]:
    """Print the tables of a set; its curves, recall by oversampling for each encoding."""
    base, queries = loaded(name)
    measured, ids = Measured(base, queries), [str(i) for i in range(len(base))]
    print(f"\n{SETS[name]}: {len(base):,} vectors, {len(queries)} queries")
    curves = {}
    for label, keywords in ENCODINGS.items():
        with bqstore.open(full_scan_threshold=0, target_recall=0, **keywords) as col:
            col.add(base, ids)
            curves[label] = [measured.recall(col, oversampling=float(n), hnsw_ef=ALL_CODES) for n in OVERSAMPLING]
            shown = " ".join(f"{recall:.3f}" for recall in curves[label])
            print(f"  {label}, {col.info().code_bytes} bytes: {shown} at oversampling {OVERSAMPLING}")
    with bqstore.open(full_scan_threshold=0, target_recall=0) as col:
        col.add(base, ids)
        for ef in (16, 64, 128, 256, ALL_CODES):
            some = {"oversampling": 3.0, "hnsw_ef": ef}
            print(f"  hnsw_ef={ef}: {measured.recall(col, **some):.3f}, {measured.work(col, **some)}")
        print(f"  oversampling=10: {measured.work(col, oversampling=10.0, hnsw_ef=ALL_CODES)}")
        print(f"  recall@1 at oversampling 3: {measured.recall(col, 1, oversampling=3.0):.3f}")
    with bqstore.open(full_scan_threshold=0) as col:
        col.add(base, ids)
        col.flush()
        print(f"  {col.health()}")
        print("  defaults:", ", ".join(f"recall@{k} {measured.recall(col, k):.3f}" for k in (1, 10, 100)))
        print(f"  target_recall=0.99: {measured.recall(col, target_recall=0.99):.3f}")
    return curves


def svg(all_curves: Curves) -> str:
    """A panel for each set, a line for each encoding; gray enough for a light and a dark page."""
    left, top, wide, high, low = 44, 34, 205, 200, 0.55
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" font-family="sans-serif" font-size="11" '
        'fill="#777" role="img">',
        "<title>recall@10 against oversampling, by encoding, for embeddings of three models</title>",
        f'<text x="12" y="{top + high / 2}" transform="rotate(-90 12 {top + high / 2})" text-anchor="middle">'
        "recall@10</text>",
        f'<text x="380" y="{top + high + 34}" text-anchor="middle">oversampling</text>',
    ]
    for place, (name, curves) in enumerate(all_curves.items()):
        x0 = left + place * (wide + 24)
        xs = [round(x0 + (n - 1) / 9 * wide, 1) for n in OVERSAMPLING]
        out.append(f'<text x="{x0 + wide / 2}" y="{top - 12}" text-anchor="middle" font-weight="bold">{name}</text>')
        for recall in (0.6, 0.7, 0.8, 0.9, 0.95, 1.0):
            y = round(top + (1 - recall) / (1 - low) * high, 1)
            dashed = ' stroke-dasharray="4 3"' if recall == 0.95 else ""
            out.append(f'<path d="M{x0} {y}h{wide}" stroke="#999" stroke-opacity=".4"{dashed}/>')
            if place == 0:
                out.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{recall:g}</text>')
        for n, x in zip(OVERSAMPLING, xs, strict=True):
            out.append(f'<text x="{x}" y="{top + high + 16}" text-anchor="middle">{n}</text>')
        for label, recalls in curves.items():
            ys = [round(top + (1 - max(recall, low)) / (1 - low) * high, 1) for recall in recalls]
            points = " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))
            out.append(f'<polyline fill="none" stroke="{COLORS[label]}" stroke-width="2" points="{points}"/>')
    for place, label in enumerate(ENCODINGS):
        x = left + 60 + 150 * place
        named = label if label == "signs" else f"{label} (rabitq)"
        out.append(f'<path d="M{x} 290h22" stroke="{COLORS[label]}" stroke-width="3"/><text x="{x + 28}" y="294">')
        out.append(f"{named}</text>")
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    if not DATA.exists():
        sys.exit(f"{DATA} is not there; set BQSTORE_DATA to a folder of real embeddings")
    curves = {SETS[name]: measure(name) for name in SETS}
    if sys.argv[1:2] == ["--svg"]:
        Path(sys.argv[2]).write_text(svg(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
