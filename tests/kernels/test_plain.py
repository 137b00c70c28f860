"""What answers while kernels are not compiled gives what they give: the same codes, candidates, hits and bitmaps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bqstore.kernels import api, layout, metadata, plain
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    corrected,
    damage,
    grown,
    make_accept,
    make_candidates,
    make_codes,
    make_hits,
    make_list,
    make_settings,
    no_originals,
    signs,
    some_levels,
    some_turns,
    three_levels,
)

pytestmark = pytest.mark.skipif(INTERPRETED, reason="it is compared with what is compiled")
KINDS = ("signs", "one_and_half", "two", "rabitq1", "rabitq2", "rabitq4", "turned1", "turned4")


def quantizer_of(kind, rng, vectors, dim):
    """A quantizer of some kind for the first ``dim`` values of vectors."""
    part = vectors[:, :dim]
    mean, deviation = part.mean(0), part.std(0)
    if kind == "signs":
        return signs(dim)
    if kind in ("one_and_half", "two"):
        deviation[0] = 0
        return three_levels(layout.TWO_BITS if kind == "two" else layout.ONE_AND_HALF_BITS, mean, deviation)
    turns = some_turns(rng, dim) if kind.startswith("turned") else None
    return corrected(int(kind[-1]), mean, turns, (0.5, 1.2))


def encoded(function, vectors, quantizer, metric):
    columns = layout.words_per_code(quantizer.dim, quantizer.kind, quantizer.bits)
    out = np.full((len(vectors), columns), 77, np.uint64)
    function(vectors, quantizer, metric, out)
    return out


def assert_same_hits(ours, theirs):
    """The same ordinals, but for those whose scores differ by rounding only; the scores to some ulp."""
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=2e-5, atol=2e-6)
    for row in range(len(ours.ordinals)):
        swapped = ours.ordinals[row] != theirs.ordinals[row]
        if swapped.any():  # neighbors that all but tie
            assert sorted(ours.ordinals[row][swapped]) == sorted(theirs.ordinals[row][swapped])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "part"), [(33, 33), (65, 65), (127, 64), (192, 192)])
def test_codes(kind, metric, dim, part):
    """Signs to the last bit. Of others a value at the border of two levels and the end of a correction may differ."""
    rng = np.random.default_rng(dim)
    vectors = rng.standard_normal((50, dim)).astype(np.float32)
    vectors[3] = 0
    quantizer = quantizer_of(kind, rng, vectors, part)
    ours, theirs = (encoded(module.encode, vectors, quantizer, metric) for module in (plain, api))
    width = quantizer.bits * quantizer.width
    apart = (ours[:, :width] != theirs[:, :width]).any(1).sum()
    assert apart == 0 if kind == "signs" else apart <= 2
    if quantizer.kind == layout.RABITQ:
        floats = [np.ascontiguousarray(words[:, width:]).view(np.float32) for words in (ours, theirs)]
        np.testing.assert_allclose(*floats, rtol=1e-4, atol=1e-5)


def search_both(queries, codes, held, accept, settings, c, k):
    out = []
    for module in (plain, api):
        candidates, hits = make_candidates(len(queries), c), make_hits(len(queries), k)
        status = module.search_bits(queries, codes, held, accept, settings, candidates, hits)
        out.append((status, candidates, hits))
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 7])
def test_a_scan(kind, encoding, metric, m):
    """The same codes, filtered or not: the same candidates at the same distances, and scores."""
    rng = np.random.default_rng(m)
    dim, n, c, k = 70, 300, 40, 10
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    vectors[100:110] = vectors[0]
    quantizer = quantizer_of(kind, rng, vectors, dim)
    codes = layout.Codes(encoded(api.encode, vectors, quantizer, metric), n, quantizer)
    queries = np.empty((m, dim), np.float32)
    api.prepare(rng.standard_normal((m, dim)).astype(np.float32), metric, queries)
    some = make_list([-1, 3, 100, n])
    for accept in (make_accept(None), make_accept(rng.random(n) < 0.3), make_accept(np.zeros(n, bool)), some):
        for prune, rescoring in ((0, 0), (1, 0), (1, 1)):
            held = naive.make_originals(vectors, layout.FLOAT32, metric) if rescoring else no_originals(dim, metric)
            settings = make_settings(candidates=k, rescoring=rescoring, encoding=encoding, prune=prune)
            settings = settings._replace(max_candidates=c)
            ours, theirs = search_both(queries, codes, held, accept, settings, c, k)
            assert ours[0][0] == theirs[0][0] == layout.OK
            if quantizer.kind == layout.RABITQ or encoding != layout.BINARY:  # a query's own levels may differ by one
                assert abs(ours[0][1] - theirs[0][1]) <= k
                assert (ours[1].counts == theirs[1].counts).all()
            else:
                assert ours[0] == theirs[0]
                for a, b in zip(ours[1], theirs[1], strict=True):
                    np.testing.assert_array_equal(a, b)
            assert_same_hits(ours[2], theirs[2])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["signs", "rabitq2"])
def test_a_scan_of_truncated_vectors(kind, metric, monkeypatch):
    """Under cosine the part of a query that is coded gets the length of one; numpy 1.26 counts bits in another way."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((200, 70)).astype(np.float32)
    quantizer = quantizer_of(kind, rng, vectors, 40)
    codes = layout.Codes(encoded(api.encode, vectors, quantizer, metric), 200, quantizer)
    queries = np.empty((2, 70), np.float32)
    api.prepare(rng.standard_normal((2, 70)).astype(np.float32), metric, queries)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    for encoding in ENCODINGS:
        settings = make_settings(candidates=10, rescoring=0, encoding=encoding, prune=0)._replace(max_candidates=40)
        ours, theirs = search_both(queries, codes, no_originals(70, metric), make_accept(None), settings, 40, 10)
        assert ours[0][0] == theirs[0][0] == layout.OK
        assert_same_hits(ours[2], theirs[2])


def test_codes_of_another_width_are_left_as_they_were():
    vectors, quantizer = np.ones((3, 70), np.float32), signs(70)
    out = np.full((3, 5), 77, np.uint64)
    plain.encode(vectors, quantizer, METRICS[0], out)
    assert (out == 77).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", FORMS)
def test_exact_scores(form, metric):
    """Of all that is accepted, and of candidates; ties by ordinal; a damaged record is named if it is read."""
    rng = np.random.default_rng(form)
    dim, n, k = 37, 200, 12
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    vectors[50:55] = vectors[7]
    vectors[60] = 0
    originals = naive.make_originals(vectors, form, metric)
    queries = np.empty((3, dim), np.float32)
    assert plain.prepare(rng.standard_normal((3, dim)).astype(np.float32), metric, queries) == layout.OK
    accepts = make_accept(None), make_accept(rng.random(n) < 0.2), make_list([-1, 3, 9, 52, n])
    for accept, held in itertools.product(accepts, (originals, damage(originals, 9, 3, 5))):
        found = []
        for module in (plain, api):
            hits = make_hits(3, k)
            found.append((module.search_exact(queries, held, n, accept, hits), hits))
        assert found[0][0] == found[1][0]
        if found[0][0] == layout.OK:
            assert_same_hits(found[0][1], found[1][1])
    candidates = make_candidates(3, 40)
    candidates.ordinals[:] = [rng.permutation(n)[:40] for _ in range(3)]
    candidates.counts[:] = (40, 3, 0)
    for bounds in (np.full((1, 40), np.inf, np.float32), rng.random((3, 40)).astype(np.float32)):
        for first, held in itertools.product(
            (5, 40), (originals, damage(originals, int(candidates.ordinals[0, 2]), 9, 1))
        ):
            found = []
            for module in (plain, api):
                hits = make_hits(3, k)
                found.append((module.rescore(queries, held, n, candidates, bounds, first, hits), hits))
            assert found[0][0] == found[1][0]
            if found[0][0][0] == layout.OK:
                assert_same_hits(found[0][1], found[1][1])


def test_ties_are_broken_by_ordinal_wherever_the_vectors_lie():
    vectors = np.tile(np.random.default_rng(0).standard_normal(129).astype(np.float32), (1000, 1))
    originals, hits = naive.make_originals(vectors, layout.FLOAT32, layout.DOT), make_hits(1, 50)
    assert plain.search_exact(vectors[:1], originals, 1000, make_accept(None), hits) == layout.OK
    assert hits.ordinals[0].tolist() == list(range(50)) and len(set(hits.scores[0].tolist())) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_queries_that_cannot_be_computed_with_are_refused_by_both(metric):
    for value in (np.nan, np.inf, -np.inf, 1e30, 0.0, 1e-30, 1.0):
        queries = np.full((2, 5), value, np.float32)
        outs = [np.zeros_like(queries) for _ in range(2)]
        statuses = [module.prepare(queries, metric, out) for module, out in zip((plain, api), outs, strict=True)]
        assert statuses[0] == statuses[1]
        if statuses[0] == layout.OK:
            np.testing.assert_allclose(*outs, rtol=1e-6)


def test_shapes_that_do_not_agree_are_refused_by_both():
    vectors = np.ones((4, 8), np.float32)
    codes, originals = make_codes(vectors), naive.make_originals(vectors, layout.FLOAT32, layout.DOT)
    wrong = codes._replace(quantizer=signs(200))
    for module in (plain, api):
        candidates, hits = make_candidates(1, 2), make_hits(1, 2)
        few = np.full((1, 1), np.inf, np.float32)
        settings, accept = make_settings(candidates=2, rescoring=1), make_accept(None)
        assert (
            module.search_bits(vectors[:1], wrong, originals, accept, settings, candidates, hits)[0]
            == layout.OUT_OF_RANGE
        )
        assert module.search_exact(vectors[:1], originals, 5, accept, hits) == layout.OUT_OF_RANGE
        assert module.search_exact(vectors[:1, :7].copy(), originals, 4, accept, hits) == layout.OUT_OF_RANGE
        assert module.rescore(vectors[:1], originals, 4, candidates, few, 2, hits) == (layout.OUT_OF_RANGE, 0)
        candidates.counts[:] = 2
        wide = np.full((1, 2), np.inf, np.float32)
        for ordinal in (-1, 4):
            candidates.ordinals[:] = ordinal
            assert module.rescore(vectors[:1], originals, 4, candidates, wide, 2, hits)[0] == layout.OUT_OF_RANGE


def test_a_graph_is_checked_as_the_kernel_checks_it():
    """Whole, and with every kind of damage at every place."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((120, 20)).astype(np.float32)
    vectors[50:60] = vectors[3]
    graph = grown(make_codes(vectors), 3, 16, some_levels(rng, 120, 3))
    assert plain.check_graph(graph) == api.check_graph(graph) == 0
    seen = set()
    for _ in range(300):
        hurt = graph._replace(
            **{name: getattr(graph, name).copy() for name in ("links", "upper", "first", "levels", "same")}
        )
        for _ in range(rng.integers(1, 4)):
            array = getattr(hurt, rng.choice(["links", "upper", "first", "levels", "same"]))
            array.flat[rng.integers(array.size)] = rng.choice([-1, 0, 1, 3, 119, 120, 127])
        hurt = hurt._replace(n=int(rng.choice([0, 100, 120, 121])), entry=int(rng.choice([graph.entry, -1, 5])))
        faults = plain.check_graph(hurt)
        assert faults == api.check_graph(hurt)
        seen.add(faults)
    assert -1 in seen and 0 in seen and len(seen) > 4


def test_no_graph_is_walked():
    """And every query is one for which a scan is to be made."""
    hits = make_hits(3, 2)
    assert plain.search_graph(1, 2, 3, hits) == layout.TOO_FEW
    assert (hits.ordinals[:, 0] == layout.TOO_FEW).all()


def test_what_no_walk_had_found_was_whatever_stood_in_memory_and_the_first_search_of_a_large_store_failed():
    """Candidates are counted by their ordinals, and prefetched, where originals are not in memory yet."""
    hits = layout.Hits(np.full((3, 9), 7, np.int32), np.full((3, 9), 7, np.float32))
    plain.search_graph(1, 2, 3, hits)
    assert (hits.ordinals[:, 1:] == -1).all() and np.isnan(hits.scores).all()


def some_entries(rng, d):
    """Entries of every kind, some of them damaged: (kinds, values, heap, members)."""
    texts = ["", "a", "ab", "b%c", "Abc", "aXbXc", "é", "naïve", "ABÉ", "x" * 50, "a_b", "aab", "日本語", "\n"]
    kinds = rng.integers(0, 10, d).astype(np.uint8)
    heap = np.frombuffer("".join(texts).encode(), np.uint8).copy()
    starts = np.cumsum([0, *(len(text.encode()) for text in texts)])
    members = rng.integers(-1, d + 1, 100).astype(np.int32)
    values = rng.integers(-3, 4, d).astype(np.int64)
    for i, kind in enumerate(kinds):
        if kind == metadata.STRING:
            text = int(rng.integers(len(texts)))
            values[i] = (int(starts[text]) << metadata.LENGTH_BITS) | len(texts[text].encode())
        elif kind == metadata.LIST:
            values[i] = (int(rng.integers(0, 90)) << metadata.LENGTH_BITS) | int(rng.integers(0, 8))
        elif kind == metadata.FLOAT:
            values[i] = np.array(rng.choice([0.5, -1.0, np.inf, np.nan, 2.0])).view(np.int64)
        if rng.random() < 0.05:
            values[i] = rng.choice([-1, 1 << 40, (1 << 23) - 1])
    return kinds, values, heap, members


@pytest.mark.parametrize("seed", range(4))
def test_metadata(seed):
    rng = np.random.default_rng(seed)
    kinds, values, heap, members = some_entries(rng, 300)

    def both(name, *arguments):
        tables = [np.full(300, 77, np.uint8) for _ in range(2)]
        for module, table in zip((plain, metadata), tables, strict=True):
            getattr(module, name)(*[a.copy() if isinstance(a, np.ndarray) else a for a in arguments], table)
        np.testing.assert_array_equal(*tables)

    for low, high, ends in ((-1, 2, (-1.0, 0.7)), (1, 0, (-np.inf, np.inf)), (-(2**63), 2**63 - 1, (0.5, 0.5))):
        both("numbers_between", kinds, values, low, high, np.array(ends))
    words = [np.frombuffer(text.encode(), np.uint8).copy() for text in ("", "a", "ab", "b", "é")]
    for low, high in itertools.product(words, words):
        for least, most in itertools.product((-1, 0, 1), (-1, 0, 1)):
            both("strings_between", kinds, values, heap, low, least, high, most)
    run, one = metadata.ANY_RUN, metadata.ANY_CHARACTER
    letters = [run, one, *b"abcx", *"é".encode()]
    patterns = [
        [],
        [run],
        [run, run],
        [run, *b"b", run],
        [*b"a", run],
        [run, *b"c"],
        [one, *b"b"],
        [*b"a", one, run, *b"c"],
    ]
    patterns += [rng.choice(letters[:6], rng.integers(1, 6)).tolist() for _ in range(60)] + [[run, *"é".encode()]]
    for pattern, folded in itertools.product(patterns, (False, True)):
        both("strings_like", kinds, values, heap, np.array(pattern, np.int16), folded)
    own = rng.integers(0, 2, 300).astype(np.uint8)
    which = rng.integers(-1, 4, 300).astype(np.int32)
    for keep in (False, True):
        both("any_member", kinds, values, members, own, keep)
    for m in (0, 1, 2, 4):
        both("every_member", kinds, values, members, which, np.full(m, -1, np.int32))


@pytest.mark.parametrize("n", [0, 1, 64, 130])
def test_bitmaps(n):
    rng = np.random.default_rng(n)
    for dtype, d in itertools.product((np.uint8, np.uint16, np.uint32), (0, 1, 50)):
        codes, table = rng.integers(0, 60, n).astype(dtype), rng.integers(0, 2, d).astype(np.uint8)
        outs = [np.full(-(-n // 64), 77, np.uint64) for _ in range(2)]
        assert plain.spread(codes, table, outs[0]) == metadata.spread(codes, table, outs[1])
        np.testing.assert_array_equal(*outs)
    marks, wanted = rng.integers(0, 2**32, n).astype(np.uint32), rng.integers(0, 2, 1 << 16).astype(np.uint8)
    found = [np.full(n, -1, np.int32) for _ in range(2)]
    assert plain.sift(marks, wanted, found[0]) == metadata.sift(marks, wanted, found[1])
    count = int(wanted[marks & 0xFFFF].sum())
    np.testing.assert_array_equal(found[0][:count], found[1][:count])
