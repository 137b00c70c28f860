"""LlamaIndex's filters as a filter of `bqstore`. Knows both grammars, nothing of nodes.

Each operator means what LlamaIndex's own `build_metadata_filter_fn` makes of it, with these differences, which are
those of the grammar of bqstore:

- A comparison matches a list if it matches an element of it; ``==`` with a list is equality of the whole. ``any`` and
  ``all`` take a value that is no list for a list of itself; ``contains`` looks into lists and strings, not into dicts.
- Types never mix: ``> 0`` does not match True, and what cannot be compared does not match, where LlamaIndex raises a
  TypeError. But LlamaIndex has no booleans in filters, so 1 is as good as True, and 0 as False, wherever a value is
  looked for (though not in a whole list given to ``==``).
- A null is a value: ``== None`` matches it, and ``!= None`` does not.
- Filters nest, a key may be a dotted path, and what is malformed is an InvalidInputError.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bqstore import InvalidInputError, Record

Filter = dict[str, Any]
Native = Mapping[str, Any] | Callable[[Record], bool]

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


def filter_of(*parts: MetadataFilters | Native | None) -> Any:
    """One filter that restricts as all the parts do; None if they restrict nothing.

    A function on records cannot be joined with others: it comes alone.
    """
    given = [_tree(part) if isinstance(part, MetadataFilters) else part for part in parts]
    given = [part for part in given if part is not None and (part or not isinstance(part, Mapping))]
    if len(given) < 2:
        return given[0] if given else None
    if any(callable(part) for part in given):
        raise InvalidInputError(
            "filter is a function beside other filters or ids; expected a dict there, or these in the function"
        )
    return {"$and": given}


def _tree(given: MetadataFilters) -> Filter:
    """Conditions joined; ``not``, as LlamaIndex has it: none of them matches. No conditions restrict nothing."""
    parts = [_tree(part) if isinstance(part, MetadataFilters) else _condition(part) for part in given.filters]
    if not parts:
        return {}
    if given.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return parts[0] if len(parts) == 1 else {"$or" if given.condition == FilterCondition.OR else "$and": parts}


def _condition(given: MetadataFilter) -> Filter:
    """One comparison."""
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
    raise InvalidInputError(f"the filter on {key!r} has the operator {operator!r}, which bqstore does not know")


def _with_flags(values: Any) -> Any:
    """The values, and the booleans that some of them stand for."""
    return [*values, *(flag for flag in _FLAGS if flag in values)] if isinstance(values, list) else values


def _all_of(key: str, values: Any) -> Filter:
    """A list has every value, a boolean being as good as its number."""
    if not isinstance(values, list):
        return {key: {"$all": values}}
    flags = [{key: {"$any": [flag, int(flag)]}} for flag in _FLAGS if flag in values]
    return {"$and": [{key: {"$all": [each for each in values if each not in _FLAGS]}}, *flags]}


def _anywhere(text: Any) -> Any:
    """The pattern of any string that has this piece."""
    if not isinstance(text, str):
        return text
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    return f"%{text}%"


def _is_empty(key: str) -> Filter:
    """Missing, a null, "" or [].

    ``$in`` matches a list by its elements, too, and a list that has a null or "" is not empty. It is told by its null,
    or by a number, a boolean or another string in it, or by being ``[""]``. What is left, and taken for empty, are
    lists of several "" and nothing else, and of "" beside lists or dicts alone.
    """
    elements = [{"$contains": None}, {"$gt": ""}, {"$gte": 0}, {"$lt": 0}, {"$any": [*_FLAGS]}, {"$eq": [""]}]
    blank = [{key: {"$in": [None, ""]}}, {"$not": {"$or": [{key: element} for element in elements]}}]
    return {"$or": [{key: {"$exists": False}}, {key: {"$eq": []}}, {"$and": blank}]}
