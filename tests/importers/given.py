"""Documents as other stores get them, and what is expected of an import."""

import numpy as np

import bqstore
from bqstore.importers import import_from

N, DIM = 40, 8
VECTORS = np.random.default_rng(5).standard_normal((N, DIM)).astype(np.float32)
IDS = [f"d{i}" for i in range(N)]
TEXTS = [f"text {i}" for i in range(N)]
METADATAS = [{"n": i, "lang": "de" if i % 3 else "en", "open": i % 2 == 0, "share": i / 8} for i in range(N)]


def imported(source, store, *, ids=IDS, metadatas=METADATAS, texts=TEXTS, vectors=VECTORS, **options):
    """Import, and compare everything with what the source was given; the report."""
    report = import_from(source, store, **options)
    assert report.ok and report.neighbors == 1.0 and not report.skipped, report
    assert (report.documents, report.added, report.compared) == (len(ids), len(ids), len(ids))
    with bqstore.open(store) as col:
        found = {each.id: each for each in col.scroll(with_vectors=True)}
    assert list(found) == list(ids)
    for id_, text, metadata, vector in zip(ids, texts, metadatas, vectors, strict=True):
        record = found[id_]
        public = {key: value for key, value in record.metadata.items() if not key.startswith("_bq_")}
        assert (record.text, public) == (text, metadata)
        np.testing.assert_array_equal(record.vector, vector)
    again = import_from(source, store, **options)
    assert (again.added, again.unchanged, again.ok) == (0, len(ids), True)
    return report
