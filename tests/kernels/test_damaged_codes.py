"""A quantizer that does not fit its codes is refused by every kernel; damaged floats in codes are survived by all.

What an intrinsic reads is not bounds-checked: outputs and scratch lie in the midst of memory that must stay as it is.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import api, layout
from bqstore.kernels.layout import DOT, ONE_AND_HALF_BITS, ONE_BIT, RABITQ, TWO_BITS
from tests import naive
from tests.conftest import FULL
from tests.kernels.given import (
    ENCODINGS,
    INTERPRETED,
    METRICS,
    corrected,
    encoded_as,
    examples,
    fenced,
    fenced_scratch,
    grown,
    make_accept,
    make_candidates,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    signs,
    some_levels,
    some_turns,
    three_levels,
)

N, DIM, M, TAIL = 30, 70, 4, 3
EXAMPLES = examples(300)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def quantizers():
    """One of each kind, all sound."""
    rng = np.random.default_rng(0)
    mean, deviation = rng.standard_normal(DIM).astype(np.float32), rng.uniform(0.5, 2, DIM).astype(np.float32)
    return {
        "signs": signs(DIM),
        "one and a half": three_levels(ONE_AND_HALF_BITS, mean, deviation),
        "two": three_levels(TWO_BITS, mean, deviation),
        "corrected": corrected(1, mean),
        "corrected, turned": corrected(1, mean, some_turns(rng, DIM)),
        "two corrected": corrected(2, mean, some_turns(rng, DIM)),
        "four corrected": corrected(4, mean),
    }


SOUND = quantizers()
CHANGES = {
    **{f"width {by:+}": (lambda q, by=by: q._replace(width=q.width + by)) for by in (-2, -1, 1, 2, 10**6)},
    "width 0": lambda q: q._replace(width=0),
    "width negative": lambda q: q._replace(width=-1),
    **{f"lanes {by:+}": (lambda q, by=by: q._replace(lanes=q.lanes + by)) for by in (-1, 1, 64, -64, 10**6)},
    "lanes 0": lambda q: q._replace(lanes=0),
    "lanes negative": lambda q: q._replace(lanes=-q.lanes),
    **{f"{bits} bits": (lambda q, bits=bits: q._replace(bits=bits)) for bits in (-1, 0, 3, 5, 8, 9, 10**6)},
    **{f"dim {by:+}": (lambda q, by=by: q._replace(dim=q.dim + by)) for by in (-64, -1, 1, 64, 10**6)},
    "dim 0": lambda q: q._replace(dim=0),
    "dim negative": lambda q: q._replace(dim=-q.dim),
    "mean too short": lambda q: q._replace(mean=zeros(DIM - 1)),
    "mean too long": lambda q: q._replace(mean=zeros(DIM + 1)),
    "mean of the lanes": lambda q: q._replace(mean=zeros(64 * 3)),
    "no spread": lambda q: q._replace(error_scales=zeros(0)),
    "half a spread": lambda q: q._replace(error_scales=zeros(1)),
    "too much spread": lambda q: q._replace(error_scales=zeros(3)),
    "deviation of one": lambda q: q._replace(deviation=zeros(1)),
    "deviation too long": lambda q: q._replace(deviation=zeros(DIM + 1)),
    "turns of fewer": lambda q: q._replace(rotation_signs=zeros(2, DIM - 1)),
    "turns of more": lambda q: q._replace(rotation_signs=zeros(1, DIM + 1)),
    "turns of none": lambda q: q._replace(rotation_signs=zeros(2, 0)),
}


def refused(quantizer, columns, words, vectors):
    """That every kernel refuses codes of so many columns: nothing is written, and OUT_OF_RANGE is told."""
    out, untouched = fenced(np.full((N, columns), 55, np.uint64))
    api.encode(vectors, quantizer, DOT, out)
    assert (out == 55).all() and untouched()
    codes = layout.Codes(words, N, quantizer)
    accept, width = make_accept(None), max(1, min(quantizer.width, 8))
    levels = np.zeros(N, np.uint8)
    graph = grown(encoded_as(signs(DIM), vectors), M, 10, levels)
    originals = naive.make_originals(vectors, layout.FLOAT32, DOT)
    for encoding in ENCODINGS:
        for rescoring, prune in ((0, 0), (1, 0), (1, 1), (0, 1)):
            way = make_settings(10, 20, 5, rescoring, encoding, prune)
            candidates, hits = make_candidates(2, 5), make_hits(2, 3)
            found = api.search_bits(vectors[:2].copy(), codes, originals, accept, way, candidates, hits)
            assert found == (layout.OUT_OF_RANGE, 0)
            for each in (width, width + 1):
                scratch, whole = fenced_scratch(make_scratch(N, each, M, 20, 5, 3, DIM, max(1, min(quantizer.bits, 8))))
                status = api.search_graph(vectors[:2].copy(), codes, graph, originals, accept, way, scratch, hits)
                assert status == layout.OUT_OF_RANGE and whole()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", SOUND)
def test_a_quantizer_that_is_not_whole_is_refused(kind, change):
    quantizer = CHANGES[change](SOUND[kind])
    if change == "mean too short" and kind == "signs":
        assert quantizer.mean.size  # signs have none at all
    vectors = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    words = encoded_as(SOUND[kind], vectors).words
    refused(quantizer, words.shape[1], words, vectors)


@pytest.mark.parametrize("kind", SOUND)
def test_codes_of_another_length_are_refused(kind):
    vectors = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    columns = encoded_as(SOUND[kind], vectors).words.shape[1]
    for other in {0, 1, columns - 1, columns + 1, 2 * columns} - {columns}:
        refused(SOUND[kind], other, np.zeros((N, other), np.uint64), vectors)


@pytest.mark.parametrize("kind", SOUND)
def test_the_quantizer_of_more_dimensions_is_refused(kind):
    for dim in (DIM - 1, 1):
        vectors = np.random.default_rng(1).standard_normal((N, dim)).astype(np.float32)
        columns = layout.words_per_code(DIM, SOUND[kind].kind, SOUND[kind].bits)
        out, untouched = fenced(np.full((N, columns), 55, np.uint64))
        api.encode(vectors, SOUND[kind], DOT, out)
        assert (out == 55).all() and untouched()
        codes, hits = layout.Codes(np.zeros((N, columns), np.uint64), N, SOUND[kind]), make_hits(1, 3)
        arrays = codes, no_originals(dim, DOT), make_accept(None), make_settings()
        found = api.search_bits(vectors[:1].copy(), *arrays, make_candidates(1, 5), hits)
        assert found == (layout.OUT_OF_RANGE, 0)


@pytest.mark.parametrize("other", [-(2**31), -1, 4, 5, 99, 2**31 - 1])
def test_a_kind_that_there_is_not_is_refused(other):
    """Also where all the rest is whole: its second bits would have no place."""
    vectors = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    plain = SOUND["two"]._replace(lanes=DIM, width=2)
    for quantizer in (plain, *SOUND.values()):
        columns = quantizer.bits * quantizer.width + (quantizer.kind == RABITQ)
        out, untouched = fenced(np.full((N, columns), 55, np.uint64))
        api.encode(vectors, quantizer._replace(kind=other), DOT, out)
        assert untouched() and (out == 55).all()


@pytest.mark.parametrize("kind", SOUND)
def test_the_codes_of_one_kind_are_refused_by_the_others(kind):
    vectors = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    words = encoded_as(SOUND[kind], vectors).words
    for other in {ONE_BIT, ONE_AND_HALF_BITS, TWO_BITS, RABITQ} - {SOUND[kind].kind}:
        refused(SOUND[kind]._replace(kind=other), words.shape[1], words, vectors)


@pytest.mark.parametrize("kind", SOUND)
def test_a_scratch_of_another_width_is_refused(kind):
    vectors = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    codes, width = encoded_as(SOUND[kind], vectors), SOUND[kind].width
    graph = grown(encoded_as(signs(DIM), vectors), M, 10, np.zeros(N, np.uint8))
    arrays = vectors[:1].copy(), codes, graph, no_originals(DIM, DOT), make_accept(None), make_settings(10, 10, 5)
    for other in {1, width - 1, width + 1, 10} - {width}:
        scratch, whole = fenced_scratch(make_scratch(N, other, M, 10, 5, 3, DIM, SOUND[kind].bits))
        assert api.search_graph(*arrays, scratch, make_hits(1, 3)) == layout.OUT_OF_RANGE
        before = [array.copy() for array in graph[:5]]
        api.find_links(codes, graph._replace(n=20), 20, N, 10, scratch)
        ends, sources = np.array([0, 12]), np.arange(18, 30, dtype=np.int32)
        api.merge_links(codes, graph, 0, np.zeros(1, np.int32), ends, sources, (0, 1), scratch)
        assert whole()
        for array, old in zip(graph[:5], before, strict=True):
            np.testing.assert_array_equal(array, old)
    scratch = make_scratch(N, width, M, 10, 5, 3, DIM, SOUND[kind].bits)
    assert api.search_graph(*arrays, scratch, make_hits(1, 3)) == layout.OK
    for short in (scratch.rotated[:-1], scratch.rotated[:0]):
        found = api.search_graph(*arrays, scratch._replace(rotated=short), make_hits(1, 3))
        assert found == layout.OUT_OF_RANGE


@pytest.mark.parametrize("kind", SOUND)
def test_nothing_is_linked_by_codes_and_quantizers_that_do_not_fit(kind):
    vectors = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    codes, quantizer = encoded_as(SOUND[kind], vectors), SOUND[kind]
    graph = grown(codes, M, 10, np.zeros(N, np.uint8))
    assert api.check_graph(graph) == 0
    before = [array.copy() for array in graph[:5]]
    ends, sources = np.array([0, 12]), np.arange(18, 30, dtype=np.int32)
    bad = [quantizer._replace(bits=bits) for bits in (0, 9, -1)]
    bad += [quantizer._replace(width=quantizer.width + by) for by in (-1, 1)]
    bad += [quantizer._replace(lanes=quantizer.lanes + 64), quantizer._replace(error_scales=zeros(0))]
    for each in bad:
        for width in {max(1, each.width), quantizer.width}:
            scratch, whole = fenced_scratch(make_scratch(N, width, M, 20, bits=max(1, min(each.bits, 8))))
            api.find_links(codes._replace(quantizer=each), graph._replace(n=20), 20, N, 10, scratch)
            one = np.zeros(1, np.int32), ends, sources, (0, 1)
            api.merge_links(codes._replace(quantizer=each), graph, 0, *one, scratch)
            assert whole()
            for array, old in zip(graph[:5], before, strict=True):
                np.testing.assert_array_equal(array, old)


# ---- floats that no vector has


PATTERNS = (0x7FC0_0000, 0xFFC0_0000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7F7F_FFFF, 0xFF7F_FFFF)
PATTERNS += (0, 0x8000_0000, 1, 0x8000_0001, 0x7F80_0001, 0xFF80_0001, 0x7E96_7699)  # and 1e38


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4]),
    damaged=st.lists(
        st.tuples(
            st.integers(0, N - 1),
            st.one_of(st.sampled_from(PATTERNS), st.integers(0, 2**32 - 1)),
            st.one_of(st.sampled_from(PATTERNS), st.integers(0, 2**32 - 1)),
        ),
        min_size=1,
        max_size=N,
    ),
    metric=st.sampled_from(METRICS),
    encoding=st.sampled_from(ENCODINGS),
    prune=st.sampled_from([0, 1]),
)
def test_any_floats_in_codes_are_survived(bits, damaged, metric, encoding, prune):
    check_survived(bits, damaged, metric, encoding, prune)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_codes_that_all_have_the_same_floats_are_survived(pattern, encoding):
    """Also where no estimate is a number, and all are as far as can be."""
    floats = (pattern, pattern), (pattern, 0x3F80_0000), (0x3F80_0000, pattern)
    some = INTERPRETED and not FULL
    for (low, high), metric in [(floats[pattern % 3], DOT)] if some else itertools.product(floats, METRICS):
        check_survived(1, [(row, low, high) for row in range(N)], metric, encoding, 1)


def check_survived(bits, damaged, metric, encoding, prune):
    """Scan, walk and link codes of which some floats are not as they were; rescore or not."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((N, DIM)).astype(np.float32)
    vectors[5:9] = vectors[5]  # a list of copies
    vectors[6] *= 3
    codes = encoded_as(corrected(bits, vectors.mean(0)), vectors, metric)
    sound = grown(codes, M, 20, some_levels(rng, N, 2), N - TAIL)
    for row, low, high in damaged:
        codes.words[row, -1] = low | high << 32
    query, accept, levels = vectors[:1].copy(), make_accept(None), some_levels(rng, N, 2)
    originals = naive.make_originals(vectors, layout.FLOAT32, metric)
    with np.errstate(all="ignore"):
        linked = grown(codes, M, 20, levels, N - TAIL)
        assert api.check_graph(linked) == 0
        for rescoring in (0, 1):
            way = make_settings(20, 25, 8, rescoring, encoding, prune)
            candidates, hits = make_candidates(1, 8), make_hits(1, 8)
            status, read = api.search_bits(query, codes, originals, accept, way, candidates, hits)
            assert status == layout.OK and read <= 8 * rescoring
            assert len(set(hits.ordinals[0].tolist()) - {-1}) == 8
            if not rescoring:
                order = list(zip(candidates.distances[0].tolist(), candidates.ordinals[0].tolist(), strict=True))
                assert order == sorted(order)
            for graph in (sound, linked):
                scratch, whole = fenced_scratch(make_scratch(N, 2, M, 25, 8, 8, DIM, codes.quantizer.bits))
                status = api.search_graph(query, codes, graph, originals, accept, way, scratch, hits)
                assert status in (layout.OK, layout.TOO_FEW) and whole()
                if status == layout.OK:
                    assert len(set(hits.ordinals[0].tolist())) == 8
                    assert hits.ordinals[0].min() >= 0 and hits.ordinals[0].max() < N
