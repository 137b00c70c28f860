"""Which way a search goes: the one place of the cost model. Knows counts, no arrays."""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Plan:
    """How one search is done.

    Parameters
    ----------
    way : str               "exact": the originals of the accepted are scanned; "scan": their codes; "walk": the graph
    rescoring : bool        order the candidates by their originals
    candidates : int        how many codes are kept for that, at least k unless fewer exist
    ef, room : int          of a walk: accepted nodes in the beam, and nodes in all
    """

    way: str
    rescoring: bool
    candidates: int
    ef: int = 0
    room: int = 0


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
    """
    if originals and (exact or accepted * dim * 4 <= full_scan_threshold * 1024):
        return Plan(EXACT, False, 0)
    rescoring = originals and rescore
    # min before ceil: the product may be infinite; 1e-9: 10 * 1.1 is 11.000000000000002, and 11 are meant
    wide = math.ceil(min(n, k * oversampling) - 1e-9) if rescoring else k
    candidates = min(n, max(k, wide))
    scan = Plan(SCAN, rescoring, candidates)
    wanted = min(candidates, accepted)
    ef = max(ef_construct, 2 * wanted) if hnsw_ef is None else max(wanted, hnsw_ef)
    room = -(-ef * n // max(1, accepted))  # nodes met until ef accepted ones are
    if linked == 0 or ef >= accepted or room > _MAX_ROOM * ef or wanted < candidates:
        return scan
    words = bits * width
    code = _SCAN_CODE + _SCAN_WORD * words * _PLANES[planes]
    distances = _DESCENT * math.log2(linked + 1) / 3.3 + _PER_BEAM * room * math.sqrt(m / 16)
    walk = distances * (_WALK_CODE + _WALK_WORD * words * _PLANES[planes]) + (n - linked) * code
    if walk >= _SCAN + accepted * code:
        return scan
    return Plan(WALK, rescoring, candidates, ef, ef if accepted == n else min(n, 2 * room))
