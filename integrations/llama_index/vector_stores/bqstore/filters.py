"""LlamaIndex's filters as a filter of `bqstore`. Knows both grammars, nothing of nodes."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bqstore import InvalidInputError

Filter = dict[str, Any]


def filter_of(*parts: MetadataFilters | Mapping[str, Any] | None) -> Filter | None:
    """One filter that restricts as all the parts do; None if they restrict nothing."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        conditions = part
        if isinstance(part, MetadataFilters):
            conditions = filter_of(*_conditions(part))
        if conditions is None:
            continue
        if not isinstance(conditions, Mapping):
            raise InvalidInputError(f"filter is a {type(part).__name__}; expected a dict such as {{'lang': 'en'}}")
        for key, condition in conditions.items():
            found.setdefault(key, []).append(condition)
    return {key: _joined(key, conditions) for key, conditions in found.items()} or None


def _joined(key: str, conditions: list[Any]) -> Any:
    """All conditions on one key as one: ``{"$eq": a, "$in": [b, c]}`` asks for both.

    Two ``$in`` are not their intersection: the field may be a list that has an element of each. So a key takes one
    ``$in`` and, in ``$eq``, the equality of a whole list or one more single value.
    """
    if len(conditions) == 1:
        return conditions[0]
    # by repr, for which True is not 1
    distinct = {repr(pair): pair for condition in conditions for pair in _comparisons(condition)}
    named: dict[str, list[Any]] = {}
    for name, operand in distinct.values():
        named.setdefault(name, []).append(operand)
    amongs, wholes = named.get("$in", []), named.get("$eq", [])
    single = next((values for values in amongs if _is_single(values)), None)
    if len(amongs) == 2 and not wholes and single is not None:
        amongs, wholes = [values for values in amongs if values is not single], [single[0]]
    if named.keys() - {"$eq", "$in"} or len(amongs) > 1 or len(wholes) > 1:
        raise InvalidInputError(
            f"the filters hold several conditions on {key!r} that this version cannot join: of one key it takes "
            "an '==' beside an 'in', or two '=='"
        )
    return {name: values[0] for name, values in (("$eq", wholes), ("$in", amongs)) if values}


def _comparisons(condition: Any) -> list[tuple[str, Any]]:
    """A condition as operators and operands; equality with a single value as ``$in``, which says the same."""
    if isinstance(condition, (list, tuple)):
        return [("$in", condition)]
    if not isinstance(condition, Mapping):
        return [("$in", [condition])]
    pairs = list(condition.items()) or [("", condition)]
    return [("$in", [value]) if name == "$eq" and _is_single([value]) else (name, value) for name, value in pairs]


def _is_single(values: Any) -> bool:
    """Whether a field is among these values exactly when it equals, or has, the only one."""
    return isinstance(values, (list, tuple)) and len(values) == 1 and not isinstance(values[0], (list, tuple, Mapping))


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
