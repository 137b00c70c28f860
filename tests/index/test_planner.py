"""Which way a search goes: the planner's arithmetic."""

import math

import numpy as np
import pytest

from bqstore.index import Plan, plan

N = 100_000
BASE = {
    **{"n": N, "linked": N, "accepted": N, "dim": 1536, "k": 10, "oversampling": 3.0, "rescore": True},
    **{"hnsw_ef": None, "planes": 1, "bits": 1, "width": 24, "m": 16, "ef_construct": 128},
    **{"exact": False, "full_scan_threshold": 10_000, "originals": True},
}


def planned(**changes):
    return plan(**{**BASE, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Plan("scan", True, 30)),
        ({"oversampling": 1.1}, Plan("scan", True, 11)),
        ({"k": 3, "oversampling": 1.5}, Plan("scan", True, 5)),
        ({"k": 7, "oversampling": 1.0}, Plan("scan", True, 7)),
        ({"k": 9000}, Plan("scan", True, 10_000)),
        ({"oversampling": 1e300}, Plan("scan", True, 10_000)),
        ({"oversampling": math.inf}, Plan("scan", True, 10_000)),
        ({"rescore": False}, Plan("scan", False, 10)),
        ({"rescore": False, "oversampling": math.inf}, Plan("scan", False, 10)),
        ({"exact": True}, Plan("exact", False, 0)),
        ({"accepted": 1666}, Plan("exact", False, 0)),  # 10,000 KB of 1,536 float32
        ({"accepted": 1667}, Plan("scan", True, 30)),
        ({"accepted": 1, "full_scan_threshold": 0}, Plan("scan", True, 30)),
        ({"accepted": 1, "originals": False}, Plan("scan", False, 10)),
        ({"exact": True, "originals": False}, Plan("scan", False, 10)),
    ],
)
def test_without_a_graph_codes_or_originals_are_scanned(changes, expected):
    assert planned(n=10_000, linked=0, **{"accepted": 10_000, **changes}) == expected


@pytest.mark.parametrize(
    ("changes", "ef"),
    [
        ({}, 128),  # ef_construct
        ({"k": 60}, 360),  # twice the candidates
        ({"k": 60, "rescore": False}, 128),
        ({"hnsw_ef": 64}, 64),
        ({"hnsw_ef": 5}, 30),  # not fewer than the candidates
        ({"hnsw_ef": 500}, 500),
        ({"originals": False}, 128),
        ({"planes": 4}, 128),
        ({"planes": 8}, 128),
        ({"ef_construct": 40}, 60),
    ],
)
def test_a_large_graph_is_walked_in_a_beam_of_ef(changes, ef):
    rescoring = changes.get("originals", True) and changes.get("rescore", True)
    candidates = changes.get("k", 10) * (3 if rescoring else 1)
    assert planned(**changes) == Plan("walk", rescoring, candidates, ef, ef)


@pytest.mark.parametrize("accepted", [N - 1, N // 2, N // 4])
def test_a_filter_widens_the_room_and_not_the_beam(accepted):
    assert planned(accepted=accepted, hnsw_ef=40) == Plan("walk", True, 30, 40, 2 * math.ceil(40 * N / accepted))


def test_the_same_filter_is_a_scan_where_few_are_left_and_a_walk_where_many_are():
    assert planned(accepted=N // 10, hnsw_ef=40).way == "scan"
    assert planned(n=100 * N, linked=100 * N, accepted=10 * N, hnsw_ef=40) == Plan("walk", True, 30, 40, 800)


@pytest.mark.parametrize("accepted", [6249, 1000, 200, 100, 30, 29, 1])
def test_a_filter_that_leaves_less_than_a_sixteenth_is_a_scan(accepted):
    assert planned(accepted=accepted, full_scan_threshold=0) == Plan("scan", True, 30)


@pytest.mark.parametrize("linked", [0, 1, N // 50])
def test_a_graph_of_a_small_part_is_a_scan(linked):
    assert planned(linked=linked).way == "scan"


@pytest.mark.parametrize("linked", [N // 2, N - 1000])
def test_a_tail_is_scanned_after_a_walk(linked):
    assert planned(linked=linked).way == "walk"


@pytest.mark.parametrize("accepted", [N, N - 1, N // 2, 10_000, 9_999])
@pytest.mark.parametrize("oversampling", [1.0, 3.0, 1e300, math.inf])
@pytest.mark.parametrize("hnsw_ef", [None, 10, 1_000_000])
def test_as_many_as_can_be_asked_for(accepted, oversampling, hnsw_ef):
    found = planned(k=10_000, oversampling=oversampling, hnsw_ef=hnsw_ef, accepted=accepted)
    candidates = min(N, 10_000 * oversampling)
    assert found == Plan("scan", True, candidates) or (found.way == "walk" and found.candidates == candidates)
    if not math.isfinite(oversampling):
        assert found == Plan("scan", True, N)


def test_a_beam_as_wide_as_what_is_accepted_is_a_scan():
    assert planned(hnsw_ef=N).way == "scan"
    assert planned(hnsw_ef=N // 2, accepted=N // 2).way == "scan"


def test_small_graphs_are_scanned_and_large_ones_walked_once_and_for_all():
    for dim in (64, 384, 1536, 3072):
        for planes in (1, 4, 8):
            ways = [
                planned(n=n, linked=n, accepted=n, dim=dim, planes=planes, width=dim // 64, full_scan_threshold=0).way
                for n in (10, 100, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
            ]
            assert ways[0] == "scan" and ways[-1] == "walk"
            assert ways == sorted(ways), (dim, planes)  # "scan" comes before "walk" in the alphabet, too


def test_codes_of_more_words_are_walked_sooner_and_a_plane_counts_as_words_do():
    """A scan reads all of every code; what a walk reads of it costs no more than that."""
    for planes in (1, 4, 8):
        turning = []
        for bits, width in ((1, 6), (1, 24), (2, 24), (4, 24), (4, 48)):
            sizes = [int(500 * 1.1**i) for i in range(90)]
            kinds = {"planes": planes, "bits": bits, "width": width, "full_scan_threshold": 0}
            ways = [planned(n=n, linked=n, accepted=n, **kinds).way for n in sizes]
            assert ways == sorted(ways) and ways[-1] == "walk"
            turning.append(sizes[ways.index("walk")])
        assert turning == sorted(turning, reverse=True)
        alike = [planned(n=n, linked=n, accepted=n, planes=planes, bits=4, width=6).way for n in sizes]
        assert alike == [planned(n=n, linked=n, accepted=n, planes=planes, bits=1, width=24).way for n in sizes]


def test_every_plan_can_be_carried_out():
    """What the kernels ask of their callers, whatever is asked for."""
    rng = np.random.default_rng(0)
    for _ in range(3000):
        n = int(10 ** rng.uniform(0, 6))
        accepted = int(rng.integers(1, n + 1))
        changes = {
            "n": n,
            "accepted": n if rng.random() < 0.3 else accepted,
            "linked": int(rng.choice([0, n, n // 2, n - n // 100])),
            "dim": int(rng.choice([1, 64, 384, 3072])),
            "k": int(rng.choice([1, 10, 1000, 10_000])),
            "oversampling": float(rng.choice([1, 1.5, 3, 50, math.inf])),
            "rescore": bool(rng.random() < 0.5),
            "hnsw_ef": None if rng.random() < 0.5 else int(10 ** rng.uniform(0, 6)),
            "planes": int(rng.choice([1, 4, 8])),
            "bits": int(rng.choice([1, 2, 4])),
            "width": int(rng.choice([1, 6, 48, 256])),
            "m": int(rng.choice([2, 16, 512])),
            "full_scan_threshold": int(rng.choice([0, 10_000])),
        }
        found = planned(**changes)
        if found.way == "exact":
            assert changes["full_scan_threshold"]
            continue
        assert min(changes["k"], n) <= found.candidates <= n
        if found.way == "walk":
            assert changes["linked"] > 0
            assert 1 <= found.candidates <= found.ef <= found.room <= n
            assert found.candidates <= changes["accepted"]
            assert all(type(value) is int for value in (found.candidates, found.ef, found.room))
