"""Parses filters: a dictionary becomes a tree of typed conditions.

``{"lang": "en", "year": {"$gte": 2020}, "$or": [{"tags": "new"}, {"price": {"$lt": 10}}]}``: several keys, and several
operators on a key, are ANDed. ``{"k": v}`` is ``$eq``, ``{"k": [a, b]}`` is ``$in``. A key names the exact top-level
key if there is one, else a dotted path. Types never mix: 1 is not "1" and not True; 1 equals 1.0. An operator on a
scalar matches a list if it matches an element. ``docs/filters.md`` has every operator.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Final, cast

import numpy as np

from ..arguments import did_you_mean, shown, text_bytes, type_of
from ..clock import EXPIRES_AT_KEY
from ..errors import InvalidInputError
from ..kernels.metadata import ANY_RUN
from . import foreign_filters, qdrant_filters
from .dates import MARK, instant
from .filter_tree import (
    EVERYTHING,
    And,
    Contains,
    Elements,
    Exists,
    Field,
    Like,
    Not,
    OneOf,
    Or,
    Predicate,
    Range,
    Tree,
)
from .to_json import ID_KEY, PRIVATE_PREFIX, REF_DOC_ID_KEY
from .values import Typed, operand, pattern, scalar

MAX_NODES: Final = 256
MAX_OPERANDS: Final = 10_000
MAX_NESTING: Final = 16
_LISTS = (list, tuple, set, frozenset)
_REMEMBERED, _SHORT = 1024, 100  # trees that are remembered, and the longest texts in them
_trees: dict[tuple[tuple[str, str], ...], "Tree"] = {}


Condition = Field | And | Or | Not
Filter = Mapping[str, Any] | Callable[[Any], object]


def parse(given: object) -> Tree | None:
    """The tree of a filter; None for one that restricts nothing (None or an empty dictionary).

    Raises InvalidInputError for an unknown operator, a malformed operand, more than 256 nodes, 10,000 operands of one
    operator or 16 levels of ``$and``, ``$or`` and ``$not``.
    """
    if given is None:
        return None
    plain = _equalities(given) if type(given) is dict else None
    if plain and (known := _trees.get(plain)) is not None:
        return known
    if _is_function(given):
        return Predicate(cast("Callable[[Any], object]", given))
    given = qdrant_filters.translated(given)
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"filter is {_described(given)}; expected a dict such as {{'lang': 'en'}}, or a function of a document"
        )
    parser = _Parser()
    tree = parser.tree(given, 0)
    if parser.functions:
        tree = _functions_last(tree)
    if plain:
        if len(_trees) >= _REMEMBERED:
            _trees.clear()
        _trees[plain] = tree
    return None if tree == EVERYTHING else tree


def _equalities(given: dict[Any, Any]) -> tuple[tuple[str, str], ...] | None:
    """The items of a filter that compares with short strings only, as by a tenant: these are remembered. Else None."""
    for key, value in given.items():
        if type(key) is not str or type(value) is not str or len(value) > _SHORT:
            return None
    return tuple(given.items()) if len(given) <= MAX_NESTING else None


def check_key(key: object) -> str:
    """The name of a metadata field, if a filter may have it; else InvalidInputError."""
    if not isinstance(key, str):
        raise InvalidInputError(f"a filter has a key of type {type(key).__name__}; expected a string")
    text_bytes(key, "a key of the filter")
    if key == EXPIRES_AT_KEY:
        raise InvalidInputError(
            f"the filter names {key!r}, the time at which a document expires: expired documents are never found, "
            "whatever the filter; to compare times, keep them in a field of your own, too, as datetimes"
        )
    if key.startswith(PRIVATE_PREFIX) and key not in (ID_KEY, REF_DOC_ID_KEY):
        raise InvalidInputError(
            f"the filter names {shown(key)}: keys that begin with {PRIVATE_PREFIX!r} are the adapters' own"
        )
    return str.__str__(key)  # of an enumeration of strings the text, not the name


def checked_field(key: object, what: str) -> str:
    """The name of a metadata field that is listed by; else InvalidInputError."""
    if not isinstance(key, str) or key.startswith("$") or key == ID_KEY:
        raise InvalidInputError(f"{what} is {shown(key)}; expected the name of a metadata field")
    return check_key(key)


class _Parser:
    """Turns dictionaries into trees, and counts the nodes."""

    def __init__(self) -> None:
        self.nodes = 0
        self.functions = 0

    def _node(self, tree: Tree) -> Tree:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise InvalidInputError(
                f"the filter has more than {MAX_NODES} conditions, $and, $or and $not; join values of one field by $in"
            )
        return tree

    def tree(self, given: Mapping[Any, Any], depth: int) -> Tree:
        """A dictionary of fields and logical operators, ANDed."""
        _check_depth(depth)
        foreign_filters.refuse(given)
        parts: list[Tree] = []
        for key, value in given.items():
            if isinstance(key, str) and key.startswith("$"):
                parts.append(self.logical(key, value, depth))
            else:
                parts += self.field(check_key(key), value, depth)
        return _all_of(parts)

    def logical(self, name: str, given: object, depth: int) -> Tree:
        """``$and``, ``$or`` and ``$not`` of filters."""
        if name == "$not":
            if not isinstance(given, Mapping) or not given:
                raise InvalidInputError(f"$not is given {_described(given)}; expected a filter that is not empty")
            return self._node(_not(self.tree(given, depth + 1)))
        if name not in ("$and", "$or"):
            known = ", where a field name belongs: {'field': {...}}" if name in OPERATORS else ""
            hint = known or foreign_filters.hint(name) or did_you_mean(name[:80], ("$and", "$or", "$not"))
            fields = "" if known else "; a field whose name begins with $ is tested by a function of the document"
            raise InvalidInputError(f"the filter has the operator {shown(name)}{hint}{fields}")
        if not isinstance(given, (list, tuple)) or not given:
            raise InvalidInputError(
                f"{name} is given {_described(given)}; expected a list of filters that is not empty"
            )
        parts = []
        for each in given:
            part = each if isinstance(each, Mapping) else qdrant_filters.translated(each)
            if _is_function(part):
                parts.append(self._node(Predicate(cast("Callable[[Any], object]", part))))
                self.functions += 1
            elif isinstance(part, Mapping):
                parts.append(self.tree(part, depth + 1))
            else:
                raise InvalidInputError(f"{name} holds {_described(part)}; expected filters, such as {{'lang': 'en'}}")
        if name == "$and":
            return self._node(_all_of(parts))
        return self._node(EVERYTHING if EVERYTHING in parts else Or(tuple(parts)))

    def field(self, key: str, given: object, depth: int) -> list[Tree]:
        """The conditions on one key, to be ANDed."""
        if isinstance(given, _LISTS):
            return [self.condition(key, "$in", given, depth)]
        if not isinstance(given, Mapping):
            return [self.condition(key, "$eq", given, depth)]
        if not given:
            raise InvalidInputError(f"the filter on {shown(key)} is an empty dict; expected an operator: {_KNOWN}")
        return [self.condition(key, name, value, depth) for name, value in given.items()]

    def condition(self, key: str, name: object, value: object, depth: int) -> Tree:
        """One operator on one field."""
        if name == "$not":
            if not isinstance(value, Mapping) or not value:
                raise InvalidInputError(
                    f"$not on {shown(key)} is given {_described(value)}; expected operators: {_KNOWN}"
                )
            _check_depth(depth + 1)
            return self._node(_not(_all_of([self.condition(key, *item, depth + 1) for item in value.items()])))
        if key == ID_KEY:
            _check_ids(name, value)
        if isinstance(name, str) and name in OPERATORS:
            return self._node(OPERATORS[name](key, name, value))
        if isinstance(name, str) and name.startswith("$"):
            hint = foreign_filters.hint(name) or did_you_mean(name[:80], OPERATORS)
            raise InvalidInputError(
                f"the filter on {shown(key)} has no operator {shown(name)}{hint}{foreign_filters.more(name)}"
            )
        meant = foreign_filters.SIGNS.get(name, f"${name}") if isinstance(name, str) else ""
        if meant in OPERATORS:
            raise InvalidInputError(f"the filter on {shown(key)} has {name!r}; did you mean {meant!r}?")
        raise InvalidInputError(
            f"the filter on {shown(key)} compares with a dict; for a nested field write "
            f"{shown(key + '.' + str(name))}, for equality of the whole {{'$eq': {{...}}}}"
            f"{foreign_filters.of_one(key)}"
        )


def _all_of(parts: list[Tree]) -> Tree:
    """The conjunction without parts that restrict nothing: `Collection.delete` must know a filter of no effect."""
    parts = [part for part in parts if part != EVERYTHING]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _is_function(given: object) -> bool:
    return callable(given) and not isinstance(given, (type, Mapping))


def _functions_last(tree: Tree) -> Predicate:
    """A tree that requires functions: they are called only for documents that match the rest."""
    functions: list[Callable[[Any], object]] = []
    rest: list[Tree] = []
    open_ = [tree]
    while open_:
        part = open_.pop(0)
        if isinstance(part, Predicate):
            functions.append(part.function)
        elif isinstance(part, And):
            open_ = [*part.parts, *open_]
        else:
            rest.append(part)
    if any(map(_asks_a_function, rest)):
        raise InvalidInputError("a function stands inside of $or or $not; only $and joins functions with conditions")
    within = cast("Condition | None", _all_of(rest) if rest else None)
    if len(functions) == 1:
        return Predicate(functions[0], within)
    return Predicate(lambda record: all(function(record) for function in functions), within)


def _asks_a_function(tree: Tree) -> bool:
    parts = tree.parts if isinstance(tree, (And, Or)) else (tree.part,) if isinstance(tree, Not) else ()
    return isinstance(tree, Predicate) or any(map(_asks_a_function, parts))


def _not(tree: Tree) -> Tree:
    """The complement; of what no document matches, `EVERYTHING`."""
    test = tree.test if isinstance(tree, Field) else None
    none = isinstance(test, (OneOf, Elements)) and not test.operands and not getattr(test, "every", False)
    return EVERYTHING if none else tree.part if isinstance(tree, Not) else Not(tree)


def _check_depth(depth: int) -> None:
    if depth > MAX_NESTING:
        raise InvalidInputError(f"the filter nests $and, $or and $not more than {MAX_NESTING} deep")


def _check_ids(name: object, value: object) -> None:
    """Refuse what cannot be asked of ids: they are strings, and every document has one."""
    if name not in ("$eq", "$in", "$ne", "$nin"):
        raise InvalidInputError(f"the filter on {ID_KEY!r} has {shown(name)}; it takes $eq, $in, $ne, $nin and $not")
    for each in value if name in ("$in", "$nin") and isinstance(value, _LISTS) else [value]:
        if not isinstance(each, str):
            raise InvalidInputError(f"the filter on {ID_KEY!r} compares with {_described(each)}; ids are strings")


# ---- one function for each kind of operator: the key, the operator's name and its operand become a condition


def _equal(key: str, name: str, value: object) -> Tree:
    wanted = (operand(value, key),)
    whole = isinstance(value, (list, tuple, Mapping))
    found = Field(key, OneOf(wanted if whole else _with_instants(wanted), whole))
    return Not(found) if name == "$ne" else found


def _one_of(key: str, name: str, values: object) -> Tree:
    found = Field(key, OneOf(_with_instants(_operands(key, name, values))))
    return _not(found) if name == "$nin" else found


def _elements(key: str, name: str, values: object) -> Tree:
    wanted = _operands(key, name, values)
    return Field(key, Elements(wanted if name == "$all" else _with_instants(wanted), every=name == "$all"))


def _operands(key: str, name: str, values: object) -> tuple[Typed, ...]:
    many = MAX_OPERANDS + 3  # room for True and False, which filters of LlamaIndex add beside 1 and 0
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = list(values) if values.dtype.kind in "mMOV" else values.tolist()
    elif hasattr(values, "shape") and callable(listed := getattr(values, "tolist", None)):
        values = listed()  # a tensor or a column of pandas: Python's values, not scalars of theirs
    elif not isinstance(values, (*_LISTS, str, bytes, Mapping)) and isinstance(values, Iterable):
        values = list(values if key in (ID_KEY, REF_DOC_ID_KEY) else islice(values, many))
    if not isinstance(values, _LISTS):
        raise InvalidInputError(f"{name} on {shown(key)} is given {_described(values)}; expected a list")
    if len(values) > MAX_OPERANDS and key not in (ID_KEY, REF_DOC_ID_KEY):  # lists of ids are made by programs
        count = len(values) - sum(value is True or value is False for value in islice(values, many))
        if count > MAX_OPERANDS:
            raise InvalidInputError(
                f"{name} on {shown(key)} is given {count:,} values; at most {MAX_OPERANDS:,} are taken"
            )
    return tuple(dict.fromkeys(operand(value, key) for value in values))


def _with_instants(operands: tuple[Typed, ...]) -> tuple[Typed, ...]:
    """The operands, and for each string that names an instant also that instant."""
    more = [("string", found) for each in operands if (found := _instant(each)) is not None]
    return tuple(dict.fromkeys((*operands, *more))) if more else operands


def _is_instant(operand: Typed) -> bool:
    return bool(operand[0] == "string" and operand[1][:2] == MARK)


def _instant(operand: Typed | None) -> str | None:
    if operand is None or operand[0] != "string" or operand[1][4:5] != "-":
        return None
    return instant(operand[1])


def _range(key: str, name: str, value: object) -> Tree:
    end = scalar(value, f"{name} on {shown(key)}")
    if name in ("$gt", "$gte"):
        return _between_ends(key, Range(end, None, low_open=name == "$gt"))
    return _between_ends(key, Range(None, end, high_open=name == "$lt"))


def _between_ends(key: str, test: Range) -> Tree:
    """A range of strings; if its ends name instants, also a range of instants."""
    low, high = _instant(test.low), _instant(test.high)
    if (low is None) != (test.low is None) or (high is None) != (test.high is None):
        return Field(key, test)
    moved = replace(test, low=None if low is None else ("string", low), high=None if high is None else ("string", high))
    return Or((Field(key, test), Field(key, moved)))


def _between(key: str, name: str, value: object) -> Tree:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InvalidInputError(f"{name} on {shown(key)} is given {_described(value)}; expected [lowest, highest]")
    low, high = (scalar(end, f"{name} on {shown(key)}") for end in value)
    if low[0] != high[0] or _is_instant(low) != _is_instant(high):
        raise InvalidInputError(
            f"{name} on {shown(key)} is given {value!r}; expected two numbers, or two strings or dates, "
            "both with a time zone or both without"
        )
    return _between_ends(key, Range(low, high))


def _exists(key: str, name: str, value: object) -> Tree:
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} on {shown(key)} is given {_described(value)}; expected True or False")
    return Field(key, Exists()) if value else Not(Field(key, Exists()))


def _like(key: str, name: str, value: object) -> Tree:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} on {shown(key)} is given {_described(value)}; expected a string with % and _")
    folded = name == "$ilike"
    return Field(key, Like(pattern(value, f"{name} on {shown(key)}", folded), folded))


def _contains(key: str, name: str, value: object) -> Tree:
    if isinstance(value, (*_LISTS, Mapping)):
        raise InvalidInputError(
            f"{name} on {shown(key)} is given {_described(value)}; expected one element, or a piece of a string "
            "($all takes a list)"
        )
    wanted = operand(value, key)
    parts = (ANY_RUN, *wanted[1].encode(), ANY_RUN) if wanted[0] == "string" else ()
    return Field(key, Contains(wanted, parts))


OPERATORS: Final[dict[str, Callable[[str, str, Any], Tree]]] = {
    **dict.fromkeys(("$eq", "$ne"), _equal),
    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), _range),
    **dict.fromkeys(("$in", "$nin"), _one_of),
    "$between": _between,
    "$exists": _exists,
    **dict.fromkeys(("$like", "$ilike"), _like),
    "$contains": _contains,
    **dict.fromkeys(("$any", "$all"), _elements),
}
_KNOWN = ", ".join((*OPERATORS, "$not"))


def _described(given: object) -> str:
    """The type and the value, for a message."""
    return "None" if given is None else f"{type_of(given)}, {shown(given)}"
