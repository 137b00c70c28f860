"""The same searches in numpy, for as long as the kernels are not compiled: encode, scan, score exactly, rescore.

Each function has the name, the arguments and the answer of a root of `api`, whose docstring describes them. Codes of
one bit, distances, candidates and their order are the same to the last bit; sums of floats may differ by their
rounding. A search takes several times as long, so nothing here is clever. The graph has no such twin: until its kernels
are compiled, collections are scanned.
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
