"""One call of every root with the smallest arguments of its types: that compiles it, or loads it from numba's cache."""

from __future__ import annotations

import numpy as np

from bqstore.kernels import api, metadata
from bqstore.kernels.layout import (
    BINARY,
    COSINE,
    FLOAT32,
    ONE_BIT,
    Accept,
    Candidates,
    Codes,
    Graph,
    Hits,
    Originals,
    Quantizer,
    Scratch,
    SearchSettings,
    words_per_plane,
    words_per_record,
)


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, so that no later call waits for it.

    >>> import bqstore
    >>> bqstore.warm_up()
    """
    _warm_up_vectors()
    _warm_up_metadata()


def _warm_up_vectors() -> None:
    """Call the roots of `api` on two vectors of one dimension."""
    queries = np.ones((1, 1), np.float32)
    words = np.zeros((2, words_per_plane(1)), np.uint64)
    nothing = np.zeros(0, np.float32)
    quantizer = Quantizer(ONE_BIT, 1, 1, 1, 1, nothing, nothing, np.zeros((0, 1), np.float32), np.zeros(2, np.float32))
    records = np.zeros((0, words_per_record(1, FLOAT32)), np.uint32)
    records.flags.writeable = False
    originals = Originals(records, 1, FLOAT32, COSINE)
    accept = Accept(np.zeros(1, np.uint64), 1)
    candidates = Candidates(np.empty((1, 1), np.int32), np.empty((1, 1), np.int32), np.empty(1, np.int64))
    hits = Hits(np.empty((1, 1), np.int32), np.empty((1, 1), np.float32))
    settings = SearchSettings(ef=1, max_beam=1, candidates=1, rescoring=0, encoding=BINARY, prune=0)
    api.prepare(queries, COSINE, queries)
    api.encode(queries, quantizer, COSINE, words)
    api.search_bits(queries, Codes(words, 1, quantizer), originals, accept, settings, candidates, hits)
    api.search_exact(queries, originals, 0, accept, hits)
    candidates.counts[0] = 0
    api.rescore(queries, originals, 0, candidates, np.zeros((1, 1), np.float32), 1, hits)
    graph = Graph(
        links=np.full((2, 4), -1, np.int32),
        upper=np.zeros((0, 2), np.int32),
        first=np.full(2, -1, np.int32),
        levels=np.zeros(2, np.uint8),
        same=np.full(2, -1, np.int32),
        n=1,
        entry=0,
        top=0,
    )
    scratch = Scratch(
        visited=np.zeros(2, np.uint8),
        keys=np.zeros(16, np.int64),
        rows=np.zeros(16, np.int32),
        distances=np.zeros(16, np.int32),
        found=np.zeros(1, np.int32),
        bounds=np.zeros(1, np.float32),
        best=np.zeros((1, 1), np.int64),
        query=np.zeros((1, 1), np.float32),
        rotated=np.zeros(64, np.float32),
        planes=np.zeros((8, 1), np.uint64),
        levels=np.zeros(64, np.uint8),
        bridges=np.zeros(4, np.int32),
        counters=np.zeros(8, np.int64),
    )
    api.check_graph(graph)
    codes = Codes(words, 2, quantizer)
    api.find_links(codes, graph, 1, 2, 4, scratch)
    api.merge_links(codes, graph, 0, np.zeros(1, np.int32), np.array([0, 1]), np.ones(1, np.int32), (0, 1), scratch)
    api.search_graph(queries, codes, graph, originals, accept, settings, scratch, hits)


def _warm_up_metadata() -> None:
    """Call the roots of `metadata` on a column of one entry."""
    kinds, table = np.zeros(1, np.uint8), np.zeros(1, np.uint8)
    values, heap, members = np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int32)
    for dtype in (np.uint8, np.uint16, np.uint32):
        metadata.spread(np.zeros(1, dtype), table, np.zeros(1, np.uint64))
    metadata.sift(np.zeros(1, np.uint32), np.zeros(1 << 16, np.uint8), np.zeros(1, np.int32))
    metadata.numbers_between(kinds, values, 0, 0, np.zeros(2), table)
    metadata.strings_between(kinds, values, heap, heap, 0, heap, 0, table)
    metadata.strings_like(kinds, values, heap, np.zeros(1, np.int16), False, table)
    metadata.any_member(kinds, values, members, table, True, np.zeros(1, np.uint8))
    metadata.every_member(kinds, values, members, np.zeros(1, np.int32), np.zeros(1, np.int32), table)
