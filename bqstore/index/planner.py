"""Which way a search goes: the one place of the cost model. Knows counts, no arrays."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How one search is done.

    Parameters
    ----------
    exact : bool            scan the originals of the accepted; else scan their codes
    rescoring : bool        order the candidates by their originals
    candidates : int        how many the code scan keeps, at least k unless fewer exist
    """

    exact: bool
    rescoring: bool
    candidates: int


def plan(
    *,
    n: int,
    accepted: int,
    dim: int,
    k: int,
    oversampling: float,
    rescore: bool,
    exact: bool,
    full_scan_threshold: int,
    originals: bool,
) -> Plan:
    """The cheapest way that is right.

    Parameters
    ----------
    n : int                     slots to scan
    accepted : int              of them, how many may be found
    full_scan_threshold : int   kilobytes of float32 vectors; up to this the accepted are scanned exactly, 0 never
    originals : bool            whether any are kept
    """
    if originals and (exact or accepted * dim * 4 <= full_scan_threshold * 1024):
        return Plan(True, False, 0)
    if not (originals and rescore):
        return Plan(False, False, min(k, n))
    # min before ceil: the product may be infinite; 1e-9: 10 * 1.1 is 11.000000000000002, and 11 are meant
    return Plan(False, True, min(n, max(k, math.ceil(min(n, k * oversampling) - 1e-9))))
