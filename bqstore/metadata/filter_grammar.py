"""Filters: a dictionary becomes a typed tree. Knows the grammar; no columns, no SQL and no documents.

The grammar: ``{"lang": "en", "year": {"$gte": 2020}, "$or": [{"tags": "new"}, {"price": {"$lt": 10}}]}``. Several keys,
and several operators on a key, are ANDed. ``{"k": v}`` is ``$eq``, ``{"k": [a, b]}`` is ``$in``. A key names the exact
top-level key if there is one, else a dotted path. Types never mix: 1 is not "1" and not True; 1 equals 1.0.

=====================================  ===============================================================================
``$eq $ne``                            equality; with a list or dict, of the whole value
``$in $nin``                           equality with one of a list
``$gt $gte $lt $lte $between``         numbers with numbers, strings (and dates, as ISO 8601) with strings
``$exists``                            whether the field is there; a null is
``$like $ilike``                       whole strings: ``%`` any run, ``_`` one character, a backslash escapes
``$contains``                          an element of a list, or a piece of a string
``$any $all``                          a list that has one of the operands, or all of them
``$and $or $not``                      of filters; ``$not`` also of a field's operators
=====================================  ===============================================================================

A scalar operator matches a list if it matches an element of it. ``$ne`` and ``$nin`` are complements of ``$eq`` and
``$in``; so a field that is missing matches these two, ``{"$exists": False}``, and ``$not`` around what it does not
match.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..arguments import nearest, shown, text_bytes
from ..errors import InvalidInputError
from .to_json import ID_KEY, PRIVATE_PREFIX, REF_DOC_ID_KEY
from .values import Token, operand, pattern, scalar

MAX_NODES: Final = 256
MAX_OPERANDS: Final = 10_000
MAX_NESTING: Final = 16


@dataclass(frozen=True)
class Among:
    """The value equals one of the operands, or is a list with such an element."""

    operands: tuple[Token, ...]
    whole: bool = False  # only equality of the whole value counts


@dataclass(frozen=True)
class Range:
    """The value, or an element of it, is a number or a string, as the ends are, and between them; None: no end."""

    low: Token | None
    high: Token | None
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True)
class Present:
    """There is such a field."""


@dataclass(frozen=True)
class Like:
    """The value, or an element of it, is a string of a pattern; see `operands.pattern`."""

    parts: tuple[int, ...]
    folded: bool


@dataclass(frozen=True)
class Contains:
    """The value is a list with this element, or a string with this piece."""

    operand: Token
    parts: tuple[int, ...]  # the pattern of a string


@dataclass(frozen=True)
class Elements:
    """The value is a list with one of the operands, or with every one; a single value is a list of itself."""

    operands: tuple[Token, ...]
    every: bool


Test = Among | Range | Present | Like | Contains | Elements


@dataclass(frozen=True)
class Field:
    """A test of one field."""

    key: str
    test: Test


@dataclass(frozen=True)
class All:
    """Every part matches; without parts, everything does."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True)
class Either:
    """One part matches."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True)
class Not:
    """The part does not match."""

    part: "Tree"


@dataclass(frozen=True, eq=False)  # an object with a call of its own need not be hashable
class Call:
    """What a function says of each document, taken as a `Record`."""

    function: Callable[[Any], object]


Tree = Field | All | Either | Not | Call
Filter = Mapping[str, Any] | Callable[[Any], object]


def keys_of(tree: Tree) -> set[str]:
    """The fields that a tree looks at."""
    if isinstance(tree, Field):
        return {tree.key}
    if isinstance(tree, Not):
        return keys_of(tree.part)
    if isinstance(tree, Call):
        return set()
    return set().union(*(keys_of(part) for part in tree.parts))


def parse(given: object) -> Tree | None:
    """The tree of a filter; None for one that restricts nothing (None or an empty dictionary).

    Raises InvalidInputError for an unknown operator, a malformed operand, more than 256 nodes, 10,000 operands of one
    operator or 16 levels of ``$and``, ``$or`` and ``$not``.
    """
    if given is None:
        return None
    if callable(given) and not isinstance(given, type):
        return Call(given)
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"filter is {_named(given)}; expected a dict such as {{'lang': 'en'}}, or a function of a document"
        )
    parser = _Parser()
    tree = parser.tree(given, 0)
    return None if tree == All(()) else tree


def check_key(key: object) -> str:
    """The name of a metadata field, as a filter may have it."""
    if not isinstance(key, str):
        raise InvalidInputError(f"a filter has a key of type {type(key).__name__}; expected a string")
    text_bytes(key, "a key of the filter")
    if key.startswith(PRIVATE_PREFIX) and key not in (ID_KEY, REF_DOC_ID_KEY):
        raise InvalidInputError(
            f"the filter names {shown(key)}: keys that begin with {PRIVATE_PREFIX!r} are the adapters' own"
        )
    return key


class _Parser:
    """Counts nodes while it turns dictionaries into trees."""

    def __init__(self) -> None:
        self.nodes = 0

    def _node(self, tree: Tree) -> Tree:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise InvalidInputError(
                f"the filter has more than {MAX_NODES} conditions, $and, $or and $not; join values of one field by $in"
            )
        return tree

    def tree(self, given: Mapping[Any, Any], depth: int) -> Tree:
        """A dictionary of fields and logical operators, ANDed."""
        if depth > MAX_NESTING:
            raise InvalidInputError(f"the filter nests $and, $or and $not more than {MAX_NESTING} deep")
        parts: list[Tree] = []
        for key, value in given.items():
            if isinstance(key, str) and key.startswith("$"):
                parts.append(self.logical(key, value, depth))
            else:
                parts += self.field(check_key(key), value, depth)
        parts = [part for part in parts if part != All(())]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def logical(self, name: str, given: object, depth: int) -> Tree:
        """``$and``, ``$or`` and ``$not`` of filters."""
        if name == "$not":
            if not isinstance(given, Mapping) or not given:
                raise InvalidInputError(f"$not is given {_named(given)}; expected a filter that is not empty")
            return self._node(Not(self.tree(given, depth + 1)))
        if name not in ("$and", "$or"):
            known = ", where a field name belongs: {'field': {...}}" if name in OPERATORS else ""
            hint = known or nearest(name[:80], ("$and", "$or", "$not"))
            raise InvalidInputError(f"the filter has the operator {shown(name)}{hint}")
        if not isinstance(given, (list, tuple)) or not given:
            raise InvalidInputError(f"{name} is given {_named(given)}; expected a list of filters that is not empty")
        parts = []
        for part in given:
            if not isinstance(part, Mapping):
                raise InvalidInputError(f"{name} holds {_named(part)}; expected filters, such as {{'lang': 'en'}}")
            parts.append(self.tree(part, depth + 1))
        if name == "$or":
            return self._node(All(()) if All(()) in parts else Either(tuple(parts)))
        parts = [part for part in parts if part != All(())]  # so that `delete` knows what restricts nothing
        return self._node(parts[0] if len(parts) == 1 else All(tuple(parts)))

    def field(self, key: str, given: object, depth: int) -> list[Tree]:
        """The conditions on one key, to be ANDed."""
        if isinstance(given, (list, tuple, set, frozenset)):
            return [self.condition(key, "$in", given, depth)]
        if not isinstance(given, Mapping):
            return [self.condition(key, "$eq", given, depth)]
        if not given:
            raise InvalidInputError(f"the filter on {shown(key)} is an empty dict; expected an operator: {_KNOWN}")
        return [self.condition(key, name, value, depth) for name, value in given.items()]

    def condition(self, key: str, name: object, value: object, depth: int) -> Tree:
        """One operator on one field."""
        if key in (ID_KEY, REF_DOC_ID_KEY) and name != "$not":
            _check_of_ids(key, name, value)
        if name == "$not":
            if not isinstance(value, Mapping) or not value:
                raise InvalidInputError(f"$not on {shown(key)} is given {_named(value)}; expected operators: {_KNOWN}")
            if depth + 1 > MAX_NESTING:
                raise InvalidInputError(f"the filter nests $and, $or and $not more than {MAX_NESTING} deep")
            parts = [self.condition(key, inner, operand, depth + 1) for inner, operand in value.items()]
            return self._node(Not(parts[0] if len(parts) == 1 else All(tuple(parts))))
        make = OPERATORS.get(name) if isinstance(name, str) else None
        if make is not None:
            tree = self._node(make(key, value))
            return tree
        if isinstance(name, str) and name.startswith("$"):
            raise InvalidInputError(
                f"the filter on {shown(key)} has no operator {shown(name)}{nearest(name[:80], OPERATORS)}"
            )
        if isinstance(name, str) and f"${name}" in OPERATORS:
            raise InvalidInputError(f"the filter on {shown(key)} has {name!r}; did you mean {'$' + name!r}?")
        raise InvalidInputError(
            f"the filter on {shown(key)} compares with a dict; for a nested field write "
            f"{shown(key + '.' + str(name))}, "
            "for equality of the whole {'$eq': {...}}"
        )


def _check_of_ids(key: str, name: object, value: object) -> None:
    """What a filter may ask of ids: they are strings, and every document has one of its own."""
    known = ("$eq", "$in", "$ne", "$nin", "$exists")[: 4 if key == ID_KEY else 5]
    if name not in known:
        raise InvalidInputError(f"the filter on {key!r} has {shown(name)}; it takes {', '.join(known)} and $not")
    values = value if name in ("$in", "$nin") and isinstance(value, (list, tuple, set, frozenset)) else [value]
    for each in values if name != "$exists" else ():
        if not isinstance(each, str):
            raise InvalidInputError(f"the filter on {key!r} compares with {_named(each)}; ids are strings")


def _equal(key: str, value: object) -> Field:
    return Field(key, Among((operand(value, key),), isinstance(value, (list, tuple, Mapping))))


def _in(name: str, key: str, values: object) -> tuple[Token, ...]:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise InvalidInputError(f"{name} on {shown(key)} is given {_named(values)}; expected a list")
    if len(values) > MAX_OPERANDS and key not in (ID_KEY, REF_DOC_ID_KEY):  # lists of those are made by programs
        raise InvalidInputError(
            f"{name} on {shown(key)} is given {len(values):,} values; at most {MAX_OPERANDS:,} are taken"
        )
    found = dict.fromkeys(operand(value, key) for value in values)
    return tuple(found)


def _range(key: str, name: str, value: object) -> Field:
    end = scalar(value, f"{name} on {shown(key)}")
    if name in ("$gt", "$gte"):
        return Field(key, Range(end, None, low_open=name == "$gt"))
    return Field(key, Range(None, end, high_open=name == "$lt"))


def _between(key: str, value: object) -> Field:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InvalidInputError(f"$between on {shown(key)} is given {_named(value)}; expected [lowest, highest]")
    low, high = (scalar(end, f"$between on {shown(key)}") for end in value)
    if low[0] != high[0]:
        raise InvalidInputError(
            f"$between on {shown(key)} is given {value!r}; expected two numbers, or two strings or dates"
        )
    return Field(key, Range(low, high))


def _exists(key: str, value: object) -> Tree:
    if not isinstance(value, bool):
        raise InvalidInputError(f"$exists on {shown(key)} is given {_named(value)}; expected True or False")
    return Field(key, Present()) if value else Not(Field(key, Present()))


def _like(key: str, name: str, value: object) -> Field:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} on {shown(key)} is given {_named(value)}; expected a string with % and _")
    folded = name == "$ilike"
    return Field(key, Like(pattern(value, f"{name} on {shown(key)}", folded), folded))


def _contains(key: str, value: object) -> Field:
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        raise InvalidInputError(
            f"$contains on {shown(key)} is given {_named(value)}; expected one element, or a piece of a string "
            "($all takes a list)"
        )
    wanted = operand(value, key)
    parts = (-1, *wanted[1].encode(), -1) if wanted[0] == "string" else ()
    return Field(key, Contains(wanted, parts))


OPERATORS: Final[dict[str, Callable[[str, Any], Tree]]] = {
    "$eq": _equal,
    "$ne": lambda key, value: Not(_equal(key, value)),
    "$gt": lambda key, value: _range(key, "$gt", value),
    "$gte": lambda key, value: _range(key, "$gte", value),
    "$lt": lambda key, value: _range(key, "$lt", value),
    "$lte": lambda key, value: _range(key, "$lte", value),
    "$in": lambda key, values: Field(key, Among(_in("$in", key, values))),
    "$nin": lambda key, values: Not(Field(key, Among(_in("$nin", key, values)))),
    "$between": _between,
    "$exists": _exists,
    "$like": lambda key, value: _like(key, "$like", value),
    "$ilike": lambda key, value: _like(key, "$ilike", value),
    "$contains": _contains,
    "$any": lambda key, values: Field(key, Elements(_in("$any", key, values), False)),
    "$all": lambda key, values: Field(key, Elements(_in("$all", key, values), True)),
}
_KNOWN = ", ".join((*OPERATORS, "$not"))


def _named(given: object) -> str:
    """What was given, in a few words."""
    return f"a {type(given).__name__}, {shown(given)}"
