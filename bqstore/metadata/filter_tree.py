"""The tree of a filter: tests of fields, combined by And, Or and Not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .values import Typed


@dataclass(frozen=True)
class OneOf:
    """The value equals one of the operands, or is a list with such an element."""

    operands: tuple[Typed, ...]
    whole: bool = False  # elements of lists do not count


@dataclass(frozen=True)
class Range:
    """The value, or an element of it, is of the ends' type and between them; None: no end."""

    low: Typed | None
    high: Typed | None
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True)
class Exists:
    """The document has the field."""


@dataclass(frozen=True)
class Like:
    """The value, or an element of it, is a string that matches a pattern; see `values.pattern`."""

    parts: tuple[int, ...]
    folded: bool


@dataclass(frozen=True)
class Contains:
    """The value is a list with this element, or a string with this substring."""

    operand: Typed
    parts: tuple[int, ...]  # the pattern of a string


@dataclass(frozen=True)
class Elements:
    """The value is a list with one of the operands, or with every one; a scalar counts as a list of itself."""

    operands: tuple[Typed, ...]
    every: bool


Test = OneOf | Range | Exists | Like | Contains | Elements


@dataclass(frozen=True)
class Field:
    """A test of one field."""

    key: str
    test: Test


@dataclass(frozen=True)
class And:
    """Every part matches; without parts, everything does."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True)
class Or:
    """One part matches."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True)
class Not:
    """The part does not match."""

    part: "Tree"


@dataclass(frozen=True, eq=False)  # by identity: the function need not be hashable
class Predicate:
    """A function of each document's `Record` returns whether it matches; it is asked about those within."""

    function: Callable[[Any], object]
    within: "Field | And | Or | Not | None" = None  # what the filter requires besides; None: nothing


EVERYTHING: Final = And(())
Tree = Field | And | Or | Not | Predicate


def fields_of(tree: Tree) -> set[Field]:
    """The tests of fields in a tree."""
    if isinstance(tree, Field):
        return {tree}
    if isinstance(tree, Not):
        return fields_of(tree.part)
    assert not isinstance(tree, Predicate)  # a function is asked by itself
    return set().union(*(fields_of(part) for part in tree.parts))
