"""Documents without a vector: listed in an order, the first that match, the values of a field and how often they occur.

Everything is answered from columns and ids in memory; documents are read for what is returned.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import shown
from ..errors import InvalidInputError, NotFoundError
from ..kernels.metadata import ABSENT, DICT, LIST
from ..metadata.columns import Column
from ..metadata.dictionary import Dictionary
from ..metadata.documents import metadata_of, record_of
from ..metadata.filter_tree import And, Exists, Field, Predicate, Tree
from ..metadata.id_column import Ids
from ..metadata.values import LONGEST
from ..results.hits import Hit, Record
from ..storage import Row
from ..storage.reading import Block
from . import fetch
from .options import Options
from .state import State

if TYPE_CHECKING:
    from .engine import Engine

I64 = NDArray[np.int64]


def check_short(column: Column) -> None:
    """Raise InvalidInputError where a column keeps digests in place of long strings."""
    if column.dictionary.has_long:
        raise InvalidInputError(
            f"the field {column.key!r} has strings of more than {LONGEST:,} characters, of which no values are kept in "
            "memory; use a shorter field, or scroll()"
        )


def matching(engine: "Engine", state: State, tree: Tree | None) -> tuple[State, I64]:
    """The ordinals that match, in the order in which documents were added; the state may be a newer one."""
    state, found = engine.acceptor.accepted(state, tree)
    return state, found.ordinals()


def ids(engine: "Engine", tree: Tree | None) -> list[str]:
    """The ids of the documents that match."""
    while True:
        state, ordinals = matching(engine, engine.acceptor.with_ids(), tree)
        if state.ids is not None:
            found: list[str] = state.ids.take(ordinals.astype(np.int32)).tolist()
            return found


def first_hits(engine: "Engine", tree: Tree | None, options: Options) -> list[Hit]:
    """The first k documents that match, with a score of 0."""

    def answer(state: State) -> list[Hit]:
        state, ordinals = matching(engine, state, tree)
        some = ordinals[: options.k]
        rows = fetch.rows(engine.store, state, some)
        vectors = fetch.vectors(state, some.astype(np.int32)) if options.with_vectors else {}
        return [
            Hit(row.id, 0.0, row.text, metadata_of(row), vectors.get(ordinal))
            for ordinal, row in ((ordinal, rows[ordinal]) for ordinal in some.tolist())
        ]

    return [] if _is_above(options) else engine.publisher.whole(answer)


def first_ids(engine: "Engine", tree: Tree | None, options: Options) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """As `first_hits`, the ids and scores alone, (1, k)."""
    found = [] if _is_above(options) else ids(engine, tree)[: options.k]
    names, scores = np.full((1, options.k), None, object), np.full((1, options.k), np.nan, np.float32)
    names[0, : len(found)], scores[0, : len(found)] = found, 0
    return names, scores


def _is_above(options: Options) -> bool:
    return options.score_threshold is not None and options.score_threshold > 0


def ordered(
    engine: "Engine", tree: Tree | None, order_by: str | None, descending: bool, offset: int, limit: int | None
) -> tuple[Ids, NDArray[np.int32]]:
    """A part of the documents that match, in the order of a field, those without it last.

    Returns their ordinals, and the ids of that moment, which later writes do not change.
    """
    while True:
        if order_by is not None:
            engine.acceptor.load_columns([order_by])
        state, ordinals = matching(engine, engine.acceptor.with_ids(), tree)
        if state.ids is None or (order_by is not None and order_by not in state.columns):
            continue  # a newer state without them, or the column was dropped for those of many other fields
        if order_by is not None:
            column = state.columns[order_by]
            check_short(column)
            engine.acceptor.tell_of_order(state, order_by)
            codes = column.codes[ordinals]
            ranks = _ranks(column, np.unique(codes), descending)[codes]
            ordinals = ordinals[np.argsort(ranks, kind="stable")]
        some = ordinals[offset:] if limit is None else ordinals[offset : offset + limit]
        return state.ids, some.astype(np.int32)


def _ranks(column: Column, used: I64, descending: bool) -> I64:
    """The rank of each entry among those used: numbers, then strings, then the rest; a missing field comes last."""
    ranks = np.full(len(column.dictionary), len(used) + 1, np.int64)
    keys = [(entry, _key(column.dictionary, entry)) for entry in used.tolist() if entry != ABSENT]
    values = sorted({key for _, key in keys}, reverse=descending)
    place = {key: i for i, key in enumerate(values)}
    for entry, key in keys:
        ranks[entry] = place[key]
    return ranks


def _key(dictionary: Dictionary, entry: int) -> tuple[int, Any]:
    kind = int(dictionary.entries.kinds[entry])
    return (5, 0) if kind in (LIST, DICT) else _place(dictionary.value_of(entry))


def facets(engine: "Engine", field: str, tree: Tree | None) -> list[tuple[Any, int]]:
    """The values of a field and how many documents have each, the most frequent first; of lists the elements."""
    if isinstance(tree, Predicate):
        raise InvalidInputError("the values of a field are counted in memory; filter is a function, expected a dict")
    has = Field(field, Exists())
    state, ordinals = matching(engine, engine.publisher.current(), has if tree is None else And((has, tree)))
    column = state.columns[field]
    check_short(column)
    numbers, counts = np.unique(column.codes[ordinals], return_counts=True)
    dictionary = column.dictionary
    found: dict[Any, int] = {}
    values: dict[Any, Any] = {}
    for entry, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        kind = int(dictionary.entries.kinds[entry])
        members = set(dictionary.entries.elements(entry)) if kind == LIST else {entry}
        own = {}
        for member in members:
            if int(dictionary.entries.kinds[member]) not in (ABSENT, DICT, LIST):
                value = dictionary.value_of(member)
                own[isinstance(value, bool), isinstance(value, str), value] = value
        for key, value in own.items():
            found[key] = found.get(key, 0) + count
            values[key] = value
    order = sorted(found, key=lambda key: (-found[key], str(values[key])))
    return [(values[key], found[key]) for key in order]


def distinct(engine: "Engine", field: str, tree: Tree | None) -> list[Any]:
    """The different values of a field in their order."""
    return sorted((value for value, _ in facets(engine, field, tree)), key=_place)


def _place(value: Any) -> tuple[int, Any]:
    if isinstance(value, bool):
        return 3, value
    if isinstance(value, (int, float)):
        return 0, value
    return (4, 0) if value is None else (1, value) if isinstance(value, str) else (2, value)


def get(engine: "Engine", names: list[str], with_vectors: bool) -> list[Record]:
    """The documents with these ids, in the order of the ids."""

    def answer(state: State) -> list[Record]:
        rows = _rows_of(engine, state, names)
        vectors = fetch.vectors_of_rows(state, list(rows.values())) if with_vectors else {}
        return [record_of(rows[id_], vectors.get(rows[id_].rid)) for id_ in names if id_ in rows]

    return engine.publisher.whole(answer)


def _rows_of(engine: "Engine", state: State, names: list[str]) -> dict[str, Row]:
    with Block() as block, fetch.at_commit_of(engine.store, state, block):
        rows = engine.store.rows("id", list(dict.fromkeys(names)))
    return {row.id: row for row in fetch.present(state, rows)}


def vectors_of(engine: "Engine", names: list[str]) -> list[NDArray[np.float32]]:
    """The stored vectors of ids. Raises NotFoundError for one that does not exist."""

    def answer(state: State) -> list[NDArray[np.float32]]:
        rows = _rows_of(engine, state, names)
        for id_ in names:
            if id_ not in rows:
                raise NotFoundError(f"there is no document {shown(id_)}")
        found = fetch.vectors_of_rows(state, list(rows.values()))
        return [found[rows[id_].rid] for id_ in names]

    return engine.publisher.whole(answer)
