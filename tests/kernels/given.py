"""What the kernel tests are given: arrays of the production types, small under NUMBA_DISABLE_JIT."""

from __future__ import annotations

import numba
import numpy as np

from bqstore.kernels import api, bits, encode_query, layout
from tests import naive
from tests.conftest import FULL

INTERPRETED = bool(numba.config.DISABLE_JIT)
DIMS = (1, 2, 63, 64, 65, 127) if INTERPRETED else (1, 2, 63, 64, 65, 127, 384, 1536, 3072, 16384)
METRICS = (layout.COSINE, layout.DOT, layout.EUCLID)
FORMS = (layout.FLOAT32, layout.FLOAT16, layout.INT8)
ENCODINGS = (layout.BINARY, layout.SCALAR_4_BITS, layout.SCALAR_8_BITS)


def examples(count):
    """How many examples hypothesis tries: all of them at full depth, fewer interpreted or in `make test`."""
    return max(8, count // ((6 if INTERPRETED else 1) * (1 if FULL else 4)))


def whole_vectors(rng, n, dim):
    """float32 (n, dim) of small whole numbers: their sums are exact, and many tie."""
    return rng.integers(-2, 3, (n, dim)).astype(np.float32)


def unit_vectors(rng, m, dim):
    """float32 (m, dim) whose values are 0, 1 and -1, as many as make their lengths powers of two: scaled exactly."""
    out = np.zeros((m, dim), np.float32)
    count = 4 ** (int(np.log2(dim)) // 2)
    for row in out:
        row[rng.permutation(dim)[:count]] = rng.choice([-1, 1], count)
    return out


HAMMING = np.zeros(3, np.float32)  # how codes of signs are linked


def signs(dim):
    """The quantizer of one bit a dimension."""
    nothing = np.zeros(0, np.float32)
    turns, spread = np.zeros((0, dim), np.float32), np.zeros(2, np.float32)
    width, shifts = -(-dim // 64), layout.shifts_of(1, -(-dim // 64))
    return layout.Quantizer(layout.ONE_BIT, 1, width, dim, dim, nothing, nothing, turns, spread, HAMMING, shifts)


def make_codes(vectors, spare=0):
    return codes_of(naive.pack_signs(vectors), vectors.shape[1], spare)


def codes_of(words, dim, spare=0):
    """Codes of signs, and behind them some that are of no vector."""
    rest = np.full((spare, words.shape[1]), 0xFFFF_FFFF_FFFF_FFFF, np.uint64)
    return layout.Codes(np.concatenate([words, rest]), len(words), signs(dim))


def three_levels(kind, mean, deviation):
    """A quantizer of Qdrant's three levels a value; mean and deviation float32 (dim,)."""
    dim, lanes = len(mean), layout.lanes_of(len(mean), kind)
    turns, spread = np.zeros((0, dim), np.float32), np.zeros(2, np.float32)
    width, shifts = -(-lanes // 64), layout.shifts_of(1, -(-lanes // 64))
    return layout.Quantizer(kind, 1, width, lanes, dim, mean, deviation, turns, spread, HAMMING, shifts)


def corrected(bit_planes, mean, rotation_signs=None, error_scales=(1.0, 1.0), linking=None):
    """A quantizer of RaBitQ's codes; mean float32 (dim,), rotation_signs float32 (rounds, dim).

    linking : three numbers; None: by signs for one bit, by estimates without lifts for several.
    """
    dim, nothing = len(mean), np.zeros(0, np.float32)
    flips = np.zeros((0, dim), np.float32) if rotation_signs is None else rotation_signs
    scales = np.array(error_scales, np.float32)
    links = HAMMING if bit_planes == 1 else np.array([1, 0, 0], np.float32)
    links = links if linking is None else np.array(linking, np.float32)
    width, shifts = -(-dim // 64), layout.shifts_of(bit_planes, -(-dim // 64))
    return layout.Quantizer(layout.RABITQ, bit_planes, width, dim, dim, mean, nothing, flips, scales, links, shifts)


def some_turns(rng, dim, rounds=4):
    """Signs of the transforms of a rotation."""
    return rng.choice([-1, 1], (rounds, dim)).astype(np.float32)


def encoded_as(quantizer, vectors, metric=layout.DOT, spare=0):
    """The codes of vectors, made by the kernel; behind them some that are of none."""
    columns = layout.words_per_code(quantizer.dim, quantizer.kind, quantizer.bits)
    words = np.full((len(vectors) + spare, columns), 0xFFFF_FFFF_FFFF_FFFF, np.uint64)
    api.encode(vectors, quantizer, metric, words[: len(vectors)])
    return layout.Codes(words, len(vectors), quantizer)


def encoded_query(quantizer, query, encoding, metric=layout.DOT):
    """A query as codes are compared with it, made by the kernel; of unit length under cosine, as it is asked to be."""
    width = quantizer.width
    levels, planes = np.full(64 * width, 77, np.uint8), np.full((8, quantizer.bits * width), 77, np.uint64)
    turned = np.full(64 * width, 77, np.float32)
    return as_kernels_have_it(encode_query.encode_query(query, quantizer, encoding, metric, levels, turned, planes))


def of_planes(planes, encoding):
    """An encoded query for codes of signs, of planes uint64 (>= encoding, width)."""
    width, zero, one = planes.shape[1], np.float32(0), np.float32(1)
    numbers = (0, one, 0, 0.0, 0.0, 0.0, one, zero)
    return layout.EncodedQuery(planes, encoding, 1, width, *numbers, HAMMING, layout.shifts_of(1, width))


def as_kernels_have_it(query):
    """An encoded query with its float32 numbers again: on their way to Python they have become floats."""
    return query._replace(half=np.float32(query.half), share=np.float32(query.share), lift=np.float32(query.lift))


def distances_from(query, codes):
    """What the kernel makes of the distances of an encoded query from every code: int32 (n,)."""
    out = np.full(codes.n, 77, np.int32)
    bits.measure(codes.words, np.arange(codes.n, dtype=np.int32), codes.n, query, 0, out)
    return out


def parts_of(codes):
    """What RaBitQ's codes hold: values float64 (n, dim), add and factor float64 (n,); many at once."""
    quantizer, words = codes.quantizer, codes.words[: codes.n]
    values = np.zeros((codes.n, quantizer.lanes))
    for p in range(quantizer.bits):
        plane = np.ascontiguousarray(words[:, p * quantizer.width : (p + 1) * quantizer.width]).view(np.uint8)
        flags = np.unpackbits(plane, axis=1, bitorder="little")[:, : quantizer.lanes]
        values += (2.0 * flags - 1) * 2 ** (quantizer.bits - 1 - p)
    floats = np.ascontiguousarray(words[:, -1:]).view(np.float32).astype(np.float64)
    return values, floats[:, 0], floats[:, 1]


def measured_spread(codes, rests):
    """The largest spread of some codes, float32 (2,), from the residuals float64 (n, dim) that they are of."""
    values, _, _ = parts_of(codes)
    lengths = np.sqrt((values**2).mean(1))
    cosines = (values * rests).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(rests, axis=1)
    across = lengths * np.sqrt(np.clip(1 - cosines**2, 0, 1))
    return np.array([across.max(), lengths.max()], np.float32)


def make_accept(flags):
    """The bitmap of bool (n,); None accepts everything."""
    if flags is None:
        return layout.Accept(np.zeros(0, np.uint64), 1)
    padded = np.zeros(-(-len(flags) // 64) * 64, bool)
    padded[: len(flags)] = flags
    return layout.Accept(np.packbits(padded, bitorder="little").view(np.uint64), 0)


def make_list(ordinals):
    """The list of some ordinals, ascending."""
    return layout.Accept(np.zeros(0, np.uint64), 0, np.array(ordinals, np.int32))


def make_candidates(m, c):
    return layout.Candidates(np.full((m, c), 77, np.int32), np.full((m, c), 77, np.int32), np.full(m, 77, np.int64))


def make_hits(m, k):
    return layout.Hits(np.full((m, k), 77, np.int32), np.full((m, k), 77, np.float32))


def make_settings(ef=0, max_beam=None, candidates=0, rescoring=0, encoding=layout.BINARY, prune=0):
    return layout.SearchSettings(ef, ef if max_beam is None else max_beam, candidates, rescoring, encoding, prune)


def make_scratch(n, width, m, max_beam=64, candidates=1, k=1, dim=1, bits=1):
    """What a walk may write to, filled with nonsense where the kernels must not rely on what is there."""
    return layout.Scratch(
        visited=np.zeros(n, np.uint8),
        keys=np.full(max(max_beam, 4 * m) + 8, 77, np.int64),
        rows=np.full(8 * m, 77, np.int32),
        distances=np.full(8 * m, 77, np.int32),
        found=np.full(candidates, 77, np.int32),
        bounds=np.full(candidates, 77, np.float32),
        best=np.full((1, k), 77, np.int64),
        query=np.full((1, dim), 77, np.float32),
        rotated=np.full(64 * width, 77, np.float32),
        planes=np.full((8, bits * width), 77, np.uint64),
        levels=np.full(64 * width, 77, np.uint8),
        bridges=np.full(32 * m, 77, np.int32),
        counters=np.zeros(8, np.int64),
    )


def fenced(array, margin=20):
    """A copy in the midst of more memory, and a call that says whether that is as it was."""
    around = np.full((len(array) + 2 * margin, *array.shape[1:]), 99, array.dtype)
    inside = around[margin : margin + len(array)]
    inside[:] = array

    def untouched():
        return bool((around[:margin] == 99).all() and (around[margin + len(array) :] == 99).all())

    return inside, untouched


def fenced_scratch(scratch):
    """A scratch in the midst of more memory, and a call that says whether all of that is as it was."""
    arrays = {name: fenced(array) for name, array in scratch._asdict().items()}
    inside = layout.Scratch(**{name: array for name, (array, _) in arrays.items()})
    return inside, lambda: all(untouched() for _, untouched in arrays.values())


def some_levels(rng, n, m):
    """uint8 (n,): most nodes are on level 0."""
    return np.minimum(rng.geometric(1 - 1 / m, n) - 1, 5).astype(np.uint8)


def empty_graph(levels, m, spare=0):
    """The graph of the first node alone; the rows of all the others are nonsense still."""
    n = len(levels) + spare
    steps = levels.astype(np.int64)
    first = np.full(n, 77, np.int32)
    first[: len(levels)] = np.where(steps > 0, np.cumsum(steps) - steps, -1)
    links, upper = np.full((n, 2 * m), 77, np.int32), np.full((int(steps.sum()), m), 77, np.int32)
    links[0], upper[: steps[0]] = -1, -1
    high = np.concatenate([levels, np.full(spare, 77, np.uint8)])
    same = np.full(n, 77, np.int32)
    same[0] = -1
    return layout.Graph(links, upper, first, high, same, n=1, entry=0, top=int(levels[0]))


def link_one(codes, graph, ef, scratch):
    """Link the next node through the roots, as a batch of one; return the graph with it."""
    node = graph.n
    api.find_links(codes, graph, node, node + 1, ef, scratch)
    if graph.same[node] < -1:
        known = -2 - graph.same[node]
        graph.levels[node], graph.first[node], graph.same[node] = 0, -1, graph.same[known]
        graph.same[known] = node
        return graph._replace(n=node + 1)
    level = int(graph.levels[node])
    for v in range(min(level, graph.top) + 1):
        targets = np.array(naive.row_of(graph, node, v), np.int32)
        ends, sources = np.arange(len(targets) + 1), np.full(len(targets), node, np.int32)
        api.merge_links(codes, graph, v, targets, ends, sources, (0, len(targets)), scratch)
    if level > graph.top:
        graph = graph._replace(entry=node, top=level)
    return graph._replace(n=node + 1)


def grown(codes, m, ef, levels, n=None):
    """The graph of the first n codes, linked one by one."""
    rows = len(codes.words)
    graph = empty_graph(levels, m, rows - len(levels))
    scratch = make_scratch(rows, codes.quantizer.width, m, ef, bits=codes.quantizer.bits)
    while graph.n < (len(levels) if n is None else n):
        graph = link_one(codes, graph, ef, scratch)
    return graph


def random_graph(rng, n, m, words=None, capacity=None, least=0):
    """Links drawn at random to nodes that are on the level, also of a later state; ``least`` links a row and up.

    Given the codes, copies have no links and stand in the lists of the first of their code.
    """
    graph = empty_graph(some_levels(rng, n if capacity is None else capacity, 2), m)
    graph.same[:] = -1
    heads = np.ones(len(graph.levels), bool)
    if words is not None:
        known = {}
        for node in range(len(graph.levels)):
            head = known.setdefault(words[node].tobytes(), node)
            if head != node:
                heads[node], graph.levels[node], graph.first[node], graph.links[node] = False, 0, -1, -1
                graph.same[node], graph.same[head] = graph.same[head], node
    top = int(graph.levels[:n].max())
    for node in np.flatnonzero(heads[:n]).tolist():
        for level in range(int(graph.levels[node]) + 1):
            row = graph.links[node] if level == 0 else graph.upper[graph.first[node] + level - 1]
            others = np.flatnonzero(heads & (graph.levels >= level))
            others = rng.permutation(others[others != node])[: rng.integers(min(least, len(row)), len(row) + 1)]
            row[:] = -1
            row[: len(others)] = others
    high = np.flatnonzero(heads[:n] & (graph.levels[:n] == top))
    return graph._replace(n=n, entry=int(rng.choice(high)), top=top)


def with_seeds(rng, graph, words, count):
    """The graph with so many seeds, some of them nodes of a later state."""
    nodes = np.flatnonzero(graph.links[:, 0] >= 0)  # no copies
    seeds = rng.choice(nodes, count if len(nodes) else 0).astype(np.int32)
    return graph._replace(seeds=seeds, seed_signs=np.ascontiguousarray(words[seeds]))


def no_originals(dim, metric):
    records = np.zeros((0, layout.RECORD_HEADER_WORDS), np.uint32)
    records.flags.writeable = False
    return layout.Originals(records, dim, layout.FLOAT32, metric)


def damage(originals, ordinal, word, bit):
    """The same originals with one bit of one record turned over."""
    records = originals.records.copy()
    records[ordinal, word] ^= np.uint32(1 << bit)
    records.flags.writeable = False
    return originals._replace(records=records)


def assert_hits(hits, query, expected):
    """Row ``query`` of ``hits`` is the expected [(score, ordinal)], then padding."""
    count = len(expected)
    assert hits.ordinals[query, :count].tolist() == [o for _, o in expected]
    np.testing.assert_array_equal(hits.scores[query, :count], np.array([s for s, _ in expected], np.float32))
    assert (hits.ordinals[query, count:] == -1).all()
    assert np.isnan(hits.scores[query, count:]).all()


def assert_code_hits(hits, query, vector, codes, ordinals, encoding, metric):
    """Row ``query`` of ``hits`` is these ordinals with the scores of their codes, then padding."""
    count = len(ordinals)
    assert hits.ordinals[query].tolist() == [*ordinals, *[-1] * (hits.ordinals.shape[1] - count)]
    levels = naive.query_levels(vector, codes.quantizer, encoding, metric)
    step = naive.step_of(naive.extended(vector, codes.quantizer.kind), encoding, metric, codes.quantizer.kind)
    expected = np.array([naive.code_score(levels, encoding, step, codes.words[o], metric) for o in ordinals])
    found = hits.scores[query, :count].astype(np.float64)
    assert (np.diff(found) <= 0).all()
    if metric == layout.EUCLID:  # as squares: a root makes much of what rounding leaves near 0
        found, expected = found**2, expected**2
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * (1 if metric == layout.COSINE else len(levels)))
    assert np.isnan(hits.scores[query, count:]).all()
