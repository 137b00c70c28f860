"""Arrays only: codes, the quantizer that makes them, the graph over them, and searches of both.

May import `kernels`, `config`, `errors`; knows ordinals, never ids, texts, files or the grammar of filters.
Start with `search.py` (queries to ordinals), then `planner.py` (exact, scan or walk) and `graph.py` (how it grows).
"""

from ..kernels import api, metadata
from .codes import append_codes, new_codes
from .graph import HnswGraph
from .planner import Plan, plan
from .quantizer import Quantizer
from .search import ENCODINGS, METRICS, DoubtfulError, Search, Searchable, Work
from .threads import ALONE, LazyPool, Workers, cores

__all__ = [
    "ALONE",
    "ENCODINGS",
    "METRICS",
    "DoubtfulError",
    "HnswGraph",
    "LazyPool",
    "Plan",
    "Quantizer",
    "Search",
    "Searchable",
    "Work",
    "Workers",
    "append_codes",
    "cores",
    "new_codes",
    "plan",
    "warm_up",
]


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, so that no later call waits for it.

    >>> import bqstore
    >>> bqstore.warm_up()
    """
    api.warm_up()
    metadata.warm_up()
