"""Floor 2: arrays in, ordinals and scores out. Knows no files, ids, text or filters' grammar."""

from ..kernels.api import warm_up
from .codes import append_codes, encode, new_codes
from .planner import Plan, plan
from .search import Searchable, nearest

__all__ = ["Plan", "Searchable", "append_codes", "encode", "nearest", "new_codes", "plan", "warm_up"]
