"""Filters in the grammar of other stores: refused, with ours shown. Read in our grammar they would match nothing."""

from collections.abc import Mapping
from typing import Any, Final

from ..arguments import shown
from ..errors import InvalidInputError

_NONE_OF: Final = "{'$not': {'$or': [...]}}"
_JOINING: Final = {
    **dict.fromkeys(("must", "and", "AND", "And", "filter"), "'$and'"),
    **dict.fromkeys(("should", "or", "OR", "Or"), "'$or'"),
    **dict.fromkeys(("must_not", "nor", "NOR"), _NONE_OF),
    **dict.fromkeys(("not", "NOT", "Not"), "'$not', with one filter in place of the list"),
}
_OF_WEAVIATE_AND_HAYSTACK: Final = frozenset(
    [
        *("equal", "notequal", "greaterthan", "greaterthanequal", "lessthan", "lessthanequal", "like", "isnull"),
        *(
            "containsany",
            "containsall",
            "and",
            "or",
            "not",
            "in",
            "nin",
            "not in",
            "eq",
            "ne",
            "gt",
            "gte",
            "lt",
            "lte",
        ),
        *("==", "!=", ">", ">=", "<", "<="),
    ]
)
_BESIDE_OPERATOR: Final = ("path", "field", "key", "operands", "conditions")
_FUNCTION: Final = "lambda record: ..., a function of the document"
_HINTS: Final = {
    "$nor": f"; did you mean '$not' around '$or'? {_NONE_OF}",
    **dict.fromkeys(("$size", "$len", "$length", "$xor", "$geo", "$near"), f"; use {_FUNCTION}"),
    **dict.fromkeys(
        ("$null", "$isnull", "$is_null", "$is_none"), "; did you mean '$exists'? {'$eq': None} matches null alone"
    ),
    **dict.fromkeys(("$icontains", "$istartswith", "$iendswith"), "; did you mean '$ilike'? with % and _: '%word%'"),
    "$iregex": "; did you mean '$ilike'? with % and _ (of a regular expression use a function of the document)",
    "$not_contains": "; write {'$not': {'$contains': ...}}",
    "$not_like": "; write {'$not': {'$like': ...}}",
    "$mod": f"; use {_FUNCTION}",
    "$type": f"; use {_FUNCTION}",
    "$where": f"; use {_FUNCTION}",
    "$elemmatch": "; an operator on a list tests its elements; of dicts use a function of the document",
}
SIGNS: Final = {"=": "$eq", "==": "$eq", "!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_MORE: Final = {"$regex": " with % and _ (of a regular expression use a function of the document)"}


def refuse(given: Mapping[Any, Any]) -> None:
    """Raise InvalidInputError for a dictionary in the form of Qdrant, Elasticsearch, Weaviate or Haystack."""
    for key, value in given.items():
        if key not in _JOINING:
            continue
        if isinstance(value, (list, tuple)) and value and all(isinstance(each, Mapping) for each in value):
            raise InvalidInputError(
                f"the filter has {key!r} with a list of filters; did you mean {_JOINING[key]}? (a field of this name "
                f"whose value is one of these dicts: {{{key!r}: {{'$in': [...]}}}})"
            )
    name = given.get("operator") if "operator" in given else None
    if isinstance(name, str) and name.lower() in _OF_WEAVIATE_AND_HAYSTACK:
        beside = [key for key in _BESIDE_OPERATOR if key in given]
        if beside:
            raise InvalidInputError(
                f"the filter has {beside[0]!r} and 'operator': {shown(name)}, another store's form; expected "
                "{'year': {'$gte': 2020}}, joined by {'$and': [...]}"
            )


def of_one(key: str) -> str:
    """A hint for a field with a dict as its value, if the field's name is another store's operator."""
    return {"not": "; did you mean '$not'?", "must_not": "; did you mean '$not'?"}.get(key.lower(), "")


def hint(name: object) -> str | None:
    """The end of a message for another store's operator, if no single operator here does the same."""
    return _HINTS.get(str(name).lower())


def more(name: object) -> str:
    """What to add to the name of the operator that was probably meant."""
    return _MORE.get(str(name).lower(), "")
