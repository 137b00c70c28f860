"""Filters the slow, obvious way: one metadata dictionary at a time, one operator after the other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timezone
from typing import Any

import numpy as np

ABSENT = object()
SKIP, ONE = object(), object()  # % and _ of a pattern


def stored(value: Any) -> Any:
    """A value as filters see it: dates are ISO 8601 strings, instants a tuple of their own, tuples are lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, datetime) and value.tzinfo is not None:
        return ("instant", value.astimezone(timezone.utc))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple) and value[:1] == ("instant",):
        return value
    if isinstance(value, (list, tuple)):
        return [stored(v) for v in value]
    if isinstance(value, Mapping):
        return {k: stored(v) for k, v in value.items()}
    return value


def returned(value: Any) -> Any:
    """A value as it comes back: dates are dates, tuples are lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [returned(v) for v in value]
    return {k: returned(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def matches(metadata: Mapping[str, Any], tree: Mapping[str, Any] | None, id_: str | None = None) -> bool:
    """Whether a document with this metadata matches; the filter is one without mistakes."""
    document = stored(metadata)
    return all(one(document, key, given, id_) for key, given in (tree or {}).items())


def one(document: dict[str, Any], key: str, given: Any, id_: str | None) -> bool:
    """One entry of a filter."""
    if key == "$and":
        return all(matches(document, tree, id_) for tree in given)
    if key == "$or":
        return any(matches(document, tree, id_) for tree in given)
    if key == "$not":
        return not matches(document, given, id_)
    value = id_ if key == "_bq_id" else field(document, key)
    if isinstance(given, (list, tuple)):
        given = {"$in": given}
    elif not isinstance(given, Mapping):
        given = {"$eq": given}
    return all(holds(value, name, operand) for name, operand in given.items())


def field(document: dict[str, Any], key: str) -> Any:
    """The exact top-level key, else the dotted path through nested dictionaries."""
    if key in document:
        return document[key]
    value: Any = document
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def holds(value: Any, name: str, operand: Any) -> bool:
    """One operator on one field."""
    if name == "$not":
        return not all(holds(value, inner, given) for inner, given in operand.items())
    if name == "$ne":
        return not holds(value, "$eq", operand)
    if name == "$nin":
        return not holds(value, "$in", operand)
    if name == "$exists":
        return (value is not ABSENT) == operand
    if value is ABSENT:
        return False
    operand = stored(list(operand) if isinstance(operand, (set, frozenset)) else operand)
    elements = value if isinstance(value, list) else [value]
    candidates = [value, *value] if isinstance(value, list) else [value]
    if name == "$eq":
        whole = isinstance(operand, (list, dict))
        return any(same(v, wanted) for v in ([value] if whole else candidates) for wanted in also_instants([operand]))
    if name == "$in":
        return any(same(v, wanted) for v in candidates for wanted in also_instants(operand))
    if name == "$any":
        return any(same(v, wanted) for v in elements for wanted in also_instants(operand))
    if name == "$all":
        return all(any(same(v, wanted) for v in elements) for wanted in operand)
    if name == "$contains":
        if isinstance(value, str):
            return isinstance(operand, str) and operand in value
        return isinstance(value, list) and any(same(v, operand) for v in value)
    if name == "$between":
        pairs = [operand, [also_instants([end])[-1] for end in operand]]
        return any(kind(v) == kind(low) == kind(high) and low <= v <= high for v in candidates for low, high in pairs)
    if name == "$like":
        return any(like(v, operand) for v in candidates if isinstance(v, str))
    if name == "$ilike":
        return any(like(v, operand, folded=True) for v in candidates if isinstance(v, str))
    ends = also_instants([operand])
    return any(kind(v) == kind(end) and ordered(v, name, end) for v in candidates for end in ends)


def also_instants(operands: list[Any]) -> list[Any]:
    """The operands, and for each string that is a datetime with a time zone that instant."""
    found = []
    for each in operands:
        if isinstance(each, str) and len(each) >= 25 and each[10] == "T" and each[-6] in "+-":
            found.append(stored(datetime.fromisoformat(each)))
    return [*operands, *found]


def ordered(value: Any, name: str, operand: Any) -> bool:
    """Two numbers, or two strings; Python compares an int with a float exactly, and strings by code point."""
    return {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand}[name]


def kind(value: Any) -> str:
    """The types that never mix."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    names = {int: "number", float: "number", str: "string", list: "list", dict: "dict", tuple: "instant"}
    return next(name for cls, name in names.items() if isinstance(value, cls))


def same(a: Any, b: Any) -> bool:
    """Equality: 1 is 1.0, and neither "1" nor True, however deep."""
    if kind(a) != kind(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def like(text: str, pattern: str, folded: bool = False) -> bool:
    """The whole text: % is any run, _ one character, a backslash takes the next as it is; case may not count."""
    parts: list[Any] = []
    characters = iter(pattern)
    for character in characters:
        if character in "%_":
            parts.append(SKIP if character == "%" else ONE)
        else:
            literal = next(characters) if character == "\\" else character
            parts += literal.casefold() if folded else literal
    following, whole = {}, ""  # where the next character of the text begins: an "ß" is folded to two
    for character in text:
        start = len(whole)
        whole += character.casefold() if folded else character
        following[start] = len(whole)
    text = whole
    reached = {0}  # where in the text the pattern may have come so far
    for part in parts:
        if part is SKIP:
            reached = set(range(min(reached), len(text) + 1)) if reached else set()
        elif part is ONE:
            reached = {following[at] for at in reached if at in following}
        else:
            reached = {at + 1 for at in reached if at < len(text) and text[at] == part}
    return len(text) in reached
