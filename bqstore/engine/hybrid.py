"""Searches for words, and for words and vectors together: both sides from one commit, fused by rank or by score.

The side of the words is an index of SQLite's (`storage/text_index.py`), that of the vectors the search of `search.py`.
A filter restricts both.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..arguments import check_choice, check_real, items, shown, text_bytes, type_of
from ..bitmap import Matches
from ..config import MAX_K
from ..errors import InvalidInputError
from ..metadata.filter_tree import Predicate, Tree
from ..results.hits import ExplainedHits, Explanation, Hit, hit_of
from ..storage import text_index
from ..storage.reading import Block
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
_ALPHA: Final = "a number from 0 (words alone) to 1 (vectors alone)"
_OF_BOTH: Final = (("hybrid",), "mode='hybrid', which looks for a vector and for the words of")
_FOR: Final = {
    "fusion": _OF_BOTH,
    "alpha": _OF_BOTH,
    "syntax": (("text", "hybrid"), "mode='text' and mode='hybrid', which look for the words of"),
}
_RRF: Final = 60  # the constant of Cormack, Clarke and Buettcher (SIGIR 2009)
_FEW_TEXTS: Final = 1000  # indexed texts up to which no word is common or heavy
_HEAVY: Final = 50  # a word is heavy if more than one text in so many has it
_RANKING: Final = 32  # the rarest words of a long query, by which texts are ranked
_CANDIDATES: Final = 1000  # the best texts by the light words, which are scored by all words
_SCORED: Final = 4096  # how many of the texts that have heavy words are scored, in 7 ms
_REMEMBERED: Final = 100_000  # words whose counts a state remembers
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
    if text is None and mode is None and fusion is None and alpha is None and syntax is None:
        return None  # as most calls are
    if mode is None:
        mode = "vector" if text is None else "hybrid" if has_vector else "text"
    check_choice("mode", mode, MODES)
    given = {"fusion": fusion, "alpha": alpha, "syntax": syntax}
    fusion = "relative_score" if fusion is None else check_choice("fusion", fusion, FUSIONS)
    syntax = "words" if syntax is None else check_choice("syntax", syntax, SYNTAXES)
    alpha = 0.5 if alpha is None else check_real("alpha", alpha, _ALPHA)
    if not 0 <= alpha <= 1:
        raise InvalidInputError(f"alpha is {alpha:g}; expected {_ALPHA}")
    for each, value in given.items():
        if value is not None and mode not in _FOR[each][0]:
            raise InvalidInputError(
                f"{each} is {shown(value)}, but the mode of this search is {mode!r}; {each} is for {_FOR[each][1]} "
                f"{name}="
            )
    if mode == "vector":
        return None
    if text is None or (mode == "hybrid" and not has_vector):
        raise InvalidInputError(f"mode is {mode!r}; expected {name}=" + (" and a vector" if mode == "hybrid" else ""))
    texts = [text] if isinstance(text, str) or name == "text" else items(text, name)
    for each in texts:
        if not isinstance(each, str):
            raise InvalidInputError(f"{name} has {type_of(each)}; expected a string of the words to search for")
        text_bytes(each, name)
        if syntax == "fts5" and each.lstrip().startswith("*"):
            raise InvalidInputError("text begins with *, which is no expression of FTS5; put the * behind a word")
    return Asked(mode, texts, fusion, alpha, syntax)


def texts_of(given: Any, n: int) -> list[Any]:
    """One text for each of n queries, None where none are given. Raises InvalidInputError."""
    texts = [None] * n if given is None else [given] if isinstance(given, str) else items(given, "texts")
    if len(texts) != n:
        raise InvalidInputError(f"texts has {len(texts):,}, vectors {n:,}; expected as many")
    return texts


def width(k: Any) -> Any:
    """How many hits of each side are fused."""
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
    accept: Matches | None
    accepted: int
    asked: Asked
    options: Options
    wide: Options


def hits(
    engine: "Engine", queries: F32 | None, asked: Asked, tree: Tree | None, options: Options, wide: Options,
    explain: bool = False,
) -> list[list[Hit]]:  # fmt: skip
    """The hits of each query; ``wide`` are the options of the side of the vectors."""

    def answer(state: State) -> list[list[Hit]]:
        sides = _sides(engine, state, asked, tree, options, wide)
        with Block() as block, fetch.at_commit_of(engine.store, sides.state, block):
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
        with Block() as block, fetch.at_commit_of(engine.store, sides.state, block):
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
        some = Matches(state.n, state.live_bits) if state.expired else None
        return _Sides(state, some, state.head.n_live, asked, options, wide)
    state, found = engine.acceptor.accepted(state, tree)
    return _Sides(state, found, found.count, asked, options, wide)


def _found(
    engine: "Engine", sides: _Sides, queries: F32 | None, tree: Tree | None, explain: bool
) -> list[tuple[list[Found], Explanation | None]]:
    """What each query finds, and how; the store stands at the state's commit."""
    asked, state, options = sides.asked, sides.state, sides.options
    made = index_to_search(state.head.settings)
    out: list[tuple[list[Found], Explanation | None]] = []
    vectors = None if queries is None else _vectors(engine, sides, queries, tree, explain)
    with engine.store.connection() as connection:
        finder = _Finder(connection, sides)
        for i, text in enumerate(asked.texts):
            words = _Words(connection, state, text, made.tokenize, asked.syntax)
            k = sides.wide.k if asked.has_vectors else options.k
            texts = finder.first(words, k)
            lists = {_TEXT: texts} if vectors is None else {_VECTOR: vectors[0][i], _TEXT: texts}
            fused = fuse(lists, asked) if asked.has_vectors else [Found(o, s, {_TEXT: s}) for o, s in texts]
            if options.score_threshold is not None:
                fused = [each for each in fused if each.score >= options.score_threshold]
            how = None
            if explain:
                how = vectors[1] if vectors is not None else None
                how = how or Explanation("text", "none", candidates=len(texts), accepted=sides.accepted)
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
    if isinstance(tree, Predicate):  # a function has been called already, and is not called again
        way = PreparedSearch(state, sides.accept, sides.wide, filtered=sides.accepted < state.head.n_live)
    else:
        state, way = search.prepared(engine, state, tree, sides.wide)
    work = index.Work() if explain else None
    ordinals, scores = way.nearest(queries, work)
    if state is not sides.state or search.outgrown(engine, state):
        raise ChangedError
    engine.core.keeper.found(state, way, queries, ordinals, scores)
    out = [
        [(ordinal, score) for ordinal, score in zip(line, values, strict=True) if ordinal >= 0]
        for line, values in zip(ordinals.tolist(), scores.tolist(), strict=True)
    ]
    return out, None if work is None else search.explained(way, work)


class _Words:
    """The words of a query, by how many texts have them.

    A word that more than half of the texts have is ``common``: it weighs nothing in BM25, and scoring all texts that
    have it takes long. So documents are ranked by the other words, and those that have only common ones come last, in
    the order in which they were added, with a score of 0; beside vectors they are left out. Of the other words, those
    that more than one text in fifty has are ``heavy``, see `_of_light`. Of a long query only the rarest words rank:
    they weigh most in BM25. In a collection of up to a thousand texts all words rank.
    """

    def __init__(self, connection: text_index.Connection, state: State, text: str, tokenize: str, syntax: str) -> None:
        self.expression: str | None = text if syntax == "fts5" else None
        self.rare: list[str] = []
        self.common: list[str] = []
        self.total, self.heavy, self.light = 0, dict[str, int](), list[str]()
        if self.expression is not None:
            text_index.check_expression(connection, text)
            return
        known: dict[Any, int] = state.prepared.setdefault("words", {})
        if len(known) > _REMEMBERED:  # not emptied: another thread may be reading it
            known = state.prepared["words"] = {}
        if None not in known:
            known[None] = text_index.indexed(connection)
        self.total = known[None]
        found = words_of(text, tokenize)
        if self.total <= _FEW_TEXTS:
            self.rare = found
            return
        for word in found:
            if word not in known:
                known[word] = text_index.count(connection, any_of([word]), self.total // 2 + 1)
        self.common = [word for word in found if known[word] > self.total // 2]
        rare = [word for word in found if 0 < known[word] <= self.total // 2]
        rarest = set(sorted(rare, key=known.__getitem__)[:_RANKING])
        self.rare = [word for word in rare if word in rarest]
        self.heavy = {word: known[word] for word in self.rare if known[word] > self.total // _HEAVY}
        self.light = [word for word in self.rare if word not in self.heavy]

    @property
    def ranking(self) -> list[str]:
        """The words that rank, the heavy ones last: always in one order, which decides the last bits of a sum."""
        return [*self.light, *self.heavy] if self.heavy else self.rare

    def most_of_heavy(self) -> float:
        """An upper bound of what the heavy words add to a score."""
        return sum(2.2 * math.log((self.total - n + 0.5) / (n + 0.5)) for n in self.heavy.values()) + 1e-3


class _Finder:
    """Finds the documents that have words, among those that may be found."""

    def __init__(self, connection: text_index.Connection, sides: _Sides) -> None:
        self._connection, self._state, self._beside = connection, sides.state, sides.asked.has_vectors
        self._few: list[int] | None = None
        self._mask = None if sides.accept is None else sides.accept.mask()
        if self._mask is not None and text_index.can_list(sides.accepted):
            self._few, self._mask = sides.state.rids[: sides.state.n][self._mask].tolist(), None

    def first(self, words: _Words, k: int) -> list[tuple[int, float]]:
        """The first k, as ordinals with their scores: the highest first, then as they were added."""
        found = self._first(words, k)
        ordinals = self._state.ordinals(rid for rid, _ in found)
        if len(ordinals) < len(found):
            raise ChangedError
        return list(zip(ordinals.tolist(), (score for _, score in found), strict=True))

    def _first(self, words: _Words, k: int) -> list[tuple[int, float]]:
        """The same by rid, as all that follows: rids grow in the order in which documents are added."""
        if words.expression is not None:
            return self._ranked(words.expression, k)
        best, enough = self._of_light(words, k) if words.heavy and words.light and self._few is None else ([], False)
        found = best if enough else None
        rare, common = any_of(words.ranking), any_of(words.common)
        if found is None and self._few is None and sum(words.heavy.values()) > _SCORED:
            found = self._of_many(words, rare, k, best)
        if found is None:
            found = self._ranked(rare, k) if rare else []
        if common and len(found) < k and not self._beside:
            rest = f"({common}) NOT ({rare})" if rare else common
            portions = text_index.in_order(self._connection, rest, self._limit(k - len(found)), self._few)
            found += self._those(portions, k - len(found))
        return found

    def _of_light(self, words: _Words, k: int) -> tuple[list[tuple[int, float]], bool]:
        """The first k of texts that have a light word, scored by all words; and whether they are the first k of all.

        They are where the k-th score is above all that heavy words alone can reach (as in MaxScore: Turtle and Flood
        1995). Often they are not: the subject of a question may be in words that many texts have, beside rare ones.
        """
        light, heavy = any_of(words.light), any_of(words.heavy)
        some = self._ranked(light, _CANDIDATES)
        missed = some[-1][1] if len(some) == _CANDIDATES else 0.0
        best = dict(some)  # right as they are for texts without heavy words
        both = f"({light}) AND ({heavy})"  # AND steps through the texts of the light words, OR through those of all
        for portion in text_index.ranked(self._connection, both, among=list(best)):
            best.update(portion)
        found = _first_of(best, k)
        return found, len(found) == k and found[-1][1] > missed + words.most_of_heavy()

    def _of_many(
        self, words: _Words, rare: str, k: int, light: list[tuple[int, float]]
    ) -> list[tuple[int, float]] | None:
        """The same, where more texts have heavy words than are scored; None where too few of the scored may be found.

        Scored are the best by light words, which are given, and about `_SCORED` of the others, from all over the
        collection: how often a text has a word that a third of all texts have tells little.
        """
        best, every = dict(light), -(-sum(words.heavy.values()) // _SCORED)
        best.update(self._those(text_index.ranked(self._connection, rare, self._limit(k), None, every), k))
        found = _first_of(best, k)
        return found if len(found) == k else None

    def _ranked(self, expression: str, k: int) -> list[tuple[int, float]]:
        return self._those(text_index.ranked(self._connection, expression, self._limit(k), self._few), k)

    def _limit(self, k: int) -> int:
        return k if self._mask is None else -1

    def _those(self, portions: Iterator[list[tuple[int, float]]], k: int) -> list[tuple[int, float]]:
        """The first k that may be found."""
        out: list[tuple[int, float]] = []
        for portion in portions:
            out += portion if self._mask is None else self._accepted(portion, self._mask)
            if len(out) >= k:
                break
        return out[:k]

    def _accepted(self, portion: list[tuple[int, float]], mask: NDArray[np.bool_]) -> list[tuple[int, float]]:
        ordinals = self._state.ordinals(rid for rid, _ in portion)
        if len(ordinals) < len(portion):
            raise ChangedError
        return list(compress(portion, mask[ordinals].tolist()))


def _first_of(scores: dict[int, float], k: int) -> list[tuple[int, float]]:
    """The k with the highest scores, equal ones as they were added."""
    return sorted(sorted(scores.items()), key=itemgetter(1), reverse=True)[:k]


def fuse(lists: dict[str, list[tuple[int, float]]], asked: Asked) -> list[Found]:
    """Both lists as one, the highest first, then as they were added."""
    weights = {_VECTOR: asked.alpha, _TEXT: 1 - asked.alpha}
    total: dict[int, float] = {}
    parts: dict[int, dict[str, float]] = {}
    for side, found in lists.items():
        values = _by_rank(len(found)) if asked.fusion == "rrf" else _relative([score for _, score in found])
        for (ordinal, score), value in zip(found, values, strict=True):
            total[ordinal] = total.get(ordinal, 0.0) + weights[side] * value
            parts.setdefault(ordinal, {})[side] = score
    if not 0 < asked.alpha < 1:  # one side counts: what it scores lowest is before what it has not found
        side = _VECTOR if asked.alpha else _TEXT
        order = sorted(total, key=lambda ordinal: (-total[ordinal], side not in parts[ordinal], ordinal))
    else:
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
    documents = fetch.documents(engine.store, state, ordinals)
    vectors = fetch.vectors(state, ordinals.astype(np.int32)) if options.with_vectors else {}
    return [
        hit_of(one.id, each.score, one.text, one.metadata(), vectors.get(each.ordinal), each.parts)
        for each, one in zip(found, documents, strict=True)
    ]


def _explained(found: list[Hit], how: Explanation | None) -> ExplainedHits:
    out = ExplainedHits(found)
    assert how is not None
    out.explanation = how
    return out
