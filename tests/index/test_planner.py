"""Which way a search goes: the planner's arithmetic."""

import math
from collections import Counter
from itertools import product

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
    assert planned(n=N // 4, linked=N // 4, accepted=N // 40, hnsw_ef=40).way == "scan"
    assert planned(n=100 * N, linked=100 * N, accepted=10 * N, hnsw_ef=40) == Plan("walk", True, 30, 40, 800)


@pytest.mark.parametrize("accepted", [6249, 1000, 200, 100, 30, 29, 1])
def test_a_filter_that_leaves_less_than_a_sixteenth_is_a_scan(accepted):
    assert planned(accepted=accepted, full_scan_threshold=0) == Plan("scan", True, 30)


def test_a_thousand_of_few_dimensions_were_scanned_by_signs_that_hardly_tell_them_apart():
    """Most of the originals were read then, each at its own place, and .93 of the nearest found. More are scanned."""
    changes = {"n": 200_000, "linked": 200_000, "dim": 64, "filtered": True, "adaptive": True, "signs": True}
    changes |= {"bits": 2, "width": 1}
    assert planned(**changes, accepted=1000) == Plan("exact", False, 0)
    assert planned(**changes, accepted=2000).way == "scan"
    assert planned(**{**changes, "signs": False}, accepted=1000).way == "scan"


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


def test_where_many_share_no_more_than_signs_nothing_is_walked():
    """As if nothing were linked, with a filter and without."""
    for share in (1, 0.9, 0.3, 0.05):
        for changes in ({}, {"adaptive": True}, {"hnsw_ef": 64}, {"filtered": False}):
            walked, unlinked = filtered(share, **changes), filtered(share, linked=0, **changes)
            if share == 1 or changes.get("filtered", True):
                assert walked.way == "walk"
            assert unlinked.way == "scan"
            for alike in (0, 1, BIG // 8):
                assert filtered(share, alike=alike, **changes) == walked
            for alike in (BIG // 8 + 1, BIG // 4, BIG):
                assert filtered(share, alike=alike, **changes) == unlinked
    assert planned(linked=N // 2, alike=N // 16).way == "walk"
    assert planned(linked=N // 2, alike=N // 16 + 1).way == "scan"
    assert planned(alike=N, exact=True).way == "exact"


def test_walks_of_the_usual_width_missed_a_tenth_where_wide_ones_miss_a_hundredth():
    """Wide ones are planned there, unless a width is given, and where they take longer than a scan, that."""
    few = {"n": 8000, "linked": 8000, "accepted": 8000, "full_scan_threshold": 0}
    assert planned(**few).way == "walk"
    for narrow in (0, 40):
        assert planned(narrow=narrow) == planned() and planned(narrow=narrow, **few) == planned(**few)
    for narrow in (41, 1000):
        assert planned(narrow=narrow) == planned(narrow=narrow, missed=12) == Plan("walk", True, 30, 512, 512)
        assert planned(narrow=narrow, k=300) == planned(k=300)
        assert planned(narrow=narrow, hnsw_ef=64) == planned(hnsw_ef=64)
        assert planned(narrow=narrow, **few).way == "scan"
    assert planned(narrow=41, missed=13, hnsw_ef=64).way == "scan"


def test_walks_of_the_usual_width_that_missed_four_in_a_hundred_were_planned():
    """Twice that width is, where a trial asks for it, and no width is given; filtered ones are wider, too."""
    for narrow in (0, 40):
        assert planned(narrow=narrow, times=2) == Plan("walk", True, 30, 256, 256)
        assert planned(narrow=narrow, times=2, hnsw_ef=64) == planned(hnsw_ef=64)
        assert planned(narrow=narrow, times=2, k=300) == planned(k=300)
    assert planned(narrow=41, times=2) == planned(narrow=41)
    assert planned(missed=13, times=2).way == "scan"


def test_what_is_shorter_than_the_rest_was_walked_for():
    """Whatever width is asked for; what is small is scored exactly, as ever."""
    for more in ({}, {"accepted": N // 2}, {"accepted": N // 2, "filtered": True}, {"hnsw_ef": 64}):
        assert planned(**more).way == "walk"
        assert (
            planned(shorter=True, **more) == planned(linked=0, **more) and planned(shorter=True, **more).way == "scan"
        )
    assert planned(exact=True, shorter=True).way == "exact"


# ---- under a filter

BIG = 10 * N
SHARES = (1, 0.99, 0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.04, 0.03, 0.02, 0.01, 1e-3, 1e-4, 1e-5)


def filtered(share, n=BIG, **changes):
    return planned(**{"n": n, "linked": n, "accepted": int(share * n), "filtered": True, "planes": 4, **changes})


def kind_of(found):
    """What a plan is, in the order in which the accepted grow fewer."""
    return (
        "through" if found.way == "walk" and not found.accepted_only else "inside" if found.way == "walk" else found.way
    )


ORDER = ("through", "inside", "scan", "exact")


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1, "through"), (0.9, "through"), (0.5, "through"), (0.3, "through"), (0.05, "inside"), (0.04, "inside")]
    + [(0.03, "scan"), (0.01, "scan"), (0.002, "scan"), (0.001, "exact"), (1e-6, "exact")],
)
def test_which_plan_at_which_share(share, expected):
    """Of a million: through all where many are accepted, inside them where some are, and else their codes."""
    assert kind_of(filtered(share)) == expected


@pytest.mark.parametrize("n", [10_000, 30_000, N, BIG, 10 * BIG])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hnsw_ef": 64},
        {"hnsw_ef": 300},
        {"k": 100},
        {"planes": 1},
        {"planes": 8, "bits": 4},
        {"width": 6},
        {"m": 64},
    ]
    + [{"rescore": False}, {"adaptive": True}, {"adaptive": True, "signs": True}, {"full_scan_threshold": 0}],
)
def test_the_fewer_are_accepted_the_more_of_them_are_scanned(n, changes):
    kinds = [ORDER.index(kind_of(filtered(share, n, **changes))) for share in SHARES if share * n >= 1]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("share", [1, 0.5, 0.2, 0.05])
@pytest.mark.parametrize("changes", [{}, {"hnsw_ef": 64}, {"adaptive": True}])
def test_the_more_there_are_the_sooner_they_are_walked(share, changes):
    ways = [filtered(share, int(1000 * 1.3**i), full_scan_threshold=0, **changes).way for i in range(45)]
    assert ways[0] == "scan" and ways[-1] == "walk"
    assert ways == sorted(ways)


@pytest.mark.parametrize("ef", [40, 64, 500])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_a_width_that_was_asked_for_is_kept(share, ef):
    found = filtered(share, 10 * BIG, hnsw_ef=ef)
    assert found.way == "walk" and found.ef == ef
    assert found.max_beam == ef if found.accepted_only else found.max_beam >= ef / share  # those between them, too


@pytest.mark.parametrize("k", [1, 10, 100])
def test_a_width_that_was_not_asked_for_holds_the_candidates(k):
    """More than they are, so that the nearest are among those that are kept."""
    for share in SHARES:
        found = filtered(share, k=k)
        if found.way == "walk":
            assert found.ef >= (2 if found.accepted_only else 1.2) * found.candidates
            assert found.ef <= max(128, 2 * found.candidates) or share < 1


def test_a_room_that_holds_the_accepted_ones_of_the_beam():
    """The others are met between them, so many for each."""
    for share in SHARES:
        found = filtered(share)
        if kind_of(found) == "through":
            assert found.max_beam >= min(BIG, found.ef / share)


def test_where_the_filter_goes_against_the_query():
    """A wider beam inside, if that costs less than the scan that is sure; in a small set it does not."""
    for share in (0.5, 0.3, 0.2):
        found = filtered(share)
        assert found.ef_sparse > max(found.candidates, 64)
        assert filtered(share, 20_000, full_scan_threshold=0).ef_sparse == 0
        assert filtered(share, 10 * BIG).ef_sparse >= found.ef_sparse
    plans = [filtered(share) for share in SHARES]
    some = [found.ef_sparse > 0 for found in plans if found.way == "walk"]
    assert some == sorted(some, reverse=True)


FOUR_BITS_OF_384 = {"adaptive": True, "dim": 384, "width": 6, "bits": 4, "planes": 8}
ONE_BIT_OF_1536 = {"adaptive": True, "dim": 1536, "width": 24, "bits": 1, "planes": 4}


def test_a_filter_against_the_query_had_a_fourth_of_all_scanned_where_a_walk_inside_takes_less():
    """At 100,000 vectors of 1,536 dimensions, a fourth or more accepted, searches took four to five times as long."""
    for share in (0.25, 0.3, 0.5):
        found = filtered(share, 100_000, **ONE_BIT_OF_1536)
        assert found.way == "walk" and found.ef_sparse >= 2 * found.candidates


@pytest.mark.parametrize("codes", [FOUR_BITS_OF_384, ONE_BIT_OF_1536], ids=["four bits", "one bit"])
def test_a_walk_inside_found_883_of_a_tenth_against_the_query(codes):
    """Of topics, four bits at 384 dimensions; a scan finds all, and takes less time than the walk did."""
    for share in (0.05, 0.08, 0.1):
        assert filtered(share, 100_000, **codes).way == "scan"
    for share in (0.15, 0.2):  # a walk where the filter goes along with the query or is independent of it
        found = filtered(share, 100_000, **codes)
        assert kind_of(found) == "through" and found.ef_sparse == 0
        assert found.sparse_below > 0.75 * 1024 * share
    assert filtered(0.15, 10**6, **codes).ef_sparse >= 400


def test_a_walk_ends_early_where_no_width_was_asked_for():
    """At 15 and 20% a scan is quicker than a wide walk, but where the nearest stand out."""
    for share in (0.15, 0.2):
        found = filtered(share, 100_000, **FOUR_BITS_OF_384)
        assert found.settled == 10 and found.ef_settled >= 2 * found.candidates
    for share, k in ((0.15, 10), (0.3, 25), (0.5, 1)):
        assert filtered(share, 100_000, k=k, **FOUR_BITS_OF_384).settled == max(10, k)
        asked = filtered(share, 100_000, k=k, hnsw_ef=100, **FOUR_BITS_OF_384)
        assert asked.settled == asked.ef_settled == 0
    assert filtered(0.5, 100_000, **FOUR_BITS_OF_384).ef_settled == 0


def test_a_walk_inside_is_left_where_a_scan_is_quicker():
    """The fewer are accepted, the sooner; the larger the collection, the later."""
    limits = [filtered(share, 100_000, **FOUR_BITS_OF_384).most_distances for share in (0.15, 0.25, 0.5, 0.75)]
    assert limits == sorted(limits) and limits[0] > 0
    assert filtered(0.5, 10**6, **FOUR_BITS_OF_384).most_distances > 5 * limits[2]


def test_where_the_filter_is_dense_around_the_query():
    """A beam through all: half of what it meets is accepted, however few are elsewhere."""
    for share in SHARES:
        found = filtered(share)
        if found.way == "walk":
            assert found.ef_dense >= 128
    assert filtered(0.3, hnsw_ef=300).ef_dense > filtered(0.3, hnsw_ef=30).ef_dense


def test_sparse_below_falls_with_the_share():
    rare = [found.sparse_below for found in map(filtered, SHARES) if found.way == "walk"]
    assert rare == sorted(rare, reverse=True)
    assert rare[-1] >= 1 and rare[0] < 1024


def test_deletion_alone_is_no_filter():
    """Those that are left lie everywhere: nothing is to be guarded against."""
    for share in SHARES:
        found = planned(n=BIG, linked=BIG, accepted=int(share * BIG), adaptive=True, signs=True)
        assert found == planned(n=BIG, linked=BIG, accepted=int(share * BIG))
        assert (found.accepted_only, found.ef_sparse, found.ef_dense, found.sparse_below) == (False, 0, 0, 0)
        assert found.max_candidates == found.candidates


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05, 0.02])
def test_more_candidates_where_they_may_bring_more(share):
    """Under a filter, when the plan may choose, and they are rescored; of signs alone more than of estimates."""
    alone, more, signs = (
        filtered(share, **changes).max_candidates
        for changes in ({}, {"adaptive": True}, {"adaptive": True, "signs": True})
    )
    assert alone == 30 < more <= signs
    assert filtered(share, signs=True).max_candidates == 30
    for changes in ({"rescore": False}, {"originals": False}):
        assert filtered(share, adaptive=True, signs=True, **changes).max_candidates == 10
    if share < 1 / 32:
        assert more < signs


def test_few_accepted_are_scanned_exactly_or_more_of_them_looked_at():
    """Adaptive: where the originals of all of them cost more than what a scan of their codes and more originals do."""
    kinds = [kind_of(filtered(count / BIG, adaptive=True)) for count in (1, 30, 60, 1600, 1666, 1667)]
    assert kinds[:2] == ["exact"] * 2 and kinds[3:] == ["scan"] * 3
    assert filtered(1600 / BIG, adaptive=True).max_candidates > 30
    assert filtered(1600 / BIG).way == "exact" and filtered(1667 / BIG).way == "scan"


def test_a_small_set_is_scanned_exactly_whatever_the_filter():
    for share in (1, 0.5, 0.01):
        for adaptive in (False, True):
            assert filtered(share, 1600, adaptive=adaptive) == Plan("exact", False, 0)
            assert filtered(share, BIG, adaptive=adaptive, exact=True) == Plan("exact", False, 0)


def test_of_more_candidates_than_are_accepted_all_are_scanned():
    for share in (0.5, 0.01):
        for most in ({}, {"adaptive": True}, {"adaptive": True, "signs": True}):
            found = filtered(share, oversampling=math.inf, full_scan_threshold=0, **most)
            assert found.way == "scan" and found.candidates == BIG == found.max_candidates


@pytest.mark.parametrize("linked", [0, 1, BIG // 100])
def test_a_filter_on_a_graph_of_a_small_part_is_a_scan(linked):
    for share in (0.9, 0.3, 0.05):
        assert filtered(share, linked=linked).way == "scan"


def test_a_plan_looks_at_its_candidates_at_least():
    assert Plan("scan", True, 30).max_candidates == 30
    assert Plan("scan", True, 30, max_candidates=7).max_candidates == 30
    assert Plan("scan", True, 30, max_candidates=31).max_candidates == 31
    assert Plan("scan", True, 30) == Plan("scan", True, 30, max_candidates=30)


def accepted_bytes(changes):
    return changes["accepted"] * changes["dim"] * 4


def test_every_plan_can_be_carried_out():
    """What the kernels ask of their callers, whatever is asked for."""
    rng, kinds = np.random.default_rng(0), Counter()
    for _ in range(10_000):
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
            **{name: bool(rng.random() < 0.5) for name in ("filtered", "adaptive", "signs")},
        }
        found = planned(**changes)
        kinds[kind_of(found), changes["filtered"]] += 1
        more = changes["filtered"] and changes["adaptive"] and changes["rescore"]
        if found.way == "exact":
            assert accepted_bytes(changes) <= changes["full_scan_threshold"] * 1024
            continue
        assert min(changes["k"], n) <= found.candidates <= found.max_candidates <= n
        assert found.scan_candidates <= found.candidates * (1 if not more else 10 if changes["signs"] else 4)
        assert found.candidates <= found.scan_candidates and found.max_candidates <= 4 * found.scan_candidates
        assert found.rescoring == changes["rescore"]
        numbers = (
            found.candidates,
            found.max_candidates,
            found.ef,
            found.max_beam,
            found.ef_sparse,
            found.ef_dense,
            found.sparse_below,
        )
        assert all(type(value) is int for value in numbers) and type(found.accepted_only) is bool
        if found.way == "scan":
            assert numbers[2:] == (0, 0, 0, 0, 0) and not found.accepted_only
            continue
        assert changes["linked"] > 0
        assert 1 <= found.candidates <= found.ef <= found.max_beam <= n
        assert found.max_candidates <= max(found.ef, found.ef_sparse, found.ef_dense)  # a beam holds what is looked at
        assert found.ef <= changes["accepted"]
        if not changes["filtered"]:
            assert (found.accepted_only, *numbers[4:]) == (False, 0, 0, 0)
            continue
        assert found.ef == found.max_beam or not found.accepted_only
        assert found.ef_sparse == 0 or found.candidates <= found.ef_sparse <= changes["accepted"]
        assert found.candidates <= found.ef_dense <= changes["accepted"]
        assert 1 <= found.sparse_below <= 1024
    assert min(kinds[each] for each in product(ORDER, (False, True)) if each != ("inside", False)) > 10
