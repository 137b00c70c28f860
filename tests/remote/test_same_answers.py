"""The same calls on a local collection and on a remote one give the same answers."""

import datetime as dt
import math
import uuid
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bqstore
from tests.conftest import often

from .conftest import BACKENDS, client_of

UTC = dt.timezone.utc
MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
VALUES = [
    *(None, True, False, 0, 1, 1.0, 2, -3, 2.5, 10**30, "", "a", "ab", "b", "1", "é", "2024-05-06T07:08:09+00:00"),
    *([], ["a"], ["ab", "b"], [1, "a"], [None], [[1]], ["", "a"], [1, 2, 3], {"x": 1}, {"x": ["a"], "y": {"z": 2}}, {}),
    *(MOMENT, MOMENT.astimezone(dt.timezone(dt.timedelta(hours=5))), MOMENT + dt.timedelta(1), dt.date(2024, 5, 6)),
    *([MOMENT, "a"], dt.datetime(2024, 5, 6, 7)),
]
KEYS = ["k", "l", "k.x", "m"]
metadatas = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
numbers = st.sampled_from([0, 1, 2, -3, 2.5, math.inf, -math.inf, 0.5])
scalars = st.sampled_from(
    [None, True, False, 0, 1, 2, -3, 2.5, "", "a", "ab", "b", "1", "é", MOMENT, dt.date(2024, 5, 6)]
)
conditions = st.one_of(
    scalars.map(lambda value: {"$eq": value}),
    scalars.map(lambda value: {"$ne": value}),
    st.sampled_from([{"$eq": []}, {"$eq": ["a"]}, {"$eq": [None]}, {"$eq": [1]}, {"$ne": []}]),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers).map(lambda each: {each[0]: each[1]}),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.sampled_from([MOMENT, MOMENT + dt.timedelta(1)])).map(
        lambda each: {each[0]: each[1]}
    ),
    st.sampled_from([{"$between": [0, 2]}, {"$between": [MOMENT, MOMENT + dt.timedelta(1)]}]),
    st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(scalars, max_size=3)).map(
        lambda each: {each[0]: each[1]}
    ),
    st.booleans().map(lambda value: {"$exists": value}),
    st.sampled_from(["a%", "%a%", "%", "a", "%b%", "", "2024%"]).map(lambda text: {"$like": text}),
    scalars.map(lambda value: {"$contains": value}),
    st.just({"$gte": ""}),
)
fields = st.tuples(st.sampled_from([*KEYS, "k.y.z", "n"]), conditions).map(lambda each: {each[0]: each[1]})
filters = st.recursive(
    fields,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=4,
)


def is_answered(backend, remote, filter):
    """Whether a backend can be asked a filter: a server before 1.19 knows no prefix."""
    if backend == "server":
        try:
            remote._tree(filter)
        except bqstore.InvalidInputError as error:
            return "one from 1.19 on can" not in str(error)
    return has_no_boolean(backend, filter)


def has_no_boolean(backend, filter):
    """Whether a filter has no booleans for the engine, whose binding for Python takes them for integers."""
    if backend != "engine" or not isinstance(filter, (dict, list)):
        return backend != "engine" or not isinstance(filter, bool)
    values = [v for k, v in filter.items() if k != "$exists"] if isinstance(filter, dict) else filter
    return all(has_no_boolean(backend, value) for value in values)


def both(backend: str, **settings):
    name = f"bqstore-test-{uuid.uuid4().hex[:12]}"
    client = client_of(backend)
    return bqstore.open(**settings), bqstore.open(client, name, **settings), lambda: client.delete_collection(name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_filters_match_the_same_documents(backend):
    local, remote, clean = both(backend)
    rng = np.random.default_rng(0)
    try:

        @settings(max_examples=often(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(some=st.lists(metadatas, min_size=1, max_size=8), asked=st.lists(filters, min_size=1, max_size=4))
        def alike(some, asked):
            ids = [f"{i}" for i in range(len(some))]
            for col in (local, remote):
                col.clear()
                col.add(rng.standard_normal((len(ids), 4)), ids, metadatas=some)
            for one in (each for each in asked if is_answered(backend, remote, each)):
                assert remote.ids(one) == local.ids(one), one
                assert remote.count(one) == local.count(one)

        alike()
    finally:
        clean()


def answer(call):
    """What a call returns, or the class of what it raises."""
    try:
        return call()
    except bqstore.BqstoreError as error:
        return type(error)


class Near(float):
    """A number that is equal to those near to it."""

    def __eq__(self, other):
        return math.isclose(self, other, rel_tol=1e-4, abs_tol=1e-5)

    __hash__ = None


def plain(found):
    """Hits and records as tuples."""
    out = []
    for each in found:
        vector = None if each.vector is None else [Near(value) for value in each.vector]
        out.append((Near(getattr(each, "score", 0.0)), each.id, each.text, each.metadata, vector))
    return out


IDS = st.sampled_from(["a", "b", "c", "d", "e", "日本", "00000000-0000-0000-0000-000000000001", "7"])


@st.composite
def documents(draw):
    ids = draw(st.lists(IDS, min_size=1, max_size=5))
    texts = draw(st.lists(st.sampled_from([None, "", "one", "two"]), min_size=len(ids), max_size=len(ids)))
    return ids, texts, [draw(metadatas) for _ in ids]


operations = st.one_of(
    st.tuples(st.just("add"), documents()),
    st.tuples(st.just("delete"), st.lists(IDS, max_size=3)),
    st.tuples(st.just("delete where"), filters),
    st.tuples(st.just("update"), documents(), st.booleans()),
    st.tuples(st.just("update vectors"), st.lists(IDS, min_size=1, max_size=3)),
    st.tuples(st.just("update metadata"), st.lists(IDS, max_size=3), metadatas, st.booleans()),
    st.tuples(st.just("update where"), filters, metadatas),
    st.tuples(st.just("search"), st.integers(1, 6), st.one_of(st.none(), filters)),
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_the_same_calls_have_the_same_answers(backend, distance):
    local, remote, clean = both(backend, distance=distance)
    try:

        @settings(max_examples=often(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(calls=st.lists(operations, min_size=2, max_size=8), seed=st.integers(0, 2**32 - 1))
        def alike(calls, seed):
            rng = np.random.default_rng(seed)
            for col in (local, remote):
                col.clear()
            for kind, *given in calls:
                filter = given[-1] if kind == "search" else given[0] if "where" in kind else None
                if not is_answered(backend, remote, filter):
                    continue
                made = rng.standard_normal((8, 4)).astype(np.float32)
                told = [answer(partial(call, col, kind, given, made)) for col in (local, remote)]
                assert told[0] == told[1], (kind, given)
            assert plain(remote.scroll(with_vectors=True)) == plain(local.scroll(with_vectors=True))
            assert len(remote) == len(local) and list(remote) == list(local)
            query = rng.standard_normal((2, 4))
            for k in (1, 3, 10):
                found = [plain(col.search(query[0], k, with_vectors=True)) for col in (local, remote)]
                assert found[0] == found[1]
                ids = [col.search_ids(query, k) for col in (local, remote)]
                assert ids[0][0].tolist() == ids[1][0].tolist()
                np.testing.assert_allclose(ids[0][1], ids[1][1], rtol=1e-4, atol=1e-5)
            for field in ("k", "k.x"):
                assert remote.facets(field) == local.facets(field)
                assert remote.distinct(field) == local.distinct(field)
                for down in (False, True):
                    listed = [[r.id for r in col.scroll(order_by=field, descending=down)] for col in (local, remote)]
                    assert listed[0] == listed[1]

        alike()
    finally:
        clean()


def call(col, kind, given, made):
    if kind == "add":
        ids, texts, some = given[0]
        added = col.add(made[: len(ids)], ids, texts, some)
        return added, added.replaced
    if kind == "delete":
        return col.delete(given[0])
    if kind == "delete where":
        return col.delete(filter=given[0])
    if kind == "update":
        (ids, texts, some), replace = given
        return col.update(ids, texts=texts, metadatas=some, replace=replace)
    if kind == "update vectors":
        return col.update(given[0], vectors=made[: len(given[0])])
    if kind == "update metadata":
        return col.update_metadata(given[0], given[1], replace=given[2])
    if kind == "update where":
        return col.update_metadata(metadata=given[1], filter=given[0])
    k, filter = given
    batch = [plain(hits) for hits in col.search_batch(made[:3], k, filter=filter)]
    first = plain(col.search(None, k, filter=filter)) if filter else []
    return plain(col.search(made[0], k, filter=filter)), batch, first
