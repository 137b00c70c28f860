"""What searches find on your own data, and the settings that find more. Needs no key; a stand-in makes the vectors.

Your own: `python own_recall.py vectors.npy [queries.npy]`, each one array (n, dim) as numpy.save writes it.
"""

import sys

import numpy as np

import bqstore

TARGET = 0.98


def stand_in() -> tuple[np.ndarray, np.ndarray]:
    """Vectors with some structure, as embeddings have, and queries of their kind."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((2050, 12)) @ random.standard_normal((12, 128))
    vectors += 0.7 * random.standard_normal(vectors.shape)
    return vectors[:2000], vectors[2000:]


files = sys.argv[1:]
vectors, queries = stand_in() if not files else (np.load(files[0]), np.load(files[1]) if files[1:] else None)
with bqstore.open() as col:  # in memory: nothing is kept
    col.add(vectors)
    report = col.recall(queries, k=10)  # compared with exact search on the same vectors
    print(report.verdict)
    for point in sorted(report.points, key=lambda point: point.milliseconds):
        if point.stored and point.recall >= TARGET:
            print(f"the fastest that finds {TARGET:.0%}: {point.way}, oversampling={point.oversampling:g}")
            break
    else:
        print(f"nothing measured finds {TARGET:.0%}: try open(..., encoding='two_bits')")
