"""Searches on qdrant-client's local mode and on Qdrant's engine: diverse ones, by several vectors, quantized ones."""

import datetime as dt

import numpy as np
import pytest

import bqstore
from tests.conftest import clustered

from .test_same_answers import plain


@pytest.fixture
def pair(client, name, request):
    distance = getattr(request, "param", "cosine")
    with bqstore.open(distance=distance) as local, bqstore.open(client, name, distance=distance) as remote:
        for col in (local, remote):
            col.add(
                clustered(300, 16),
                [f"{i}" for i in range(300)],
                [f"text {i}" for i in range(300)],
                [{"n": i, "tag": ["even", "odd"][i % 2]} for i in range(300)],
            )
        yield local, remote


@pytest.mark.parametrize("pair", ["cosine", "dot", "euclid"], indirect=True)
def test_diverse_hits_are_the_same(pair):
    query = clustered(1, 16, seed=3)[0]
    for k, fetch_k, weight in ((1, 1, 0.5), (5, 20, 0.5), (8, 30, 0.1), (5, 20, 1.0), (4, 9, 0.9)):
        found = [
            plain(col.max_marginal_relevance(query, k, fetch_k, weight, filter={"tag": "odd"}, exact=True))
            for col in pair
        ]
        assert found[0] == found[1]
    least = pair[0].search(query, 20, exact=True)[9].score
    found = [
        plain(col.max_marginal_relevance(query, 5, 20, 0.3, score_threshold=least - 1e-4, exact=True)) for col in pair
    ]
    assert found[0] == found[1]


def test_diverse_hits_of_several_shards_were_chosen_by_each_among_its_own(pair, monkeypatch):
    monkeypatch.setattr(type(pair[1]._place), "shards", lambda place: 3)
    query = clustered(1, 16, seed=3)[0]
    least = pair[0].search(query, 20, exact=True)[9].score - 1e-4
    for given in ({"k": 5, "fetch_k": 20}, {"k": 4, "filter": {"tag": "odd"}, "score_threshold": least}):
        found = [plain(col.max_marginal_relevance(query, lambda_mult=0.3, exact=True, **given)) for col in pair]
        assert found[0] == found[1] and found[0]


@pytest.mark.parametrize("combine", ["mean", "best"])
def test_several_vectors_at_once(pair, combine):
    given = {"ids": ["3", "7"], "vectors": clustered(2, 16, seed=5), "k": 9, "combine": combine, "exact": True}
    found = [plain(col.more_like(**given, filter={"n": {"$lt": 200}})) for col in pair]
    assert found[0] == found[1] and len(found[0]) == 9
    with pytest.raises(bqstore.NotFoundError):
        pair[1].more_like(["nowhere"])


def test_a_search_that_is_prepared_finds_the_same(pair):
    queries = clustered(3, 16, seed=3)
    least = pair[0].search(queries[0], 10, exact=True)[4].score
    for given in ({"filter": {"tag": "odd"}}, {"score_threshold": least - 1e-6, "with_vectors": True}):
        found = []
        for col in pair:
            prepared = col.searcher(k=5, exact=True, **given)
            found.append([plain(prepared.search(query)) for query in queries])
            ids = [prepared.search_ids(query)[0].tolist() for query in queries]
            assert ids == [
                col.search_ids(query, 5, exact=True, **given_without(given))[0].tolist() for query in queries
            ]
        assert found[0] == found[1] and found[1][0]
    remote = pair[1]
    prepared = remote.searcher(k=300, filter={"n": {"$gte": 150}})
    remote.delete(filter={"n": {"$lt": 160}})
    assert len(prepared.search(queries[0])) == 140  # it follows
    for refused in ({"target_recall": 0.9}, {"filter": lambda record: True}, {"k": 0}):
        with pytest.raises(bqstore.InvalidInputError):
            remote.searcher(**refused)


def test_a_stream_goes_to_both(pair):
    """And from one to the other: documents of a server, a portion at a time."""
    vectors = clustered(25, 16, seed=4)
    some = [{"vector": vector, "id": f"s{i}", "metadata": {"s": i}} for i, vector in enumerate(vectors)]
    local, remote = pair
    assert remote.add_stream(iter(some), batch_size=10) == local.add_stream(some) == bqstore.StreamReport(25, 0, [])
    assert local.add_stream(remote.scroll({"s": {"$gte": 5}}, with_vectors=True)).replaced == 20
    found = [col.search(vectors[7], 3, filter={"s": {"$gte": 0}}, exact=True) for col in pair]
    assert found[0][0].id == "s7" and plain(found[0]) == plain(found[1])
    with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'batch_size'"):
        remote.add_stream([], chunk_size=2)


def given_without(given):
    return {name: value for name, value in given.items() if name != "with_vectors"}


def test_thresholds_explanations_and_reranking(pair):
    query = clustered(1, 16, seed=3)[0]
    least = pair[0].search(query, 10, exact=True)[4].score
    found = [plain(col.search(query, 10, score_threshold=least - 1e-6, exact=True)) for col in pair]
    assert found[0] == found[1] and len(found[0]) == 5
    assert pair[1].search(query, 3, explain=True).explanation.way == "server"
    by_number = [
        plain(col.search(query, 3, fetch_k=20, exact=True, rerank=lambda text, hits: [h.metadata["n"] for h in hits]))
        for col in pair
    ]
    assert by_number[0] == by_number[1]
    assert [hit.id for hit in pair[1].search(None, 2, filter={"n": {"$gte": 7}})] == ["7", "8"]


@pytest.mark.parametrize("setting", [{"encoding": "one_bit"}, {"encoding": "two_bits", "estimator": "rabitq"}])
def test_the_recall_of_codes_is_measured_against_exact_search(client, name, setting):
    with bqstore.open(client, name, full_scan_threshold=10, **setting) as col:
        col.add(clustered(300, 64))  # qdrant-client's local mode is Python
        report = col.recall(k=5, sample=30, settings=[{"oversampling": 1.0, "rescore": False}, {"oversampling": 60.0}])
        assert report.held_out and report.documents == 300 and len(report.points) == 3
        assert 0 < report.points[1].recall <= 1 and report.points[2].recall > 0.9
        assert sum(report.scores.neighbors) == 5 * 30
        given = col.recall(clustered(20, 64, seed=9), k=5)
        assert not given.held_out and given.queries == 20
        with pytest.raises(bqstore.InvalidInputError, match="settings 0"):
            col.recall(settings=[{"encoding": "two_bits"}])


def test_an_empty_collection_answers(client, name):
    with bqstore.open(client, name) as col:
        assert (len(col), col.ids(), col.search([1, 2], 3), col.get(["a"]), "a" in col) == (0, [], [], [], False)
        assert col.search_ids(np.zeros((0, 2)))[0].shape == (0, 10)
        assert col.delete(["a"]) == col.update_metadata(["a"], {"x": 1}) == col.count({"x": 1}) == 0
        assert col.facets("x") == col.distinct("x") == list(col.scroll(order_by="x")) == []
        col.clear()
        with pytest.raises(bqstore.InvalidInputError, match="needs at least 2 documents"):
            col.recall()


def test_ids_of_any_form(client, name):
    ids = ["日本", "a" * 1024, "00000000-0000-0000-0000-000000000001", "7", " ", "\x01"]
    with bqstore.open(client, name) as col:
        assert col.add(np.eye(6), ids) == ids
        assert col.ids() == ids and all(id_ in col for id_ in ids)
        assert [record.id for record in col.get(ids[::-1])] == ids[::-1]
        assert col.add(np.eye(6), ids[:3] * 2).replaced == 3 and len(col) == 6


def test_metadata_comes_back_as_it_was(client, name):
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    given = {
        "big": 2**70, "digits": 0.1 + 0.2, "small": -1.7976931348623157e-300,
        "least": -(2**63), "float": 0.1, "one": 1.0, "none": None, "date": dt.date(2024, 2, 29),
        "when": dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=zone), "naive": dt.datetime(2024, 5, 6),
        "deep": {"list": [1, [2, {"x": dt.date(1999, 1, 1)}], "a"], "empty": {}}, "no": [], "a.b": 1, "": 2, "q\"": 3,
        "_bq_node": {"any": [2**65]}, "_bq_ref_doc_id": "doc",
    }  # fmt: skip
    with bqstore.open(client, name) as col:
        col.add([[1, 2]], ["a"], ["text"], [given])
        found = col.get(["a"])[0].metadata
        assert found == given and type(found["one"]) is float and type(found["when"]) is dt.datetime
        assert found["when"].utcoffset() == zone.utcoffset(None)
        assert col.update_metadata(["a"], {"n": 1}) == 1
        assert col.get(["a"])[0].metadata == {**given, "n": 1}
        assert col.ids({"_bq_ref_doc_id": "doc", "when": {"$gt": dt.datetime(2024, 5, 6, tzinfo=dt.timezone.utc)}}) == [
            "a"
        ]


@pytest.mark.parametrize("batch", [2, 7, 100])
def test_documents_came_twice_at_the_end_of_a_portion(client, name, batch):
    """A server compares the numbers that documents are listed by as floats: those of nanoseconds are rounded."""
    with bqstore.open(client, name) as col:
        ids = [f"{i}" for i in range(100)]
        for at in (0, 60):
            col.add(np.ones((len(ids[at : at + 60]), 2)), ids[at : at + 60])
        assert [record.id for record in col.scroll(batch=batch)] == ids
        assert [record.id for record in col.scroll(batch=batch, offset=33, limit=50)] == ids[33:83]
        for point in client.scroll(name, limit=1000)[0]:
            assert 0 < point.payload["_bq_order"] < 2**53


def test_documents_that_were_added_at_the_same_time_come_once(client, name, monkeypatch):
    with bqstore.open(client, name) as col:
        monkeypatch.setattr(col._place, "orders", lambda n: [5] * n)
        ids = [f"{i}" for i in range(30)]
        col.add(np.ones((30, 2)), ids)
        assert sorted(record.id for record in col.scroll(batch=4)) == sorted(ids)


def test_a_far_offset_was_reached_two_documents_at_a_time(client, name, monkeypatch):
    """With limit=1, as a copy from a server is resumed."""
    with bqstore.open(client, name) as col:
        ids = [f"{i}" for i in range(300)]
        col.add(np.ones((300, 2)), ids)
        call, asked = col._place.server.call, []
        monkeypatch.setattr(
            col._place.server, "call", lambda method, **given: asked.append(method) or call(method, **given)
        )
        assert [record.id for record in col.scroll(offset=299, limit=1)] == ids[299:]
        assert asked.count("scroll") <= 4
        for offset in (0, 1, 150, 298, 300, 999):
            assert [record.id for record in col.scroll(offset=offset, limit=2, batch=7)] == ids[offset : offset + 2]
