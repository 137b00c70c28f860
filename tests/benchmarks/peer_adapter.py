"""bqstore in a benchmark of vector engines: the interface of its harness, on the public API.

The environment variable BENCH_ADAPTER names this file to the harness. The harness passes base vectors with row numbers
as ids, a folder, and settings to sweep (``ef``: hnsw_ef, ``os``: oversampling). Every add is durable when it returns.
"""

from pathlib import Path
from typing import Any

import numpy as np
from bench.peers.base import Peer, register, sweep

import bqstore


def _rabitq(encoding: str, rotate: bool = False) -> dict[str, Any]:
    return {"encoding": encoding, "estimator": "rabitq", "rotate": rotate}


@register("bqstore")
@register("bqstore-f16", originals="float16")
@register("bqstore-int8", originals="int8")
@register("bqstore-binary", quantization={"encoding": "one_bit", "query_encoding": "binary"})
@register("bqstore-sign", quantization={"encoding": "one_bit", "query_encoding": "scalar4bits"})
@register("bqstore-sign8", quantization={"encoding": "one_bit", "query_encoding": "scalar8bits"})
@register("bqstore-rabitq1", quantization=_rabitq("one_bit"))
@register("bqstore-rabitq1r", quantization=_rabitq("one_bit", True))
@register("bqstore-rabitq2", quantization=_rabitq("two_bits"))
@register("bqstore-rabitq4", quantization=_rabitq("four_bits"))
class Bqstore(Peer):
    """A collection on disk, searched by ``search_ids``. Without settings its encoding is chosen by measuring."""

    lib = "bqstore"
    quantization: dict[str, Any] | None = None
    originals = "float32"
    can_filter = filter_needs_attrs_at_build = True
    can_add = can_delete = True
    col: bqstore.Collection

    def _open(self, path: Path, **settings: Any) -> None:
        self.col = bqstore.open(path / "store", quantization=self.quantization, threads=self.threads, **settings)

    def build(self, X: np.ndarray, path: Path, attrs: dict[str, np.ndarray] | None = None) -> None:
        """Add everything in batches, as for data that does not fit into memory."""
        bqstore.warm_up()
        hnsw = {"m": self.m, "ef_construct": self.efc}
        self._open(path, dim=self.dim, hnsw=hnsw, originals=self.originals)
        for at in range(0, len(X), 20_000):
            rows = X[at : at + 20_000]
            metadatas = None
            if attrs is not None:
                metadatas = [{key: int(values[at + i]) for key, values in attrs.items()} for i in range(len(rows))]
            self.col.add(rows, [str(i) for i in range(at, at + len(rows))], metadatas=metadatas)

    def save(self, path: Path) -> None:
        """Save the graph, for a quick opening; the documents are already durable."""
        self.col.flush()

    def load(self, path: Path) -> None:
        """Open what `build` made."""
        self._open(path)

    def close(self) -> None:
        """Close the collection."""
        self.col.close()

    def info(self) -> dict[str, Any]:
        """Describe the index."""
        info = self.col.info()
        used = info.quantization
        quantization = f"{used.encoding} {used.estimator}{' rotated' if used.rotate else ''} {used.query_encoding}"
        return {
            "quantization": quantization,
            "linked": info.linked,
            "count": info.count,
            "way": info.way,
            "memory_bytes": info.memory_bytes,
        }

    def settings(self, n: int) -> list[dict[str, float]]:
        """Return the settings to sweep."""
        low = [
            (12, 1.0),
            (16, 1.2),
            (24, 1.2),
            (24, 1.6),
            (32, 1.2),
            (32, 1.6),
            (48, 1.6),
            (64, 2.0),
            (16, 1.6),
            (20, 2.0),
            (24, 2.2),
            (24, 2.4),
            (28, 2.5),
            (28, 2.8),
            (32, 2.6),
            (32, 2.8),
            (36, 2.8),
            (40, 3.0),
        ]
        high = [(48, 3.6), (56, 4.0), (64, 4.4), (72, 4.4), (72, 4.8), (80, 4.2), (80, 4.8), (96, 5.2), (128, 6.0)]
        others = sweep([32, 64, 128], (1, 2, 3)) + sweep([96, 192, 256, 512], (5, 10))
        return [{"ef": ef, "os": os} for ef, os in low + high] + others

    def search(self, q: np.ndarray, k: int, s: dict[str, Any]) -> np.ndarray:
        """Search for one query."""
        return self.col.search_ids(q, k, oversampling=s["os"], hnsw_ef=s["ef"])[0][0]

    def search_batch(self, Q: np.ndarray, k: int, s: dict[str, Any], threads: int) -> np.ndarray:
        """Search for many queries at once."""
        return self.col.search_ids(Q, k, oversampling=s["os"], hnsw_ef=s["ef"], threads=threads)[0]

    def filtered_search(self, q: np.ndarray, k: int, s: dict[str, Any], flt: dict[str, Any]) -> np.ndarray:
        """Search among the rows whose attribute has a value."""
        where = {flt["col"]: flt["value"]}
        return self.col.search_ids(q, k, filter=where, oversampling=s["os"], hnsw_ef=s["ef"])[0][0]

    def add(self, ids: np.ndarray, X: np.ndarray) -> None:
        """Add rows; they are durable and linked when this returns."""
        self.col.add(X, [str(i) for i in ids])

    def delete(self, ids: np.ndarray) -> None:
        """Delete rows; this is durable when it returns."""
        self.col.delete([str(i) for i in ids])
