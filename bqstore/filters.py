"""Filters: a dictionary becomes a typed tree, the tree a mask over ordinals. Knows columns, no SQL and no documents.

The grammar: ``{"lang": "en", "year": {"$in": [2023, 2024]}}``. Several keys are ANDed. ``{"k": v}`` is ``$eq``,
``{"k": [a, b]}`` is ``$in``. A key names the exact top-level key if there is one, else a dotted path. Types never mix:
1 is not "1" and not True; 1 equals 1.0. A scalar matches a list that has it as an element; ``{"$eq": [...]}`` is
equality of the whole. A missing field matches nothing here; None matches a present null.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidInputError
from .keywords import nearest
from .validate import ID_KEY, MAX_DEPTH, PRIVATE_PREFIX, REF_DOC_ID_KEY, plain, text_bytes

Mask = NDArray[np.bool_]
Token = tuple[Any, ...]

OPERATORS: Final = ("$eq", "$in")


@dataclass(frozen=True)
class Among:
    """The field equals one of the operands, or is a list that has one as an element."""

    key: str
    operands: tuple[Token, ...]
    whole: bool = False  # only equality of the whole value counts

    def keys(self) -> set[str]:
        """The fields it looks at."""
        return {self.key}


@dataclass(frozen=True)
class All:
    """Every part matches."""

    parts: tuple["Tree", ...]

    def keys(self) -> set[str]:
        """The fields it looks at."""
        return set().union(*(part.keys() for part in self.parts))


Tree = Among | All


def token(value: object) -> Token:
    """A hashable form in which two values are equal exactly when the grammar says so.

    The leading letter keeps the types apart: Python's own ``True == 1`` and ``1 == 1.0`` are not both wanted. Integers
    beyond 2**53 stay exact.
    """
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int):
        return ("number", value)
    if isinstance(value, float):
        return ("number", int(value) if value.is_integer() else float(value))
    if isinstance(value, str):
        return ("string", str(value))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(token(v) for v in value))
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted((str(k), token(v)) for k, v in value.items())))
    raise InvalidInputError(
        f"a filter compares with a {type(value).__name__}; expected a string, number, boolean, None, date, list or dict"
    )


def operand(value: object, key: str) -> Token:
    """The token of an operand, checked all through: text that is no text and NaN match nothing and are mistakes."""
    return token(checked(value, f"the filter on {key!r}"))


def checked(value: object, what: str, depth: int = 1) -> object:
    """An operand as JSON would hold it."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"{what} nests more than {MAX_DEPTH} deep, which no stored value does")
    if isinstance(value, str):
        text_bytes(value, what)
    if isinstance(value, (list, tuple)):
        return [checked(v, what, depth + 1) for v in value]
    if isinstance(value, Mapping):
        return {str(k): checked(v, what, depth + 1) for k, v in value.items()}
    if isinstance(value, (datetime, date, np.generic)):
        try:
            value = plain(value)
        except TypeError as error:
            raise InvalidInputError(f"{what}: {error}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"{what} compares with {value!r}, which no stored value equals")
    return value


def parse(given: object) -> Tree | None:
    """The tree of a filter; None for one that restricts nothing (None or an empty dictionary).

    Raises InvalidInputError for an unknown operator or a malformed operand.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"filter is a {type(given).__name__}; expected a dict such as {{'lang': 'en'}}")
    parts = tuple(part for key, condition in given.items() for part in conditions(key, condition))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else All(parts)


def conditions(key: object, given: object) -> list[Tree]:
    """The conditions on one key, to be ANDed."""
    if not isinstance(key, str):
        raise InvalidInputError(f"a filter has a key of type {type(key).__name__}; expected a string")
    text_bytes(key, "a key of the filter")
    if key.startswith(PRIVATE_PREFIX) and key not in (ID_KEY, REF_DOC_ID_KEY):
        raise InvalidInputError(
            f"the filter names {key!r}: keys that begin with {PRIVATE_PREFIX!r} are the adapters' own"
        )
    if key.startswith("$"):
        raise InvalidInputError(f"the filter has the operator {key!r} where a field name belongs: {{'field': ...}}")
    if isinstance(given, (list, tuple)):
        return [among(key, given)]
    if not isinstance(given, Mapping):
        return [Among(key, (operand(given, key),))]
    if not given:
        raise InvalidInputError(f"the filter on {key!r} is an empty dict; expected an operator: {', '.join(OPERATORS)}")
    parts: list[Tree] = []
    for name, value in given.items():
        if name == "$eq":
            whole = isinstance(value, (list, tuple, Mapping))
            parts.append(Among(key, (operand(value, key),), whole))
        elif name == "$in":
            if not isinstance(value, (list, tuple, set, frozenset)):
                raise InvalidInputError(f"$in on {key!r} is given a {type(value).__name__}; expected a list")
            parts.append(among(key, value))
        elif isinstance(name, str) and name.startswith("$"):
            raise InvalidInputError(f"the filter on {key!r} has no operator {name!r}{nearest(name, OPERATORS)}")
        else:
            raise InvalidInputError(
                f"the filter on {key!r} compares with a dict; for a nested field write {key + '.' + str(name)!r}, "
                "for equality of the whole {'$eq': {...}}"
            )
    return parts


def among(key: str, values: Any) -> Among:
    """``$in``; no values match nothing."""
    return Among(key, tuple(operand(value, key) for value in values))


def evaluate(tree: Tree, mask_of: Callable[[Among], Mask]) -> Mask:
    """bool (n,): where the tree matches; ``mask_of`` answers for one field."""
    if isinstance(tree, Among):
        return mask_of(tree)
    mask = evaluate(tree.parts[0], mask_of)
    for part in tree.parts[1:]:
        mask = mask & evaluate(part, mask_of)
    return mask


def to_bitmap(mask: Mask) -> NDArray[np.uint64]:
    """uint64 (ceil(n / 64),): bit o % 64 of word o // 64 is mask[o]."""
    bits = np.zeros(-(-len(mask) // 64) * 8, np.uint8)
    packed = np.packbits(mask, bitorder="little")
    bits[: len(packed)] = packed
    return bits.view(np.uint64)
