"""`add_to` and `search`: what reaches the collection, and what is refused before anything is sent."""

import numpy as np
import pytest

import bqstore
from bqstore.errors import EmbeddingError, InvalidInputError, ReadOnlyError, SettingsConflictError

from .fake_server import Refusal, vector_of


def test_what_few_batches_lack_is_asked_for_at_once(make, server):
    texts = [f"text {i}" for i in range(2_000)]
    make().embed(texts)
    texts[::100] = [f"new {i}" for i in range(20)]
    server.requests.clear()
    with bqstore.open() as store:
        make().add_to(store, texts, map(str, range(2_000)), batch=100)
        assert len(store) == 2_000 and len(server.requests) == 4
        for i in (0, 1, 1_900, 1_999):
            (found,) = store.get([str(i)], with_vectors=True)
            np.testing.assert_array_equal(found.vector, vector_of(texts[i]))


def test_add_to_a_collection_twice(make, server, tmp_path):
    texts = [f"text {i}" for i in range(95)]
    ids = [f"id {i}" for i in range(95)]
    with bqstore.open(tmp_path / "store") as store:
        server.plan = [None, None, None, Refusal(401, {})]
        with pytest.raises(EmbeddingError):
            make(max_concurrency=1).add_to(store, iter(texts), iter(ids), batch=10)
        assert len(store) == 30
        server.plan, asked = [], len(server.answered)
        assert make().add_to(store, iter(texts), ids, ({"n": i} for i in range(95)), batch=10) == 95
        assert len(store) == 95 and server.twice == [] and asked < 95
        (found,) = store.get(["id 94"], with_vectors=True)
        assert found.text == "text 94" and found.metadata == {"n": 94}
        with pytest.raises(InvalidInputError, match="ids ends at 3"):
            make().add_to(store, texts, iter(ids[:3]))
        with pytest.raises(InvalidInputError, match="metadatas has more"):
            make().add_to(store, texts[:3], ids[:3], iter([{}] * 4))


def test_another_model_is_refused_before_anything_is_sent(make, server):
    with bqstore.open() as store:
        embedder = make()
        embedder.add_to(store, ["a", "b"], ["1", "2"])
        assert store.info().embedding_model == "text-embedding-3-small"
        (hit,) = embedder.search(store, "b", 1, oversampling=2.0)
        assert hit.id == "2" and hit.score == pytest.approx(1)
        sent = len(server.requests)
        said = r"'text-embedding-3-small' \(8 dimensions\).*'text-embedding-ada-002' \(1,536 dimensions\)"
        openai = "https://api.openai.com/v1"  # elsewhere, its models' names tell no dimension
        others = [
            make(model="text-embedding-ada-002", dimensions=None, base_url=openai),
            make(dimensions=9),
            make(model="a-new-one"),
        ]
        for other, words in zip(others, (said, r"\(9 dimensions\)", "'a-new-one'"), strict=True):
            with pytest.raises(SettingsConflictError, match=words):
                other.search(store, "b")
            with pytest.raises(SettingsConflictError, match=words):
                other.add_to(store, ["c"])
        assert len(server.requests) == sent and len(store) == 2


def test_an_embedder_that_fails_leaves_no_model_behind(make, server):
    server.plan = [Refusal(400, {})]
    with bqstore.open() as store:
        with pytest.raises(EmbeddingError):
            make().add_to(store, ["a"])
        assert store.info().embedding_model is None


def test_nothing_is_sent_for_a_collection_that_cannot_be_written(make, server, tmp_path):
    bqstore.open(tmp_path / "store").close()
    with bqstore.open(tmp_path / "store", read_only=True) as reader, pytest.raises(ReadOnlyError):
        make().add_to(reader, ["a"])
    assert server.requests == []


@pytest.mark.parametrize(
    ("alongside", "said"),
    [
        ({"ids": ["1"]}, "ids has 1"),
        ({"ids": ["1", "2", "3"]}, "ids has 3"),
        ({"ids": "ab"}, "ids is of type str"),
        ({"ids": [1, 2]}, "id 0 is an int"),
        ({"ids": ["1", ""]}, "id 1"),
        ({"metadatas": [{}]}, "metadatas has 1"),
    ],
)
def test_nothing_is_sent_where_lists_do_not_fit(make, server, alongside, said):
    with bqstore.open() as store, pytest.raises(InvalidInputError, match=said):
        make().add_to(store, ["a", "b"], **alongside)
    assert server.requests == []
