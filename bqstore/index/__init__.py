"""Floor 2: arrays in, ordinals and scores out. Knows no files, ids, text or filters' grammar."""

from ..kernels.api import warm_up
from .codes import append_codes, encode, new_codes
from .graph import HnswGraph
from .planner import Plan, plan
from .search import ENCODINGS, DoubtfulError, Search, Searchable, Work

__all__ = [
    "ENCODINGS",
    "DoubtfulError",
    "HnswGraph",
    "Plan",
    "Search",
    "Searchable",
    "Work",
    "append_codes",
    "encode",
    "new_codes",
    "plan",
    "warm_up",
]
