"""Minimal arguments of every root, by name, which define the types that it is compiled for."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    shifts_of,
    words_per_plane,
    words_per_record,
)


def examples() -> dict[str, list[tuple[Any, ...]]]:
    """Arguments for each version of each root; a call with them is harmless."""
    return {**_of_vectors(), **_of_the_graph(), **_of_metadata()}


def _codes(n: int) -> Codes:
    nothing = np.zeros(0, np.float32)
    turns, scales, linking = np.zeros((0, 1), np.float32), np.zeros(2, np.float32), np.zeros(3, np.float32)
    quantizer = Quantizer(ONE_BIT, 1, 1, 1, 1, nothing, nothing, turns, scales, linking, shifts_of(1, 1))
    return Codes(np.zeros((2, words_per_plane(1)), np.uint64), n, quantizer)


def _search() -> tuple[Any, Originals, Accept, SearchSettings, Hits]:
    records = np.zeros((0, words_per_record(1, FLOAT32)), np.uint32)
    records.flags.writeable = False
    settings = SearchSettings(ef=1, max_beam=1, candidates=1, rescoring=0, encoding=BINARY, prune=0)
    hits = Hits(np.empty((1, 1), np.int32), np.empty((1, 1), np.float32))
    return (
        np.ones((1, 1), np.float32),
        Originals(records, 1, FLOAT32, COSINE),
        Accept(np.zeros(1, np.uint64), 1),
        settings,
        hits,
    )


def _of_vectors() -> dict[str, list[tuple[Any, ...]]]:
    queries, originals, accept, settings, hits = _search()
    candidates = Candidates(np.full((1, 1), -1, np.int32), np.full((1, 1), -1, np.int32), np.zeros(1, np.int64))
    codes = _codes(1)
    return {
        "prepare": [(queries, COSINE, queries.copy())],
        "encode": [(queries, codes.quantizer, COSINE, codes.words)],
        "search_exact": [(queries, originals, 0, accept, hits)],
        "search_bits": [(queries, codes, originals, accept, settings, candidates, hits)],
        "rescore": [(queries, originals, 0, candidates, np.zeros((1, 1), np.float32), 1, hits)],
    }


def _of_the_graph() -> dict[str, list[tuple[Any, ...]]]:
    queries, originals, accept, settings, hits = _search()
    graph = Graph(
        links=np.full((2, 4), -1, np.int32),
        upper=np.zeros((0, 2), np.int32),
        first=np.full(2, -1, np.int32),
        levels=np.zeros(2, np.uint8),
        same=np.full(2, -1, np.int32),
        n=1,
        entry=0,
        top=0,
        seeds=np.zeros(1, np.int32),
        seed_signs=np.zeros((1, 1), np.uint64),
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
    codes, targets = _codes(2), np.zeros(1, np.int32)
    return {
        "find_links": [(codes, graph, 1, 2, 4, scratch)],
        "merge_links": [(codes, graph, 0, targets, np.array([0, 1]), np.ones(1, np.int32), (0, 1), scratch)],
        "search_graph": [(queries, codes, graph, originals, accept, settings, scratch, hits)],
        "check_graph": [(graph,)],
    }


def _of_metadata() -> dict[str, list[tuple[Any, ...]]]:
    kinds, table = np.zeros(1, np.uint8), np.zeros(1, np.uint8)
    values, heap, members = np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int32)
    one = np.zeros(1, np.int32)
    codes = (np.zeros(1, dtype) for dtype in (np.uint8, np.uint16, np.uint32))
    return {
        "spread": [(each, table, np.zeros(1, np.uint64)) for each in codes],
        "sift": [(np.zeros(1, np.uint32), np.zeros(1 << 16, np.uint8), one)],
        "numbers_between": [(kinds, values, 0, 0, np.zeros(2), table)],
        "strings_between": [(kinds, values, heap, heap, 0, heap, 0, table)],
        "strings_like": [(kinds, values, heap, np.zeros(1, np.int16), False, table)],
        "any_member": [(kinds, values, members, table, True, np.zeros(1, np.uint8))],
        "every_member": [(kinds, values, members, one, one, table)],
    }
