"""The walk under a filter against its naive version: what it keeps, what it measures, which beam is chosen; damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, filtered_walk, layout, walk
from bqstore.kernels.bits import estimate_to_rank
from bqstore.kernels.layout import COUNT_DISTANCES, COUNT_EPOCH, COUNT_HOPS, Walk
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    INTERPRETED,
    assert_code_hits,
    codes_of,
    corrected,
    distances_from,
    encoded_as,
    encoded_query,
    examples,
    fenced_scratch,
    grown,
    make_accept,
    make_codes,
    make_hits,
    make_scratch,
    no_originals,
    random_graph,
    some_levels,
    whole_vectors,
)
from tests.kernels.test_damaged_graph import DIM, LISTS, NUMBERS, M, N, copied, corrected_state, sound
from tests.kernels.test_damaged_graph import SPARE as TAIL
from tests.kernels.test_walk import kept

EXAMPLES = examples(150)
FILTERS = ("none", "one", "few", "half", "most", "all", "everything", "only copies", "no copies", "near", "far")
every_filter = st.sampled_from(FILTERS)


def flags_of(kind, rng, n, same, distances):
    """bool (n,), or None: what a filter of a kind accepts."""
    copies = np.zeros(n, bool)
    copies[same[(same >= 0) & (same < n)]] = True
    order = np.argsort(distances[:n], kind="stable")
    flags = np.zeros(n, bool)
    if kind == "one":
        flags[rng.integers(n)] = True
    elif kind in ("near", "far"):
        flags[order[: n // 3 + 1] if kind == "near" else order[-(n // 3) - 1 :]] = True
    elif kind in ("only copies", "no copies"):
        flags[:] = copies == (kind == "only copies")
    else:
        flags[:] = rng.random(n) < {"none": 0, "few": 0.1, "half": 0.5, "most": 0.9, "all": 1}.get(kind, 1)
    return None if kind == "everything" else flags


def settings_of(ef, **fields):
    """Settings of an accepted-only walk, unless others are given."""
    given = {"max_beam": ef, "candidates": 0, "rescoring": 0, "encoding": layout.BINARY, "prune": 0}
    return layout.SearchSettings(ef, **{**given, "accepted_only": 1, **fields})


class Given:
    """Codes of which many are equal, a graph of the first n, a query, and its distances by the naive version."""

    def __init__(self, rng, n, tail, m, dim, encoding, filtered, least=0):
        self.rng, self.m, self.encoding, self.dim = rng, m, encoding, dim
        self.codes = make_codes(whole_vectors(rng, n + tail, dim), spare=3)
        words = self.codes.words
        self.graph = random_graph(rng, n, m, words, len(words), least)
        self.vector = whole_vectors(rng, 1, dim)
        levels = naive.levels_of(self.vector[0], encoding)
        self.distances = np.array([naive.distance(levels, encoding, code) for code in words])
        self.accept = make_accept(flags_of(filtered, rng, n + tail, self.graph.same, self.distances))
        self.accepts = set(naive.accepted(self.accept, n + tail)).__contains__
        self.query = encoded_query(self.codes.quantizer, self.vector[0], encoding)

    def measure(self, node):
        return int(self.distances[node])

    def scratch(self, max_beam=64, k=1):
        return fenced_scratch(make_scratch(len(self.codes.words), self.query.width, self.m, max_beam, k, k, self.dim))

    def heads(self):
        """The nodes that a walk may begin at."""
        copies = set(self.graph.same[self.graph.same >= 0].tolist())
        return [node for node in range(self.graph.n) if node not in copies]


def a_state(**more):
    """Everything that a state is made of."""
    return given(
        n=st.integers(1, 50),
        tail=st.integers(0, 12),
        m=st.integers(2, 5),
        dim=st.sampled_from([1, 4, 5, 64, 100]),
        encoding=st.sampled_from(ENCODINGS),
        filtered=every_filter,
        seed=st.integers(0, 2**32 - 1),
        **more,
    )


# ---- parts


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    words=st.lists(st.sampled_from([0, 0, 1, 2**63, 2**64 - 1, 2**40, 3 << 20, 2**63 | 2**5]), max_size=20),
    n=st.one_of(st.integers(0, 70), st.integers(0, 1400)),
    wanted=st.integers(0, 130),
)
def test_some_accepted_ones_from_all_over(words, n, wanted):
    accept = layout.Accept(np.array(words, np.uint64), 0)
    rows = np.full(wanted + 2, 77, np.int32)
    count = filtered_walk.sample_accepted(accept, n, rows, wanted)
    found = rows[:count].tolist()
    assert found == naive.sample_accepted(accept, n, wanted)
    assert set(found) <= set(naive.accepted(accept, n))
    assert (rows[count:] == 77).all()


def test_of_what_accepts_everything_none_are_taken():
    for accept in (
        make_accept(None),
        layout.Accept(np.ones(5, np.uint64), 1),
        layout.Accept(np.zeros(0, np.uint64), 0),
    ):
        assert filtered_walk.sample_accepted(accept, 300, np.zeros(9, np.int32), 8) == 0


def test_seeds_come_from_all_over():
    """Of every part of a large bitmap, and not of its beginning alone."""
    accept = make_accept(np.ones(100_000, bool))
    rows = np.zeros(128, np.int32)
    assert filtered_walk.sample_accepted(accept, 100_000, rows, 128) == 128
    assert len(set(rows.tolist())) > 110
    assert np.histogram(rows, 8, (0, 100_000))[0].min() > 4


@settings(max_examples=EXAMPLES, deadline=None)
@a_state()
def test_the_share_around_a_node(n, tail, m, dim, encoding, filtered, seed):
    state = Given(np.random.default_rng(seed), n, tail, m, dim, encoding, filtered)
    for start in range(n):
        # far ones are not compared with n: they are looked up in the bitmap alone
        expected = naive.accepted_share(state.graph, lambda o: walk.is_accepted(state.accept, o), start)
        assert filtered_walk.accepted_share(state.graph, state.accept, start, n) == expected


def test_the_share_is_of_1024():
    graph = random_graph(np.random.default_rng(0), 40, 3, least=6)
    for flags, share in ((np.ones(40, bool), 1024), (np.zeros(40, bool), 0), (None, 1024)):
        assert {filtered_walk.accepted_share(graph, make_accept(flags), node, 40) for node in range(40)} == {share}
    graph.links[7] = -1
    assert filtered_walk.accepted_share(graph, make_accept(None), 7, 40) == 0


@settings(max_examples=EXAMPLES, deadline=None)
@a_state(ef=st.integers(1, 30), steps=st.integers(1, 6))
def test_a_node_is_expanded_as_by_the_naive_version(n, tail, m, dim, encoding, filtered, seed, ef, steps):
    """Several, one after the other, whichever they are."""
    rng = np.random.default_rng(seed)
    state = Given(rng, n, tail, m, dim, encoding, filtered)
    scratch, untouched = state.scratch(ef)
    scratch.keys[:] = walk.NO_KEY
    epoch = walk.new_epoch(scratch)
    beam, met, found = naive.AcceptedBeam(state.measure, state.accepts, ef), set(), (0, 0, np.int64(2**30 - 1), 0)
    steps_of = Walk(state.codes.words, state.graph, state.accept, state.query, ef, ef, n, scratch)
    for node in rng.integers(0, n, steps).tolist():
        beam.expand(state.graph, node, met)
        found = filtered_walk.expand(steps_of, node, epoch, found)
        pairs, flags, _ = kept(scratch)
        assert pairs == beam.kept and all(flags)
        assert found[0] == found[1] == beam.count()
        assert found[2] == min(beam.bound(), 2**30 - 1)
    assert np.flatnonzero(scratch.visited == epoch).tolist() == sorted(met)
    assert scratch.counters[COUNT_HOPS] == beam.hops
    assert scratch.counters[COUNT_DISTANCES] == beam.distances
    assert untouched()


# ---- the accepted-only beam


@settings(max_examples=2 * EXAMPLES, deadline=None)
@a_state(ef=st.integers(1, 40))
def test_the_accepted_only_beam_is_that_of_the_naive_version(n, tail, m, dim, encoding, filtered, seed, ef):
    """From any node that has links of its own, accepted or not."""
    rng = np.random.default_rng(seed)
    state = Given(rng, n, tail, m, dim, encoding, filtered)
    start = int(rng.choice(state.heads()))
    scratch, untouched = state.scratch(ef)
    found = filtered_walk.beam_accepted(
        state.codes.words, state.graph, state.accept, ef, state.query, start, scratch, 0
    )
    beam = naive.AcceptedBeam(state.measure, state.accepts, ef)
    beam.walk_accepted(state.graph, [start], naive.seeds_of(state.graph, state.accept, 8 * m), 32 * m)
    pairs, flags, done = kept(scratch)
    assert pairs == beam.kept and all(flags) and done
    assert found[0] == found[1] == len(pairs) <= ef
    assert found[2] == min(beam.bound(), 2**30 - 1)
    assert scratch.counters[COUNT_HOPS] == beam.hops
    assert scratch.counters[COUNT_DISTANCES] == beam.distances
    assert scratch.counters[COUNT_EPOCH] == 1
    assert untouched()
    assert len({o for _, o in pairs}) == len(pairs)
    assert all(o < n and state.accepts(o) for _, o in pairs)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 60), st.integers(1, 150))
def test_an_accepted_only_beam_ends_where_a_scan_is_quicker(seed, ef, most):
    """Two in three are accepted, so that there are more than sixteen to be expanded."""
    rng = np.random.default_rng(seed)
    codes = make_codes(whole_vectors(rng, 120, 24))
    graph = random_graph(rng, 120, 4, codes.words, least=4)
    vector, accept = whole_vectors(rng, 1, 24), make_accept(rng.random(120) < 0.67)
    query = encoded_query(codes.quantizer, vector[0], 4)
    distances = distances_from(query, codes)
    start = int(rng.choice(np.flatnonzero(graph.links[:, 0] >= 0)))
    scratch = make_scratch(120, 1, 4, ef)
    found = filtered_walk.beam_accepted(codes.words, graph, accept, ef, query, start, scratch, most)
    accepts = set(naive.accepted(accept, 120)).__contains__
    beam = naive.AcceptedBeam(lambda o: int(distances[o]), accepts, ef)
    if beam.walk_accepted(graph, [start], naive.seeds_of(graph, accept, 32), 128, most) is None:
        assert tuple(found) == (0, 0, 0)
    else:
        assert kept(scratch)[0] == beam.kept and found[0] == len(beam.kept)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    distances=st.lists(st.sampled_from([0, 1, 2, 3, 30, 31, 32, 90]), min_size=1, max_size=14),
    first=st.integers(0, 14),
    nearest=st.integers(0, 12),
    corrected_query=st.booleans(),
)
def test_the_nearest_stand_out_by_a_gap_between_two_that_follow_each_other(distances, first, nearest, corrected_query):
    """Wider than the nearest are apart, and than what is left; all before the gap is expanded."""
    distances, first = sorted(distances), min(first, len(distances))
    values = [estimate_to_rank(np.float32(-0.01 * d)) if corrected_query else d for d in distances]
    keys = np.array([(d << walk.DISTANCE_SHIFT) | (i << 2) | (i < first) for i, d in enumerate(values)], np.int64)
    found = filtered_walk.stand_out(keys, len(keys), 0, nearest, int(corrected_query))
    if not 0 < nearest <= first < len(distances):
        assert not found
        return
    apart = max(distances[nearest - 1] - distances[0], distances[-1] - distances[first])
    gaps = [distances[i] - distances[i - 1] for i in range(nearest, first + 1)]
    if not corrected_query or max(gaps) != apart:  # estimates are rounded
        assert found == (max(gaps) > apart)


@pytest.mark.parametrize("filtered", FILTERS)
def test_a_beam_that_holds_all_finds_every_accepted_one_that_links_lead_to(filtered):
    """Through rejected ones, of which no two follow each other on the way."""
    rng = np.random.default_rng(1)
    n = 40 if INTERPRETED else 150
    codes = make_codes(whole_vectors(rng, n, 24))
    graph = grown(codes, 6, 40, some_levels(rng, n, 3))
    vector = whole_vectors(rng, 1, 24)
    query = encoded_query(codes.quantizer, vector[0], 4)
    distances = distances_from(query, codes)
    flags = flags_of(filtered, rng, n, graph.same, distances)
    accept = make_accept(flags)
    for start in (graph.entry, 0, n - 1):
        scratch = make_scratch(n, 1, 6, n)
        size, count, _ = filtered_walk.beam_accepted(codes.words, graph, accept, n, query, start, scratch, 0)
        found = [o for _, o in kept(scratch)[0]]
        wanted = naive.accepted(accept, n)
        assert size == count == len(found) == len(set(found)) and set(found) <= set(wanted)
        if filtered not in ("few", "one"):
            assert sorted(found) == wanted
        assert [int(distances[o]) for o in found] == sorted(int(distances[o]) for o in found)


def some_copies():
    """Codes of which each third and fourth is written twice or more, and their graph."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**24, 30, dtype=np.uint64)[:, None]
    words = np.concatenate([words, words[::3], words[::4], words[:1]])
    return rng, codes_of(words, 24), random_graph(rng, len(words), 4, words, least=4)


@pytest.mark.parametrize("turn", range(6 if INTERPRETED else 40))
def test_of_copies_only_those_that_are_accepted_are_found_and_each_once(turn):
    """Whether their first one, which has the links, is accepted or not, and is a seed or the start or neither."""
    _, codes, graph = some_copies()
    rng = np.random.default_rng(turn)
    n = len(codes.words)
    vector = whole_vectors(rng, 1, 24)
    query = encoded_query(codes.quantizer, vector[0], 1)
    groups = {head: [head, *naive.copies_of(graph, head)] for head in range(30) if graph.same[head] >= 0}
    flags = rng.random(n) < 0.3
    for nodes in groups.values():
        flags[nodes] = False
        flags[rng.choice(nodes, rng.integers(0, len(nodes)), replace=False)] = True
    accept, start = make_accept(flags), int(rng.integers(30))
    scratch, untouched = fenced_scratch(make_scratch(n, 1, 4, n))
    filtered_walk.beam_accepted(codes.words, graph, accept, n, query, start, scratch, 0)
    found = [o for _, o in kept(scratch)[0]]
    assert len(set(found)) == len(found) and flags[found].all() and untouched()
    for nodes in groups.values():  # all of a code, or none: a list is read to its end
        some = [o for o in nodes if flags[o]]
        assert len(set(some) & set(found)) in (0, len(some))


def test_a_rejected_start_leads_on_through_rejected_ones():
    """A chain of which one node alone is accepted: that behind the neighbors' neighbors was too far without a seed."""
    graph = random_graph(np.random.default_rng(0), 8, 2)
    graph.links[:] = -1
    graph.links[:-1, 0] = np.arange(1, 8)
    codes = codes_of(np.arange(8, dtype=np.uint64)[:, None], 3)
    query = encoded_query(codes.quantizer, -np.ones(3, np.float32), 1)
    for only in range(8):
        flags = np.arange(8) == only
        scratch = make_scratch(8, 1, 2, 8)
        filtered_walk.beam_accepted(codes.words, graph, make_accept(flags), 4, query, 0, scratch, 0)
        assert [o for _, o in kept(scratch)[0]] == [only]
        beam = naive.AcceptedBeam(lambda o: 0, flags.__getitem__, 4)
        beam.walk_accepted(graph, [0], [], 96)
        assert [o for _, o in beam.kept] == [only]


# ---- which beam


KINDS_OF_BEAMS = {
    "accepted only": {},
    "through all": {"accepted_only": 0, "max_beam": 60},
    "accepted only, or a scan": {"sparse_below": 200},
    "through all, or a scan": {"accepted_only": 0, "max_beam": 60, "sparse_below": 200},
    "accepted only, or wider": {"sparse_below": 300, "ef_sparse": 35},
    "through all, or accepted only": {"accepted_only": 0, "max_beam": 60, "sparse_below": 300, "ef_sparse": 35},
    "sparse": {"sparse_below": 2000, "ef_sparse": 35},
    "nothing but a scan": {"sparse_below": 2000},
    "dense, or accepted only": {"ef_dense": 40, "sparse_below": 1},
    "dense, or through all": {"ef_dense": 40, "accepted_only": 0, "max_beam": 60, "sparse_below": 1},
    "dense, or wide accepted only": {
        "ef_dense": 40,
        "accepted_only": 0,
        "max_beam": 60,
        "sparse_below": 600,
        "ef_sparse": 35,
    },
    "all wider than the scratch": {
        "ef_dense": 1000,
        "accepted_only": 0,
        "max_beam": 1000,
        "sparse_below": 100,
        "ef_sparse": 1000,
    },
}


@settings(max_examples=3 * EXAMPLES, deadline=None)
@a_state(
    ef=st.integers(1, 20),
    kind=st.sampled_from(list(KINDS_OF_BEAMS)),
    candidates=st.integers(0, 20),
    least=st.sampled_from([0, 10]),
)
def test_the_beam_that_is_chosen_is_that_of_the_naive_version(
    n, tail, m, dim, encoding, filtered, seed, ef, kind, candidates, least
):
    """By what is accepted around the start, and by what the beam through all has met."""
    rng = np.random.default_rng(seed)
    state = Given(rng, n, tail, m, dim, encoding, filtered, least)
    way = settings_of(ef, encoding=encoding, candidates=min(candidates, ef), **KINDS_OF_BEAMS[kind])
    scratch, untouched = state.scratch(70)
    start = int(rng.choice(state.heads()))
    arrays = state.codes.words, state.graph, state.accept, way, state.query, start, state.measure(start), scratch
    found = filtered_walk.beam_filtered(*arrays)
    tried = naive.walk_filtered(state.measure, state.graph, state.accept, way, start, len(scratch.keys), 8 * m)
    beam = tried[-1]
    assert scratch.counters[COUNT_EPOCH] == len([each for each in tried if each])
    assert scratch.counters[COUNT_HOPS] == sum(each.hops for each in tried if each)
    assert untouched()
    if beam is None:
        assert tuple(found) == (0, 0, 0)
        return
    pairs, flags, done = kept(scratch)
    assert pairs == beam.kept and done
    assert flags == [int(state.accepts(o)) for _, o in beam.kept]
    assert (found[0], found[1]) == (len(pairs), sum(flags))
    assert found[2] == min(beam.bound(), 2**30 - 1)


def a_tree(width, near, bridges_have):
    """A graph whose node 0 leads to ``near`` others, each of which leads to as many that nobody else leads to."""
    n = 1 + near + near * bridges_have
    graph = random_graph(np.random.default_rng(0), n, width // 2)
    graph.links[:] = -1
    graph.links[0, :near] = np.arange(1, 1 + near)
    for i in range(near):
        graph.links[1 + i, :bridges_have] = 1 + near + i * bridges_have + np.arange(bridges_have)
    return graph._replace(n=n, entry=0, top=0)


def codes_and_query(n):
    """Codes of which each is as far as its ordinal's lowest bits tell."""
    codes = codes_of(np.arange(n, dtype=np.uint64)[:, None] & np.uint64(0xFFF), 12)
    return codes, encoded_query(codes.quantizer, -np.ones(12, np.float32), 1)


@pytest.mark.parametrize("accepted", [0, 1, 31, 62, 63, 64, 65, 128])
def test_a_filter_is_dense_where_half_around_the_start_is_accepted(accepted):
    """Of 128 around it: then the beam goes through all, and otherwise through the accepted only."""
    graph = a_tree(16, 8, 16)
    codes, query = codes_and_query(graph.n)
    flags = np.zeros(graph.n, bool)
    flags[9 : 9 + accepted] = True
    assert filtered_walk.accepted_share(graph, make_accept(flags), 0, graph.n) == 8 * accepted
    for rare in (1, 8 * accepted, 8 * accepted + 1):
        way = settings_of(20, ef_dense=30, sparse_below=max(1, rare), ef_sparse=10)
        scratch, untouched = fenced_scratch(make_scratch(graph.n, 1, 8, 200))
        filtered_walk.beam_filtered(codes.words, graph, make_accept(flags), way, query, 0, 0, scratch)
        _, good, _ = kept(scratch)
        assert untouched()
        if accepted >= 64:  # it holds rejected ones, too
            assert sum(good) == 30 < len(good)
        else:
            assert all(good) and len(good) == min(accepted, 20 if rare <= 8 * accepted else 10)


@pytest.mark.parametrize("kind", ["dense, or through all", "dense, or wide accepted only", "dense, or accepted only"])
def test_a_beam_through_all_is_not_tried_twice(kind):
    """Where the dense one has found too few, a narrower one finds no more: accepted only follows, or a scan."""
    for filtered in ("all", "everything", "most"):
        state = Given(np.random.default_rng(0), 12, 0, 4, 24, 4, filtered, least=4)
        scratch, _ = state.scratch(70)
        way = settings_of(20, encoding=4, candidates=20, **KINDS_OF_BEAMS[kind])
        start = state.graph.entry
        arrays = state.codes.words, state.graph, state.accept, way, state.query, start, state.measure(start), scratch
        found = filtered_walk.beam_filtered(*arrays)
        assert scratch.counters[COUNT_EPOCH] == (1 if kind == "dense, or through all" else 2)
        assert found[1] == (0 if kind == "dense, or through all" else len(naive.accepted(state.accept, 12)))


@pytest.mark.parametrize("less", [0, 1, 2])
@pytest.mark.parametrize("m", [2, 3, 8, 20])
def test_bridges_that_lead_to_more_than_fit_in_the_scratch(m, less):
    """Taken in by portions, of which none is longer than the rows but for the last one."""
    each = 2 * m - less
    graph = a_tree(2 * m, 2 * m, each)
    codes, query = codes_and_query(graph.n)
    flags = np.arange(graph.n) > 2 * m
    for ef in (1, 7, graph.n):
        scratch, untouched = fenced_scratch(make_scratch(graph.n, 1, m, ef))
        size, _, _ = filtered_walk.beam_accepted(codes.words, graph, make_accept(flags), ef, query, 0, scratch, 0)
        assert untouched() and size == min(ef, 2 * m * each)
        expected = sorted((int(o).bit_count(), o) for o in range(2 * m + 1, graph.n))
        assert [far for far, _ in kept(scratch)[0]] == [far for far, _ in expected[:size]]
        assert scratch.counters[COUNT_DISTANCES] == 2 * m * each
        if ef == graph.n:
            assert scratch.counters[COUNT_HOPS] == 1 + 2 * m + size


@pytest.mark.parametrize("rejected", [0, 3, 63, 64, 70])
def test_rejected_ones_are_passed_through_up_to_so_many(rejected):
    """A chain of rejected ones, and then one that is accepted; a scratch of m = 2 holds 64 bridges."""
    graph = random_graph(np.random.default_rng(0), 80, 2)
    graph.links[:] = -1
    graph.links[:-1, 0] = np.arange(1, 80)
    graph = graph._replace(same=np.full(80, -1, np.int32))
    codes, query = codes_and_query(80)
    flags = np.arange(80) == rejected
    beam = naive.AcceptedBeam(lambda o: 0, flags.__getitem__, 4)
    beam.walk_accepted(graph, [0], [], 64)
    scratch, untouched = fenced_scratch(make_scratch(80, 1, 2, 8))
    scratch.keys[:] = walk.NO_KEY
    scratch.rows[0], epoch = 0, walk.new_epoch(scratch)
    steps = Walk(codes.words, graph, make_accept(flags), query, 4, 4, 80, scratch)
    filtered_walk.surround(steps, 1, epoch, (0, 0, np.int64(2**30 - 1), 0))
    assert untouched() and [o for _, o in kept(scratch)[0]] == [o for _, o in beam.kept]
    assert [o for _, o in beam.kept] == ([rejected] if rejected <= 64 else [])


@settings(max_examples=EXAMPLES, deadline=None)
@a_state(ef=st.integers(1, 20))
def test_an_accepted_only_beam_begins_around_the_nearest_of_the_sample_too(
    n, tail, m, dim, encoding, filtered, seed, ef
):
    """Where a search without a filter begins."""
    rng = np.random.default_rng(seed)
    state = Given(rng, n, tail, m, dim, encoding, filtered)
    heads = [node for node in state.heads() if state.graph.links[node, 0] >= 0]
    seeds = np.array(heads[:: max(1, len(heads) // 9)], np.int32)
    words = state.codes.words[seeds, : state.query.width].copy()
    graph = state.graph._replace(seeds=seeds, seed_signs=words)
    signs = [level >> (encoding - 1) for level in naive.levels_of(state.vector[0], encoding)]
    far = dict(zip(seeds.tolist(), (naive.distance(signs, 1, word) for word in words), strict=True))
    near = naive.nearest_seeds(far.__getitem__, state.measure, seeds.tolist(), n)
    start = int(rng.choice(state.heads()))
    scratch, untouched = state.scratch(ef)
    filtered_walk.beam_accepted(state.codes.words, graph, state.accept, ef, state.query, start, scratch, 0)
    beam = naive.AcceptedBeam(state.measure, state.accepts, ef)
    starts = [start, *near[1:], *near[:1]]  # the order in which they lie
    beam.walk_accepted(graph, starts, naive.seeds_of(graph, state.accept, 8 * m), 32 * m)
    assert kept(scratch)[0] == beam.kept and untouched()
    assert scratch.counters[COUNT_HOPS] == beam.hops


@pytest.mark.parametrize("m", [2, 3, 16, 20])
def test_as_many_seeds_as_there_is_room_for(m):
    """Beside the start, and a place for copies: of a large bitmap in a small scratch, and at most 128."""
    n = 64 * 300
    graph = random_graph(np.random.default_rng(0), 4, m)._replace(n=n, entry=0, top=0)
    links, same = np.full((n, 2 * m), -1, np.int32), np.full(n, -1, np.int32)
    links[:, 0] = np.arange(n) ^ 1
    graph = graph._replace(links=links, same=same, first=same.copy(), levels=np.zeros(n, np.uint8))
    codes, query = codes_and_query(n)
    for flags in (np.ones(n, bool), np.arange(n) % 64 == 5):
        accept = make_accept(flags)
        scratch, untouched = fenced_scratch(make_scratch(n, 1, m, 700))
        filtered_walk.beam_accepted(codes.words, graph, accept, 700, query, 1, scratch, 0)
        assert untouched()
        beam = naive.AcceptedBeam(lambda o: (o & 0xFFF).bit_count(), flags.__getitem__, 700)
        seeds = naive.seeds_of(graph, accept, 8 * m)
        assert len(seeds) > (10 if m == 2 else 16)
        beam.walk_accepted(graph, [1], seeds, 32 * m)
        assert sorted(o for _, o in kept(scratch)[0]) == sorted(o for _, o in beam.kept)


def searched(state, way, k, max_beam=80, codes=None):
    """Status and hits of a search by the graph."""
    scratch, untouched = state.scratch(max_beam, k)
    hits, empty = make_hits(1, k), no_originals(state.dim, layout.DOT)
    codes = state.codes if codes is None else codes
    status = api.search_graph(state.vector, codes, state.graph, empty, state.accept, way, scratch, hits)
    assert untouched()
    return status, hits


@settings(max_examples=2 * EXAMPLES, deadline=None)
@a_state(
    ef=st.integers(1, 20),
    kind=st.sampled_from(list(KINDS_OF_BEAMS)),
    k=st.integers(1, 12),
    least=st.sampled_from([0, 10]),
)
def test_a_filtered_search_is_that_of_the_naive_version(n, tail, m, dim, encoding, filtered, seed, ef, kind, k, least):
    """With the tail behind what was linked; fewer than were asked for are short."""
    state = Given(np.random.default_rng(seed), n, tail, m, dim, encoding, filtered, least)
    ef = max(ef, k)
    way = settings_of(ef, encoding=encoding, candidates=k, **KINDS_OF_BEAMS[kind])
    status, hits = searched(state, way, k)
    start = naive.descend(state.measure, state.graph, 0)
    if way.sparse_below or way.accepted_only:
        beam = naive.walk_filtered(state.measure, state.graph, state.accept, way, start, 88, 8 * m)[-1]
    else:
        beam = naive.Beam(state.measure, state.accepts, ef, way.max_beam)
        beam.walk(state.graph, 0, start, with_copies=True)
    if beam is None:
        assert status == layout.TOO_FEW
        return
    found = [(far, o) for far, o in beam.kept if state.accepts(o)]
    found = sorted([*found, *((state.measure(o), o) for o in range(n, n + tail) if state.accepts(o))])
    assert status == (layout.OK if len(found) >= k else layout.TOO_FEW)
    if status == layout.OK:
        # of the tail those come in that are nearer than the last of a full beam
        assert [state.measure(o) for o in hits.ordinals[0].tolist()] == [far for far, _ in found[:k]]
        assert len(set(hits.ordinals[0].tolist())) == k
        assert_code_hits(hits, 0, state.vector[0], state.codes, hits.ordinals[0].tolist(), encoding, layout.DOT)
        if not tail:
            assert hits.ordinals[0].tolist() == [o for _, o in found[:k]]


@pytest.mark.parametrize("accepted", [0, 1, 4, 5, None])
def test_fewer_than_the_candidates_are_too_few(accepted):
    state = Given(np.random.default_rng(0), 40, 4, 4, 24, 4, "all", least=4)
    flags = np.zeros(44, bool)
    flags[np.random.default_rng(1).permutation(44)[:accepted]] = True
    state.accept = make_accept(flags)
    for kind, fields in KINDS_OF_BEAMS.items():
        status, _ = searched(state, settings_of(20, encoding=4, candidates=5, **fields), 5)
        enough = accepted is None or accepted >= 5
        if not enough:
            assert status == layout.TOO_FEW, kind
        elif accepted is None and kind != "nothing but a scan":
            assert status == layout.OK, kind


def test_settings_without_those_of_a_filter_mean_what_they_meant():
    """Fields of 0: the beam through all, whatever is accepted."""
    for filtered in FILTERS:
        state = Given(np.random.default_rng(3), 50, 0, 4, 24, 4, filtered, least=4)
        way = settings_of(10, max_beam=50, encoding=4, candidates=0, accepted_only=0)
        scratch, untouched = state.scratch(60)
        empty = no_originals(24, layout.DOT)
        arrays = state.codes, state.graph, empty, state.accept, way, scratch, make_hits(1, 1)
        assert api.search_graph(state.vector, *arrays) == layout.OK and untouched()
        assert kept(scratch)[0] == naive.walk(state.vector[0], state.codes, state.graph, state.accept, way).kept


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_corrected_codes_with_the_same_signs_have_distances_of_their_own(bits):
    """Of one bit a list holds all lengths of a direction: each is found, in the order of a scan."""
    rng = np.random.default_rng(bits)
    vectors = whole_vectors(rng, 8, 24)
    vectors = rng.permutation(np.concatenate([scale * vectors for scale in np.float32([1, 2, 3, 0.5])]))
    codes = encoded_as(corrected(bits, np.zeros(24, np.float32)), vectors, layout.DOT)
    graph = grown(codes, 4, 40, some_levels(rng, 32, 3))
    vector = whole_vectors(rng, 1, 24)
    for encoding in ENCODINGS:
        distances = distances_from(encoded_query(codes.quantizer, vector[0], encoding), codes)
        for turn in range(5):
            flags = rng.random(32) < (0.7 if turn else 1)
            wanted = np.flatnonzero(flags)
            way = settings_of(32, encoding=encoding, candidates=1)
            scratch, untouched = fenced_scratch(make_scratch(32, 1, 4, 32, 1, 1, 24, bits))
            arrays = graph, no_originals(24, layout.DOT), make_accept(flags), way, scratch, make_hits(1, 1)
            assert api.search_graph(vector, codes, *arrays) == layout.OK and untouched()
            pairs = kept(scratch)[0]
            found = [o for _, o in pairs]
            assert [far for far, _ in pairs] == sorted(int(distances[o]) for o in found)
            assert len(set(found)) == len(found) and flags[found].all()
            if bits == 1:  # of several bits, few links lead to the short ones
                assert sorted(found) == wanted.tolist()


def test_a_scratch_serves_more_accepted_only_walks_than_there_are_epochs():
    state = Given(np.random.default_rng(2), 30, 0, 4, 24, 4, "half", least=4)
    scratch, _ = state.scratch(30)
    first = None
    for turn in range(600):
        start = state.heads()[turn % 5]
        filtered_walk.beam_accepted(state.codes.words, state.graph, state.accept, 12, state.query, start, scratch, 0)
        if turn < 5:
            first = [*(first or []), kept(scratch)[0]]
        assert kept(scratch)[0] == first[turn % 5]
        assert scratch.counters[COUNT_EPOCH] == turn % 255 + 1


# ---- damage


FLAGS = {
    "none": np.zeros(N + TAIL, bool),
    "one": np.arange(N + TAIL) == 17,
    "few": np.random.default_rng(2).random(N + TAIL) < 0.15,
    "half": np.random.default_rng(1).random(N + TAIL) < 0.5,
    "all": np.ones(N + TAIL, bool),
    "everything": None,
}


def survive(query, codes, graph, encoding, kind, flags, lists=True, scores=None):
    """Search; whatever the status, nothing is written or read that should not be.

    The codes lie between some that are better than any. Where ``lists`` are damaged, nodes may be found twice.
    """
    accept, k = make_accept(FLAGS[flags]), 3
    way = settings_of(12, encoding=encoding, candidates=k, **KINDS_OF_BEAMS[kind])
    scratch, untouched = fenced_scratch(make_scratch(len(codes.words), 2, M, 70, k, k, DIM))
    hits, empty = make_hits(1, k), no_originals(DIM, layout.DOT)
    status = api.search_graph(query, codes, graph, empty, accept, way, scratch, hits)
    assert untouched()
    assert status in (layout.OK, layout.OUT_OF_RANGE, layout.TOO_FEW)
    if status == layout.OK:
        found = hits.ordinals[0].tolist()
        assert set(found) <= set(naive.accepted(accept, min(codes.n, len(codes.words))))
        if scores is not None:
            assert hits.scores[0].max() < scores
        elif lists:
            assert len(set(found)) == k
            assert_code_hits(hits, 0, query[0], codes, found, encoding, layout.DOT)
    return status


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["links", "links", "upper"]), st.integers(0, 10**6), st.sampled_from(NUMBERS)),
        min_size=1,
        max_size=40,
    ),
    encoding=st.sampled_from(ENCODINGS),
    kind=st.sampled_from(list(KINDS_OF_BEAMS)),
    flags=st.sampled_from(list(FLAGS)),
)
def test_any_links(changes, encoding, kind, flags):
    query, codes, graph = sound()
    for name, place, number in changes:
        flat = getattr(graph, name).reshape(-1)
        flat[place % len(flat)] = number
    # a damaged link may lead to a copy, which is then met twice
    copies = set(graph.same[graph.same >= 0].tolist())
    survive(query, codes, graph, encoding, kind, flags, lists=not copies & set(graph.links.reshape(-1).tolist()))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, N + TAIL - 1), st.one_of(st.sampled_from(NUMBERS), st.integers(0, N + TAIL))),
        min_size=1,
        max_size=N,
    ),
    encoding=st.sampled_from(ENCODINGS),
    kind=st.sampled_from(list(KINDS_OF_BEAMS)),
    flags=st.sampled_from(list(FLAGS)),
)
def test_any_lists_of_copies(changes, encoding, kind, flags):
    query, codes, graph = sound()
    for node, number in changes:
        graph.same[node] = number
    survive(query, codes, graph, encoding, kind, flags, lists=False)


@pytest.mark.parametrize("flags", ["few", "half", "all"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_copies_that_do_not_lead_to_copies(kind, flags):
    """Every walk ends, and is fine where enough are accepted."""
    query, codes, graph = sound()
    graph.same[:N] = LISTS[kind]
    for way in ("accepted only", "through all, or accepted only", "sparse"):
        for encoding in ENCODINGS:
            assert survive(query, codes, graph, encoding, way, flags, lists=False) == layout.OK


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["links", "upper", "same"]),
            st.integers(0, 10**6),
            st.one_of(st.sampled_from(NUMBERS), st.integers(0, N + TAIL)),
        ),
        min_size=1,
        max_size=40,
    ),
    bits=st.sampled_from([1, 2, 4]),
    encoding=st.sampled_from(ENCODINGS),
    kind=st.sampled_from(list(KINDS_OF_BEAMS)),
    flags=st.sampled_from(list(FLAGS)),
)
def test_any_links_between_corrected_codes(changes, bits, encoding, kind, flags):
    query, codes, graph = corrected_state(bits)
    for name, place, number in changes:
        flat = getattr(graph, name).reshape(-1)
        flat[place % len(flat)] = number
    survive(query, codes, graph, encoding, kind, flags, scores=1e29)


@pytest.mark.parametrize("short", ["links", "first", "levels", "same"])
@pytest.mark.parametrize("kind", KINDS_OF_BEAMS)
def test_arrays_shorter_than_n(kind, short):
    query, codes, graph = sound()
    graph = copied(graph)
    for length in (graph.entry + 1, N - 1):
        less = graph._replace(**{short: getattr(graph, short)[:length].copy()})
        for flags in FLAGS:
            survive(query, codes, less, 4, kind, flags, lists=False)


@pytest.mark.parametrize("words", [0, 1, 3])
def test_a_bitmap_of_another_length(words):
    """What lies behind its end is not accepted; bits behind the last code are not seen."""
    query, codes, graph = sound()
    accept = layout.Accept(np.full(words, 2**64 - 1, np.uint64), 0)
    for kind, fields in KINDS_OF_BEAMS.items():
        for n in (N, N - 7):
            way = settings_of(12, candidates=3, **fields)
            scratch, untouched = fenced_scratch(make_scratch(len(codes.words), 2, M, 70, 3, 3, DIM))
            hits, empty = make_hits(1, 3), no_originals(DIM, layout.DOT)
            fewer = codes._replace(n=n + 2)
            status = api.search_graph(query, fewer, graph, empty, accept, way, scratch, hits)
            assert untouched()
            assert status == (layout.OK if words and kind != "nothing but a scan" else layout.TOO_FEW)
            if words and status == layout.OK:
                assert (hits.ordinals < n + 2).all() and (hits.ordinals >= 0).all()


@pytest.mark.parametrize("m", [2, 3, 9])
def test_the_smallest_scratch_is_enough(m):
    """Rows of 8 m and a beam of one: neighbors, theirs and copies are taken in by portions."""
    rng = np.random.default_rng(m)
    codes = make_codes(whole_vectors(rng, 60, 4 if m < 9 else 30))
    graph = random_graph(rng, 60, m, codes.words, least=2 * m)
    dim = codes.quantizer.lanes
    vector = whole_vectors(rng, 1, dim)
    distances = distances_from(encoded_query(codes.quantizer, vector[0], 4), codes)
    for share in (0.02, 0.1, 0.5, 1):
        flags = rng.random(60) < share
        for ef in (1, 2, 60):
            scratch, untouched = fenced_scratch(make_scratch(60, 1, m, ef)._replace(keys=np.full(ef + 8, 77)))
            query = encoded_query(codes.quantizer, vector[0], 4)
            start = int(rng.choice(np.flatnonzero(graph.links[:, 0] >= 0)))
            filtered_walk.beam_accepted(codes.words, graph, make_accept(flags), ef, query, start, scratch, 0)
            assert untouched()
            beam = naive.AcceptedBeam(lambda o: int(distances[o]), flags.__getitem__, ef)
            beam.walk_accepted(graph, [start], naive.seeds_of(graph, make_accept(flags), 8 * m), 32 * m)
            pairs = [(int(key) >> 33, int(key) >> 2 & 0x7FFF_FFFF) for key in scratch.keys if key != walk.NO_KEY]
            assert pairs == beam.kept
