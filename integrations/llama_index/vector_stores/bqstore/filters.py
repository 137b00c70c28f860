"""Translates LlamaIndex's `MetadataFilters` into filters of bqstore.

Each operator means the same as in LlamaIndex's own `build_metadata_filter_fn`, with these exceptions, which come from
bqstore's filters:

- A comparison matches a list if it matches one of its elements; ``==`` with a list compares whole lists. For ``any``
  and ``all`` a stored value that is no list counts as a list of one. ``contains`` looks into lists and strings, not
  into dicts.
- Types are not mixed: ``> 0`` does not match True, and values that cannot be compared do not match, where LlamaIndex
  raises TypeError. But filters of LlamaIndex cannot hold booleans, so 1 also matches True and 0 also matches False,
  except inside a list given to ``==``.
- A null is a value: ``== None`` matches it, ``!= None`` does not.
- Filters can be nested, a key can be a dotted path, and a malformed filter is an InvalidInputError.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bqstore import InvalidInputError, Record

Filter = dict[str, Any]
NativeFilter = Mapping[str, Any] | Callable[[Record], bool]

_OF_VALUE: Final = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_OF_LIST: Final = {FilterOperator.IN: "$in", FilterOperator.NIN: "$nin", FilterOperator.ANY: "$any"}
_OF_TEXT: Final = {FilterOperator.TEXT_MATCH: "$like", FilterOperator.TEXT_MATCH_INSENSITIVE: "$ilike"}
_FLAGS: Final = (False, True)


def native_filter(*parts: MetadataFilters | NativeFilter | None) -> Any:
    """Return one filter of bqstore that requires all the parts; None if they restrict nothing.

    A function of a record cannot be combined with other parts: that is an InvalidInputError.

    >>> from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
    >>> english = MetadataFilters(filters=[MetadataFilter(key="lang", value="en")])
    >>> native_filter(english, {"year": {"$gte": 2023}}, None)
    {'$and': [{'lang': {'$eq': 'en'}}, {'year': {'$gte': 2023}}]}
    """
    given = [_condition_tree(part) if isinstance(part, MetadataFilters) else part for part in parts]
    given = [part for part in given if part is not None and (part or not isinstance(part, Mapping))]
    if len(given) < 2:
        return given[0] if given else None
    if any(callable(part) for part in given):
        raise InvalidInputError(
            "filter is a function, which cannot be combined with other filters or ids; use a dict, or test for them "
            "in the function"
        )
    return {"$and": given}


def _condition_tree(given: MetadataFilters) -> Filter:
    """Translate joined conditions. ``not`` of several means that none matches; no conditions restrict nothing."""
    parts = [_condition_tree(part) if isinstance(part, MetadataFilters) else _condition(part) for part in given.filters]
    if not parts:
        return {}
    if given.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return parts[0] if len(parts) == 1 else {"$or" if given.condition == FilterCondition.OR else "$and": parts}


def _condition(given: MetadataFilter) -> Filter:
    """Translate one comparison."""
    key, value, operator = given.key, given.value, given.operator
    if operator in (FilterOperator.EQ, FilterOperator.NE) and value in _FLAGS:
        operator, value = (FilterOperator.IN if operator == FilterOperator.EQ else FilterOperator.NIN), [value]
    if operator in _OF_VALUE:
        return {key: {_OF_VALUE[operator]: value}}
    if operator in _OF_LIST:
        return {key: {_OF_LIST[operator]: _with_flags(value)}}
    if operator in _OF_TEXT:
        return {key: {_OF_TEXT[operator]: _anywhere(value)}}
    if operator == FilterOperator.CONTAINS:
        either = [{key: {"$contains": each}} for each in _with_flags([value])]
        return either[0] if len(either) == 1 else {"$or": either}
    if operator == FilterOperator.ALL:
        return _all_of(key, value)
    if operator == FilterOperator.IS_EMPTY:
        return _is_empty(key)
    raise InvalidInputError(f"the filter on {key!r} has the operator {operator!r}, which bqstore does not support")


def _with_flags(values: Any) -> Any:
    """Return the values, with False added if 0 is among them and True if 1 is."""
    return [*values, *(flag for flag in _FLAGS if flag in values)] if isinstance(values, list) else values


def _all_of(key: str, values: Any) -> Filter:
    """Require a list to hold every value, where 0 also stands for False and 1 for True."""
    if not isinstance(values, list):
        return {key: {"$all": values}}
    flags = [{key: {"$any": [flag, int(flag)]}} for flag in _FLAGS if flag in values]
    return {"$and": [{key: {"$all": [each for each in values if each not in _FLAGS]}}, *flags]}


def _anywhere(text: Any) -> Any:
    """Return the ``$like`` pattern of strings that contain a text."""
    if not isinstance(text, str):
        return text
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    return f"%{text}%"


def _is_empty(key: str) -> Filter:
    """Require a field to be missing, null, "" or [].

    ``$in`` also matches a list by its elements, so lists that hold a null or "" must be excluded. They are recognized
    by a null, a number, a boolean or another string among their elements, or by being ``[""]``. The grammar cannot
    recognize the rest: lists of several "" alone, and lists of "" and of lists or dicts. They count as empty.
    """
    elements = [{"$contains": None}, {"$gt": ""}, {"$gte": 0}, {"$lt": 0}, {"$any": [*_FLAGS]}, {"$eq": [""]}]
    blank = [{key: {"$in": [None, ""]}}, {"$not": {"$or": [{key: element} for element in elements]}}]
    return {"$or": [{key: {"$exists": False}}, {key: {"$eq": []}}, {"$and": blank}]}
