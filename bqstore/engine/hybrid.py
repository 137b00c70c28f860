"""Searches for words, and for words and vectors together: both sides from one commit, fused by rank or by score.

The side of the words is an index of SQLite's (`storage/text_index.py`), that of the vectors the search of `search.py`.
A filter restricts both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..arguments import check_choice, check_real, is_text, items, shown, type_of
from ..bitmap import Bits, to_mask
from ..config import MAX_K
from ..errors import InvalidInputError
from ..metadata.documents import metadata_of
from ..metadata.filter_tree import Predicate, Tree
from ..results.hits import ExplainedHits, Explanation, Hit
from ..storage import text_index
from . import fetch, search
from .options import Options
from .prepared_search import PreparedSearch
from .query_words import any_of, words_of
from .state import ChangedError, State
from .text_upkeep import index_to_search

if TYPE_CHECKING:
    from .engine import Engine

F32 = NDArray[np.float32]
MODES: Final = ("vector", "text", "hybrid")
FUSIONS: Final = ("rrf", "relative_score")
SYNTAXES: Final = ("words", "fts5")
_RRF: Final = 60  # the constant of Cormack, Clarke and Buettcher (SIGIR 2009)
_FEW_TEXTS: Final = 1000  # indexed texts up to which no word is common
_VECTOR, _TEXT = "vector", "text"


@dataclass(frozen=True)
class Asked:
    """What a call asks for beside vectors, checked.

    Parameters
    ----------
    mode : str          "text" or "hybrid"
    texts : list of str one for each query
    """

    mode: str
    texts: list[str]
    fusion: str
    alpha: float
    syntax: str

    @property
    def has_vectors(self) -> bool:
        """Whether vectors are searched, too."""
        return self.mode == "hybrid"


def asked(has_vector: bool, text: Any, mode: Any, fusion: Any, alpha: Any, syntax: Any, name: str) -> Asked | None:
    """The words that a call asks for; None where it asks with vectors alone. Raises InvalidInputError.

    ``name`` is that of the parameter: "text" for one, "texts" for several.
    """
    if text is None and mode is None:
        return None
    if mode is None:
        mode = "hybrid" if has_vector else "text"
    elif check_choice("mode", mode, MODES) == "vector":
        return None
    fusion, syntax = check_choice("fusion", fusion, FUSIONS), check_choice("syntax", syntax, SYNTAXES)
    alpha = check_real("alpha", alpha, "a number from 0 (words alone) to 1 (vectors alone)")
    if not 0 <= alpha <= 1:
        raise InvalidInputError(f"alpha is {alpha:g}; expected a number from 0 (words alone) to 1 (vectors alone)")
    if text is None or (mode == "hybrid" and not has_vector):
        raise InvalidInputError(f"mode is {mode!r}; expected {name}=" + (" and a vector" if mode == "hybrid" else ""))
    texts = [text] if isinstance(text, str) or name == "text" else items(text, name)
    for each in texts:
        if not isinstance(each, str) or not is_text(each):
            what = shown(each) if isinstance(each, str) else type_of(each)
            raise InvalidInputError(f"{name} has {what}; expected a string of the words to search for")
        if syntax == "fts5" and each.lstrip().startswith("*"):
            raise InvalidInputError("text begins with *, which is no expression of FTS5; put the * behind a word")
    return Asked(mode, texts, fusion, alpha, syntax)


def width(k: Any) -> Any:
    """How many of each side are fused."""
    return min(MAX_K, max(4 * k, 100)) if isinstance(k, int) and 0 < k <= MAX_K else k


@dataclass(frozen=True)
class Found:
    """One of the documents found: ``parts`` are the scores of the sides that have found it."""

    ordinal: int
    score: float
    parts: dict[str, float]


@dataclass(frozen=True)
class _Sides:
    """What both sides are asked, and the documents that may be found."""

    state: State
    accept: Bits | None
    accepted: int
    asked: Asked
    options: Options
    wide: Options

    def mask(self) -> NDArray[np.bool_] | None:
        """Which ordinals may be found; None: all that are indexed."""
        return None if self.accept is None else to_mask(self.accept, self.state.n)


def hits(
    engine: "Engine", queries: F32 | None, asked: Asked, tree: Tree | None, options: Options, wide: Options,
    explain: bool = False,
) -> list[list[Hit]]:  # fmt: skip
    """The hits of each query; ``wide`` are the options of the side of the vectors."""

    def answer(state: State) -> list[list[Hit]]:
        sides = _sides(engine, state, asked, tree, options, wide)
        with fetch.at_commit_of(engine.store, sides.state):
            found = _found(engine, sides, queries, tree, explain)
            out = [_hits(engine, sides.state, each, options) for each, _ in found]
        if explain:
            return [_explained(each, how) for each, (_, how) in zip(out, found, strict=True)]
        return out

    return engine.publisher.whole(answer)


def ids(
    engine: "Engine", queries: F32 | None, asked: Asked, tree: Tree | None, options: Options, wide: Options
) -> tuple[NDArray[np.object_], F32]:
    """The ids of the hits of each query, and their scores; no document is read."""

    def answer(state: State) -> tuple[NDArray[np.object_], F32]:
        sides = _sides(
            engine, state if state.ids is not None else engine.acceptor.with_ids(), asked, tree, options, wide
        )
        known = sides.state.ids
        if known is None:
            raise ChangedError
        with fetch.at_commit_of(engine.store, sides.state):
            found = _found(engine, sides, queries, tree, False)
        names = np.full((len(found), options.k), None, object)
        scores = np.full((len(found), options.k), np.nan, np.float32)
        for i, (each, _) in enumerate(found):
            names[i, : len(each)] = known.take(np.array([one.ordinal for one in each], np.int32))
            scores[i, : len(each)] = [one.score for one in each]
        return names, scores

    return engine.publisher.whole(answer)


def _sides(engine: "Engine", state: State, asked: Asked, tree: Tree | None, options: Options, wide: Options) -> _Sides:
    if tree is None:
        return _Sides(state, None, state.head.n_live, asked, options, wide)
    state, bits, accepted = engine.acceptor.accepted(state, tree)
    return _Sides(state, bits, accepted, asked, options, wide)


def _found(
    engine: "Engine", sides: _Sides, queries: F32 | None, tree: Tree | None, explain: bool
) -> list[tuple[list[Found], Explanation | None]]:
    """What each query finds, and how; the store stands at the state's commit."""
    asked, state, options = sides.asked, sides.state, sides.options
    made = index_to_search(state.head.settings)
    out: list[tuple[list[Found], Explanation | None]] = []
    vectors = None if queries is None else _vectors(engine, sides, queries, tree, explain)
    with engine.store.connection() as connection:
        for i, text in enumerate(asked.texts):
            words = _Words(connection, state, text, made.tokenize, asked.syntax)
            k = sides.wide.k if asked.has_vectors else options.k
            texts = list(_texts(connection, sides, words, k))
            lists = {_TEXT: texts} if vectors is None else {_VECTOR: vectors[0][i], _TEXT: texts}
            fused = _fused(lists, asked) if asked.has_vectors else [Found(o, s, {_TEXT: s}) for o, s in texts]
            if options.score_threshold is not None:
                fused = [each for each in fused if each.score >= options.score_threshold]
            how = None
            if explain:
                how = vectors[1] if vectors is not None else None
                how = how or Explanation("text", "none", 0, len(texts), sides.accepted, 0, 0, 0, 0, 0)
                part = sides.accepted / state.head.n_live if state.head.n_live else 1.0
                how = replace(
                    how, mode=asked.mode, words=tuple(words.rare), common=tuple(words.common), selectivity=part
                )
            out.append((fused[: options.k], how))
    return out


def _vectors(
    engine: "Engine", sides: _Sides, queries: F32, tree: Tree | None, explain: bool
) -> tuple[list[list[tuple[int, float]]], Explanation | None]:
    """The nearest of each query, nearest first, and how they were found."""
    state = sides.state
    if isinstance(tree, Predicate):  # a function is asked once
        accept = sides.accept if sides.accepted < state.n else None
        way = PreparedSearch(state, accept, sides.accepted, sides.wide, sides.accepted < state.head.n_live)
    else:
        state, way = search.prepared(engine, state, tree, sides.wide)
    work = index.Work() if explain else None
    ordinals, scores = way.nearest(queries, work)
    if state is not sides.state or search.outgrown(engine, state):
        raise ChangedError
    engine.core.keeper.found(state, way, queries, scores)
    out = [
        [(ordinal, score) for ordinal, score in zip(line, values, strict=True) if ordinal >= 0]
        for line, values in zip(ordinals.tolist(), scores.tolist(), strict=True)
    ]
    return out, None if work is None else search.explained(way, work)


class _Words:
    """The words of a query, and which of them tell nothing.

    A word that more than half of the texts have weighs nothing in BM25, and scoring all that have it takes long. So
    documents are ranked by the other words, and those that have only such words come after, in the order in which they
    were added, with a score of 0. Among a thousand texts no word is treated so.
    """

    def __init__(self, connection: text_index.Connection, state: State, text: str, tokenize: str, syntax: str) -> None:
        self.expression: str | None = text if syntax == "fts5" else None
        self.rare: list[str] = []
        self.common: list[str] = []
        if self.expression is not None:
            text_index.check_expression(connection, text)
            return
        remembered: dict[Any, Any] = state.prepared
        total = remembered.get("indexed")
        if total is None:
            total = remembered["indexed"] = text_index.indexed(connection)
        for word in words_of(text, tokenize):
            is_common = False
            if total > _FEW_TEXTS:
                known = remembered.get(("is common", word))
                if known is None:
                    most = total // 2 + 1
                    known = text_index.count(connection, any_of([word]), most) == most
                    remembered[("is common", word)] = known
                is_common = known
            (self.common if is_common else self.rare).append(word)


def _texts(connection: text_index.Connection, sides: _Sides, words: _Words, k: int) -> Iterator[tuple[int, float]]:
    """The first k documents that match, as ordinals with their scores: the highest first, then as they were added."""
    few = None
    if sides.accept is not None and text_index.can_list(sides.accepted):
        few = sides.state.rids[: sides.state.n][sides.mask()].tolist()
    mask = sides.mask() if few is None else None
    limit = k if mask is None else -1

    def parts() -> Iterator[list[tuple[int, float]]]:
        if words.expression is not None:
            yield from text_index.ranked(connection, words.expression, limit, few)
            return
        rare, common = any_of(words.rare), any_of(words.common)
        if rare:
            yield from text_index.ranked(connection, rare, limit, few)
        if common:
            rest = f"({common}) NOT ({rare})" if rare else common
            yield from text_index.in_order(connection, rest, limit, few)

    for portion in parts():
        rids = [rid for rid, _ in portion]
        ordinals = sides.state.ordinals(rids)
        if len(ordinals) < len(rids):
            raise ChangedError
        for ordinal, (_, score) in zip(ordinals.tolist(), portion, strict=True):
            if mask is None or mask[ordinal]:
                yield ordinal, score
                k -= 1
                if k == 0:
                    return


def _fused(lists: dict[str, list[tuple[int, float]]], asked: Asked) -> list[Found]:
    """Both lists as one, the highest first, then as they were added."""
    weights = {_VECTOR: asked.alpha, _TEXT: 1 - asked.alpha}
    total: dict[int, float] = {}
    parts: dict[int, dict[str, float]] = {}
    for side, found in lists.items():
        values = _by_rank(len(found)) if asked.fusion == "rrf" else _relative([score for _, score in found])
        for (ordinal, score), value in zip(found, values, strict=True):
            total[ordinal] = total.get(ordinal, 0.0) + weights[side] * value
            parts.setdefault(ordinal, {})[side] = score
    order = sorted(total, key=lambda ordinal: (-total[ordinal], ordinal))
    return [Found(ordinal, total[ordinal], parts[ordinal]) for ordinal in order]


def _by_rank(n: int) -> list[float]:
    return [1 / (_RRF + rank) for rank in range(1, n + 1)]


def _relative(scores: Sequence[float]) -> list[float]:
    """Scores from 0, the lowest of the list, to 1, the highest; all 1 where they are equal."""
    if not scores:
        return []
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def _hits(engine: "Engine", state: State, found: list[Found], options: Options) -> list[Hit]:
    ordinals = np.array([each.ordinal for each in found], np.int64)
    rows = fetch.rows(engine.store, state, ordinals)
    vectors = fetch.vectors(state, ordinals.astype(np.int32)) if options.with_vectors else {}
    return [
        Hit(row.id, each.score, row.text, metadata_of(row), vectors.get(each.ordinal), each.parts)
        for each, row in ((each, rows[each.ordinal]) for each in found)
    ]


def _explained(found: list[Hit], how: Explanation | None) -> ExplainedHits:
    out = ExplainedHits(found)
    assert how is not None
    out.explanation = how
    return out
