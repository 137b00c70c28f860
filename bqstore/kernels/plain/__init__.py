"""The kernels in numpy, used until they are compiled: encode, scan, score exactly, rescore, match metadata.

Each function has the name, arguments and results of a root of `api` or `metadata`, whose docstring describes them.
One-bit codes, distances, candidates and their order are identical; float sums may differ in rounding. A search takes
several times as long, so the code is kept simple. Walking and linking the graph have no twin: until those kernels are
compiled, collections are scanned.
"""

from .codes import encode
from .graph import check_graph, search_graph
from .metadata import any_member, every_member, numbers_between, sift, spread, strings_between, strings_like
from .searches import prepare, rescore, search_bits, search_exact

__all__ = [
    "any_member",
    "check_graph",
    "encode",
    "every_member",
    "numbers_between",
    "prepare",
    "rescore",
    "search_bits",
    "search_exact",
    "search_graph",
    "sift",
    "spread",
    "strings_between",
    "strings_like",
]
