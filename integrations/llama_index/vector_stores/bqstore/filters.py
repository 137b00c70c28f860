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
- A string given to ``in``, ``nin``, ``any`` or ``all`` lists the values between its commas, as Qdrant's store has it.
- Filters can be nested, a key can be a dotted path, and a malformed filter is an InvalidInputError.
- ``doc_id``, ``ref_doc_id`` and ``document_id`` mean the source document of nodes whose metadata has no such key.
"""

from collections.abc import Mapping
from typing import Any, Final

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bqstore import REF_DOC_ID_KEY, InvalidInputError

Filter = dict[str, Any]

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
_OF_SOURCE: Final = ("doc_id", "ref_doc_id", "document_id")  # what LlamaIndex's stores write for other stores
_DEEPEST: Final = 20  # filters that are nested more are refused as they are


def native_filter(*parts: object) -> Any:
    """Return one filter of bqstore that requires all the parts; None if they restrict nothing.

    A part is a filter of LlamaIndex, a list of such, a filter of bqstore, or None.

    >>> from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
    >>> english = MetadataFilters(filters=[MetadataFilter(key="lang", value="en")])
    >>> native_filter(english, {"year": {"$gte": 2023}}, None)
    {'$and': [{'lang': {'$eq': 'en'}}, {'year': {'$gte': 2023}}]}
    """
    given = [part for part in map(_native, parts) if part is not None and (part or not isinstance(part, Mapping))]
    return {"$and": given} if len(given) > 1 else given[0] if given else None


def _native(part: Any) -> Any:
    """Return a part as a filter of bqstore."""
    if isinstance(part, MetadataFilter) or (isinstance(part, list) and part and isinstance(part[0], MetadataFilter)):
        part = MetadataFilters(filters=part if isinstance(part, list) else [part])
    elif isinstance(part, dict) and part.keys() <= {"filters", "condition"} and isinstance(part.get("filters"), list):
        try:
            part = MetadataFilters.model_validate(part)
        except ValueError as error:  # of pydantic's
            raise InvalidInputError(f"filters is a dict that makes no MetadataFilters: {error}") from None
    tree = _condition_tree(part) if isinstance(part, MetadataFilters) else part
    return _by_source(tree) if isinstance(tree, Mapping) else tree


def _by_source(given: Any, depth: int = 0) -> Any:
    """Let the keys of `_OF_SOURCE` mean the source document where a node's metadata has no such key."""
    if not isinstance(given, Mapping) or depth > _DEEPEST:
        return given
    plain: Filter = {}
    parts: list[Filter] = []
    for key, value in given.items():
        if key in _OF_SOURCE and not _trivial(value):
            own = {"$and": [{key: {"$exists": True}}, {key: value}]}
            parts.append({"$or": [own, {"$and": [{key: {"$exists": False}}, {REF_DOC_ID_KEY: value}]}]})
        elif key in ("$and", "$or") and isinstance(value, (list, tuple)):
            plain[key] = [_by_source(each, depth + 1) for each in value]
        else:
            plain[key] = _by_source(value, depth + 1) if key == "$not" else value
    return {"$and": [*([plain] if plain else []), *parts]} if parts else plain


def _trivial(test: Any) -> bool:
    """Return whether a test asks for none of no values, which matches everything or nothing, whatever the key."""
    lists = ("$in", "$nin", "$any")
    return isinstance(test, Mapping) and all(name in lists and value == [] for name, value in test.items())


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
    key, operator = given.key, given.operator
    value = _checked(given)
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
    return _all_of(key, value) if operator == FilterOperator.ALL else _is_empty(key)


def _checked(given: MetadataFilter) -> Any:
    """Return the value of a comparison, if its operator takes it; a string in place of a list becomes one."""
    operator, value = given.operator, given.value
    expected = None
    if operator in _OF_LIST or operator == FilterOperator.ALL:
        if isinstance(value, str):
            pieces = [piece.strip() for piece in value.split(",")]
            return pieces if operator == FilterOperator.ALL else list(dict.fromkeys((value, *pieces)))
        expected = None if isinstance(value, list) else "a list of values"
    elif operator in _OF_TEXT:
        expected = None if isinstance(value, str) else "a string"
    elif operator == FilterOperator.CONTAINS:
        expected = "one value ('all' takes a list)" if isinstance(value, list) else None
    elif operator in _OF_VALUE:
        ordered = operator not in (FilterOperator.EQ, FilterOperator.NE)
        expected = "a number or a string" if ordered and (value is None or isinstance(value, list)) else None
    elif operator != FilterOperator.IS_EMPTY:
        known = ", ".join(repr(each.value) for each in FilterOperator)
        raise InvalidInputError(f"the filter on {given.key!r} has the operator {operator!r}; there are {known}")
    if expected is not None:
        raise InvalidInputError(
            f"the filter on {given.key!r} with the operator {operator.value!r} has the value {value!r:.80}; "
            f"expected {expected}"
        )
    return value


def _with_flags(values: list[Any]) -> list[Any]:
    """Return the values, with False added if 0 is among them and True if 1 is."""
    return [*values, *(flag for flag in _FLAGS if flag in values)]


def _all_of(key: str, values: list[Any]) -> Filter:
    """Require a list to hold every value, where 0 also stands for False and 1 for True."""
    flags = [{key: {"$any": [flag, int(flag)]}} for flag in _FLAGS if flag in values]
    return {"$and": [{key: {"$all": [each for each in values if each not in _FLAGS]}}, *flags]}


def _anywhere(text: str) -> str:
    """Return the ``$like`` pattern of strings that contain a text."""
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
