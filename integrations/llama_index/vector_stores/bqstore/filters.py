"""LlamaIndex's filters as a filter of `bqstore`. Knows both grammars, nothing of nodes."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bqstore import InvalidInputError

Filter = dict[str, Any]


def filter_of(*parts: MetadataFilters | Mapping[str, Any] | None) -> Filter | None:
    """One filter that restricts as all the parts do; None if they restrict nothing."""
    merged: Filter = {}
    for part in parts:
        conditions = part
        if isinstance(part, MetadataFilters):
            conditions = filter_of(*_conditions(part))
        if conditions is None:
            continue
        if not isinstance(conditions, Mapping):
            raise InvalidInputError(f"filter is a {type(part).__name__}; expected a dict such as {{'lang': 'en'}}")
        for key, condition in conditions.items():
            if merged.setdefault(key, condition) != condition:
                raise InvalidInputError(f"the filters hold two conditions on {key!r}; this version takes one of a key")
    return merged or None


def _conditions(given: MetadataFilters) -> list[MetadataFilters | Filter]:
    """The parts of a conjunction."""
    if given.condition not in (None, FilterCondition.AND):
        raise InvalidInputError(
            f"MetadataFilters has the condition {given.condition.value!r}; this version takes 'and'"
        )
    return [part if isinstance(part, MetadataFilters) else _condition(part) for part in given.filters]


def _condition(given: MetadataFilter) -> Filter:
    """One comparison. LlamaIndex has no booleans in filters: there 1 stands for True too, and 0 for False."""
    value = given.value
    if given.operator == FilterOperator.EQ:
        return {given.key: {"$eq": value} if len(_with_booleans([value])) == 1 else {"$in": _with_booleans([value])}}
    if given.operator == FilterOperator.IN:
        return {given.key: {"$in": _with_booleans(value) if isinstance(value, list) else value}}
    raise InvalidInputError(
        f"the filter on {given.key!r} has the operator {given.operator.value!r}; this version takes '==' and 'in'"
    )


def _with_booleans(values: list[Any]) -> list[Any]:
    """The values, and the booleans that some of them stand for."""
    return values + [bool(value) for value in values if isinstance(value, (int, float)) and value in (0, 1)]
