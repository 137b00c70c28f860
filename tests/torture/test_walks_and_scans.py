"""Walk against scan on 432 combinations of data, metric and encoding: what no walk can reach is scanned.

And where walks of the usual width miss more than they should, wider ones are planned.

``python -m tests.torture.test_walks_and_scans`` prints the table.
"""

from typing import NamedTuple

import numpy as np
import pytest

from bqstore.engine.recent_vectors import RecentVectors
from bqstore.index import ALONE, MISSED, HnswGraph, Plan, Quantizer, Search
from bqstore.index.planner import INEXACT_COPIES, NARROW
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests.index.given import CODINGS, named, searchable

N, DIM, QUERIES, K, EF = 5000, 64, 256, 10, 128
METRICS = {"cosine": COSINE, "dot": DOT, "euclid": EUCLID}


def around(rng, count, spread):
    """Points around so many centers."""
    centers = rng.standard_normal((count, DIM))
    return centers[rng.integers(0, count, N + QUERIES)] + spread * rng.standard_normal((N + QUERIES, DIM))


def lengths(sigma):
    return lambda rng: around(rng, 20, 0.7) * rng.lognormal(0, sigma, (N + QUERIES, 1))


def normal(rng):
    return rng.standard_normal((N + QUERIES, DIM))


KINDS = {
    "normal": normal,
    "clusters": lambda rng: around(rng, 20, 0.7),
    "tight clusters": lambda rng: around(rng, 200, 0.15),
    "a value in 20": lambda rng: normal(rng) * (rng.random((N + QUERIES, DIM)) < 0.05),
    "a positive value in 10": lambda rng: np.abs(normal(rng)) * (rng.random((N + QUERIES, DIM)) < 0.1),
    "all values near 10": lambda rng: around(rng, 20, 0.7) + 10,
    "off center": lambda rng: around(rng, 20, 0.7) + 1.5 * rng.standard_normal(DIM),
    "lengths .2": lengths(0.2),
    "lengths .4": lengths(0.4),
    "lengths .7": lengths(0.7),
    "lognormal": lambda rng: np.exp(normal(rng)),
    "lognormal squared": lambda rng: np.exp(2 * normal(rng)),
    "two scales": lambda rng: around(rng, 20, 0.7) * np.where(rng.random((N + QUERIES, 1)) < 0.5, 8, 1),
    "of rank 8": lambda rng: rng.standard_normal((N + QUERIES, 8)) @ rng.standard_normal((8, DIM)),
    "heavy tails": lambda rng: rng.standard_t(2, (N + QUERIES, DIM)),
    "a few large values": lambda rng: around(rng, 20, 0.7) * np.where(np.arange(DIM) % 31 == 0, 12, 1),
}


class Row(NamedTuple):
    """The part of a scan's hits that walks of once, twice and four times the usual width find; and what the graph says.

    The last two are those of a collection that keeps no originals.
    """

    usual: float
    twice: float
    wide: float
    narrow: int
    times: int
    missed: int
    scanned: bool
    missed_without: int
    scanned_without: bool

    @property
    def planned(self):
        """The part that is found the way that is planned."""
        if self.scanned:
            return 1.0
        return self.wide if self.narrow > NARROW else {1: self.usual, 2: self.twice, 4: self.wide}[self.times]


def compared(kind, metric, coding, seed=0):
    both = KINDS[kind](np.random.default_rng(seed)).astype(np.float32)
    both[~both.any(1), 0] = 1
    vectors, queries = np.ascontiguousarray(both[:N]), np.ascontiguousarray(both[N:])
    quantizer = Quantizer.train(vectors, *coding, METRICS[metric])
    words = quantizer.encode(vectors)
    graph, bare, held = HnswGraph(16, EF), HnswGraph(16, EF), RecentVectors()
    held.take(vectors, 0, 0)
    while len(graph) < N:
        bare.view = graph.view  # the same graph, tried as where no originals are kept
        bare._try(words, N, quantizer, held.read, held.slots(0))
        graph.link(words, N, ALONE, quantizer, lambda ordinals: vectors[ordinals])
        held.forget(len(graph))
    data = searchable(words, DIM, graph, metric=METRICS[metric], quantizer=quantizer)

    def scores(way, ef):
        plan = Plan(way, False, K, ef, ef)
        return Search(data, None, N, K, plan, 8 if coding[0] == "four_bits" else 4).nearest(queries, ALONE)[1]

    least = scores("scan", 0)[:, -1:]
    found = [float((scores("walk", ef) >= least).mean()) for ef in (EF, 2 * EF, 4 * EF)]
    alike = graph.alike > INEXACT_COPIES * N
    scanned, scanned_without = (alike or each.missed > MISSED for each in (graph, bare))
    return Row(*found, graph.narrow, graph.times, graph.missed, scanned, bare.missed, scanned_without)


@pytest.mark.torture
@pytest.mark.parametrize("coding", CODINGS, ids=named)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_no_walk_can_reach_is_scanned(kind, metric, coding):
    row = compared(kind, metric, coding)
    assert row.wide >= 0.98 or (row.scanned and row.scanned_without), row
    assert row.planned >= 0.98, row


if __name__ == "__main__":
    for kind in KINDS:
        for metric in METRICS:
            for coding in CODINGS:
                row = compared(kind, metric, coding)
                figures = f"{row.usual:.3f},{row.wide:.3f},{row.narrow},{row.missed},{row.scanned:d}"
                without = f"{row.missed_without},{row.scanned_without:d}"
                planned = f"{row.twice:.3f},{row.times},{row.planned:.3f}"
                print(f"{kind},{metric},{named(coding)},{figures},{without},{planned}", flush=True)
