"""Documents that expire on a server: found by no path once over, as locally, with a clock that is moved."""

import math
from datetime import timedelta

import numpy as np
import pytest
from qdrant_client import models

import bqstore
from tests.engine.test_expiry import START, Clock

N = 8
IDS = [str(i) for i in range(N)]


@pytest.fixture
def moved(monkeypatch):
    found = Clock()
    monkeypatch.setattr(bqstore.clock, "now", found)
    return found


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 4), dtype=np.float32)


def everything(col):
    """What each path finds, as sets of ids."""
    query, some = np.ones(4, np.float32), {"n": {"$gte": 0}}
    found = {
        "search": [hit.id for hit in col.search(query, N)],
        "exact": [hit.id for hit in col.search(query, N, exact=True)],
        "batch": [hit.id for hit in col.search_batch([query, query], N)[1]],
        "ids of search": [id_ for id_ in col.search_ids(query, N)[0][0] if id_ is not None],
        "filter": [hit.id for hit in col.search(query, N, filter={"$not": {"n": -1}})],
        "filter alone": [hit.id for hit in col.search(k=N, filter=some)],
        "mmr": [hit.id for hit in col.max_marginal_relevance(query, N)],
        "more like": [hit.id for hit in col.more_like(vectors=[query], k=N)],
        "get": [record.id for record in col.get(IDS)],
        "scroll": [record.id for record in col.scroll(batch=3)],
        "scroll in order": [record.id for record in col.scroll(order_by="n")],
        "ids": col.ids(),
        "in": [id_ for id_ in IDS if id_ in col],
    }
    sizes = {
        len(col),
        col.count(some),
        col.info().count,
        len(col.distinct("n")),
        col.recall(query[None], k=1).documents,
    }
    assert sizes == {len(found["get"])} and col.info().deleted == N - len(col)
    return {name: sorted(each) for name, each in found.items()}


@pytest.mark.parametrize("distance", ["cosine", "euclid"])
def test_what_is_over_is_found_by_no_path(client, name, moved, distance):
    with bqstore.open(client, name, distance=distance) as col, bqstore.open(client, name) as other:
        times = [timedelta(minutes=i) if i % 2 else None for i in range(N)]
        col.add(vectors(N), IDS, [f"word {i}" for i in range(N)], [{"n": i} for i in range(N)], expires_at=times)
        for minute in (0, 1, 5, 9):
            moved.at = START + timedelta(minutes=minute)
            wanted = [id_ for id_ in IDS if int(id_) % 2 == 0 or int(id_) > minute]
            for each in (col, other):
                for path, found in everything(each).items():
                    assert found == wanted, path
        moved.at = START + timedelta(minutes=3)
        assert (col.expire(), col.expire(), other.info().deleted) == (2, 0, 0)
        moved.at = START
        assert other.ids() == ["0", "2", "4", "5", "6", "7"]


def test_the_last_microsecond_counts_and_the_next_does_not(col, moved):
    col.add(vectors(1), ["a"], expires_at=START + timedelta(seconds=1))
    moved.at = START + timedelta(microseconds=999_999)
    assert "a" in col and col.search(vectors(1)[0]) and len(col) == 1
    moved.at += timedelta(microseconds=1)
    assert "a" not in col and not col.search(vectors(1)[0]) and len(col) == 0


def test_what_is_over_is_not_there_for_writes(col, moved):
    col.add(vectors(4), list("abcd"), metadatas=[{"n": i} for i in range(4)], expires_at=[60, 60, 60, None])
    moved.at += timedelta(minutes=2)
    assert col.update(["a"], texts=["x"]) == col.update_metadata(["b"], {"n": 9}) == 0
    assert col.update_metadata(metadata={"m": 1}, filter={"n": {"$gte": 0}}) == 1
    assert col.delete(["a"]) == 0 and col.delete(filter={"n": {"$lt": 3}}) == 0
    with pytest.raises(bqstore.NotFoundError):
        col.more_like(["c"])
    assert col.add(vectors(2), ["a", "d"]).replaced == 1  # "a" was not there any more
    assert col.ids() == ["a", "d"] and col.expire() == 2 and col.expire() == 0


def test_a_time_can_be_changed_and_taken_away(col, moved):
    late = [{"when": START, "x": 2**70}, {}, {}]  # the first is kept as JSON text, too
    col.add(vectors(3), list("abc"), metadatas=late, expires_at=60)
    assert col.get(["a"])[0].metadata == {**late[0], bqstore.EXPIRES_AT_KEY: START + timedelta(minutes=1)}
    assert col.update_metadata(["a"], {"n": 1}) == 1  # the time stays
    assert col.update_metadata(["b"], expires_at=math.inf) == 1
    assert col.update(["c"], expires_at=[timedelta(hours=1)]) == 1
    assert col.update_metadata(["c"], {"n": 2}, replace=True) == 1
    moved.at += timedelta(minutes=30)
    assert col.ids() == ["b", "c"] and col.get(["b"])[0].metadata == {}
    assert col.update_metadata(metadata=None, expires_at=math.inf, filter={"n": 2}) == 1
    moved.at += timedelta(days=30)
    assert col.ids() == ["b", "c"]


def test_a_copy_keeps_the_times(client, name, tmp_path, moved):
    with bqstore.open(tmp_path / "store") as col:
        col.add(vectors(3), list("abc"), expires_at=[60, None, 3600])
    for src, dst in (((tmp_path / "store", "default", name), client), ((client, name, "back"), tmp_path / "back")):
        assert bqstore.copy(*src, to=dst).ok
    moved.at += timedelta(minutes=2)
    with bqstore.open(client, name) as far, bqstore.open(tmp_path / "back", "back") as back:
        assert far.ids() == back.ids() == ["b", "c"]


def test_what_other_programs_go_on_to_find_is_not_to_be_over(client, name):
    client.create_collection(name, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    client.upsert(name, [models.PointStruct(id=1, vector=[1.0] * 4, payload={"page_content": "x", "metadata": {}})])
    with bqstore.open(client, name) as col:
        for call in (
            lambda: col.add(vectors(1), expires_at=60),
            lambda: col.update_metadata(["1"], expires_at=60),
            lambda: col.update(["1"], expires_at=60),
            lambda: col.update_metadata(filter={"$not": {"n": 1}}, expires_at=60),
        ):
            with pytest.raises(bqstore.InvalidInputError, match="expires_at is for collections that bqstore has made"):
                call()
        assert (len(col), col.expire(), col.info().deleted) == (1, 0, 0)


def test_documents_that_ended_while_they_were_copied_were_told_as_differing(client, name, moved, tmp_path):
    with bqstore.open(tmp_path / "store") as col:
        col.add(vectors(N), IDS, expires_at=[timedelta(minutes=1), *[None] * (N - 1)])

    def later(done, total):
        moved.at += timedelta(minutes=2)

    report = bqstore.copy(tmp_path / "store", "default", name, to=client, batch=4, progress=later)
    assert (report.documents, report.there, report.differing, report.ok) == (N - 1, N - 1, (), True)
