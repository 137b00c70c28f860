"""Codes in memory, the quantizer that makes them, the HNSW graph over them, and searches of both: arrays only.

May import `kernels`, `config` and what lies below; knows ordinals, but no ids, texts, files or filter grammar.
Start with `search.py` (queries to ordinals), then `planner.py` (exact, scan or walk) and `graph.py` (how it grows).
"""

from .codes import append_codes, new_codes
from .graph import HnswGraph
from .planner import MISSED, WALK, Plan, plan
from .quantizer import Quantizer
from .readiness import can_link, can_link_later, check_environment, kernels_state, wait_for_kernels, warm_up
from .search import ENCODINGS, METRICS, DamagedVectorError, DoubtfulError, Search, Searchable, Work
from .threads import ALONE, LazyPool, Workers, cores
from .trial_walks import Originals

__all__ = [
    "ALONE",
    "ENCODINGS",
    "METRICS",
    "MISSED",
    "WALK",
    "DamagedVectorError",
    "DoubtfulError",
    "HnswGraph",
    "LazyPool",
    "Originals",
    "Plan",
    "Quantizer",
    "Search",
    "Searchable",
    "Work",
    "Workers",
    "append_codes",
    "can_link",
    "can_link_later",
    "check_environment",
    "cores",
    "kernels_state",
    "new_codes",
    "plan",
    "wait_for_kernels",
    "warm_up",
]
