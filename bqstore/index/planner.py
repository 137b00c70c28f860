"""Choose how a search runs: exact, by a scan, or by a walk. Holds the cost model; knows counts, no arrays."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

EXACT, SCAN, WALK = "exact", "scan", "walk"

# Nanoseconds, measured by tests/benchmarks/graph.py on codes of 384 to 3,072 bits; only their ratios matter.
_SCAN = 5000.0  # a scan, whatever its length
_SCAN_CODE, _SCAN_WORD = 1.2, 0.12  # a code of a scan: fixed, and for each word and plane
_WALK_CODE, _WALK_WORD = 10.0, 0.3  # a distance in a walk, likewise; most of it is cache misses
_PLANES = {1: 1.0, 4: 1.7, 8: 2.6}  # the factor for a word against several planes
# distances of a walk at m = 16 and 100,000 nodes: 250 + 9 ef; the first part grows with log n
_DESCENT, _PER_BEAM = 50.0, 9.0
# the largest beam, in nodes for each accepted one; under a filter that accepts fewer a scan is faster
_MAX_BEAM = 16
# Under a filter: what a code costs more in a scan that skips others (half of it where it skips few), and the smallest
# share of accepted nodes at which they are still connected through bridges.
_SKIPPING, _LEAST_SHARE = 4.0, 1 / 32
# a node of an accepted-only beam (tests/benchmarks/filters.py): its bridges, if all neighbors are, and its distances,
# usually so many, each of which costs more than in other walks: most of them enter the beam
_BRIDGES, _ACCEPTED, _ENTERING = 1200.0, 30, 1.25
_WIDE_UP_TO = 1 / 4  # the share up to which an accepted-only beam is widest where a filter goes against the query
# the nearest that must stand out for an accepted-only beam to end early, at least: of fewer chance tells too little
_SETTLED = 10
_SAFE = 1.25  # a scan misses nothing, so it is chosen even if it costs this factor more than a walk
# how many times the candidates may be looked at, where estimates do not tell the best apart
_WIDENING, _WIDENING_OF_SIGNS = 4, 10
_EXACT_VALUE = 0.2  # a value of an original
# Signs in so few words hardly tell the nearest apart: most of the originals that may be read after a scan are. A tenant
# of 1,000 documents of 64 dimensions: all originals take 60 to 95 us, a scan 73 to 92 for a recall of .93.
_FEW_WORDS = 2
# The largest part of the linked nodes that may be inexact copies: equal to their graph node in signs only. Of 20,000
# vectors of many lengths, under euclid, a walk finds .96 and more of what a scan finds below an eighth, .94 at a fifth,
# .83 at nine tenths; of 6 dimensions, where all are inexact copies, .6 and .15. A scan of so few dimensions is cheap.
# (Lengths of two kinds, 1 to 15, are worse at any share: .6 at .05.)
INEXACT_COPIES = 1 / 8
# Of a thousand nearest codes, the most that a wide walk may miss in a trial (`trial_walks`): a sample, so less than
# the 20 that are meant. And the most of what wide walks find that those of the usual width may miss, and those of
# twice that, which then miss a fifth as much. (Of a million of the benchmark's vectors the usual ones miss 9.)
MISSED, SLIGHT, NARROW = 12, 12, 40
WIDE = 4  # times ``ef_construct``


@dataclass(frozen=True, slots=True)
class Plan:
    """How one search runs.

    Parameters
    ----------
    way : str               "exact": score the originals of all accepted; "scan": compare their codes; "walk": the graph
    rescoring : bool        order the candidates by their originals
    candidates : int        codes that are kept for that, at least k unless fewer exist
    ef, max_beam : int      of a walk: accepted nodes in the beam, and nodes in all
    max_candidates : int    candidates are added up to this number while the last ones bring hits
    scan_candidates : int   the same, of a scan that takes the place of a walk
    accepted_only, ef_sparse, ef_dense, sparse_below, most_distances, settled, ef_settled
                            of a walk under a filter, see `kernels.layout.SearchSettings`
    """

    way: str
    rescoring: bool
    candidates: int
    ef: int = 0
    max_beam: int = 0
    max_candidates: int = 0
    scan_candidates: int = 0
    accepted_only: bool = False
    ef_sparse: int = 0
    ef_dense: int = 0
    sparse_below: int = 0
    most_distances: int = 0
    settled: int = 0
    ef_settled: int = 0

    def __post_init__(self) -> None:
        if self.max_candidates < self.candidates:
            object.__setattr__(self, "max_candidates", self.candidates)
        if self.scan_candidates == 0:
            object.__setattr__(self, "scan_candidates", self.max_candidates)


class _Costs(NamedTuple):
    """What the steps of a search cost: ``code``, ``distance`` and ``tail`` in nanoseconds, the others in distances."""

    code: float  # of a scan
    distance: float  # of a walk
    descent: float  # from the entry point to level 0
    per_beam: float  # for each node of the beam
    tail: float  # the scan of the nodes that are not linked

    def scan(self, accepted: int) -> float:
        return _SCAN + accepted * self.code

    def walk(self, beam: int) -> float:
        return (self.descent + self.per_beam * beam) * self.distance + self.tail

    def walk_accepted(self, beam: int, share: float) -> float:
        node = _BRIDGES * (1 - share) + _ACCEPTED * _ENTERING * self.distance
        return self.descent * self.distance + node * beam + self.tail

    def distances_for(self, cost: float, beam: int, share: float) -> int:
        """How many distances an accepted-only beam may take to cost as much."""
        rest = cost - self.descent * self.distance - self.tail - _BRIDGES * (1 - share) * beam
        return max(1, int(rest / (_ENTERING * self.distance)))


def plan(
    *,
    n: int,
    linked: int,
    accepted: int,
    dim: int,
    k: int,
    oversampling: float,
    rescore: bool,
    hnsw_ef: int | None,
    planes: int,
    bits: int,
    width: int,
    m: int,
    ef_construct: int,
    exact: bool,
    full_scan_threshold: int,
    originals: bool,
    filtered: bool = False,
    adaptive: bool = False,
    signs: bool = False,
    alike: int = 0,
    missed: int = 0,
    narrow: int = 0,
    times: int = 1,
    shorter: bool = False,
) -> Plan:
    """The cheapest plan that finds what it should.

    Parameters
    ----------
    n : int                     slots to search
    linked : int                how many of them are in the graph; a walk scans the others
    accepted : int              how many may be found
    hnsw_ef : int or None       width of the beam; None: ``ef_construct``, as in Qdrant, or twice the candidates, or
                                more times ``ef_construct``: ``WIDE`` where ``narrow`` asks for that, or ``times``
    planes : int                of the query's encoding
    bits, width : int           planes of a code, and words of each
    full_scan_threshold : int   kilobytes of float32 vectors, up to which all accepted are scored exactly; 0: never
    originals : bool            whether any are stored
    filtered : bool             whether a filter decides what is accepted, and not deletions alone
    adaptive : bool             whether more candidates may be looked at than were asked for
    signs : bool                whether codes and query are compared by signs alone
    alike : int                 inexact copies among the linked nodes (`HnswGraph`)
    missed, narrow : int        of a thousand nearest codes, those that wide walks missed, and of those that they found
                                what walks of the usual width missed (`HnswGraph`)
    times : int                 the usual width, where ``narrow`` is no more than ``NARROW`` (`HnswGraph`)
    shorter : bool              whether what is accepted is shorter than the rest, under products (`longest`)
    """
    if alike > INEXACT_COPIES * linked or missed > MISSED or shorter:
        linked = 0  # a walk would miss too many: plan as if there were no graph
    small = full_scan_threshold * 1024
    if originals and (exact or n * dim * 4 <= small or (accepted * dim * 4 <= small and not (filtered and adaptive))):
        return Plan(EXACT, False, 0)
    rescoring = originals and rescore
    # min before ceil: the product may be infinite; 1e-9: 10 * 1.1 is 11.000000000000002, and 11 are meant
    wide = math.ceil(min(n, k * oversampling) - 1e-9) if rescoring else k
    candidates = min(n, max(k, wide))
    wanted = min(candidates, accepted)
    word = bits * width * _PLANES[planes]
    code = _SCAN_CODE + _SCAN_WORD * word
    code += _SKIPPING if 2 * accepted < n else _SKIPPING / 2 if filtered else 0
    costs = _Costs(
        code,
        distance=_WALK_CODE + _WALK_WORD * word,
        descent=_DESCENT * math.log2(linked + 1) / 3.3,
        per_beam=_PER_BEAM * math.sqrt(m / 16),
        tail=(n - linked) / n * accepted * code,  # as many of the tail are accepted as elsewhere
    )
    scanning = costs.scan(accepted)
    if filtered and adaptive and rescoring:
        widened = min(n, accepted, (_WIDENING_OF_SIGNS if signs else _WIDENING) * candidates)
        reads = max(2 * candidates, 3 * widened // 4) if signs and bits * width <= _FEW_WORDS else 2 * candidates
        read = accepted * dim * _EXACT_VALUE
        if accepted * dim * 4 <= small and read <= scanning + reads * dim * _EXACT_VALUE:
            return Plan(EXACT, False, 0)
    else:
        widened = candidates
    scan = Plan(SCAN, rescoring, candidates, max_candidates=widened)
    usual = ef_construct * (WIDE if narrow > NARROW else times)
    ef = max(usual, 2 * wanted) if hnsw_ef is None else max(wanted, hnsw_ef)
    if linked == 0 or ef >= accepted or wanted < candidates:
        return scan
    if filtered:
        return _filtered(scan, costs, n, accepted, k, ef, hnsw_ef is None)
    beam = -(-ef * n // max(1, accepted))  # nodes visited for ef accepted ones
    if beam > _MAX_BEAM * ef or costs.walk(beam) >= scanning:
        return scan
    return Plan(WALK, rescoring, candidates, ef, ef if accepted == n else min(n, 2 * beam))


def _filtered(scan: Plan, costs: _Costs, n: int, accepted: int, k: int, ef: int, automatic: bool) -> Plan:
    """The plan under a filter: a scan if few are accepted, a walk through all nodes if many are, else accepted only.

    automatic : bool    no width was asked for. Then a beam through all nodes has a width of ``ef`` and up to twice
                        that, the fewer are accepted, counting both kinds; an accepted-only beam five eighths of it
    """
    share, scanning = accepted / n, costs.scan(accepted)
    if share < _LEAST_SHARE:
        return scan
    only = max(2 * scan.candidates, 5 * ef // 8) if automatic else ef
    through = max(math.ceil(1.4 * scan.candidates), math.ceil((2 - share) * ef * share)) if automatic else ef
    beam = math.ceil(through / share)
    cost_through, cost_only = costs.walk(beam), costs.walk_accepted(only, share)
    if _SAFE * min(cost_through, cost_only) >= scanning or max(only, through) >= accepted:
        return scan
    narrow = max(2 * scan.candidates, ef // 2) if automatic else ef
    # against the query, the fewer are accepted the wider: recall .95 and more at 100,000, .96 at ten times that
    wide = math.ceil(2 * narrow * min(1.0, _WIDE_UP_TO / share) * max(1.0, math.sqrt(n / 100_000)))
    wide = max(wide, narrow)
    ef_sparse = wide if costs.walk_accepted(wide, share) < scanning and wide < accepted else 0
    ef_dense = min(ef, accepted)
    # the candidates may be widened to all of a beam: a scan does not find what it has missed
    widest = max(only, through, ef_sparse, ef_dense)
    found = replace(
        scan,
        way=WALK,
        ef=through,
        max_beam=min(n, 2 * beam),
        max_candidates=min(4 * scan.max_candidates, widest) if scan.max_candidates > scan.candidates else 0,
        scan_candidates=scan.max_candidates,
        ef_sparse=ef_sparse,
        ef_dense=ef_dense,
        sparse_below=max(1, int(820 * share)),  # of 1,024: four fifths of the overall share
        most_distances=costs.distances_for(scanning, ef_sparse or only, share),
        settled=max(k, _SETTLED) if automatic else 0,
        ef_settled=wide if automatic and ef_sparse == 0 and wide < accepted else 0,
    )
    if cost_only >= cost_through:
        return found
    return replace(found, ef=only, max_beam=only, accepted_only=True)
