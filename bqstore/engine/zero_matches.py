"""Why a filter matches nothing: a field that no document has, or a value of another type. One line in the log each.

Such a filter is no error, as the next document may match. But most often it is a mistake, and an empty answer does not
say so. This runs only when nothing matches, and once for each field.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from unicodedata import normalize

import numpy as np

from ..arguments import nearest, shown
from ..errors import BqstoreError
from ..kernels.metadata import BIG, DICT, FALSE, FLOAT, INT, LENGTH_BITS, LIST, NULL, STRING, TRUE
from ..metadata.columns import Column
from ..metadata.dates import MARK
from ..metadata.documents import metadata_of
from ..metadata.filter_tree import Contains, Elements, Exists, Field, Like, Not, OneOf, Or, Predicate, Range, Test, Tree
from ..metadata.to_json import ID_KEY, PRIVATE_PREFIX, REF_DOC_ID_KEY
from ..storage import Store
from . import fetch
from .state import ChangedError, State

_LOG: Final = logging.getLogger("bqstore")
_SAMPLE: Final = 100  # documents whose fields are looked at
_TOLD: Final = 1000  # fields that are looked at, in the life of a collection
_MEMBERS: Final = 1000  # elements of lists that are looked at
_TEXTS: Final = ("page_content", "document", "text", "content", "page", "body")
_IDS: Final = ("id", "_id", "ids", "doc_id", "document_id", "node_id", "point_id")
_NAMES: Final = {
    **dict.fromkeys((INT, FLOAT, BIG), "a number"),
    **dict.fromkeys((TRUE, FALSE), "a boolean"),
    STRING: "a string",
    DICT: "a dict",
    NULL: "null",
    LIST: "a list",
}
_TYPED: Final = {"bool": "a boolean", "number": "a number", "dict": "a dict", "null": "null", "list": "a list"}
_INSTANT: Final = "a datetime with a time zone"
_ZONELESS: Final = "a string, or a date without a zone"  # in a column they are the same
_ORDER: Final = frozenset({"order_by"})  # in the place of the types that a filter compares with


class ZeroMatches:
    """Tells of filters that match nothing; one object for each collection."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, frozenset[str]]] = set()  # fields and types that were looked at; each costs a pass

    def tell_of_order(self, store: Store, state: State, key: str) -> None:
        """Log that no document has the field that a listing is ordered by."""
        column = state.columns[key]
        missing = column.is_blank or not column.codes[state.live].any()
        if missing and state.head.n_live and (key, _ORDER) not in self._seen and len(self._seen) < _TOLD:
            self._seen.add((key, _ORDER))
            _LOG.warning(
                "order_by=%s orders nothing: no document has this field%s", shown(key), _hint(store, state, key)
            )

    def tell(self, store: Store, state: State, tree: Tree) -> None:
        """Log which part of a filter cannot match anything, if there is one."""
        if not _LOG.isEnabledFor(logging.WARNING) or not state.head.n_live:
            return
        for field in _fields(tree):
            column = state.columns.get(field.key)
            if column is None or field.key in (ID_KEY, REF_DOC_ID_KEY):
                continue
            asked = frozenset(_types_of(field.test))
            if (field.key, asked) in self._seen or len(self._seen) >= _TOLD:
                continue
            self._seen.add((field.key, asked))
            if column.is_blank or not column.codes[state.live].any():
                why = "no document has this field"
            else:
                there = _types_in(column, state)
                if not asked or asked & there or not there:
                    continue
                strings = _ZONELESS if _INSTANT in asked | there else "a string"
                types = (sorted(strings if each == "a string" else each for each in some) for some in (asked, there))
                why = "it compares with {}, and documents have {}".format(*map(" or ".join, types))
            hint = _hint(store, state, field.key) if why.startswith("no document") else ""
            _LOG.warning("the filter on %s matches nothing: %s%s", shown(field.key), why, hint)


def _fields(tree: Tree) -> Iterator[Field]:
    """The tests that a match must pass; not those under $not, which documents without the field pass.

    Nor those beside an `$exists` of the same field: who wrote that knows that it may be missing.
    """
    if isinstance(tree, Field):
        yield tree
    elif not isinstance(tree, (Not, Predicate)):
        asked = {part.key for part in tree.parts if isinstance(part, Field) and isinstance(part.test, Exists)}
        for part in tree.parts:
            yield from (field for field in _fields(part) if isinstance(tree, Or) or field.key not in asked)


def _hint(store: Store, state: State, key: str) -> str:
    """What was probably meant."""
    live = np.flatnonzero(state.live)
    some = np.unique(np.concatenate([live[: _SAMPLE // 2], live[-_SAMPLE // 2 :]]))
    known: set[str] = set()
    with suppress(BqstoreError, ChangedError):  # another process has committed meanwhile
        for row in fetch.rows(store, state, some).values():
            known.update(_names(metadata_of(row)))
    last = key.rpartition(".")[2]
    if last in known and last != key:
        return f"; did you mean {last!r}? Fields are named without a prefix"
    if normalize("NFC", key) in {normalize("NFC", each) for each in known}:
        return "; they have it in other code points: pass both through unicodedata.normalize('NFC', ...)"
    meant = nearest(key, known)
    if meant is None and key in _TEXTS:
        return "; texts are no metadata: test them by a function, filter=lambda record: 'word' in record.text"
    if meant is not None:
        return f"; did you mean {meant!r}?"
    if key in _IDS:
        return "; ids are no metadata: get(ids) finds documents by them"
    return f"; documents have {', '.join(sorted(known)[:20])}" if known else "; documents have no metadata"


def _names(metadata: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[str]:
    for key, value in metadata.items():
        if not key.startswith(PRIVATE_PREFIX):
            yield prefix + key
            if isinstance(value, Mapping) and depth < 3:
                yield from _names(value, f"{prefix}{key}.", depth + 1)


def _types_of(test: Test) -> set[str]:
    """The types that a test can match; empty where it matches any."""
    if isinstance(test, OneOf):
        return set() if test.whole else {_named(each) for each in test.operands}
    if isinstance(test, Elements):
        return {_named(each) for each in test.operands}
    if isinstance(test, Range):
        return {_named(end) for end in (test.low, test.high) if end is not None}
    if isinstance(test, Contains):
        return {_named(test.operand)}
    return {"a string"} if isinstance(test, Like) else set()


def _named(value: tuple[Any, ...]) -> str:
    if value[0] == "string":
        return _INSTANT if value[1].startswith(MARK) else "a string"
    return _TYPED[value[0]]


def _types_in(column: Column, state: State) -> set[str]:
    """The types of the values of live documents, those of the elements of lists among them."""
    entries = column.dictionary.entries
    used = np.unique(column.codes[state.live])
    found: set[str] = set()
    lists = used[entries.kinds[used] == LIST][:_MEMBERS]
    elements = [element for entry in lists.tolist() for element in entries.elements(entry)[:_MEMBERS]]
    for numbers in (used[used > 0], np.array(elements[: 100 * _MEMBERS], np.int64)):
        kinds = entries.kinds[numbers]
        found.update(_NAMES[kind] for kind in np.unique(kinds).tolist() if kind != STRING)
        texts = numbers[kinds == STRING]
        if len(texts):
            starts = entries.values[texts] >> LENGTH_BITS
            marked = entries.heap.take(starts, mode="clip") == MARK.encode()[0] if len(entries.heap) else starts < 0
            found.update([_INSTANT] if marked.any() else [])
            found.update(["a string"] if not marked.all() else [])
    return found
