"""Codes of a part of each vector: those of the part alone, whatever lies behind; rescored by the whole."""

from __future__ import annotations

import numpy as np
import pytest

from bqstore.index import warm_up
from bqstore.kernels import api, encode_query, layout
from bqstore.kernels.layout import BINARY, COSINE, EUCLID, ONE_AND_HALF_BITS, ONE_BIT, RABITQ, TWO_BITS
from bqstore.kernels.quantize import scale_to_unit
from tests import naive
from tests.kernels.given import (
    ENCODINGS,
    FORMS,
    INTERPRETED,
    METRICS,
    assert_code_hits,
    assert_hits,
    corrected,
    encoded_as,
    encoded_query,
    fenced,
    fenced_scratch,
    grown,
    make_accept,
    make_candidates,
    make_hits,
    make_scratch,
    make_settings,
    no_originals,
    parts_of,
    signs,
    some_levels,
    some_turns,
    three_levels,
    unit_vectors,
    whole_vectors,
)
from tests.kernels.test_rabitq_codes import assert_code

SIZES = [
    (1, 2),
    (1, 100),
    (2, 3),
    (63, 64),
    (64, 65),
    (64, 200),
    (65, 127),
    (100, 100),
]  # of the part, and of the whole
SIZES += [] if INTERPRETED else [(513, 1536), (256, 3072)]
KINDS = ("signs", "one and a half", "two", "corrected", "corrected, turned", "two corrected, turned", "four corrected")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
every_size = pytest.mark.parametrize(("dim", "size"), SIZES)


def quantizer_of(kind, dim, rng):
    """A quantizer of ``dim`` values."""
    mean, deviation = (0.1 * rng.standard_normal(dim)).astype(np.float32), rng.uniform(0.3, 1, dim).astype(np.float32)
    if kind == "signs":
        return signs(dim)
    if "corrected" not in kind:
        return three_levels(ONE_AND_HALF_BITS if kind == "one and a half" else TWO_BITS, mean, deviation)
    turns = some_turns(rng, dim) if "turned" in kind else None
    return corrected({"two": 2, "fou": 4}.get(kind[:3], 1), mean, turns)


def prefix(vectors, dim):
    """The first values of vectors, as vectors."""
    return np.ascontiguousarray(vectors[:, :dim])


def at_unit_length(vector):
    """As the kernel scales it, to the bit."""
    out = np.empty_like(vector)
    scale_to_unit(vector, out)
    np.testing.assert_allclose(out, naive.unit(vector, COSINE), rtol=1e-5, atol=1e-6)
    return out


@every_kind
@every_metric
@every_size
def test_codes_are_those_of_the_part(size, dim, metric, kind):
    rng = np.random.default_rng(size)
    quantizer = quantizer_of(kind, dim, rng)
    vectors = (rng.standard_normal((5, size)) * rng.choice([0.3, 1, 20], (5, 1))).astype(np.float32)
    words = encoded_as(quantizer, prefix(vectors, dim), metric).words
    out, untouched = fenced(np.full_like(words, 55))
    api.encode(vectors, quantizer, metric, out)
    np.testing.assert_array_equal(out, words)
    assert untouched()
    vectors[:, dim:] *= -7  # what lies behind is nothing to them
    np.testing.assert_array_equal(encoded_as(quantizer, vectors, metric).words if size == dim else out, words)
    api.encode(vectors, quantizer, metric, out)
    np.testing.assert_array_equal(out, words)
    for code, vector in zip(out, vectors, strict=True):
        part = naive.part(vector, dim, metric)
        if quantizer.kind == ONE_BIT:
            assert [naive.bit_of(code, j) for j in range(dim)] == (part > 0).tolist()
        elif quantizer.kind == RABITQ:
            assert_code(code, part.astype(np.float32), quantizer, metric)
        else:
            expected = naive.pack_three_levels(
                part.astype(np.float32)[None], quantizer.mean, quantizer.deviation, quantizer.kind
            )
            assert naive.hamming(code, expected[0]) <= 2  # values on a border, of a scale that was rounded otherwise


@every_kind
@every_metric
@every_encoding
@every_size
def test_queries_are_those_of_the_part(size, dim, encoding, metric, kind):
    """At unit length again under cosine; but nothing is known of how far the score of the whole may be."""
    rng = np.random.default_rng(size)
    quantizer = quantizer_of(kind, dim, rng)
    for query in rng.standard_normal((3, size)).astype(np.float32):
        query = at_unit_length(query) if metric == COSINE else query  # noqa: PLW2901
        part = query[:dim].copy()
        part = at_unit_length(part) if metric == COSINE and dim < size else part
        found, expected = (encoded_query(quantizer, each, encoding, metric) for each in (query, part))
        np.testing.assert_array_equal(found.planes[:encoding], expected.planes[:encoding])
        assert found._replace(planes=None, error=0) == expected._replace(planes=None, error=0)
        if dim == size:
            assert found.error == expected.error < np.inf
        elif quantizer.kind == RABITQ and encoding != BINARY:
            assert found.error == np.inf > expected.error


@every_metric
@pytest.mark.parametrize("rounds", [0, 4])
def test_scores_of_four_bits_are_nearly_those_of_the_part(rounds, metric):
    rng = np.random.default_rng(0)
    dim, size = 64, 100
    mean = (0.1 * rng.standard_normal(dim)).astype(np.float32)
    quantizer = corrected(4, mean, some_turns(rng, dim, rounds))
    vectors, query = (rng.standard_normal((n, size)).astype(np.float32) for n in (20, 1))
    vectors[7, :dim] = query[0, :dim]
    query = np.array([at_unit_length(query[0])]) if metric == COSINE else query
    codes, candidates, hits = encoded_as(quantizer, vectors, metric), make_candidates(1, 20), make_hits(1, 20)
    way = make_settings(encoding=layout.SCALAR_8_BITS)
    arrays = codes, no_originals(size, metric), make_accept(None), way, candidates, hits
    assert api.search_bits(query, *arrays) == (layout.OK, 0)
    part = naive.part(query[0], dim, metric)
    true = np.array([naive.true_score(part, naive.part(v, dim, metric), metric) for v in vectors])
    off = np.abs(hits.scores[0] - true[hits.ordinals[0]])
    off = off[1:] if metric == EUCLID else off  # but of the root of nearly nothing
    assert hits.ordinals[0, 0] == 7 or metric == layout.DOT
    assert off.max() < {COSINE: 0.08, layout.DOT: 0.05 * np.linalg.norm(part) ** 2, EUCLID: 0.8}[metric]


@every_kind
@every_metric
@every_encoding
def test_a_part_of_zeros_has_codes_and_scores(encoding, metric, kind):
    """It has no direction; its values behind have."""
    rng = np.random.default_rng(0)
    dim, size = 65, 90
    vectors = rng.standard_normal((6, size)).astype(np.float32)
    vectors[2, :dim] = 0
    vectors[3, :dim] = 1e-30  # squares of which are zeros
    query = np.zeros((1, size), np.float32)
    query[0, -1] = 1
    codes = encoded_as(quantizer_of(kind, dim, rng), vectors, metric)
    if codes.quantizer.kind == RABITQ:
        values, add, factor = parts_of(codes)
        assert np.isfinite(add).all() and np.isfinite(factor).all() and (np.abs(values) % 2 == 1).all()
    for row in (query[0], np.concatenate([np.full(dim, 1e-30, np.float32), query[0, dim:]])):
        hits, candidates = make_hits(1, 6), make_candidates(1, 6)
        arrays = (
            codes,
            no_originals(size, metric),
            make_accept(None),
            make_settings(encoding=encoding),
            candidates,
            hits,
        )
        assert api.search_bits(row[None].copy(), *arrays) == (layout.OK, 0)
        assert sorted(hits.ordinals[0].tolist()) == list(range(6)) and np.isfinite(hits.scores).all()


@every_kind
@every_metric
@every_encoding
def test_no_score_bound_is_known_of_the_whole(encoding, metric, kind):
    """Whatever is asked for: else a vector whose part is far and whose rest is near would be left unread."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((9, 80)).astype(np.float32)
    vectors[4] = 0  # of the corrected, without a factor where it is the mean
    quantizer = quantizer_of(kind, 70, rng)
    if quantizer.kind == RABITQ:
        vectors[4, :70] = quantizer.mean
    codes = encoded_as(quantizer, vectors, metric)
    query = at_unit_length(vectors[0])
    held = encoded_query(codes.quantizer, query, encoding, metric)
    whole = encoded_query(codes.quantizer, query[:70].copy(), encoding, metric)
    for ordinal in range(9):
        for distance in (0, 5, 1000):
            assert encode_query.score_bound(codes.words, ordinal, distance, held, metric, 1) == np.inf
    bounds = encode_query.score_bound(codes.words, 1, 1000, whole, metric, 1)
    assert (bounds == np.inf) == (quantizer.kind != RABITQ or encoding == BINARY)


@every_encoding
@every_metric
@pytest.mark.parametrize("kind", ["signs", "one and a half", "two"])
def test_a_scan_finds_the_nearest_of_the_part(kind, metric, encoding):
    rng = np.random.default_rng(1)
    for dim, size in ((64, 200), (65, 70), (1, 5)):
        # the part of a query is of length 1/2 or so, exactly: scaled it has whole numbers again
        vectors, part = whole_vectors(rng, 30, size), unit_vectors(rng, 1, dim)
        query = np.concatenate([part, np.zeros((1, size - dim), np.float32)], 1)
        codes = encoded_as(quantizer_of(kind, dim, rng), vectors, layout.DOT)
        candidates, hits, accept = make_candidates(1, 12), make_hits(1, 5), make_accept(rng.random(30) < 0.8)
        arrays = codes, no_originals(size, metric), accept, make_settings(encoding=encoding), candidates, hits
        assert api.search_bits(query, *arrays) == (layout.OK, 0)
        exact = part if metric != COSINE else np.array([at_unit_length(part[0])])
        near = naive.nearest_codes(exact[0], codes, accept, 12, encoding, metric)
        assert list(zip(candidates.distances[0], candidates.ordinals[0], strict=True))[: len(near)] == near
        assert_code_hits(hits, 0, exact[0], codes, [o for _, o in near[:5]], encoding, metric)


@every_kind
@every_metric
@pytest.mark.parametrize("form", FORMS)
def test_scan_and_walk_rescore_by_the_whole_and_read_every_candidate(form, metric, kind):
    """Sparing or not. Parts and wholes rank quite differently here."""
    n, dim, size, wide = 40 if INTERPRETED else 200, 20, 64, 12
    rng = np.random.default_rng(1)
    vectors, query = whole_vectors(rng, n, size), unit_vectors(rng, 1, size)
    query /= np.float32(8) if metric == COSINE else np.float32(1)
    codes, originals = (
        encoded_as(quantizer_of(kind, dim, rng), vectors, metric),
        naive.make_originals(vectors, form, metric),
    )
    graph = grown(codes, 4, 30, some_levels(rng, n, 3), n - 5)
    assert api.check_graph(graph) == 0
    for encoding in ENCODINGS:
        for prune in (0, 1):
            way = make_settings(n, n, wide, 1, encoding, prune)
            candidates, scanned, walked = make_candidates(1, wide), make_hits(1, 5), make_hits(1, 5)
            found = api.search_bits(query, codes, originals, make_accept(None), way, candidates, scanned)
            assert found == (layout.OK, wide)
            assert_hits(scanned, 0, naive.best_scores(query[0], originals, candidates.ordinals[0].tolist(), 5))
            scratch, untouched = fenced_scratch(
                make_scratch(n, codes.quantizer.width, 4, n, wide, 5, size, codes.quantizer.bits)
            )
            status = api.search_graph(query, codes, graph, originals, make_accept(None), way, scratch, walked)
            assert status == layout.OK and untouched() and scratch.counters[layout.COUNT_RESCORED] == wide
            assert walked.ordinals.tolist() == scanned.ordinals.tolist()
            assert walked.scores.tolist() == scanned.scores.tolist()
            # and told as what may be read ahead: nothing is out of reach
            told = make_hits(1, wide)
            way = make_settings(n, n, wide, 0, encoding, 1)
            api.search_bits(query, codes, originals, make_accept(None), way, candidates, told)
            assert (told.scores == np.inf).all()


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_nothing_is_compiled_a_second_time():
    warm_up()
    rng = np.random.default_rng(0)
    for kind in KINDS:
        codes = encoded_as(quantizer_of(kind, 10, rng), rng.standard_normal((4, 30)).astype(np.float32))
        encoded_query(codes.quantizer, np.ones(30, np.float32), layout.SCALAR_4_BITS)
    assert [len(root.signatures) for root in api.ROOTS] == [1] * len(api.ROOTS)
