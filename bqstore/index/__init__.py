"""Floor 2: arrays in, ordinals and scores out. Knows no files, ids, text or filters' grammar."""

from ..kernels import api, columns
from .codes import append_codes, new_codes
from .graph import HnswGraph
from .planner import Plan, plan
from .quantizer import Quantizer
from .search import ENCODINGS, METRICS, DoubtfulError, Search, Searchable, Work
from .threads import Pool

__all__ = [
    "ENCODINGS",
    "METRICS",
    "DoubtfulError",
    "HnswGraph",
    "Plan",
    "Pool",
    "Quantizer",
    "Search",
    "Searchable",
    "Work",
    "append_codes",
    "new_codes",
    "plan",
    "warm_up",
]


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, so that no later call waits for it."""
    api.warm_up()
    columns.warm_up()
