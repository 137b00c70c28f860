"""Filters as other stores write them: refused with ours in their place, as read in our grammar they match nothing."""

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
    """What to add to the name of a field with a filter in the place of its value, where it means one of ours."""
    return {"not": "; did you mean '$not'?", "must_not": "; did you mean '$not'?"}.get(key.lower(), "")


def hint(name: object) -> str | None:
    """The end of a message for an operator of another store that has no single one here."""
    return _HINTS.get(str(name).lower())


def more(name: object) -> str:
    """What to add to the operator that was probably meant."""
    return _MORE.get(str(name).lower(), "")
