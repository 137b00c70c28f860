"""LlamaIndex's `MetadataFilters` as filters of bqstore.

Each operator means the same as in LlamaIndex's own `build_metadata_filter_fn`, with these exceptions, which come from
bqstore's filters:

- A comparison matches a list if it matches one of its elements; ``==`` with a list compares whole lists. For ``any``
  and ``all`` a stored value that is no list counts as a list of one. ``contains`` looks into lists and strings, not
  into dicts.
- Types are not mixed: ``> 0`` does not match True, and values that cannot be compared do not match, where LlamaIndex
  raises TypeError. But filters of LlamaIndex cannot hold booleans, so 1 also matches True and 0 also matches False,
  except inside a list given to ``==``.
- A null is a value: ``== None`` matches it, ``!= None`` does not.
- A string given to ``in``, ``nin``, ``any`` or ``all`` lists the values between its commas, as Qdrant's store has it.
- Filters can be nested, a key can be a dotted path, and a malformed filter is an InvalidInputError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import InvalidInputError

Translated = dict[str, Any]

_OF_VALUE: Final = {"==": "$eq", ">": "$gt", "<": "$lt", "!=": "$ne", ">=": "$gte", "<=": "$lte"}
_OF_LIST: Final = {"in": "$in", "nin": "$nin", "any": "$any"}
_OF_TEXT: Final = {"text_match": "$like", "text_match_insensitive": "$ilike"}
_OPERATORS: Final = (*_OF_VALUE, *_OF_LIST, "all", *_OF_TEXT, "contains", "is_empty")
_FLAGS: Final = (False, True)
_DEEPEST: Final = 20  # filters that are nested more are refused as they are


def is_one(given: object) -> bool:
    """Whether it is a `MetadataFilters` or `MetadataFilter`, by its attributes, as the core imports no framework."""
    return type(given).__module__.partition(".")[0] == "llama_index" and hasattr(given, "model_fields_set")


def translated(given: Any) -> Translated:
    """Translate conditions. ``not`` of several means that none matches; no conditions restrict nothing."""
    if not hasattr(given, "filters"):
        return _condition(given.key, str(getattr(given.operator, "value", given.operator)), given.value)
    parts = [translated(part) for part in given.filters]
    if not parts:
        return {}
    if given.condition == "not":
        return {"$not": {"$or": parts}}
    return parts[0] if len(parts) == 1 else {"$or" if given.condition == "or" else "$and": parts}


def _condition(key: str, operator: str, value: Any) -> Translated:
    """Translate one comparison."""
    value = _checked(key, operator, value)
    if operator in ("==", "!=") and value in _FLAGS:
        operator, value = ("in" if operator == "==" else "nin"), [value]
    if operator in _OF_VALUE:
        return {key: {_OF_VALUE[operator]: value}}
    if operator in _OF_LIST:
        return {key: {_OF_LIST[operator]: _with_flags(value)}}
    if operator in _OF_TEXT:
        return {key: {_OF_TEXT[operator]: _anywhere(value)}}
    if operator == "contains":
        either = [{key: {"$contains": each}} for each in _with_flags([value])]
        return either[0] if len(either) == 1 else {"$or": either}
    return _all_of(key, value) if operator == "all" else _is_empty(key)


def _checked(key: str, operator: str, value: Any) -> Any:
    """The value of a comparison, if its operator takes it; a string in place of a list becomes one."""
    expected = None
    if operator in _OF_LIST or operator == "all":
        if isinstance(value, str):
            pieces = [piece.strip() for piece in value.split(",")]
            return pieces if operator == "all" else list(dict.fromkeys((value, *pieces)))
        expected = None if isinstance(value, list) else "a list of values"
    elif operator in _OF_TEXT:
        expected = None if isinstance(value, str) else "a string"
    elif operator == "contains":
        expected = "one value ('all' takes a list)" if isinstance(value, list) else None
    elif operator in _OF_VALUE:
        ordered = operator not in ("==", "!=")
        expected = "a number or a string" if ordered and (value is None or isinstance(value, list)) else None
    elif operator != "is_empty":
        known = ", ".join(map(repr, _OPERATORS))
        raise InvalidInputError(f"the filter on {key!r} has the operator {operator!r}; there are {known}")
    if expected is not None:
        raise InvalidInputError(
            f"the filter on {key!r} with the operator {operator!r} has the value {value!r:.80}; expected {expected}"
        )
    return value


def _with_flags(values: list[Any]) -> list[Any]:
    """The values, with False added if 0 is among them and True if 1 is."""
    return [*values, *(flag for flag in _FLAGS if flag in values)]


def _all_of(key: str, values: list[Any]) -> Translated:
    """Require a list to hold every value, where 0 also stands for False and 1 for True."""
    flags = [{key: {"$any": [flag, int(flag)]}} for flag in _FLAGS if flag in values]
    return {"$and": [{key: {"$all": [each for each in values if each not in _FLAGS]}}, *flags]}


def _anywhere(text: str) -> str:
    """The ``$like`` pattern of strings that contain a text."""
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    return f"%{text}%"


def _is_empty(key: str) -> Translated:
    """Require a field to be missing, null, "" or [].

    ``$in`` also matches a list by its elements, so lists that hold a null or "" must be excluded. They are recognized
    by a null, a number, a boolean or another string among their elements, or by being ``[""]``. The grammar cannot
    recognize the rest: lists of several "" alone, and lists of "" and of lists or dicts. They count as empty.
    """
    elements = [{"$contains": None}, {"$gt": ""}, {"$gte": 0}, {"$lt": 0}, {"$any": [*_FLAGS]}, {"$eq": [""]}]
    blank = [{key: {"$in": [None, ""]}}, {"$not": {"$or": [{key: element} for element in elements]}}]
    return {"$or": [{key: {"$exists": False}}, {key: {"$eq": []}}, {"$and": blank}]}


def with_fallbacks(given: Any, otherwise: Mapping[str, str], depth: int = 0) -> Any:
    """A filter in which a key stands for another one in documents whose metadata does not have it."""
    if not isinstance(given, Mapping) or depth > _DEEPEST:
        return given
    plain: Translated = {}
    parts: list[Translated] = []
    for key, value in given.items():
        if key in otherwise and not _trivial(value):
            own = {"$and": [{key: {"$exists": True}}, {key: value}]}
            parts.append({"$or": [own, {"$and": [{key: {"$exists": False}}, {otherwise[key]: value}]}]})
        elif key in ("$and", "$or") and isinstance(value, (list, tuple)):
            plain[key] = [with_fallbacks(each, otherwise, depth + 1) for each in value]
        else:
            plain[key] = with_fallbacks(value, otherwise, depth + 1) if key == "$not" else value
    return {"$and": [*([plain] if plain else []), *parts]} if parts else plain


def _trivial(test: Any) -> bool:
    """Whether a test has an empty list of values, so that it matches everything or nothing, whatever the key."""
    lists = ("$in", "$nin", "$any")
    return isinstance(test, Mapping) and all(name in lists and value == [] for name, value in test.items())
