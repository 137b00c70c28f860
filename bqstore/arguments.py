"""Refuse an unknown keyword with the nearest known name. Floor 0: knows errors only.

Python's own TypeError for a misspelt keyword does not say what was meant, and a settings dictionary says nothing at
all. Users of other stores reported settings that were ignored in silence; here none is.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import wraps
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .errors import InvalidInputError, UnknownKeywordError

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


def shown(value: object) -> str:
    """The value for a message: its repr, short, whatever it is."""
    try:
        text = repr(value)
    except Exception as error:  # an int of more digits than Python prints, or a class of the user's
        return f"a {type(value).__name__} ({type(error).__name__} when shown)"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_int(name: str, value: object, low: int, high: int, why: str = "") -> int:
    """The value as a plain int, or InvalidInputError. Booleans and arrays are no numbers here."""
    if type(value) is int and low <= value <= high:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return int(value)
    raise InvalidInputError(f"{name} is {shown(value)}; expected an integer from {low:,} to {high:,}{why}")


def check_bool(name: str, value: object) -> bool:
    """The value as a plain bool, or InvalidInputError."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInputError(f"{name} is {shown(value)}; expected True or False")
    return bool(value)


def check_real(name: str, value: object, expected: str) -> float:
    """The value as a finite float, or InvalidInputError. Booleans and arrays are no numbers here."""
    number = math.nan
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # a signalling NaN, or beyond a float
            number = float(value)
    if not math.isfinite(number):
        raise InvalidInputError(f"{name} is {shown(value)}; expected {expected}")
    return number


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """The value if it is one of the choices, or InvalidInputError with the nearest."""
    if not isinstance(value, str) or value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise InvalidInputError(f"{name} is {shown(value)}; expected one of {', '.join(map(repr, choices))}{hint}")
    return value


def is_text(text: str) -> bool:
    """Whether the string can be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_bytes(text: str, what: str) -> int:
    """The length in UTF-8; refuses lone surrogates, which have none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{what} holds a lone surrogate at position {error.start}, which is not text: "
            "decode with errors='replace' where it was read"
        ) from None  # it carries the text


def items(given: object, what: str) -> list[Any]:
    """A list of anything iterable but a string."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(f"{what} is a {type(given).__name__}; expected a list")
    return list(given)
