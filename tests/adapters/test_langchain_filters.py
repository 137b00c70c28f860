"""Filters of LangChain's `BQVectorStore`: the grammar and callables in every call, MMR, structured queries.

Each filter stands beside the same written in Python, slow and obvious, on the metadata of a `Document`.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    FilterDirective,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)
from llama_index.core.schema import TextNode

import bqstore
from langchain_bqstore import BQTranslator, BQVectorStore
from llama_index.vector_stores.bqstore import BQVectorStore as LlamaIndexStore

from .langchain_texts import Spelled

N, DIM = 120, 48
DAYS = [date(2023, 12, 30), date(2024, 1, 1), date(2024, 6, 30)]


def spelled(vector: np.ndarray) -> str:
    return " ".join(map(repr, np.asarray(vector, np.float32).tolist()))


def metadata_of(i: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "n": i,
        "third": i % 3,
        "half": i / 2,
        "title": ["Star Wars", "War and Peace", "100% cotton", "snake_case", "STAR"][i % 5],
        "tags": [["even", "all"], ["odd", "all"], []][min(i % 7, 1) if i % 7 else 2],
        "draft": i % 4 == 0,
        "day": DAYS[i % 3].isoformat(),
        "who": {"name": f"N{i % 2}", "age": i % 10},
        "mixed": [1, "1", True, None, [1], 1.5][i % 6],
    }
    if i % 5 == 0:
        del metadata["half"]
    return metadata


VECTORS = np.random.default_rng(7).standard_normal((N, DIM)).astype(np.float32)
QUERY = spelled(np.random.default_rng(8).standard_normal(DIM))
METADATAS = [metadata_of(i) for i in range(N)]


def filled(path: Path | None = None) -> BQVectorStore:
    """A store whose searches use the codes unless a call says otherwise."""
    store = BQVectorStore(Spelled(), path=path, full_scan_threshold=0)
    store.add_texts([spelled(v) for v in VECTORS], METADATAS, ids=[f"d{i}" for i in range(N)])
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BQVectorStore]:
    with filled(tmp_path_factory.mktemp("langchain")) as store:
        yield store


@pytest.fixture
def own() -> Iterator[BQVectorStore]:
    """One to write to, in memory."""
    with filled() as store:
        yield store


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def cosines(query: str) -> np.ndarray:
    q = np.array(query.split(), np.float32)
    return VECTORS @ q / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(q)


ORDER = np.argsort(-cosines(QUERY)).tolist()


def nearest(accepts: Callable[[dict[str, Any]], Any], k: int) -> list[str]:
    return [f"d{i}" for i in ORDER if accepts(METADATAS[i])][:k]


Accepts = Callable[[dict[str, Any]], Any]

FILTERS: dict[str, tuple[dict[str, Any], Accepts]] = {
    "nothing": ({}, lambda m: True),
    "value": ({"third": 2}, lambda m: m["third"] == 2),
    "list": ({"n": [3, 5, 119, 500]}, lambda m: m["n"] in (3, 5, 119)),
    "eq": ({"title": {"$eq": "STAR"}}, lambda m: m["title"] == "STAR"),
    "eq of a list": ({"tags": {"$eq": ["odd", "all"]}}, lambda m: m["tags"] == ["odd", "all"]),
    "an element": ({"tags": "all"}, lambda m: "all" in m["tags"]),
    "ne": ({"half": {"$ne": 1}}, lambda m: m.get("half") != 1),
    "in": ({"n": {"$in": [0, 1, 2]}}, lambda m: m["n"] < 3),
    "nin": ({"half": {"$nin": [0.5, 1]}}, lambda m: m.get("half") not in (0.5, 1)),
    "gt": ({"half": {"$gt": 50}}, lambda m: m.get("half", 0) > 50),
    "several on a key": ({"n": {"$gte": 10, "$lt": 20}}, lambda m: 10 <= m["n"] < 20),
    "lte of strings": ({"title": {"$lte": "STAR"}}, lambda m: m["title"] <= "STAR"),
    "between": ({"n": {"$between": [7, 11]}}, lambda m: 7 <= m["n"] <= 11),
    "dates": ({"day": {"$gte": date(2024, 1, 1)}}, lambda m: m["day"] >= "2024-01-01"),
    "datetimes": ({"day": {"$lt": datetime(2024, 1, 1)}}, lambda m: m["day"] < "2024-01-01T00:00:00"),
    "exists": ({"half": {"$exists": True}}, lambda m: "half" in m),
    "is missing": ({"half": {"$exists": False}}, lambda m: "half" not in m),
    "like": ({"title": {"$like": "%War%"}}, lambda m: "War" in m["title"]),
    "like, escaped": ({"title": {"$like": r"100\%%"}}, lambda m: m["title"].startswith("100%")),
    "ilike": ({"title": {"$ilike": "star%"}}, lambda m: m["title"].lower().startswith("star")),
    "contains an element": ({"tags": {"$contains": "odd"}}, lambda m: "odd" in m["tags"]),
    "contains a piece": ({"title": {"$contains": "_"}}, lambda m: "_" in m["title"]),
    "any": ({"tags": {"$any": ["odd", "x"]}}, lambda m: "odd" in m["tags"]),
    "all": ({"tags": {"$all": ["all", "even"]}}, lambda m: set(m["tags"]) >= {"all", "even"}),
    "not of a field": ({"n": {"$not": {"$gte": 5}}}, lambda m: m["n"] < 5),
    "and": ({"$and": [{"third": 1}, {"draft": True}]}, lambda m: m["third"] == 1 and m["draft"]),
    "or": ({"$or": [{"third": 1}, {"n": 0}]}, lambda m: m["third"] == 1 or m["n"] == 0),
    "not": ({"$not": {"third": 1, "draft": True}}, lambda m: not (m["third"] == 1 and m["draft"])),
    "mixed": (
        {"third": 0, "$or": [{"n": {"$lt": 9}}, {"$not": {"n": {"$lt": 99}}}]},
        lambda m: m["third"] == 0 and (m["n"] < 9 or m["n"] >= 99),
    ),
    "a path": ({"who.name": "N1", "who.age": {"$gt": 7}}, lambda m: m["who"]["name"] == "N1" and m["who"]["age"] > 7),
    "a dict": ({"who": {"$eq": {"age": 3, "name": "N1"}}}, lambda m: m["who"] == {"name": "N1", "age": 3}),
    "True": ({"mixed": True}, lambda m: m["mixed"] is True),
    "1": ({"mixed": 1}, lambda m: m["mixed"] in (1, [1]) and m["mixed"] is not True),
    "a string": ({"mixed": "1"}, lambda m: m["mixed"] == "1"),
    "null": ({"mixed": None}, lambda m: m["mixed"] is None),
    "an id": ({bqstore.ID_KEY: ["d3", "d4", "zz"]}, lambda m: m["n"] in (3, 4)),
    "none match": ({"third": 7}, lambda m: False),
}


# ---- every call takes every filter, as a dict and as a callable


@pytest.mark.parametrize("name", FILTERS)
async def test_every_call_takes_the_grammar(store: BQVectorStore, name: str) -> None:
    given, accepts = FILTERS[name]
    wanted = nearest(accepts, 10)
    vector = Spelled().embed_query(QUERY)
    for filter in (given, lambda document: bool(accepts(document.metadata))):
        kwargs: dict[str, Any] = {"filter": filter, "exact": True}
        pairs = store.similarity_search_with_score(QUERY, 10, **kwargs)
        assert ids([document for document, _ in pairs]) == wanted
        assert store.similarity_search_with_score_by_vector(vector, 10, **kwargs) == pairs
        assert await store.asimilarity_search_with_score(QUERY, 10, **kwargs) == pairs
        assert await store.asimilarity_search_with_score_by_vector(vector, 10, **kwargs) == pairs
        relevant = store.similarity_search_with_relevance_scores(QUERY, 10, **kwargs)
        assert [document for document, _ in relevant] == [document for document, _ in pairs]
        assert ids(store.similarity_search(QUERY, 10, **kwargs)) == wanted
        assert ids(await store.asimilarity_search_by_vector(vector, 10, **kwargs)) == wanted
        assert ids(store.as_retriever(search_kwargs={"k": 10, **kwargs}).invoke(QUERY)) == wanted
        assert ids(await store.as_retriever(search_kwargs={"k": 10, **kwargs}).ainvoke(QUERY)) == wanted
        # of relevance alone, MMR is the search
        assert ids(store.max_marginal_relevance_search(QUERY, 10, 10, 1.0, **kwargs)) == wanted
        assert ids(await store.amax_marginal_relevance_search(QUERY, 10, 10, 1.0, **kwargs)) == wanted


@pytest.mark.parametrize("name", FILTERS)
def test_as_many_as_match_are_found_on_the_bits(store: BQVectorStore, name: str) -> None:
    given, accepts = FILTERS[name]
    matching = {f"d{i}" for i in range(N) if accepts(METADATAS[i])}
    assert set(ids(store.similarity_search(QUERY, N, filter=given))) == matching
    for filter in (given, lambda document: bool(accepts(document.metadata))):
        few = store.similarity_search(QUERY, 4, filter=filter)
        assert len(few) == min(4, len(matching)) and set(ids(few)) <= matching
        mixed = store.max_marginal_relevance_search(QUERY, 4, filter=filter)
        assert len(mixed) == min(4, len(matching)) and set(ids(mixed)) <= matching


DELETIONS = [
    # every filter as a dict; the other ways of giving it with a few
    pytest.param(name, way, marks=() if way == "dict" or name in ("value", "mixed", "null") else pytest.mark.slow)
    for way in ("dict", "callable", "async")
    for name in FILTERS
    if name != "nothing"
]


@pytest.mark.parametrize(("name", "way"), DELETIONS)
async def test_delete_takes_the_grammar(own: BQVectorStore, name: str, way: str) -> None:
    given, accepts = FILTERS[name]
    filter: Any = (lambda document: bool(accepts(document.metadata))) if way == "callable" else given
    some = [f"d{i}" for i in range(0, N, 2)]
    if way == "async":
        assert await own.adelete(some, filter=filter) is True
    else:
        assert own.delete(some, filter=filter) is True
    left = [f"d{i}" for i in range(N) if i % 2 or not accepts(METADATAS[i])]
    assert ids(own.get_by_ids([f"d{i}" for i in range(N)])) == left
    assert own.delete(filter=filter) is True
    assert {id_ for id_ in left if accepts(METADATAS[int(id_[1:])])}.isdisjoint(
        ids(own.get_by_ids([f"d{i}" for i in range(N)]))
    )
    assert len(own.collection) == sum(not accepts(metadata) for metadata in METADATAS)


def test_a_given_filter_is_not_changed(store: BQVectorStore) -> None:
    given = {"$or": [{"n": {"$in": [1, 2]}}, {"day": {"$gt": date(2024, 1, 1)}}], "third": [1, 2]}
    before = repr(given)
    kwargs = {"filter": given, "k": 3, "search_params": {"exact": True}}
    store.as_retriever(search_kwargs=kwargs).invoke(QUERY)
    store.as_retriever(search_type="mmr", search_kwargs=kwargs).invoke(QUERY)
    assert repr(given) == before and kwargs == {"filter": given, "k": 3, "search_params": {"exact": True}}


# ---- callables


def test_a_callable_sees_each_document_as_a_hit_gives_it(own: BQVectorStore) -> None:
    own.add_texts([spelled(VECTORS[0])], ids=["bare"])
    own.delete(["d1"])
    seen: list[Document] = []
    found = own.similarity_search(QUERY, N, filter=lambda document: not seen.append(document))  # type: ignore[func-returns-value]
    assert sorted(seen, key=lambda d: d.id or "") == sorted(found, key=lambda d: d.id or "")
    assert len(found) == N and all(type(document) is Document for document in seen)


def test_a_callable_does_not_see_what_another_framework_keeps_beside(tmp_path: Path) -> None:
    with LlamaIndexStore(tmp_path) as llama:
        llama.add([TextNode(id_="a", text="one", metadata={"k": 1}, embedding=[1.0, 0.0])])
    seen: list[Document] = []
    with BQVectorStore(Spelled(), path=tmp_path, read_only=True) as store:
        store.similarity_search("1 0", filter=lambda document: not seen.append(document))  # type: ignore[func-returns-value]
    assert seen == [Document("one", id="a", metadata={"k": 1})]


def test_a_callable_is_any_that_can_be_called(store: BQVectorStore) -> None:
    class Long:
        def __call__(self, document: Document) -> bool:
            return "_" in document.metadata["title"]

        def method(self, document: Document) -> bool:
            return self(document)

    wanted = nearest(lambda m: "_" in m["title"], 5)
    for filter in (Long(), Long().method, lambda document: document.id in wanted):
        assert ids(store.similarity_search(QUERY, 5, filter=filter, exact=True)) == wanted


def test_a_callable_is_asked_again_each_time(own: BQVectorStore) -> None:
    wanted = {"d1"}
    assert ids(own.similarity_search(QUERY, filter=lambda document: document.id in wanted)) == ["d1"]
    wanted = {"d2"}
    assert ids(own.similarity_search(QUERY, filter=lambda document: document.id in wanted)) == ["d2"]


async def test_what_a_callable_raises_arrives(own: BQVectorStore) -> None:
    def fails(document: Document) -> bool:
        raise LookupError("not today")

    for search in (own.similarity_search, own.max_marginal_relevance_search, own.as_retriever().invoke):
        with pytest.raises(LookupError, match="not today"):
            search(QUERY, filter=fails)  # type: ignore[operator]
    with pytest.raises(LookupError, match="not today"):
        await own.asimilarity_search(QUERY, filter=fails)
    with pytest.raises(LookupError, match="not today"):
        own.delete(filter=fails)
    assert len(own.collection) == N


# ---- what is no filter


async def test_an_async_function_does_not_match_everything(own: BQVectorStore) -> None:
    async def none(document: Document) -> bool:
        return False

    for search in (own.asimilarity_search, own.amax_marginal_relevance_search):
        with pytest.raises(bqstore.InvalidInputError, match="filter is an async function"):
            await search(QUERY, filter=none)
    with pytest.raises(bqstore.InvalidInputError, match="filter is an async function"):
        await own.adelete(filter=none)
    assert len(own.collection) == N


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("n = 1", "filter is str 'n = 1'|filter is a str"),
        ([{"n": 1}], "filter is"),
        (dict, "filter is"),
        ({"n": {"$near": 1}}, r"\$near"),
        ({"n": {"$gte": True}}, "n"),
        ({"$nor": [{"n": 1}]}, r"\$nor"),
        ({"$and": []}, r"\$and"),
        ({"n": {"$like": 1}}, r"\$like"),
        ({"n": {"$in": 1}}, r"\$in"),
        ({"_bq_node": 1}, "_bq_node"),
    ],
)
async def test_a_malformed_filter_is_refused(own: BQVectorStore, given: Any, message: str) -> None:
    for search in (own.similarity_search, own.similarity_search_with_score, own.max_marginal_relevance_search):
        with pytest.raises(bqstore.InvalidInputError, match=message):
            search(QUERY, filter=given)  # type: ignore[operator]
    with pytest.raises(bqstore.InvalidInputError, match=message):
        await own.amax_marginal_relevance_search(QUERY, filter=given)
    with pytest.raises(bqstore.InvalidInputError, match=message):
        own.delete(filter=given)
    with pytest.raises(bqstore.InvalidInputError, match=message):
        await own.adelete(["d1"], filter=given)
    assert len(own.collection) == N


HOSTILE = [
    "'", '"', "`", "''", "' OR '1'='1", "'; DROP TABLE documents; --", '"; DELETE FROM rows; --', "x\x00y", "\x00",
    "__class__", "__init__.__globals__", "{0.__class__}", "%(n)s", "{$jndi:ldap://x}", "a.b.c", ".", "..", "a.",
    "../../etc/passwd", "C:\\temp\\", "\\", "\\x00", "\n\r\t", "", " ", "🦀", "\u202egnp", "\u00e9", "e\u0301",
    "NULL", "None", "true", "[]", "{}", "*", "%", "_", "n", "rid", "ordinal", "%s" * 50, "k" * 10_000, "1", "0", "-1",
    "NaN", "😀" * 200,
]  # fmt: skip


def test_hostile_keys_and_values_change_nothing(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        search_and_delete_by_hostile_texts(store)
        assert store.collection.verify().ok


def search_and_delete_by_hostile_texts(own: BQVectorStore) -> None:
    for text in [text for text in HOSTILE if text != "n"]:
        for given in ({text: {"$eq": text}}, {"n": text}, {"title": {"$eq": text}}, {"$or": [{text: 1}, {"n": text}]}):
            assert own.similarity_search(QUERY, filter=given) == []
            own.delete(filter=given)
        own.delete(filter={"title": {"$in": [text]}, text: {"$exists": True}})
        assert len(own.similarity_search(QUERY, filter={text: {"$exists": False}, "n": {"$ne": text}})) == 4
        missing = Comparison(Comparator.NE, text, text)
        _, kwargs = BQTranslator().visit_structured_query(StructuredQuery(QUERY, missing))
        assert len(own.similarity_search(QUERY, N, **kwargs)) == N
    assert len(own.collection) == N


def test_hostile_values_are_found_as_they_are(tmp_path: Path) -> None:
    with BQVectorStore(Spelled(), path=tmp_path) as store:
        metadatas = [{"value": text, "many": [text], "in": {"side": text}} for text in HOSTILE]
        store.add_texts([f"1 {i}" for i in range(len(HOSTILE))], metadatas, ids=[f"h{i}" for i in range(len(HOSTILE))])
        for i, text in enumerate(HOSTILE):
            found = {f"h{j}" for j, other in enumerate(HOSTILE) if other == text}
            assert f"h{i}" in found
            for key in ("value", "many", "in.side"):
                for given in ({key: text}, {key: {"$in": [text]}}, {key: {"$gte": text, "$lte": text}}):
                    assert set(ids(store.similarity_search("1 0", 100, filter=given))) == found
            equal = Comparison(Comparator.EQ, "value", text)
            _, kwargs = BQTranslator().visit_structured_query(StructuredQuery("1 0", equal))
            assert set(ids(store.similarity_search("1 0", 100, **kwargs))) == found
            pieces = {f"h{j}" for j, other in enumerate(HOSTILE) if text in other}
            if "%" not in text:
                like = Comparison(Comparator.LIKE, "value", text)
                _, kwargs = BQTranslator().visit_structured_query(StructuredQuery("1 0", like))
                assert set(ids(store.similarity_search("1 0", 100, **kwargs))) == pieces


@pytest.mark.parametrize("key", ["$where", "$expr", "$eq", "$function", "$", "_bq_", "_bq_node.class_name"])
def test_operators_and_private_keys_are_no_fields(own: BQVectorStore, key: str) -> None:
    filters: list[dict[str, Any]] = [{key: 1}, {key: {"$eq": 1}}, {"$or": [{"n": 1}, {key: "x"}]}]
    filters.append(Comparison(Comparator.EQ, key, 1).accept(BQTranslator()))
    for given in filters:
        with pytest.raises(bqstore.InvalidInputError):
            own.similarity_search(QUERY, filter=given)
        with pytest.raises(bqstore.InvalidInputError):
            own.delete(filter=given)
    assert len(own.collection) == N


@pytest.mark.parametrize("key", ["$and", "$or", "$not", "$in"])
@pytest.mark.parametrize("comparator", list(Comparator))
def test_an_attribute_never_becomes_an_operator(store: BQVectorStore, key: str, comparator: Comparator) -> None:
    for value in ("x", ["x"], [{"n": 1}], {"n": 1}):
        given = Comparison(comparator, key, value).accept(BQTranslator())
        with pytest.raises(bqstore.InvalidInputError):
            store.similarity_search(QUERY, filter=given)


# ---- maximal marginal relevance


def slowly(k: int, fetch_k: int, lambda_mult: float, accepts: Accepts = lambda m: True) -> list[str]:
    """The definition: of the nearest, one after the other, near to the query and far from all taken before."""
    relevance, unit = cosines(QUERY), VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    pool = [i for i in ORDER if accepts(METADATAS[i])][:fetch_k]
    taken = pool[:1]
    while len(taken) < min(k, len(pool)):
        rest = [i for i in pool if i not in taken]
        worth = [lambda_mult * relevance[i] - (1 - lambda_mult) * (unit[taken] @ unit[i]).max() for i in rest]
        taken.append(rest[int(np.argmax(worth))])
    return [f"d{i}" for i in taken]


@pytest.mark.parametrize("lambda_mult", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("fetch_k", [8, 20, 60])
async def test_mmr_is_the_definition_in_every_way(store: BQVectorStore, lambda_mult: float, fetch_k: int) -> None:
    wanted = slowly(8, fetch_k, lambda_mult)
    vector = Spelled().embed_query(QUERY)
    rest: dict[str, Any] = {"fetch_k": fetch_k, "lambda_mult": lambda_mult, "exact": True}
    found = store.max_marginal_relevance_search(QUERY, 8, **rest)
    assert ids(found) == wanted
    assert found[0].page_content and found[0].metadata == METADATAS[int(wanted[0][1:])]
    assert store.max_marginal_relevance_search_by_vector(vector, 8, **rest) == found
    assert await store.amax_marginal_relevance_search(QUERY, 8, **rest) == found
    assert await store.amax_marginal_relevance_search_by_vector(vector, 8, **rest) == found
    assert store.search(QUERY, "mmr", k=8, **rest) == found
    assert await store.asearch(QUERY, "mmr", k=8, **rest) == found
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 8, **rest})
    assert retriever.invoke(QUERY) == found
    assert await retriever.ainvoke(QUERY) == found


def test_lambda_mult_is_langchains(store: BQVectorStore) -> None:
    """1 is relevance and 0 diversity; langchain-qdrant once had it the other way round."""
    relevant = store.max_marginal_relevance_search(QUERY, 5, 40, 1.0, exact=True)
    assert relevant == store.similarity_search(QUERY, 5, exact=True)
    diverse = store.max_marginal_relevance_search(QUERY, 5, 40, 0.0, exact=True)
    assert diverse[0] == relevant[0] and diverse != relevant

    def spread(documents: list[Document]) -> float:
        chosen = VECTORS[[document.metadata["n"] for document in documents]]
        unit = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
        return float((unit @ unit.T).sum())

    assert spread(diverse) < spread(relevant)


def test_mmr_with_the_defaults_of_langchain(store: BQVectorStore) -> None:
    assert ids(store.max_marginal_relevance_search(QUERY, exact=True)) == slowly(4, 20, 0.5)
    assert ids(store.max_marginal_relevance_search(QUERY, 4, 30, 0.2, exact=True)) == slowly(4, 30, 0.2)
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"exact": True})
    assert ids(retriever.invoke(QUERY)) == slowly(4, 20, 0.5)


def test_a_fetch_k_below_k_is_raised_to_k(store: BQVectorStore) -> None:
    for fetch_k in (1, 20):
        found = store.max_marginal_relevance_search(QUERY, 30, fetch_k, exact=True)
        assert ids(found) == slowly(30, 30, 0.5)
    assert len(store.max_marginal_relevance_search(QUERY, 30)) == 30


def test_mmr_chooses_among_those_that_match(store: BQVectorStore) -> None:
    for given, accepts in FILTERS.values():
        wanted = slowly(6, 15, 0.3, accepts)
        kwargs: dict[str, Any] = {"fetch_k": 15, "lambda_mult": 0.3, "exact": True}
        assert ids(store.max_marginal_relevance_search(QUERY, 6, filter=given, **kwargs)) == wanted
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 6, "filter": given, **kwargs})
        assert ids(retriever.invoke(QUERY)) == wanted


def test_mmr_takes_the_settings_of_a_search(store: BQVectorStore) -> None:
    def mmr(**settings: Any) -> list[str | None]:
        return ids(store.max_marginal_relevance_search(QUERY, 8, 20, 0.7, **settings))

    wanted = slowly(8, 20, 0.7)
    assert mmr(oversampling=N) == mmr(ignore_quantization=True) == mmr(search_params={"exact": True}) == wanted
    assert mmr(oversampling=1) != wanted
    limit = store.similarity_search_with_score(QUERY, 5, exact=True)[-1][1]
    assert len(mmr(score_threshold=limit, exact=True)) == 5
    assert mmr(score_threshold=2.0) == []


async def test_mistakes_of_mmr(store: BQVectorStore) -> None:
    for arguments, message in (
        ({"k": 0}, "k is 0"),
        ({"k": "4"}, "k is '4'"),
        ({"fetch_k": "20"}, "fetch_k is '20'"),
        ({"lambda_mult": 1.5}, "lambda_mult is 1.5"),
        ({"lambda_mult": -0.1}, "lambda_mult is -0.1"),
        ({"with_vectors": True}, "a Document carries no vector"),
        ({"fetchk": 3}, "no keyword 'fetchk'"),
        ({"oversample": 3}, "did you mean 'oversampling'"),
        ({"search_params": {"ef": 3}}, "did you mean 'hnsw_ef'"),
    ):
        with pytest.raises(bqstore.InvalidInputError, match=message):
            store.max_marginal_relevance_search(QUERY, **arguments)  # type: ignore[arg-type]
        with pytest.raises(bqstore.InvalidInputError, match=message):
            await store.amax_marginal_relevance_search(QUERY, **arguments)  # type: ignore[arg-type]


async def test_mmr_does_not_block_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, here = Spelled(), threading.get_ident()
    with BQVectorStore(embedding) as store:
        store.collection.add(VECTORS[:, :2])
        seen: list[int] = []
        method = bqstore.Collection.max_marginal_relevance

        def noting(*args: Any, **kwargs: Any) -> Any:
            seen.append(threading.get_ident())
            return method(*args, **kwargs)

        monkeypatch.setattr(bqstore.Collection, "max_marginal_relevance", noting)
        await store.amax_marginal_relevance_search("1 0")
        await store.amax_marginal_relevance_search_by_vector([1.0, 0.0])
        await store.as_retriever(search_type="mmr").ainvoke("1 0")
    assert len(seen) == 3 and here not in seen
    assert embedding.calls == [("aquery", 1), ("aquery", 1)] and embedding.threads == {here}


def test_mmr_needs_the_originals() -> None:
    with BQVectorStore(Spelled(), originals="none") as store:
        store.add_texts(["1 0", "0 1"])
        with pytest.raises(bqstore.InvalidInputError, match="originals"):
            store.max_marginal_relevance_search("1 0")


# ---- structured queries

EQ, NE, GT, GTE, LT, LTE, CONTAIN, LIKE, IN, NIN = Comparator


def compared(comparator: Comparator, value: Any, attribute: str = "a") -> dict[str, Any]:
    found: dict[str, Any] = Comparison(comparator, attribute, value).accept(BQTranslator())
    return found


@pytest.mark.parametrize(
    ("comparator", "value", "expected"),
    [
        (EQ, 1, {"$eq": 1}),
        (EQ, "en", {"$eq": "en"}),
        (EQ, ["x", "y"], {"$eq": ["x", "y"]}),
        (EQ, False, {"$eq": False}),
        (NE, "en", {"$ne": "en"}),
        (GT, 1.5, {"$gt": 1.5}),
        (GTE, 1, {"$gte": 1}),
        (LT, 1, {"$lt": 1}),
        (LTE, 1, {"$lte": 1}),
        (IN, [1, 2], {"$in": [1, 2]}),
        (IN, (1, 2), {"$in": [1, 2]}),
        (NIN, [1, 2], {"$nin": [1, 2]}),
        (CONTAIN, "x", {"$contains": "x"}),
        (CONTAIN, [], {"$exists": True}),
        (GTE, {"date": "2024-01-01", "type": "date"}, {"$gte": "2024-01-01"}),
        (LT, {"datetime": "2024-01-01T08:00:00", "type": "datetime"}, {"$lt": "2024-01-01T08:00:00"}),
        (IN, [{"date": "2024-01-01", "type": "date"}, "x"], {"$in": ["2024-01-01", "x"]}),
        (EQ, {"type": "date"}, {"$eq": {"type": "date"}}),  # the user's own, not a date of LangChain's
        (EQ, {"type": ["date"], "date": 1}, {"$eq": {"type": ["date"], "date": 1}}),
        (LIKE, "War", {"$like": "%War%"}),
        (LIKE, "snake_case", {"$like": r"%snake\_case%"}),
        (LIKE, "a\\b\\", {"$like": "%a\\\\b\\\\%"}),
        (LIKE, "", {"$like": "%%"}),
        (LIKE, "Star%", {"$like": "Star%"}),
        (LIKE, r"100\%_", {"$like": r"100\%_"}),
        (LIKE, 5, {"$like": 5}),  # which the collection refuses
    ],
)
def test_comparisons(comparator: Comparator, value: Any, expected: dict[str, Any]) -> None:
    assert compared(comparator, value) == {"a": expected}


def test_contain_of_several_is_all_of_them() -> None:
    assert compared(CONTAIN, ["x", "y"]) == {"$and": [{"a": {"$contains": "x"}}, {"a": {"$contains": "y"}}]}


def test_operations() -> None:
    a, b = Comparison(EQ, "a", 1), Comparison(GT, "b", 2)
    one, two = {"a": {"$eq": 1}}, {"b": {"$gt": 2}}
    translator = BQTranslator()
    assert Operation(Operator.AND, [a, b]).accept(translator) == {"$and": [one, two]}
    assert Operation(Operator.OR, [a]).accept(translator) == {"$or": [one]}
    assert Operation(Operator.NOT, [a]).accept(translator) == {"$not": one}
    assert Operation(Operator.NOT, [a, b]).accept(translator) == {"$not": {"$or": [one, two]}}
    nested = Operation(Operator.AND, [Operation(Operator.OR, [a, b]), Operation(Operator.NOT, [a])])
    assert nested.accept(translator) == {"$and": [{"$or": [one, two]}, {"$not": one}]}


def test_structured_queries() -> None:
    translator = BQTranslator()
    assert isinstance(translator, Visitor)
    assert translator.visit_structured_query(StructuredQuery("q", None)) == ("q", {})
    assert StructuredQuery("q", Comparison(EQ, "a", 1), 3).accept(translator) == ("q", {"filter": {"a": {"$eq": 1}}})


def test_all_of_langchain_is_allowed() -> None:
    assert set(BQTranslator.allowed_comparators) == set(Comparator)
    assert set(BQTranslator.allowed_operators) == set(Operator)


def test_less_may_be_allowed() -> None:
    class Strict(BQTranslator):
        allowed_comparators = (EQ,)
        allowed_operators = (Operator.AND,)

    assert Comparison(EQ, "a", 1).accept(Strict()) == {"a": {"$eq": 1}}
    with pytest.raises(ValueError, match="disallowed comparator"):
        Comparison(GT, "a", 1).accept(Strict())
    with pytest.raises(ValueError, match="disallowed operator"):
        Operation(Operator.OR, [Comparison(EQ, "a", 1)]).accept(Strict())


def directive(rng: np.random.Generator, depth: int) -> tuple[FilterDirective, Accepts]:
    """A directive of chance, and what it means."""
    kind = rng.integers(0, 4 if depth else 1)
    if kind == 0:
        return CHOICES[rng.integers(0, len(CHOICES))]
    parts = [directive(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    arguments, tests = [part for part, _ in parts], [test for _, test in parts]
    if kind == 1:
        return Operation(Operator.AND, arguments), lambda m: all(test(m) for test in tests)
    if kind == 2:
        return Operation(Operator.OR, arguments), lambda m: any(test(m) for test in tests)
    return Operation(Operator.NOT, arguments), lambda m: not any(test(m) for test in tests)


CHOICES: list[tuple[FilterDirective, Accepts]] = [
    (Comparison(EQ, "third", 1), lambda m: m["third"] == 1),
    (Comparison(NE, "half", 3), lambda m: m.get("half") != 3),
    (Comparison(GT, "half", 30), lambda m: m.get("half", 0) > 30),
    (Comparison(GTE, "day", {"date": "2024-01-01", "type": "date"}), lambda m: m["day"] >= "2024-01-01"),
    (Comparison(LT, "n", 40), lambda m: m["n"] < 40),
    (Comparison(LTE, "title", "STAR"), lambda m: m["title"] <= "STAR"),
    (Comparison(IN, "tags", ["odd", "none"]), lambda m: "odd" in m["tags"]),
    (Comparison(NIN, "title", ["STAR", "snake_case"]), lambda m: m["title"] not in ("STAR", "snake_case")),
    (Comparison(CONTAIN, "tags", "even"), lambda m: "even" in m["tags"]),
    (Comparison(CONTAIN, "title", "War"), lambda m: "War" in m["title"]),
    (Comparison(LIKE, "title", "War"), lambda m: "War" in m["title"]),
    (Comparison(LIKE, "title", "Wa%_e"), lambda m: m["title"] == "War and Peace"),
    (Comparison(LIKE, "title", "e_c"), lambda m: "e_c" in m["title"]),
    (Comparison(LIKE, "title", "star"), lambda m: False),
    (Comparison(EQ, "draft", True), lambda m: m["draft"]),
    (Comparison(EQ, "who.name", "N1"), lambda m: m["who"]["name"] == "N1"),
]


@pytest.mark.parametrize("seed", range(40))
def test_structured_queries_mean_what_they_say(store: BQVectorStore, seed: int) -> None:
    given, accepts = directive(np.random.default_rng(seed), 3)
    query, kwargs = BQTranslator().visit_structured_query(StructuredQuery(QUERY, given))
    found = store.search(query, "similarity", k=10, exact=True, **kwargs)  # as SelfQueryRetriever does
    assert ids(found) == nearest(accepts, 10)
    assert store.collection.count(kwargs["filter"]) == sum(bool(accepts(metadata)) for metadata in METADATAS)


def test_values_that_are_none_are_refused_by_the_search(store: BQVectorStore) -> None:
    for comparator, value in ((LIKE, 5), (IN, "x"), (GT, True), (GT, None), (EQ, float("nan"))):
        with pytest.raises(bqstore.InvalidInputError):
            store.similarity_search(QUERY, filter=compared(comparator, value))
