"""What the index tests are given: clustered vectors, their codes, a graph of them, and searches of both kinds."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bqstore.index import HnswGraph, Plan, Quantizer, Search, Searchable
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import layout
from bqstore.storage.format import Layout, vector_records
from tests import naive
from tests.conftest import clustered


def no_executor():
    raise AssertionError("asked for threads")


def data_of(n, dim, seed=0, queries=100, clusters=20):
    """Vectors and queries of the same clusters."""
    both = clustered(n + queries, dim, seed, clusters)
    return both[:n], np.ascontiguousarray(both[n:])


# every way to make codes: encoding, estimator, rotate
CODINGS = (
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
CORRECTED = tuple(coding for coding in CODINGS if coding[1] == "rabitq")


def named(coding):
    """The name of a coding in a test's."""
    encoding, estimator, rotate = coding
    return f"{encoding}-{estimator}{'-turned' if rotate else ''}"


def grow(words, m=16, ef=64, step=None, threads=1, graph=None, stop=None, quantizer=None, originals=None):
    """A graph of codes, linked in calls that end at multiples of ``step``."""
    graph = HnswGraph(m, ef) if graph is None else graph
    stop = len(words) if stop is None else stop
    step = max(1, stop if step is None else step)
    with ThreadPoolExecutor(threads) as pool:
        for end in [*range(step, stop, step), stop]:
            while len(graph) < end:
                graph.link(words, end, Workers(threads, lambda: pool), quantizer, originals)
    return graph


def records_of(vectors, form=layout.FLOAT32):
    """The read-only records of vectors."""
    records = vector_records(Layout("vectors", vectors.shape[1], form), np.arange(len(vectors)), vectors)
    records.flags.writeable = False
    return records


def encode(vectors):
    """The signs of vectors."""
    return Quantizer.signs(vectors.shape[1]).encode(vectors)


def searchable(words, dim, graph=None, records=None, n=None, metric=layout.DOT, quantizer=None):
    """A state of codes, of signs unless a quantizer is given; of records too, if they are given."""
    quantizer = Quantizer.signs(dim, metric) if quantizer is None else quantizer
    if records is None:
        records = np.zeros((0, 8), np.uint32)
        records.flags.writeable = False
    view, alike = (None, 0) if graph is None else (graph.view, graph.alike)
    return Searchable(words, records, len(words) if n is None else n, dim, 0, metric, quantizer, view, alike)


def bitmap(flags):
    """The accept bitmap of bool (n,)."""
    return np.packbits(np.pad(flags, (0, -len(flags) % 64)), bitorder="little").view(np.uint64)


def walk(data, queries, k, ef, flags=None, max_beam=None, encoding=layout.BINARY, work=None):
    """Ordinals of a walk without rescoring; of a scan where the walk ran dry."""
    accepted = data.n if flags is None else int(flags.sum())
    max_beam = min(data.n, 2 * -(-ef * data.n // max(1, accepted))) if max_beam is None else max_beam
    plan = Plan("walk", False, k, ef, ef if flags is None else max(ef, max_beam))
    search = Search(data, None if flags is None else bitmap(flags), accepted, k, plan, encoding)
    return search.nearest(queries, ALONE, None, work)[0]


def distances_of(words, queries, ordinals=None):
    """int (m, n), or (m, k) of some ordinals: Hamming distances of the queries' signs, counted by NumPy."""
    codes = encode(queries)
    of = words[None] if ordinals is None else words[ordinals]
    return (
        np.bitwise_count(of ^ codes[:, None]).sum(-1) if hasattr(np, "bitwise_count") else _count(of ^ codes[:, None])
    )


def _count(words):
    return np.unpackbits(words.view(np.uint8), axis=-1).sum(-1)


def recall(words, queries, found, flags=None, n=None):
    """The part of what was found that is as near as the k-th nearest: ties are all as good."""
    n = len(words) if n is None else n
    distances = distances_of(words[:n], queries).astype(np.int64)
    if flags is not None:
        distances[:, ~flags] = 10**6
    k = found.shape[1]
    bound = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    assert (found >= 0).all() and (found < n).all()
    assert all(len(set(row)) == k for row in found.tolist())
    return float((np.take_along_axis(distances, found.astype(np.int64), 1) <= bound).mean())


def reached(graph):
    """bool (n,): the nodes that links of level 0 lead to from the entry point."""
    view = graph.view
    seen = np.zeros(view.n, bool)
    seen[view.entry] = True
    waiting = deque([view.entry])
    while waiting:
        row = view.links[waiting.popleft()]
        for other in row[row >= 0].tolist():
            if not seen[other]:
                seen[other] = True
                waiting.append(other)
    return seen


def lists_of(graph):
    """The copies that a search meets with each node that has some: {node: copies}."""
    view = graph.view
    lists = {node: [o for o in naive.copies_of(view, node) if o < view.n] for node in range(view.n)}
    copies = {o for each in lists.values() for o in each}
    return {node: each for node, each in lists.items() if each and node not in copies}


def lists_of_codes(words, n):
    """What the lists should be: of each code, the first node and the others, newest first."""
    groups = {}
    for node in range(n):
        groups.setdefault(words[node].tobytes(), []).append(node)
    return {nodes[0]: nodes[:0:-1] for nodes in groups.values() if len(nodes) > 1}


def bytes_of(graph):
    """What two graphs must share to be the same one."""
    numbers, arrays = graph.parts()
    return numbers, {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
