"""The operands of filters: checked, and converted to hashable forms that are equal if and only if the values are."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import numpy as np

from ..arguments import shown, text_bytes, type_of
from ..errors import InvalidInputError
from ..kernels.metadata import ANY_CHARACTER, ANY_RUN
from .dates import MARK, in_column
from .to_json import MAX_DEPTH, plain

Typed = tuple[Any, ...]  # (name of the type, value); a null has no value

MAX_PIECE = 1024  # bytes between two % of a pattern that also has _
LONGEST: Final = 1 << 16  # characters of a string that a column keeps; of a longer one it keeps a digest
IS_LONG: Final = f"{MARK}#"  # what the digest begins with
# as `plain` does it in metadata
_CONVERTED: Final = (date, time, timedelta, np.generic, Decimal, UUID, Enum, PurePath)
BEYOND: Final = 10**5000  # more than any integer that Python prints, and so than any in JSON


def typed(value: Any) -> Typed:
    """A JSON value as a hashable pair of its type and itself: two are equal exactly when the grammar says so.

    Python's own ``True == 1`` would mix types; ``1 == 1.0`` is wanted. Integers beyond 2**53 stay exact.
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
        text = str.__str__(value)  # of an enumeration of strings the text, not the name
        return ("string", text if is_short(text) else in_short(text))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(typed(v) for v in value))
    return ("dict", tuple(sorted((str.__str__(k), typed(v)) for k, v in value.items())))


def is_short(text: str) -> bool:
    """Whether a column keeps a string as it is."""
    return text[:2] != MARK and len(text) <= LONGEST


def in_short(text: str) -> str:
    """What a column keeps of a string that is not `is_short`: the text of a date, or a digest, to test equality."""
    if text[:2] == MARK and len(text) <= LONGEST:
        return in_column(text)
    return IS_LONG + hashlib.sha256(text.encode()).hexdigest()


def operand(value: object, key: str) -> Typed:
    """An operand of the filter on ``key``, checked and typed."""
    if type(value) is str and value.isascii():  # most are, and there is nothing to check
        return typed(value)
    return typed(checked(value, f"the filter on {shown(key)}"))


def scalar(value: object, what: str) -> Typed:
    """A number, a string or a date, checked and typed: the types that have an order. Infinity is allowed."""
    if isinstance(value, (float, np.floating, Decimal)) and math.isinf(value):
        return ("number", BEYOND if value > 0 else -BEYOND)
    if isinstance(value, timedelta) or (isinstance(value, time) and value.tzinfo is not None):
        instead = "total_seconds()" if isinstance(value, timedelta) else "times without a zone, or datetimes"
        raise InvalidInputError(
            f"{what} is given {type_of(value)}, which is stored as ISO 8601 text, in no order of time: keep {instead} "
            "in the field, and compare with these"
        )
    made = typed(checked(value, what))
    if made[0] not in ("number", "string"):
        raise InvalidInputError(f"{what} is given {type_of(value)}; expected a number, a string or a date")
    return made


def checked(value: object, what: str, depth: int = 1) -> object:
    """A value as JSON would hold it. Raises InvalidInputError for one that no document can hold."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"{what} nests more than {MAX_DEPTH} deep, which no stored value does")
    if isinstance(value, str):
        text_bytes(value, what)
        return value
    if isinstance(value, (list, tuple)):
        return [checked(v, what, depth + 1) for v in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{what} has a dict with a key of type {type(key).__name__}; expected strings")
            text_bytes(key, what)
        return {k: checked(v, what, depth + 1) for k, v in value.items()}
    if isinstance(value, _CONVERTED) or type(value).__name__ == "NAType":  # of pandas
        try:
            return checked(plain(value), what, depth + 1)  # as in metadata
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"{what} compares with {type_of(value)}: {error}") from None
    if value is not None and not isinstance(value, (int, float, str)):
        raise InvalidInputError(
            f"{what} compares with {type_of(value)}; expected a string, number, boolean, None, date, list or dict"
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
    """A pattern as bytes of UTF-8, with `ANY_RUN` for each run of ``%`` and `ANY_CHARACTER` for ``_``.

    ``folded``: case does not count. Raises InvalidInputError for a backslash at the end, and for a long pattern with
    ``_``: a kernel, which Ctrl-C does not interrupt, would take a time that grows with the product of its length and
    the text's.
    """
    text_bytes(text, what)
    parts: list[int] = []
    literal: list[str] = []

    def flush() -> None:
        joined = "".join(literal)
        parts.extend((joined.casefold() if folded else joined).encode())
        literal.clear()

    characters = iter(text)
    for character in characters:
        if character == "\\":
            if (escaped := next(characters, None)) is None:
                raise InvalidInputError(f"{what} ends in a backslash, which escapes nothing; write two for one")
            literal.append(escaped)
        elif character == "_":
            flush()
            parts.append(ANY_CHARACTER)
        elif character == "%":
            flush()
            if not parts or parts[-1] != ANY_RUN:
                parts.append(ANY_RUN)
        else:
            literal.append(character)
    flush()
    longest = max(map(len, pieces_of(parts)))
    if longest > MAX_PIECE and ANY_CHARACTER in parts:
        raise InvalidInputError(
            f"{what} has {longest:,} bytes without a %; with _ in the pattern at most {MAX_PIECE:,} are taken"
        )
    return tuple(parts)


def pieces_of(parts: Sequence[int]) -> list[list[int]]:
    """The pieces of a pattern between its `ANY_RUN`; the first or last is empty where it begins or ends with one."""
    pieces: list[list[int]] = [[]]
    for part in parts:
        if part == ANY_RUN:
            pieces.append([])
        else:
            pieces[-1].append(part)
    return pieces
