"""A report as `Collection.recall` might give it, made by hand, so that tables and page have all there can be; texts."""

from dataclasses import replace

import numpy as np

from bqstore import Histogram, Quantization, RecallPoint, RecallReport

TEXTS = {"bits": "Bits are small and quick", "floats": "Floats are exact", "cats": "Cats are quick <b>\u202e\nindeed"}
MODULE = """
import zlib
class Words:
    model = "words"
    def embed(self, texts):
        return [self.embed_query(text) for text in texts]
    def embed_query(self, text):
        places = [zlib.crc32(word.encode()) % 64 for word in text.lower().split()]
        return [float(places.count(place)) for place in range(64)]
nameless = Words()
nameless.model = None
other = Words()
other.model = "other"
def broken():
    raise RuntimeError("no weights")
"""

SIGN = Quantization("one_bit", "scalar4bits", "sign", rotate=False)
TRIALS = (
    (Quantization("one_bit", "binary", "sign", rotate=False), -0.09, 1.0),
    (Quantization("one_bit", "scalar4bits", "rabitq", rotate=False), 0.05, 1.10),
    (Quantization("one_bit", "scalar4bits", "rabitq", rotate=True), 0.06, 1.15),
    (Quantization("one_and_half_bits", "scalar4bits", "sign", rotate=False), 0.04, 1.5),
    (Quantization("two_bits", "scalar4bits", "sign", rotate=False), 0.07, 2.0),
    (Quantization("two_bits", "scalar4bits", "rabitq", rotate=False), 0.12, 2.1),
    (Quantization("four_bits", "scalar4bits", "rabitq", rotate=True), 0.17, 4.1),
)
DOCUMENTS, DIM = 20_093, 1_536


def point(quantization: Quantization, oversampling: float, hnsw_ef: int | None, recall: float, **other) -> RecallPoint:
    """A point with an interval that is wider below than above."""
    settings = {"rescore": True, "stored": True, "way": "walk", "milliseconds": 0.2, "memory_bytes": 6_700_000}
    settings |= other
    settings.setdefault("slowest", settings["milliseconds"] * 1.9)
    settings.setdefault("low", max(0.0, recall - 0.3 * (1.0 - recall) - 0.002))
    settings.setdefault("high", min(1.0, recall + 0.2 * (1.0 - recall) + 0.001))
    return RecallPoint(quantization, oversampling, hnsw_ef=hnsw_ef, recall=recall, **settings)


def points() -> list[RecallPoint]:
    """What is stored, walked with two beams or scanned; six other encodings; and the codes alone."""
    out = [point(SIGN, 3.0, None, 0.801, rescore=False, milliseconds=0.05)]
    for oversampling in (1.0, 2.0, 3.0, 4.0, 8.0):
        for hnsw_ef, missed, spent in ((None, 0.205, 0.07), (256, 0.2, 0.13)):
            found = 1.0 - missed / oversampling**1.7
            out.append(point(SIGN, oversampling, hnsw_ef, found, milliseconds=spent * (1 + 0.12 * oversampling)))
        for quantization, better, cost in TRIALS:
            found = 1.0 - (0.2 - better) / oversampling**1.7
            spent = 0.5 * cost * (1 + 0.05 * oversampling)
            same = quantization.estimator == SIGN.estimator and quantization.encoding == SIGN.encoding
            trial = {"stored": same, "way": "scan", "milliseconds": spent, "memory_bytes": int(6_700_000 * cost)}
            out.append(point(quantization, oversampling, None, found, **trial))
    return out


def scores() -> Histogram:
    """Neighbors around 0.62, others around 0.18."""
    rng = np.random.default_rng(0)
    edges = np.linspace(-0.1, 0.9, 51)
    near, far = rng.normal(0.62, 0.08, 2_000), rng.normal(0.18, 0.07, 20_000)
    counts = [tuple(np.histogram(x, edges)[0].tolist()) for x in (near, far)]
    return Histogram(tuple(edges.tolist()), *counts)


def report(**changes) -> RecallReport:
    """The report of all of it."""
    measured = points()
    current = next(p for p in measured if p.rescore and p.oversampling == 3.0 and p.stored and p.hnsw_ef is None)
    made = RecallReport(
        recall=current.recall,
        low=current.low,
        high=current.high,
        milliseconds=current.milliseconds,
        k=10,
        queries=200,
        held_out=True,
        documents=DOCUMENTS,
        scanned=DOCUMENTS,
        distance="cosine",
        dim=DIM,
        current=current,
        points=tuple(measured),
        scores=scores(),
        suits_one_bit=True,
        verdict="One bit a dimension suits these vectors: rescoring 4 times the candidates finds 98% of the nearest.",
    )
    return replace(made, **changes)
