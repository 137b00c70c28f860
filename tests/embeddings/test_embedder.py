"""`OpenAIEmbedder` on a real HTTP server on loopback: what it sends, and what it makes of the answers."""

import threading

import numpy as np
import pytest

from bqstore.embeddings import Embedder
from bqstore.errors import InvalidInputError

from .conftest import KEY
from .fake_server import DIM, vector_of


def test_vectors_come_in_the_order_of_the_texts(make, server):
    texts = [f"text {i}" for i in range(50)]
    vectors = make().embed(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (50, DIM)
    np.testing.assert_array_equal(vectors, [vector_of(text) for text in texts])
    assert server.shuffled and len(server.requests) == 1


def test_it_asks_for_base64_and_names_model_and_dimensions(make, server):
    make(model="text-embedding-3-large").embed_query("a")
    assert server.requests == [
        {"input": ["a"], "model": "text-embedding-3-large", "encoding_format": "base64", "dimensions": DIM}
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_without_dimensions_none_are_named_and_the_models_own_come_back(make, server):
    server.dim = 5
    vector = make(dimensions=None, model="home-made").embed_query("a")
    assert vector.shape == (5,) and vector.flags.c_contiguous
    assert "dimensions" not in server.requests[0]


def test_a_server_that_only_knows_lists(make, server):
    server.as_lists = True
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))


def test_it_is_an_embedder(make):
    embedder = make()
    assert isinstance(embedder, Embedder)
    assert embedder.model == "text-embedding-3-small"


@pytest.mark.parametrize(
    ("settings", "dim"), [({}, DIM), ({"dimensions": None, "base_url": "https://api.openai.com/v1"}, 1536)]
)
def test_no_texts_ask_for_nothing(make, server, settings, dim):
    assert make(**settings).embed([]).shape == (0, dim)
    assert server.requests == []


def test_equal_texts_are_asked_for_once(make, server):
    vectors = make(cache=False).embed(["a", "b", "a"])
    assert sorted(server.texts) == ["a", "b"]
    np.testing.assert_array_equal(vectors, [vector_of("a"), vector_of("b"), vector_of("a")])


def test_requests_go_out_several_at_once_and_no_more_than_asked(make, server):
    texts = [f"text {i}" for i in range(40)]
    np.testing.assert_array_equal(
        make(max_concurrency=3, max_request_texts=1).embed(texts), [vector_of(text) for text in texts]
    )
    assert 1 <= server.most_under_way <= 3 and len(server.requests) == 40


def test_two_requests_are_under_way_together(make, server):
    server.hold = threading.Event()
    reached = []

    def progress(done, total):
        reached.append((done, total))
        if done == 1:  # the first request is answered, the second and third are held: let them go
            server.wait_until_under_way(2)
            server.hold.set()

    make(max_concurrency=2, max_request_texts=1).embed(["a", "b", "c"], progress=progress)
    assert reached == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert server.most_under_way == 2


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a", ""], "text 1 is empty"),
        (["a", None], "text 1 is of type NoneType"),
        (["a", "\ud800"], "text 1 holds a lone surrogate"),
        ("abc", "not one string"),
    ],
)
def test_texts_that_cannot_be_embedded(make, server, texts, says):
    with pytest.raises(InvalidInputError, match=says) as caught:
        make().embed(texts)
    assert caught.value.__context__ is None
    assert server.requests == []


@pytest.mark.parametrize("as_lists", [True, False])
def test_shortened_vectors_are_of_unit_length(make, server, as_lists):
    server.cut, server.as_lists = True, as_lists
    vectors = make().embed(["a", "b"])
    np.testing.assert_allclose(vectors, [vector_of("a"), vector_of("b")], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert np.linalg.norm(make(dimensions=None, model="own").embed_query("a")) < 0.9  # the model's own are left alone


@pytest.mark.parametrize("texts", [None, 5, b"ab"])
def test_what_is_no_list_of_texts_is_named(make, texts):
    for call in (make().embed, make().estimate, make().batch().submit, lambda t: list(make().stream(t))):
        with pytest.raises(InvalidInputError, match=f"texts is of type {type(texts).__name__}"):
            call(texts)
