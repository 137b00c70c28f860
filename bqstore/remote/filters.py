"""Filters as Qdrant's: a tree becomes a `models.Filter` that matches the same documents, or is refused by name.

What Qdrant cannot tell apart is told by keys of ours in the payload, see `points.py`. Numbers are compared as ranges:
its exact match takes 1 and 1.0 for different.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..arguments import shown
from ..errors import InvalidInputError
from ..kernels.metadata import ANY_CHARACTER
from ..metadata.dates import MARK, as_instant
from ..metadata.filter_tree import And, Contains, Elements, Exists, Field, Like, Not, OneOf, Or, Predicate, Range, Tree
from ..metadata.to_json import ID_KEY, REF_DOC_ID_KEY
from ..metadata.values import BEYOND, IS_LONG, Typed, pieces_of
from .library import NEWEST, model, models
from .points import EXPIRES, INSTANTS, LISTS, MIXED, REF, Layout

_LARGEST: Final = 1.7976931348623157e308
_ELEMENTS: Final = "compare with its elements: $any, $all, a dotted path"
_OF_INSTANTS: Final = frozenset("0123456789-+:.T")  # what the text of a datetime is made of
_PREFIXES, _SUBSTRINGS = (1, 19), (1, 20)  # the first servers that know each; until then words are substrings
_EXACT: Final = 2**53  # beyond it a server's numbers are rounded


def translated(tree: Tree | None, layout: Layout, version: tuple[int, ...] = NEWEST) -> Any:
    """A `models.Filter`; None for no filter. Raises InvalidInputError, which names the operator."""
    if tree is None:
        return None
    found = _Translation(layout, version).of(tree)
    return found if isinstance(found, models().Filter) else models().Filter(must=[found])


def never() -> Any:
    """A condition that no document meets."""
    return models().HasIdCondition(has_id=[])


def both(first: Any, second: Any) -> Any:
    """A filter that requires two, each of which may be None."""
    parts = [each for each in (first, second) if each is not None]
    return models().Filter(must=parts) if len(parts) == 2 else parts[0] if parts else None


def expired(now: int) -> Any:
    """The condition that expired documents meet."""
    m = models()
    return m.FieldCondition(key=EXPIRES, range=m.Range(lte=now))


def present(tree: Tree | None, layout: Layout, version: tuple[int, ...], now: int) -> Any:
    """As `translated`, without documents expired by ``now``; collections of other programs have no expiry times."""
    found = translated(tree, layout, version)
    if not layout.ours:
        return found
    found = models().Filter() if found is None else found
    return found.model_copy(update={"must_not": [*(found.must_not or []), expired(now)]})


def narrows(filter: Any) -> bool:
    """Whether a filter excludes more than expired documents."""
    if filter is None or filter.must or filter.should:
        return filter is not None
    return [getattr(each, "key", None) for each in filter.must_not or []] != [EXPIRES]


class _Translation:
    """Conditions on the payloads of one collection."""

    def __init__(self, layout: Layout, version: tuple[int, ...]) -> None:
        self._layout, self._version, self._m = layout, version, models()

    def of(self, tree: Tree) -> Any:
        if isinstance(tree, Predicate):
            raise InvalidInputError(
                "the filter is a function, and a server runs none: write it with operators, such as {'year': {'$gte': "
                "2020}}, or filter what scroll() returns"
            )
        if isinstance(tree, Not):
            return self._not(self.of(tree.part))
        if isinstance(tree, Field):
            return self._field(tree)
        if isinstance(tree, And):
            return self._all(map(self.of, tree.parts))
        assert isinstance(tree, Or)
        return self._any(map(self.of, tree.parts))

    def _all(self, parts: Any) -> Any:
        return self._m.Filter(must=list(parts))

    def _any(self, parts: Any) -> Any:
        found = list(parts)
        return self._m.Filter(should=found) if found else never()

    def _not(self, part: Any) -> Any:
        return self._m.Filter(must_not=[part])

    def _field(self, field: Field) -> Any:
        key, test = field.key, field.test
        if key in (ID_KEY, REF_DOC_ID_KEY) and isinstance(test, OneOf):
            texts = [each[1] for each in test.operands if each[0] == "string" and each[1][:2] != MARK]
            if key == REF_DOC_ID_KEY:
                return self._match(REF, self._m.MatchAny(any=texts)) if texts else never()
            return self._m.HasIdCondition(has_id=[self._layout.point_id(each) for each in texts])
        if key == REF_DOC_ID_KEY:
            if isinstance(test, Exists):
                return self._not(self._m.IsEmptyCondition(is_empty=self._m.PayloadField(key=REF)))
            raise _refused(key, "this operator", "expected $eq, $in, $exists and their complements")
        if '"' in key:
            raise _refused(key, "a name with a double quote", "Qdrant's paths have none: rename the field")
        parts = key.split(".")
        own = self._place(key).of(test)
        if len(parts) == 1 or "" in parts:
            return own
        # the exact key, if a document has it, else the path
        exact = self._place(key).exists()
        path = self._place(key, *parts).of(test)
        return self._any([self._all([exact, own]), self._m.Filter(must=[path], must_not=[exact])])

    def _place(self, key: str, *parts: str) -> _Condition:
        return _Condition(self._layout, self._version, parts or (key,), key)

    def _match(self, path: str, match: Any) -> Any:
        return self._m.FieldCondition(key=path, match=match)


class _Condition(_Translation):
    """Conditions on one place in the payload."""

    def __init__(self, layout: Layout, version: tuple[int, ...], parts: tuple[str, ...], name: str) -> None:
        super().__init__(layout, version)
        self._name, self._parts = name, parts
        self._path = layout.path(*parts)
        self._instants = f"{INSTANTS}.{Layout(flat=True).path(*parts)}"

    def of(self, test: Any) -> Any:
        if isinstance(test, Exists):
            return self.exists()
        if isinstance(test, OneOf):
            return self._whole(test.operands[0]) if test.whole else self._equals_one(test.operands)
        if isinstance(test, Elements):
            if not test.every:
                return self._equals_one(test.operands)
            return self._all([self._equals(each) for each in test.operands]) if test.operands else self.exists()
        if isinstance(test, Range):
            return self._range(test)
        if isinstance(test, Contains):
            inside = self._all([self._is_list(), self._equals(test.operand)])
            if test.operand[0] != "string":
                return inside
            piece = self._text("substring", test.operand[1], "$contains")
            return self._any([inside, self._m.Filter(must=[piece], must_not=[self._is_list()])])
        assert isinstance(test, Like)
        return self._like(test)

    def exists(self) -> Any:
        """Whether a document has the field, be it null or an empty list."""
        return self._any([self._not(self._is_empty()), self._is_null(), self._is_list()])

    def _is_empty(self) -> Any:
        return self._m.IsEmptyCondition(is_empty=self._m.PayloadField(key=self._path))

    def _is_null(self) -> Any:
        return self._m.IsNullCondition(is_null=self._m.PayloadField(key=self._path))

    def _is_list(self) -> Any:
        return self._match(LISTS, self._m.MatchAny(any=[self._name]))

    def _equals_one(self, operands: Sequence[Typed]) -> Any:
        texts = [each[1] for each in operands if each[0] == "string" and not _is_instant(each[1])]
        rest = [each for each in operands if not (each[0] == "string" and each[1] in texts)]
        parts = [self._match(self._path, self._m.MatchAny(any=texts))] if texts else []
        parts += [self._equals(each) for each in rest]
        return parts[0] if len(parts) == 1 else self._any(parts)

    def _equals(self, operand: Typed) -> Any:
        kind = operand[0]
        if kind == "null":
            return self._is_null()
        value = operand[1]
        if kind == "bool":
            return self._match(self._path, self._m.MatchValue(value=value))
        if kind == "number":
            number = self._number(value)
            return self._m.FieldCondition(key=self._path, range=self._m.Range(gte=number, lte=number))
        if kind == "string" and value[:2] != MARK:
            return self._text_equal(value)
        if kind == "string":
            moment = self._moment(value)
            return self._m.FieldCondition(key=self._instants, range=self._m.DatetimeRange(gte=moment, lte=moment))
        raise _refused(self._name, f"equality with a {kind}", _ELEMENTS)

    def _whole(self, operand: Typed) -> Any:
        """Equality of the whole: of the empty list, and of lists of one element."""
        kind, value = operand
        if kind == "list" and len(value) == 0:
            return self._all([self._is_list(), self._is_empty()])
        if kind == "list" and len(value) == 1 and value[0][0] not in ("list", "dict"):
            one = self._m.FieldCondition(key=self._path, values_count=self._m.ValuesCount(gte=1, lte=1))
            return self._all([self._is_list(), one, self._equals(value[0])])
        raise _refused(
            self._name, f"equality with a whole {kind}", "compare with its elements: $any, $all, a dotted path"
        )

    def _number(self, value: Any) -> Any:
        if abs(value) >= _EXACT and abs(value) != BEYOND:
            raise _refused(self._name, f"the number {shown(value)}", "a server compares numbers up to 2**53 exactly")
        return value if abs(value) != BEYOND else _LARGEST if value > 0 else -_LARGEST

    def _moment(self, value: str) -> Any:
        found = as_instant(value)
        if isinstance(found, str):
            what = "a string of more than 65,536 characters" if value.startswith(IS_LONG) else "this string"
            raise _refused(self._name, what, "filter by a shorter one in a field of its own")
        return found

    def _range(self, test: Range) -> Any:
        ends = [end for end in (test.low, test.high) if end is not None]
        low, high = (None if end is None else end[1] for end in (test.low, test.high))
        names = ("gt" if test.low_open else "gte", "lt" if test.high_open else "lte")
        if ends[0][0] == "number":
            given = {name: self._number(end) for name, end in zip(names, (low, high), strict=True) if end is not None}
            return self._m.FieldCondition(key=self._path, range=self._m.Range(**_open(given)))
        if ends[0][1][:2] == MARK:
            given = {name: self._moment(end) for name, end in zip(names, (low, high), strict=True) if end is not None}
            return self._m.FieldCondition(key=self._instants, range=self._m.DatetimeRange(**given))
        if high is None and low == "":  # any string, or any but the empty one
            texts = self._text("prefix", "", "$gt")
            if not test.low_open:
                return texts
            other = self._match(self._path, self._m.MatchExcept(**{"except": [""]}))
            return self._all([texts, other])
        raise _refused(
            self._name,
            "an order of strings, or of dates without a time zone",
            "Qdrant orders numbers, and datetimes with a time zone (datetime.now(timezone.utc)): keep one in the field",
        )

    def _text(self, kind: str, text: str, operator: str) -> Any:
        """A test of strings, which instants are not, whatever their text."""
        if kind == "substring" or not text:  # every string begins with the empty one, and has it
            newer = self._version >= (_SUBSTRINGS if kind == "substring" else _PREFIXES)
        elif not (newer := self._version >= _PREFIXES):
            raise _refused(self._name, f"a prefix by {operator}", "one from 1.19 on can; '%piece%' is known to all")
        if newer:
            what = f"{operator} on {shown(self._name)}"
            match = model(f"Match{kind.capitalize()}", what)(**{kind: text})
        else:
            match = self._m.MatchText(text=text)
        found = self._match(self._path, match)
        return self._but_instants(found) if _OF_INSTANTS.issuperset(text) else found

    def _like(self, test: Like) -> Any:
        operator = "$ilike" if test.folded else "$like"
        if test.folded or ANY_CHARACTER in test.parts:
            what = "_ in $like" if not test.folded else "$ilike"
            raise _refused(self._name, what, "Qdrant compares text by case: {'$like': 'prefix%'} or '%piece%'")
        pieces = [bytes(piece).decode() for piece in pieces_of(test.parts)]
        if len(pieces) == 1:
            return self._text_equal(pieces[0])
        first, *middle, last = pieces
        if not last and not middle:
            return self._text("prefix", first, operator)
        if not first and not last and len(middle) == 1:
            return self._text("substring", middle[0], operator)
        raise _refused(self._name, "this pattern of $like", "Qdrant has 'prefix%' and '%piece%'")

    def _text_equal(self, text: str) -> Any:
        found = self._match(self._path, self._m.MatchValue(value=text))
        return self._but_instants(found) if _is_instant(text) else found

    def _but_instants(self, found: Any) -> Any:
        """What is found, but for datetimes with a time zone: they are no strings, whatever their text."""
        none = self._m.IsEmptyCondition(is_empty=self._m.PayloadField(key=self._instants))
        return self._all([found, self._any([none, self._match(MIXED, self._m.MatchAny(any=[self._name]))])])


def _is_instant(text: str) -> bool:
    """Whether it is a datetime of a column, or may be the text of one in a payload."""
    return text[:2] == MARK or (len(text) >= 19 and _OF_INSTANTS.issuperset(text))


def _open(given: dict[str, Any]) -> dict[str, Any]:
    """A range whose infinite ends take every number, as nothing is beyond them."""
    kept = dict(given)
    for name, end in (("gt", -_LARGEST), ("lt", _LARGEST)):
        if kept.get(name) == end:
            kept[f"{name}e"] = kept.pop(name)
    return kept


def _refused(key: str, what: str, instead: str) -> InvalidInputError:
    return InvalidInputError(f"the filter on {shown(key)} has {what}, which a Qdrant server cannot answer: {instead}")
