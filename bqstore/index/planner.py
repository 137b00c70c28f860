"""Which way a search goes: the one place of the cost model. Knows counts, no arrays."""

import math
from dataclasses import dataclass, replace

EXACT, SCAN, WALK = "exact", "scan", "walk"

# Nanoseconds, measured by tests/benchmarks/graph.py on codes of 384 to 3,072 bits; what counts is their ratio.
_SCAN = 5000.0  # a flat scan, whatever is scanned
_SCAN_CODE, _SCAN_WORD = 1.2, 0.12  # a code of it: fixed, and for each word and plane
_WALK_CODE, _WALK_WORD = 10.0, 0.3  # a distance in a walk, likewise; memory is waited for
_PLANES = {1: 1.0, 4: 1.7, 8: 2.6}  # a word against several planes costs less than as many words
# distances of a walk at m = 16 and 100,000 nodes: 250 + 9 ef; the first part grows with log n
_DESCENT, _PER_BEAM = 50.0, 9.0
# nodes the beam may hold for each accepted one, at most; a filter that accepts fewer is answered by a scan
_MAX_ROOM = 16
# Under a filter. A code among others that are passed over costs this more, half of it where most are not; below this
# share those inside hardly link.
_APART, _LEAST_SHARE = 8.0, 1 / 32
_INSIDE = 1500.0  # a node of a beam inside what is accepted, with its bridges (tests/benchmarks/filters.py)
_SAFE = 1.25  # a scan misses nothing that its codes tell: it may cost so much more than a walk
# candidates that may be looked at, for each that is in any case, where estimates do not tell the best apart
_MORE, _MORE_OF_SIGNS = 4, 10
_EXACT_VALUE = 0.2  # a value of an original
# Of what is linked, the part that may be alike. Of 20,000 vectors of many lengths, under euclid, a walk finds .96 and
# more of what a scan does below an eighth, .94 at a fifth, .83 at nine tenths; of 6 dimensions, all of them alike, .6
# and .15. A scan of so few dimensions costs little. (Lengths of two kinds, 1 to 15, are worse at any share: .6 at .05.)
_ALIKE = 1 / 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How one search is done.

    Parameters
    ----------
    way : str               "exact": the originals of the accepted are scanned; "scan": their codes; "walk": the graph
    rescoring : bool        order the candidates by their originals
    candidates : int        how many codes are kept for that, at least k unless fewer exist
    most : int              how many, while the last of them bring hits; candidates: no more
    scanned : int           likewise in a scan that takes the place of a walk
    ef, room : int          of a walk: accepted nodes in the beam, and nodes in all
    inside : bool           of a walk: from accepted node to accepted node, over the others; else through all
    against : int           the beam's width where fewer than ``rare`` of 1,024 around the query are accepted; 0: a scan
    along : int             its width where most are; 0: as else
    """

    way: str
    rescoring: bool
    candidates: int
    ef: int = 0
    room: int = 0
    most: int = 0
    scanned: int = 0
    inside: bool = False
    against: int = 0
    along: int = 0
    rare: int = 0

    def __post_init__(self) -> None:
        if self.most < self.candidates:
            object.__setattr__(self, "most", self.candidates)
        if self.scanned == 0:
            object.__setattr__(self, "scanned", self.most)


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
) -> Plan:
    """The cheapest way that is right.

    Parameters
    ----------
    n : int                     slots to search
    linked : int                of them, how many are in the graph; the others are scanned after a walk
    accepted : int              how many may be found
    hnsw_ef : int or None       the beam's width; None: ``ef_construct``, as in Qdrant, or twice the candidates
    planes : int                of the query's encoding
    bits, width : int           planes of a code, and words of each
    full_scan_threshold : int   kilobytes of float32 vectors; up to this the accepted are scanned exactly, 0 never
    originals : bool            whether any are kept
    filtered : bool             whether a filter says what is accepted, and not deletion alone
    adaptive : bool             whether more candidates may be looked at than were asked for
    signs : bool                whether codes and query are compared by signs alone
    alike : int                 of the linked, those that share no more than signs with the first of their list
    """
    if alike > _ALIKE * linked:
        linked = 0  # too many are missed by a walk: as if there were no graph, with a filter or without
    small = full_scan_threshold * 1024
    if originals and (exact or n * dim * 4 <= small or (accepted * dim * 4 <= small and not (filtered and adaptive))):
        return Plan(EXACT, False, 0)
    rescoring = originals and rescore
    # min before ceil: the product may be infinite; 1e-9: 10 * 1.1 is 11.000000000000002, and 11 are meant
    wide = math.ceil(min(n, k * oversampling) - 1e-9) if rescoring else k
    candidates = min(n, max(k, wide))
    wanted = min(candidates, accepted)
    words = bits * width
    code = _SCAN_CODE + _SCAN_WORD * words * _PLANES[planes]
    distance = _WALK_CODE + _WALK_WORD * words * _PLANES[planes]
    code += _APART if 2 * accepted < n else _APART / 2 if filtered else 0
    tail = (n - linked) / n * accepted * code  # as many of the tail are accepted as elsewhere
    if filtered and adaptive and rescoring:
        read = accepted * dim * _EXACT_VALUE
        if accepted * dim * 4 <= small and read <= _SCAN + accepted * code + 2 * candidates * dim * _EXACT_VALUE:
            return Plan(EXACT, False, 0)
        most = min(n, accepted, (_MORE_OF_SIGNS if signs else _MORE) * candidates)
    else:
        most = candidates
    scan = Plan(SCAN, rescoring, candidates, most=most)
    ef = max(ef_construct, 2 * wanted) if hnsw_ef is None else max(wanted, hnsw_ef)
    if linked == 0 or ef >= accepted or wanted < candidates:
        return scan
    descent, per_beam = _DESCENT * math.log2(linked + 1) / 3.3, _PER_BEAM * math.sqrt(m / 16)
    if filtered:
        return _filtered(scan, n, accepted, ef, hnsw_ef is None, distance, descent, per_beam, tail, code)
    room = -(-ef * n // max(1, accepted))  # nodes met until ef accepted ones are
    if room > _MAX_ROOM * ef or (descent + per_beam * room) * distance + tail >= _SCAN + accepted * code:
        return scan
    return Plan(WALK, rescoring, candidates, ef, ef if accepted == n else min(n, 2 * room))


def _filtered(
    scan: Plan,
    n: int,
    accepted: int,
    ef: int,
    free: bool,
    distance: float,
    descent: float,
    per_beam: float,
    tail: float,
    code: float,
) -> Plan:
    """The plan under a filter: few accepted are scanned, many met by a walk through all, those between by one inside.

    free : bool     the width was not asked for. Then a beam through all is as wide as ``ef``, and up to twice that the
                    fewer are accepted, whoever is in it; one inside is half as wide, for all in it are accepted
    """
    share = accepted / n
    scanning = _SCAN + accepted * code
    if share < _LEAST_SHARE:
        return scan
    within = max(2 * scan.candidates, ef // 2) if free else ef
    through = max(math.ceil(1.4 * scan.candidates), math.ceil((2 - share) * ef * share)) if free else ef
    room = math.ceil(through / share)
    costs = (descent + per_beam * room) * distance + tail, descent * distance + _INSIDE * within + tail
    if _SAFE * min(costs) >= scanning or max(within, through) >= accepted:
        return scan
    wide = math.ceil(within * max(2.0, 2 * math.sqrt(n / 100_000)))  # .99 of recall at 100,000, .96 at ten times that
    against = wide if 2 * (descent * distance + _INSIDE * wide + tail) < scanning and wide < accepted else 0
    along = min(2 * ef, accepted)
    rare = max(1, int(256 * share))
    # as many as a beam has are looked at if need be: what is missing in it no scan makes good
    most = min(4 * scan.most, max(within, through, against, along)) if scan.most > scan.candidates else scan.candidates
    if costs[1] < costs[0]:
        found = Plan(WALK, scan.rescoring, scan.candidates, within, within, most, inside=True)
    else:
        found = Plan(WALK, scan.rescoring, scan.candidates, through, min(n, 2 * room), most)
    return replace(found, scanned=scan.most, against=against, along=along, rare=rare)
