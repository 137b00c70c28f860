"""A slow, obvious version of every kernel, in NumPy and Python, written from the definitions, for comparison."""

from __future__ import annotations

import functools
import itertools
import math
import struct

import numpy as np

from bqstore.kernels import layout, metadata


def pack_signs(vectors):
    """uint64 (m, W): bit j % 64 of word j // 64 is 1 iff the value is > 0."""
    out = np.zeros((len(vectors), -(-vectors.shape[1] // 64)), np.uint64)
    for i, vector in enumerate(vectors):
        for j in np.flatnonzero(vector > 0):
            out[i, j // 64] |= np.uint64(1 << (int(j) % 64))
    return out


def hamming(a, b):
    """The number of bits in which two codes differ."""
    return sum((int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True))


def levels_of(query, encoding):
    """The level of every value: its sign for one plane, else its place on [-top, top] in equal steps."""
    if encoding == layout.BINARY:
        return [int(value > 0) for value in query]
    steps, top = 2**encoding - 1, top_of(query)
    if top == 0:
        return [steps // 2 + 1] * len(query)
    places = [math.floor((float(value) + top) / (2 * top) * steps + 0.5) for value in query]
    return [min(max(place, 0), steps) for place in places]


def top_of(query):
    """The end of a query's levels: its largest value, or three times the root of its mean square if that is less."""
    query = query.astype(np.float64)
    return min(float(np.abs(query).max()), 3 * math.sqrt(float((query**2).mean())))


def step_of(query, encoding, metric=layout.COSINE, kind=layout.ONE_BIT):
    """The difference of two levels, in units of the values; a sign is -1 or 1, but beside three levels of DOT."""
    if encoding == layout.BINARY:
        fits = metric == layout.DOT and kind != layout.ONE_BIT
        return 2.0 * (float(np.abs(query.astype(np.float64)).mean()) if fits else 1)
    return 2 * top_of(query) / (2**encoding - 1)


def planes_of(levels, encoding):
    """uint64 (encoding, W): bit j % 64 of word j // 64 of plane p is bit p of level j."""
    out = np.zeros((encoding, -(-len(levels) // 64)), np.uint64)
    for j, level in enumerate(levels):
        for p in range(encoding):
            out[p, j // 64] |= np.uint64((level >> p & 1) << (j % 64))
    return out


def bit_of(code, j):
    """Bit j of a code."""
    return int(code[j // 64]) >> (j % 64) & 1


def distance(levels, encoding, code):
    """The sum of u where the code has a 0, and of 2^b - 1 - u where it has a 1."""
    return sum(2**encoding - 1 - u if bit_of(code, j) else u for j, u in enumerate(levels))


def code_score(levels, encoding, step, code, metric):
    """The metric of the decoded query and of the code read as +1 and -1, in float64."""
    signs = np.array([1.0 if bit_of(code, j) else -1.0 for j in range(len(levels))])
    halves = np.array([2.0 * u - (2**encoding - 1) for u in levels])  # in units of half a step; never 0
    if metric == layout.COSINE:
        return float(halves @ signs / (np.linalg.norm(halves) * np.linalg.norm(signs)))
    if metric == layout.DOT:
        return float(halves @ signs * step / 2)
    return -float(np.linalg.norm(halves * (step / 2) - signs))


def sum64(record):
    """The checksum of a record, from its words 2 on."""
    total = 0x6271_7374_6F72_6531
    for j in range(2, len(record)):
        total += ((0x9E37_79B1 * (j + 1)) % 2**32 | 1) * int(record[j])
    return total % 2**64


def seal(records):
    """Write the checksum of every record into its first two words."""
    for record in records:
        total = sum64(record)
        record[0], record[1] = total % 2**32, total >> 32


def make_originals(vectors, form, metric):
    """The read-only records of vectors, float32 (n, dim)."""
    n, dim = vectors.shape
    records = np.zeros((n, layout.words_per_record(dim, form)), np.uint32)
    floats = records.view(np.float32)
    scale = np.ones(n, np.float32)
    if form == layout.FLOAT32:
        kept = vectors
        floats[:, 8 : 8 + dim] = vectors
    elif form == layout.FLOAT16:
        halves = vectors.astype(np.float16)
        records.view(np.float16)[:, 16 : 16 + dim] = halves
        kept = halves.astype(np.float32)
    else:
        scale = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-20)) / np.float32(127)
        # a power of two keeps whole numbers whole, so that tests may ask for exact scores
        scale = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
        small = np.rint(vectors / scale[:, None]).astype(np.int8)
        records.view(np.int8)[:, 32 : 32 + dim] = small
        kept = scale[:, None] * small
    records[:, 2] = np.arange(n)
    floats[:, 4] = np.sqrt((kept.astype(np.float64) ** 2).sum(axis=1))
    floats[:, 5] = scale
    seal(records)
    records.flags.writeable = False
    return layout.Originals(records, dim, form, metric)


def read_vector(originals, ordinal):
    """float32 (dim,): the vector that a record holds."""
    record, dim = originals.records[ordinal], originals.dim
    if originals.form == layout.FLOAT32:
        return record.view(np.float32)[8 : 8 + dim]
    if originals.form == layout.FLOAT16:
        return record.view(np.float16)[16 : 16 + dim].astype(np.float32)
    return record.view(np.float32)[5] * record.view(np.int8)[32 : 32 + dim]


def score(query, originals, ordinal):
    """The exact score of a query and a record, summed in float64."""
    vector = read_vector(originals, ordinal).astype(np.float64)
    query = query.astype(np.float64)
    if originals.metric == layout.EUCLID:
        return np.float32(-math.sqrt(((query - vector) ** 2).sum()))
    product = np.float32(query @ vector)
    if originals.metric == layout.DOT:
        return product
    norm = originals.records[ordinal].view(np.float32)[4]
    return np.clip(product / norm, np.float32(-1), np.float32(1)) if norm > 0 else np.float32(0)


def accepted(accept, n):
    """The accepted ordinals below n, ascending."""
    if len(accept.rows):
        return [o for o in accept.rows.tolist() if 0 <= o < n]
    if accept.everything:
        return list(range(n))
    limit = min(n, 64 * len(accept.words))
    return [o for o in range(limit) if int(accept.words[o // 64]) >> (o % 64) & 1]


def query_levels(query, quantizer, encoding, metric=layout.COSINE):
    """The level of every lane of a query, against codes that are not corrected."""
    if quantizer.kind == layout.ONE_BIT:
        return levels_of(query, encoding)
    if encoding != layout.BINARY or metric == layout.DOT:
        return levels_of(extended(query, quantizer.kind), encoding)
    code = pack_three_levels(query[None], quantizer.mean, quantizer.deviation, quantizer.kind)[0]
    return [bit_of(code, j) for j in range(quantizer.lanes)]


def nearest_codes(query, codes, accept, c, encoding=layout.BINARY, metric=layout.COSINE):
    """The c nearest (distance, ordinal), ascending."""
    levels = query_levels(query, codes.quantizer, encoding, metric)
    return sorted((distance(levels, encoding, codes.words[o]), o) for o in accepted(accept, codes.n))[:c]


def prepare(query, metric):
    """A query at unit length under cosine."""
    length = math.sqrt(float((query.astype(np.float64) ** 2).sum()))
    return query if metric != layout.COSINE else (query * np.float32(1 / length)).astype(np.float32)


def best_scores(query, originals, ordinals, k):
    """The k best (score, ordinal) among some ordinals, by score descending, then ordinal."""
    scored = [(score(query, originals, o), o) for o in ordinals]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:k]


# ---- Qdrant's three levels a value


def code_of(bits):
    """uint64 (W,): bit j % 64 of word j // 64 is bit j of a list."""
    out = np.zeros(-(-len(bits) // 64), np.uint64)
    for j in np.flatnonzero(bits):
        out[j // 64] |= np.uint64(1 << (int(j) % 64))
    return out


def three_levels(value, mean, deviation):
    """Two bits: below two thirds of a deviation from the mean 00, within them 10, above 11; in float32."""
    value, mean, deviation = np.float32(value), np.float32(mean), np.float32(deviation)
    if deviation == 0:
        return bool(value > 0), False
    apart, bound = (value - mean) / deviation, np.float32(2 / 3)
    if apart <= -bound:
        return False, False
    return True, bool(apart >= bound)


def pack_three_levels(vectors, mean, deviation, kind):
    """uint64 (m, W): all first bits, then the second ones, or, of a bit and a half, those of two neighbors as one."""
    codes = []
    for vector in vectors:
        pairs = [three_levels(*each) for each in zip(vector, mean, deviation, strict=True)]
        second = [two for _, two in pairs]
        if kind == layout.ONE_AND_HALF_BITS:
            second = [any(second[j : j + 2]) for j in range(0, len(second), 2)]
        codes.append(code_of([one for one, _ in pairs] + second))
    width = layout.words_per_plane(len(mean), kind)
    return np.array(codes, np.uint64).reshape(len(vectors), width)


def extended(query, kind):
    """The values that a query has for the lanes of a code."""
    if kind == layout.TWO_BITS:
        return np.concatenate([query, query])
    if kind == layout.ONE_AND_HALF_BITS:
        return np.concatenate([query, [query[j : j + 2].max() for j in range(0, len(query), 2)]]).astype(np.float32)
    return query


# ---- RaBitQ: what is left of a vector beside the mean, turned, and its products


@functools.lru_cache
def hadamard(size):
    """The Walsh-Hadamard matrix of a power of two, orthogonal: H(2n) = [[H, H], [H, -H]]."""
    out = np.ones((1, 1))
    while len(out) < size:
        out = np.block([[out, out], [out, -out]])
    return out / math.sqrt(size)


def rotation(signs):
    """float64 (dim, dim): the signs, then a transform, of the first and of the last 2^s dimensions by turns."""
    return _rotation(signs.shape, signs.astype(np.float64).tobytes())


@functools.lru_cache(4)
def _rotation(shape, signs):
    dim = shape[1]
    size = 1 << (dim.bit_length() - 1)
    whole = np.eye(dim)
    for turn, row in enumerate(np.frombuffer(signs).reshape(shape)):
        part = slice(0, size) if turn % 2 == 0 else slice(dim - size, dim)
        whole[part] = hadamard(size) @ (row[part, None] * whole[part])
    return whole


def part(vector, dim, metric):
    """float64 (dim,): the first values of a vector, at unit length under cosine."""
    return unit(vector[:dim], metric)


def residual(vector, mean, metric, turns):
    """float64 (dim,): the vector, of unit length under cosine, less the mean, turned."""
    return rotation(turns) @ (unit(vector, metric) - mean.astype(np.float64))


def unit(vector, metric):
    """float64 (dim,): at unit length under cosine, but for zeros."""
    vector = vector.astype(np.float64)
    length = np.linalg.norm(vector)
    return vector / length if metric == layout.COSINE and length > 0 else vector


def values_of(code, bits, width, dim):
    """The odd whole numbers that a code holds: plane p, of ``width`` words, weighs 2^(bits - 1 - p)."""
    planes = [code[p * width : (p + 1) * width] for p in range(bits)]
    weights = [2 ** (bits - 1 - p) for p in range(bits)]
    return [sum(w if bit_of(plane, j) else -w for w, plane in zip(weights, planes, strict=True)) for j in range(dim)]


def floats_of(code):
    """``add`` and ``factor``: the two float32 of a code's last word, low and high."""
    word = int(code[-1])
    return np.array([word & 0xFFFF_FFFF, word >> 32], np.uint32).view(np.float32).astype(np.float64)


def steps_of(rest, bits):
    """The steps that are tried: 12 from 0.6 to 1.7, or 20 from 2.2 to 8, over the root of the mean square."""
    grid = np.geomspace(0.6, 1.7, 12) if bits == 2 else np.geomspace(2.2, 8.0, 20)
    return grid / math.sqrt(float((rest**2).mean()))


def valued(rest, step, bits):
    """The odd values, at most 2^bits - 1, that a step makes of a residual; what is not positive is negative."""
    sizes = np.minimum(np.floor(np.abs(rest) * step), 2 ** (bits - 1) - 1)
    return np.where(rest > 0, 1, -1) * (2 * sizes + 1)


def fit(values, rest):
    """The cosine of two vectors."""
    return float(values @ rest / (np.linalg.norm(values) * np.linalg.norm(rest)))


def corrections(vector, mean, metric, values, rest):
    """``add`` and ``factor``, by definition."""
    square = float(rest @ rest)
    product = float(values @ rest)
    add = -square / 2 if metric == layout.EUCLID else float(unit(vector, metric) @ mean.astype(np.float64))
    return add, square / product if product > 0 else 0.0


def true_score(query, vector, metric):
    """The score that an estimate is of: the product, of unit vectors under cosine, or the negative distance."""
    query, vector = unit(query, metric), unit(vector, metric)
    return -float(np.linalg.norm(query - vector)) if metric == layout.EUCLID else float(query @ vector)


def share_of_mean(query, mean, metric):
    """How many times the mean is taken off a query: once, or, of products, a power of two that leaves little."""
    query, mean = query.astype(np.float64), mean.astype(np.float64)
    if metric != layout.DOT:
        return 1.0
    best = float(query @ mean / (mean @ mean)) if mean.any() else 0.0
    return 2.0 ** math.floor(math.log2(best) + 0.5) if best > 0 else 0.0


def rotated_query(query, mean, turns, metric):
    """float64 (dim,): what is encoded of a query, turned."""
    rest = query.astype(np.float64) - share_of_mean(query, mean, metric) * mean.astype(np.float64)
    return rotation(turns) @ rest


def corrected_top(rest, encoding):
    """The end of the levels: of signs, the value that fits best in their place."""
    if encoding == layout.BINARY:
        return float(np.abs(rest).mean())
    return min(float(np.abs(rest).max()), 3 * math.sqrt(float((rest**2).mean())))


def levels_in(planes, dim):
    """The levels that the planes of a query hold."""
    return [sum(bit_of(plane, j) << p for p, plane in enumerate(planes)) for j in range(dim)]


def decoded(levels, encoding, half):
    """float64 (dim,): what levels stand for."""
    return float(half) * (2.0 * np.array(levels, np.float64) - (2**encoding - 1))


def estimate(code, query, quantizer, share=1.0):
    """``share * add + factor * <query, values>`` in float64, of a decoded query."""
    add, factor = floats_of(code)
    values = values_of(code, quantizer.bits, quantizer.width, quantizer.lanes)
    return float(share * add + factor * (query @ np.array(values, np.float64)))


def score_of_estimate(estimate, query, mean, metric):
    """The score that an estimate stands for, of a query beside the mean that is not turned."""
    share, mean = share_of_mean(query, mean, metric), mean.astype(np.float64)
    rest = query.astype(np.float64) - share * mean
    if metric == layout.EUCLID:
        return -math.sqrt(max(0.0, float(rest @ rest) - 2 * estimate))
    score = estimate + float(rest @ mean)
    return min(max(score, -1.0), 1.0) if metric == layout.COSINE else score


def spread_of(codes, rests, quantizer):
    """The largest ``|v| sqrt(1 - cos(v, r)^2) / sqrt(dim)`` and ``|v| / sqrt(dim)`` of some codes and residuals."""
    out = np.zeros(2)
    for code, rest in zip(codes, rests, strict=True):
        values = np.array(values_of(code, quantizer.bits, quantizer.width, quantizer.lanes), np.float64)
        length = np.linalg.norm(values) / math.sqrt(len(values))
        cosine = fit(values, rest) if rest.any() else 1.0
        out = np.maximum(out, [length * math.sqrt(max(0.0, 1 - cosine**2)), length])
    return out


def read_of(bounds, scores, k):
    """Which candidates, in their order, are read: all but those that cannot be among the k best of the ones before."""
    read, best = [], []
    for i, (most, score) in enumerate(zip(bounds, scores, strict=True)):
        if len(best) == k and most < best[-1]:
            continue
        read.append(i)
        best = sorted([*best, score], reverse=True)[:k]
    return read


def looked_at(scores, bounds, k, first):
    """Which of some candidates [(score, ordinal)] are read, in their order, and how many are looked at for that.

    First so many; while one of the last half of all that were looked at came among the best: as many again.
    """
    read, best, last = [], [], -1
    start, stop = 0, min(len(scores), max(1, first))
    while start < stop:
        for i in range(start, stop):
            if len(best) == k and best and bounds[i] < -best[-1][0]:
                continue
            read.append(i)
            score, ordinal = scores[i]
            better = len(best) < k or (k > 0 and (-score, ordinal) < best[-1])
            last = i if better else last
            best = sorted([*best, (-score, ordinal)])[:k]
        start = stop
        if last >= stop // 2:
            stop = min(len(scores), stop + max(1, first))
    return read, stop


# ---- the graph: rows as lists, levels as they come


def row_of(graph, node, level):
    """The links of a node on a level: what stands before the first negative number, or nothing without such a row."""
    if isinstance(graph, _Rows):
        return graph.rows.get((node, level), [])
    if level == 0:
        row = graph.links[node]
    else:
        at = int(graph.first[node]) + level - 1
        if graph.levels[node] < level or not 0 <= at < len(graph.upper):
            return []
        row = graph.upper[at]
    return list(itertools.takewhile(lambda other: other >= 0, row.tolist()))


def copies_of(graph, node):
    """The copies of a node, newest first: the list that leads from it, as long as that descends."""
    if isinstance(graph, _Rows):
        return graph.same.get(node, [])
    copies = []
    copy = int(graph.same[node])
    while 0 <= copy < len(graph.same) and (not copies or copy < copies[-1]):
        copies.append(copy)
        copy = int(graph.same[copy])
    return copies


def descend(measure, graph, last):
    """Where a greedy walk from the entry point ends on level ``last`` + 1."""
    node = graph.entry
    for level in range(graph.top, last, -1):
        while True:
            others = [o for o in row_of(graph, node, level) if o < graph.n]
            best = min(others, key=measure, default=node)  # of equals, the first in the row
            if measure(best) >= measure(node):
                break
            node = best
    return node


def nearest_seeds(far, near, seeds, n, measured=8, starts=4):
    """Of the seeds nearest by signs (``far``) those nearest by the whole query (``near``), nearest first."""
    known = [node for node in seeds if 0 <= node < n]
    best = sorted(known, key=far)[:measured]  # sorted keeps equals in their order
    return sorted(best, key=near)[:starts]


class Beam:
    """The nearest nodes met, up to the ef-th accepted one and at most ``room`` in all, as [(distance, ordinal)]."""

    def __init__(self, measure, accepts, ef, max_beam):
        self.measure, self.accepts, self.ef, self.max_beam = measure, accepts, ef, max_beam
        self.kept, self.hops, self.distances = [], 0, 0
        self.copies = set()  # they have no links to follow

    def count(self):
        return sum(self.accepts(o) for _, o in self.kept)

    def bound(self):
        full = self.count() >= self.ef or len(self.kept) == self.max_beam
        return self.kept[-1][0] if full else math.inf

    def offer(self, node):
        self.kept = sorted([*self.kept, (self.measure(node), node)])
        if self.count() > self.ef or len(self.kept) > self.max_beam:
            self.kept.pop()
        while self.count() >= self.ef and not self.accepts(self.kept[-1][1]):
            self.kept.pop()

    def meet(self, nodes, graph=None):
        self.distances += len(nodes)
        for node in nodes:
            if self.measure(node) < self.bound():
                self.offer(node)
                self.meet_copies(node, graph)

    def meet_copies(self, node, graph):
        """Of the copies of a node, those that are accepted and near enough."""
        for copy in copies_of(graph, node) if graph else ():
            if copy < graph.n and self.accepts(copy) and self.measure(copy) < self.bound():
                self.copies.add(copy)
                self.offer(copy)

    def walk(self, graph, level, start, with_copies=False):
        """Algorithm 2 of Malkov and Yashunin, but that neighbors are measured one step after they are found.

        ``start`` is a node or a list of nodes, nearest first.
        """
        met, expanded, waiting = set(), set(), []
        for node in start if isinstance(start, list) else [start]:
            if node in met or (met and self.measure(node) >= self.bound()):
                continue
            met.add(node)
            self.offer(node)
            self.meet_copies(node, graph if with_copies else None)
        while True:
            node = next((o for _, o in self.kept if o not in expanded | self.copies), None)
            if node is None and not waiting:
                return self
            found = []
            if node is not None:
                expanded.add(node)
                self.hops += 1
                found = [o for o in dict.fromkeys(row_of(graph, node, level)) if o < graph.n and o not in met]
                met.update(found)
            self.meet(waiting, graph if with_copies else None)
            waiting = found


def walk(query, codes, graph, accept, way, measure=None):
    """The beam of a search: down the levels, along level 0, and over the tail."""
    if measure is None:
        levels = query_levels(query, codes.quantizer, way.encoding)
        measure = lambda o: distance(levels, way.encoding, codes.words[o])  # noqa: E731
    accepts = set(accepted(accept, codes.n)).__contains__
    beam = Beam(measure, accepts, way.ef, way.max_beam)
    start = descend(beam.measure, graph, 0)
    if len(graph.seeds):
        levels = query_levels(query, codes.quantizer, way.encoding)
        signs = [level >> (way.encoding - 1) for level in levels]
        of = dict(zip(graph.seeds.tolist(), graph.seed_signs, strict=True))
        far = lambda o: distance(signs, 1, of[o])  # noqa: E731
        start = nearest_seeds(far, beam.measure, graph.seeds.tolist(), graph.n) or start
    beam.walk(graph, 0, start, with_copies=True)
    if beam.bound() > 0:  # nothing is nearer
        beam.meet([o for o in range(graph.n, codes.n) if accepts(o)])
    return beam


class AcceptedBeam(Beam):
    """The nearest accepted nodes alone, reached over others: neighbors that are not accepted are bridges to theirs."""

    def __init__(self, measure, accepts, ef):
        super().__init__(measure, accepts, ef, ef)

    def measure_and_offer(self, nodes, graph):
        """Measure nodes; keep them, and of those that are near enough the copies, if they are accepted."""
        self.distances += len(nodes)
        for node in nodes:
            if self.measure(node) < self.bound():
                if self.accepts(node):
                    self.offer(node)
                self.meet_copies(node, graph)

    def expand(self, graph, node, met):
        """Take in the accepted neighbors of a node, and of its other neighbors theirs."""
        row = [o for o in dict.fromkeys(row_of(graph, node, 0)) if o < graph.n and o not in met]
        met.update(row)
        found = [o for o in row if self.accepts(o) or graph.same[o] >= 0]
        bridges = [o for o in row if not self.accepts(o)]
        for bridge in bridges:
            for o in row_of(graph, bridge, 0):
                if o < graph.n and self.accepts(o) and o not in met:
                    met.add(o)
                    found.append(o)
        self.hops += 1 + len(bridges)
        self.measure_and_offer(found, graph)

    def surround(self, graph, starts, room, met):
        """Take in the accepted ones around some nodes, the neighbors of the first one's neighbors in any case.

        Breadth first through others, until 64 are met or ``room`` others.
        """
        starts = list(dict.fromkeys(starts))
        found = [o for o in starts if self.accepts(o)]
        others = [o for o in starts if not self.accepts(o)]
        met.update(starts)
        around, through, ring = 0, 0, len(others)
        while through < len(others) and (around < 64 or through < ring):
            node = others[through]
            through += 1
            if graph.same[node] >= 0:
                found.append(node)
            for o in row_of(graph, node, 0):
                if o < graph.n and o not in met and (self.accepts(o) or len(others) < room):
                    (found if self.accepts(o) else others).append(o)
                    around += self.accepts(o)
                    met.add(o)
            if node == starts[0]:
                ring = len(others)
        met.difference_update(others[through:])
        self.hops += through
        self.measure_and_offer(found, graph)

    def walk_accepted(self, graph, starts, seeds, room, most_distances=0):
        """From what is around the starts, accepted or not, and from some accepted nodes on.

        None where the first sixteen nodes tell that it will take more than ``most_distances``, if that is not 0.
        """
        met, expanded = set(), set()
        self.surround(graph, starts, room, met)
        begin = [o for o in dict.fromkeys(seeds) if o not in met]
        met.update(begin)
        self.measure_and_offer(begin, graph)
        before = self.distances
        while (node := next((o for _, o in self.kept if o not in expanded | self.copies), None)) is not None:
            expanded.add(node)
            self.expand(graph, node, met)
            if len(expanded) == 16 and 0 < 80 * most_distances < 3 * self.ef * (self.distances - before):
                return None
        return self


def sample_accepted(accept, n, wanted):
    """Of words of the bitmap, in the order of a hash, the lowest ordinal that is accepted and below n."""
    words = [] if accept.everything else [int(word) for word in accept.words[: -(-n // 64)]]
    found = []
    for i in range(1, 4 * wanted + 1 if words else 1):
        at = (i * 0x9E37_79B1 % 2**32) * len(words) >> 32
        lowest = next((64 * at + b for b in range(64) if words[at] >> b & 1), n)
        if lowest < n and len(found) < wanted:
            found.append(lowest)
    return found


def seeds_of(graph, accept, rows):
    """Where an accepted-only walk begins beside its start: a sample of accepted nodes, each once, that are linked."""
    some = sample_accepted(accept, graph.n, min(128, rows - 2))
    return [o for o in dict.fromkeys(some) if row_of(graph, o, 0)]


def accepted_share(graph, accepts, start):
    """How many of 1,024 neighbors of a node's neighbors are accepted."""
    far = [o for near in row_of(graph, start, 0) if near < graph.n for o in row_of(graph, near, 0)]
    return 1024 * sum(map(accepts, far)) // max(1, len(far))


def walk_filtered(measure, graph, accept, way, start, keys, rows):
    """The beams under a filter, as the way and what is accepted around the start say: the last holds what is found.

    None at the end: a scan is better. keys, rows : int     how long these arrays of the scratch are
    """
    known, most = set(accepted(accept, 64 * len(accept.words))), keys - 8
    accepts = (lambda _: True) if accept.everything else known.__contains__
    share = accepted_share(graph, accepts, start)
    tried = []

    def through(ef, max_beam):
        tried.append(Beam(measure, accepts, ef, max_beam).walk(graph, 0, start, with_copies=True))
        return tried[-1].count() >= way.candidates

    def accepted_only(ef):
        seeds = seeds_of(graph, accept, rows)
        return [*tried, AcceptedBeam(measure, accepts, min(ef, most)).walk_accepted(graph, [start], seeds, 4 * rows)]

    dense = way.ef_dense > 0 and share >= 512
    if dense and through(min(way.ef_dense, most), most):
        return tried
    if share >= way.sparse_below:
        if way.accepted_only:
            return accepted_only(way.ef)
        if not dense and through(min(way.ef, most), min(way.max_beam, most)):
            return tried
    return accepted_only(way.ef_sparse) if way.ef_sparse else [*tried, None]


class Signs:
    """How far codes are from each other by their signs, the first words."""

    def __init__(self, words, width=None):
        self.words = words if width is None else words[:, :width]

    def far(self, here, there):
        """The distance of code ``there``, seen from code ``here``."""
        return hamming(self.words[here], self.words[there])

    def alike(self, a, b):
        """Whether two codes are copies: by their signs, where they go by signs."""
        return (self.words[a] == self.words[b]).all()


class Products(Signs):
    """How far corrected codes are: by the estimated product of what is beside the mean, in float32."""

    def __init__(self, codes):
        super().__init__(codes.words)  # copies agree in all their bits, and in their floats
        bits, width, dim = codes.quantizer.bits, codes.quantizer.width, codes.quantizer.lanes
        self.values = [np.array(values_of(code, bits, width, dim)) for code in codes.words]
        self.add, self.factor = np.array([floats_of(code) for code in codes.words], np.float32).T
        self.scale, reach, spread = codes.quantizer.linking
        self.by_signs = codes.quantizer.bits == 1
        squares = np.array([np.float32(values @ values) for values in self.values], np.float32)
        rest = reach - np.float32(2) * self.add - spread * (self.factor * self.factor * squares)
        self.lift = np.sqrt(np.maximum(rest, np.float32(0))) if reach else np.zeros_like(rest)
        self.given = self.add
        if spread < 0:  # distances between what codes stand for
            self.add = spread * np.float32(dim) * (self.factor * self.factor)

    def far(self, here, there):
        product = (self.scale * self.factor[here]) * np.float32(self.values[here] @ self.values[there])
        return rank(self.add[there] + self.factor[there] * product + self.lift[here] * self.lift[there])

    def alike(self, a, b):
        """Whether two codes are copies: those of one bit also where only rounding has changed their corrections."""
        if not self.by_signs:
            return super().alike(a, b)
        near = [abs(each[a] - each[b]) <= np.float32(0.01) * abs(each[b]) for each in (self.given, self.factor)]
        return (self.words[a][:-1] == self.words[b][:-1]).all() and all(near)


def rank(estimate):
    """A whole number from 0 to 2^30 - 1 that falls as a float32 rises: its bits, less the last two."""
    bits = int(np.array([-estimate], np.float32).view(np.uint32)[0])
    ordered = 0xFFFF_FFFF - bits if bits >> 31 else bits + 0x8000_0000
    return ordered >> 2


def select(measure, node, candidates, degree, enough):
    """Algorithm 4: [(distance, ordinal)], ascending, to those not nearer to one kept, then the nearest left over."""
    kept = []
    for _, o in candidates:
        if len(kept) < degree and all(measure.far(o, other) >= measure.far(o, node) for other in kept):
            kept.append(o)
    rest = [o for _, o in candidates if o not in kept]
    return kept + rest[: max(0, enough - len(kept))]


def merge(measure, row, target, sources, degree, enough):
    """The links of ``target`` with links to ``sources`` added: appended, or when that is too many, selected anew."""
    sources = list(sources)
    while sources:
        new = []
        while sources and len(row) + len(new) < 2 * degree:  # the scratch holds no more
            source = sources.pop(0)
            new += [] if source in row else [source]
        row = [*row, *new]
        if len(row) > degree:
            row = select(measure, target, sorted((measure.far(target, o), o) for o in row), degree, enough)
    return row


def grow(measure, m, ef, levels):
    """The graph of codes added one by one, as {(node, level): links}; copies have none, but stand in {node: copies}.

    A copy is a node that is like one of the eight nearest.
    """
    rows, same = {(0, level): [] for level in range(int(levels[0]) + 1)}, {}
    entry, top = 0, int(levels[0])
    width = {0: (2 * m, 2 * m - 2 * m // 4)}
    for node in range(1, len(levels)):
        graph = _Rows(rows, same, node, entry, top)
        level = int(levels[node])
        rows.update({(node, v): [] for v in range(level + 1)})

        def far(o, node=node):
            return measure.far(node, o)

        at = descend(far, graph, min(level, top))
        found = {}
        for v in range(min(level, top), -1, -1):
            beam = Beam(far, lambda _: True, ef, ef).walk(graph, v, at)
            at = beam.kept[0][1]
            found[v] = beam.kept
        head = next((o for _, o in found[0][:8] if measure.alike(node, o)), None)
        if head is not None:
            same[head] = [node, *same.get(head, [])]
            rows.update({(node, v): [] for v in range(level + 1)})
            continue
        for v, kept in found.items():
            rows[node, v] = select(measure, node, kept, *width.get(v, (m, 0)))
        for v in range(min(level, top) + 1):
            for target in rows[node, v]:
                rows[target, v] = merge(measure, rows[target, v], target, [node], *width.get(v, (m, 0)))
        if level > top:
            entry, top = node, level
    return rows, same, entry, top


class _Rows:
    """What `row_of` and `same_of` need of a graph, from a dictionary of rows and one of copies."""

    def __init__(self, rows, same, n, entry, top):
        self.n, self.entry, self.top = n, entry, top
        self.rows, self.same = rows, same


def faults(graph):
    """How many rows break the rules; -1 if the numbers or the lengths do."""
    n, capacity = graph.n, min(len(graph.links), len(graph.first), len(graph.levels), len(graph.same))
    if not 0 <= n <= capacity or (n and not 0 <= graph.entry < n):
        return -1
    if n and graph.levels[graph.entry] != graph.top:
        return -1
    count = 0
    for node in range(n):
        high, first = int(graph.levels[node]), int(graph.first[node])
        if high > graph.top or (high > 0 and not 0 <= first <= len(graph.upper) - high):
            count += 1
            continue
        count += not -1 <= graph.same[node] < n
        for level in range(high + 1):
            row = (graph.links[node] if level == 0 else graph.upper[first + level - 1]).tolist()
            links = [o for o in row if o != -1]
            after = row[len(links) :]  # nothing but -1, if the links stand together at the head
            wrong = any(not 0 <= o < n or o == node or graph.levels[o] < level for o in links)
            count += wrong or any(o != -1 for o in after)
    return count


# ---- metadata columns: an entry is a kind and a value; what it holds is a piece of other arrays


def piece(value, held):
    """The piece that a value stands for: where it begins, and in 24 bits how long it is; None out of bounds."""
    start, length = divmod(int(value), 2**24)
    return None if start < 0 or start + length > len(held) else held[start : start + length]


def spread(codes, table):
    """uint64: bit i % 64 of word i // 64 is that of a code in the table; what is not there is 0."""
    bits = [int(table[code]) if code < len(table) else 0 for code in codes.tolist()]
    return code_of(bits)


def numbers_between(kinds, values, low, high, ends):
    """1 for integers between two, and for floats between two ends."""

    def passes(kind, value):
        if kind == metadata.INT:
            return low <= value <= high
        return kind == metadata.FLOAT and ends[0] <= struct.unpack("<d", struct.pack("<q", value))[0] <= ends[1]

    return [int(passes(*entry)) for entry in zip(kinds.tolist(), values.tolist(), strict=True)]


def strings_between(kinds, values, heap, low, least, high, most):
    """1 for strings whose order with ``low`` is at least ``least``, and with ``high`` at most ``most``."""

    def passes(kind, value):
        text = piece(value, heap.tobytes()) if kind == metadata.STRING else None
        if text is None:
            return False
        below, above = (text > low) - (text < low), (text > high) - (text < high)
        return (least < 0 or below >= least) and (most > 0 or above <= most)

    return [int(passes(*entry)) for entry in zip(kinds.tolist(), values.tolist(), strict=True)]


def is_like(text, parts):
    """Whether bytes are as a pattern says: every way to cut a run is tried."""
    if not parts:
        return not text
    if parts[0] == metadata.ANY_RUN:
        return any(is_like(text[i:], parts[1:]) for i in range(len(text) + 1))
    if parts[0] == metadata.ANY_CHARACTER:
        size = 1 + len(list(itertools.takewhile(lambda byte: byte & 0xC0 == 0x80, text[1:])))
        return bool(text) and is_like(text[size:], parts[1:])
    return text[:1] == bytes([parts[0]]) and is_like(text[1:], parts[1:])


def strings_like(kinds, values, heap, parts, folded):
    """1 for strings that are as a pattern says; folded: those of ASCII in small letters, and 2 for all others."""

    def passes(kind, value):
        text = piece(value, heap.tobytes()) if kind == metadata.STRING else None
        if text is None:
            return 0
        if folded and not text.isascii():
            return metadata.ASK
        return int(is_like(text.lower() if folded else text, parts))

    return [passes(*entry) for entry in zip(kinds.tolist(), values.tolist(), strict=True)]


def members_of(kind, value, members):
    """The entries of a list's elements, of none if it is out of bounds; None: it is no list."""
    held = piece(value, members.tolist()) if kind == metadata.LIST else None
    return (held or []) if kind == metadata.LIST else None


def any_member(kinds, values, members, own, keep):
    """What an entry passes itself, or what one of its elements does; ``keep``: a list also itself."""

    def passes(i):
        held = members_of(kinds[i], values[i], members)
        if held is None:
            return own[i]
        return max([own[i] if keep else 0, *(own[member] for member in held if 0 <= member < len(own))])

    return [int(passes(i)) for i in range(len(kinds))]


def every_member(kinds, values, members, which, m):
    """Whether the elements, or an entry that is no list, are all of m operands."""

    def passes(i):
        held = members_of(kinds[i], values[i], members)
        found = [which[i]] if held is None else [which[o] for o in held if 0 <= o < len(which)]
        return kinds[i] != metadata.ABSENT and set(range(m)) <= set(map(int, found))

    return [int(passes(i)) for i in range(len(kinds))]
