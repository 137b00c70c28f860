"""Qdrant's `Filter` as filters of bqstore: translated if both mean the same, else refused, with ours shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Final

from ..arguments import as_dicts, shown, type_of
from ..errors import InvalidInputError
from .to_json import ID_KEY

Translated = dict[str, Any]
_CLAUSES: Final = ("must", "should", "must_not", "min_should")
_MOST: Final = 64  # combinations that a min_should is written out as
_FUNCTION: Final = "use lambda record: ..., a function of the document"


def translated(given: object, prefix: str = "") -> object:
    """A `qdrant_client.models.Filter` in our grammar; anything else as it is.

    ``prefix`` is taken off the names of fields: langchain-qdrant keeps metadata under ``metadata.``. Raises
    InvalidInputError, with ours shown, for a condition that means something else here.
    """
    form = as_dicts(given)
    if form is given:
        return given
    if type(given).__name__ != "Filter" or not isinstance(form, Mapping):
        raise InvalidInputError(f"filter is {type_of(given)} of Qdrant; expected its Filter, or a dict of ours")
    return _filter(form, prefix)


def _filter(given: Mapping[str, Any], prefix: str) -> Translated:
    parts: list[Translated] = []
    must, should, must_not = (
        [_condition(each, prefix) for each in _listed(given.get(name))] for name in ("must", "should", "must_not")
    )
    parts += must
    if should:
        parts.append(_any_of(should))
    if must_not:
        parts.append({"$not": _any_of(must_not)})
    if "min_should" in given:
        parts.append(_at_least(given["min_should"], prefix))
    return parts[0] if len(parts) == 1 else {"$and": parts} if parts else {}


def _listed(given: Any) -> list[Any]:
    return [] if given is None else given if isinstance(given, list) else [given]


def _any_of(parts: list[Translated]) -> Translated:
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _at_least(given: Mapping[str, Any], prefix: str) -> Translated:
    conditions, least = [_condition(each, prefix) for each in _listed(given["conditions"])], given["min_count"]
    if least < 1 or least > len(conditions) or math.comb(len(conditions), least) > _MOST:
        raise InvalidInputError(
            f"min_should asks for {least} of {len(conditions)} conditions; write out what may match: "
            "{'$or': [{'$and': [...]}, ...]}"
        )
    return _any_of([{"$and": list(some)} if least > 1 else some[0] for some in combinations(conditions, least)])


def _condition(given: Mapping[str, Any], prefix: str) -> Translated:
    if not given or given.keys() <= set(_CLAUSES):
        return _filter(given, prefix)
    if "has_id" in given:
        return {ID_KEY: {"$in": [str(each) for each in given["has_id"]]}}
    for name, test in (("is_null", _is_null), ("is_empty", _is_empty)):
        if name in given and "key" not in given:
            return test(_field(given[name]["key"], prefix))
    if "key" not in given:
        raise InvalidInputError(f"{shown(next(iter(given)))} of Qdrant has no counterpart; {_FUNCTION}")
    key = _field(given["key"], prefix)
    tests = {name: value for name, value in given.items() if name != "key"}
    if len(tests) != 1:
        raise InvalidInputError(
            f"the condition on {shown(key)} has {len(tests)} tests; give each a condition of its own"
        )
    ((name, value),) = tests.items()
    if name in ("is_null", "is_empty"):
        found = (_is_null if name == "is_null" else _is_empty)(key)
        return found if value else {"$not": found}
    if name == "match":
        return _match(key, value)
    if name == "range":
        return _range(key, value)
    raise InvalidInputError(f"{name!r} on {shown(key)} has no counterpart; {_FUNCTION}")


def _field(key: str, prefix: str) -> str:
    if "[" in key:
        raise InvalidInputError(f"the key {shown(key)} goes into a list of dicts; {_FUNCTION}")
    return key.removeprefix(prefix)


def _is_null(key: str) -> Translated:
    return {key: {"$eq": None}}


def _is_empty(key: str) -> Translated:
    null = {"$and": [_is_null(key), {"$not": {key: {"$contains": None}}}]}  # and no list that holds one
    return {"$or": [{key: {"$exists": False}}, {key: {"$eq": []}}, null]}


def _match(key: str, given: Mapping[str, Any]) -> Translated:
    ((name, value),) = given.items()
    if name == "value":
        return {key: {"$eq": value}}
    if name == "any":
        return {key: {"$in": value}}
    if name in ("prefix", "substring"):
        return {key: {"$like": f"{'%' if name == 'substring' else ''}{_escaped(value)}%"}}
    if name == "except":
        ours = {key: {"$exists": True, "$nin": value}}
        raise InvalidInputError(
            f"MatchExcept on {shown(key)} means something else for lists; write {ours}: no element is one of these"
        )
    ours = {key: {"$ilike": "%word%"}}  # MatchText, MatchTextAny, MatchPhrase: words, by Qdrant's tokenizer
    raise InvalidInputError(
        f"Qdrant's match of {name!r} on {shown(key)} compares words; write {ours} for a piece of text"
    )


def _range(key: str, given: Mapping[str, Any]) -> Translated:
    for value in given.values():
        if not isinstance(value, (int, float)):
            ours = {key: {f"${name}": end for name, end in given.items()}}
            raise InvalidInputError(
                f"DatetimeRange on {shown(key)} reads dates out of strings; write {ours}, which compares with dates "
                "that were stored as dates"
            )
    if not given:
        raise InvalidInputError(f"the range on {shown(key)} has no end; expected gt, gte, lt or lte")
    return {key: {f"${name}": value for name, value in given.items()}}


def _escaped(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    return text
