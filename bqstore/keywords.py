"""Refuse an unknown keyword with the nearest known name. Floor 0: knows errors only.

Python's own TypeError for a misspelt keyword does not say what was meant, and a settings dictionary says nothing at
all. Users of other stores reported settings that were ignored in silence; here none is.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from .errors import UnknownKeywordError

P = ParamSpec("P")
R = TypeVar("R")


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint for a message: ``; did you mean 'x'?`` or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if not close:  # a part of a name, or a name with something around it: "ef" for hnsw_ef, "top_k" for k
        close = [n for n in names if str(name) and (str(name) in n or n in str(name).split("_"))][:1]
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def refuse_unknown(given: Iterable[object], known: Iterable[str], where: str) -> None:
    """Raise UnknownKeywordError for the first of ``given`` that is not in ``known``."""
    known = set(known)
    for name in given:
        if name not in known:
            raise UnknownKeywordError(f"{where} has no keyword {name!r}{nearest(name, known)}")


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function or method so that an unknown keyword is an UnknownKeywordError."""
    parameters = inspect.signature(function).parameters.values()
    known = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    where = f"{function.__qualname__}()"

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError:  # looked at afterwards: before, it would cost every call
            if kwargs.keys() - known:
                refuse_unknown(kwargs, known - {"self"}, where)
            raise

    return call


def from_mapping(cls: type[R], given: Mapping[str, Any], where: str) -> R:
    """Build a settings dataclass from a dictionary of its fields."""
    refuse_unknown(given, inspect.signature(cls).parameters, where)
    return cls(**given)
