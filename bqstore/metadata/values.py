"""The operands of filters: checked, and in a form in which equal means equal. Floor 3: knows values, no fields."""

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np

from ..arguments import shown, text_bytes
from ..errors import InvalidInputError
from .to_json import MAX_DEPTH, plain

Token = tuple[Any, ...]

MAX_PIECE = 1024  # bytes between two runs of any length, where a pattern has single wildcards
ANY_RUN, ANY_CHARACTER = -1, -2  # in a pattern, beside the bytes of its text


def token(value: object) -> Token:
    """A hashable form in which two values are equal exactly when the grammar says so.

    The leading name keeps the types apart: Python's own ``True == 1`` and ``1 == 1.0`` are not both wanted. Integers
    beyond 2**53 stay exact.
    """
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int):
        return ("number", int(value))
    if isinstance(value, float):
        return ("number", int(value) if value.is_integer() else float(value))
    if isinstance(value, str):
        return ("string", str.__str__(value))  # of an enumeration of strings the text, not the name
    if isinstance(value, (list, tuple)):
        return ("list", tuple(token(v) for v in value))
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted((str(k), token(v)) for k, v in value.items())))
    raise InvalidInputError(
        f"a filter compares with a {type(value).__name__}; expected a string, number, boolean, None, date, list or dict"
    )


def operand(value: object, key: str) -> Token:
    """The token of an operand, checked all through: text that is no text and NaN match nothing and are mistakes."""
    return token(checked(value, f"the filter on {shown(key)}"))


def scalar(value: object, what: str) -> Token:
    """The token of a number, a string or a date, which can be put in order."""
    made = token(checked(value, what))
    if made[0] not in ("number", "string"):
        raise InvalidInputError(f"{what} is given a {type(value).__name__}; expected a number, a string or a date")
    return made


def checked(value: object, what: str, depth: int = 1) -> object:
    """An operand as JSON would hold it."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"{what} nests more than {MAX_DEPTH} deep, which no stored value does")
    if isinstance(value, str):
        text_bytes(value, what)
    if isinstance(value, (list, tuple)):
        return [checked(v, what, depth + 1) for v in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{what} has a dict with a key of type {type(key).__name__}; expected strings")
            text_bytes(key, what)
        return {k: checked(v, what, depth + 1) for k, v in value.items()}
    if isinstance(value, (datetime, date, np.generic)):
        try:
            value = plain(value)
        except TypeError as error:
            raise InvalidInputError(f"{what}: {error}") from None
    if value is not None and not isinstance(value, (bool, int, float, str, list, tuple, Mapping)):
        raise InvalidInputError(
            f"{what} compares with a {type(value).__name__}; expected a string, number, boolean, None, date, list or "
            "dict"
        )
    if isinstance(value, int):
        try:
            str(value)
        except ValueError:  # Python's own limit, and so that of JSON
            raise InvalidInputError(f"{what} compares with an integer of more digits than stored values have") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"{what} compares with {value!r}, which no stored value equals")
    return value


def pattern(text: str, what: str, folded: bool) -> tuple[int, ...]:
    """A pattern as bytes of UTF-8, `ANY_RUN` for ``%`` and `ANY_CHARACTER` for ``_``; runs of ``%`` are one."""
    text_bytes(text, what)
    parts: list[int] = []
    literal: list[str] = []

    def flush() -> None:
        joined = "".join(literal)
        parts.extend((joined.casefold() if folded else joined).encode())
        literal.clear()

    escaped = False
    for character in text:
        if escaped:
            literal.append(character)
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "_":
            flush()
            parts.append(ANY_CHARACTER)
        elif character == "%":
            flush()
            if not parts or parts[-1] != ANY_RUN:
                parts.append(ANY_RUN)
        else:
            literal.append(character)
    if escaped:
        raise InvalidInputError(f"{what} ends in a backslash, which escapes nothing; write two for one")
    flush()
    longest = max(map(len, pieces_of(parts)))
    if longest > MAX_PIECE and ANY_CHARACTER in parts:  # tried at every place, in a kernel that cannot be interrupted
        raise InvalidInputError(
            f"{what} has {longest:,} bytes without a %; with _ in the pattern at most {MAX_PIECE:,} are taken"
        )
    return tuple(parts)


def pieces_of(parts: Sequence[int]) -> list[list[int]]:
    """What stands between the runs of a pattern; without a run all of it, at a run's end an empty one."""
    pieces: list[list[int]] = [[]]
    for part in parts:
        if part == ANY_RUN:
            pieces.append([])
        else:
            pieces[-1].append(part)
    return pieces
