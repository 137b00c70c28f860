"""OpenAIEmbedder against a real HTTP server on loopback: what it asks, and what it makes of the answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqstore.embeddings import Embedder
from bqstore.embeddings.openai import packing
from bqstore.errors import EmbeddingError, InvalidInputError

from .conftest import KEY
from .fake_server import DIM, Refusal, vector_of


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


@pytest.mark.parametrize(("settings", "dim"), [({}, DIM), ({"dimensions": None}, 1536)])
def test_no_texts_ask_for_nothing(make, server, settings, dim):
    assert make(**settings).embed([]).shape == (0, dim)
    assert server.requests == []


def test_equal_texts_are_asked_for_once(make, server):
    vectors = make(cache=False).embed(["a", "b", "a"])
    assert sorted(server.texts) == ["a", "b"]
    np.testing.assert_array_equal(vectors, [vector_of("a"), vector_of("b"), vector_of("a")])


@given(st.lists(st.integers(1, 400_000), max_size=200))
def test_requests_keep_the_limits_and_lose_nothing(sizes):
    runs = list(packing.plan_requests(sizes))
    assert [i for run in runs for i in run] == list(range(len(sizes)))
    for run in runs:
        assert len(run) == 1 or sum(sizes[i] for i in run) <= packing.OPENAI.max_request_tokens


def test_limits_on_the_wire(make, server):
    make(cache=False).embed([f"{i}" for i in range(5000)])
    assert max(len(request["input"]) for request in server.requests) == packing.OPENAI.max_request_texts
    server.requests.clear()
    make(cache=False).embed([f"{i:05}" + "ä" * 20_000 for i in range(20)])  # 40 kB of UTF-8 each
    sizes = [sum(len(text.encode()) for text in request["input"]) for request in server.requests]
    assert len(sizes) == 3 and max(sizes) <= packing.OPENAI.max_request_tokens


def test_requests_go_out_several_at_once_and_no_more_than_asked(make, server):
    texts = [f"text {i}" for i in range(40)]
    np.testing.assert_array_equal(
        make(max_concurrency=3, max_request_texts=1).embed(texts), [vector_of(text) for text in texts]
    )
    assert 1 <= server.most_under_way <= 3 and len(server.requests) == 40


def test_two_requests_are_under_way_together(make, server):
    import threading

    server.hold = threading.Event()
    reached = []

    def progress(done, total):
        reached.append((done, total))
        if done == 1:  # the first request is answered, the second and third are held: let them go
            while server.most_under_way < 2:
                pass
            server.hold.set()

    make(max_concurrency=2, max_request_texts=1).embed(["a", "b", "c"], progress=progress)
    assert reached == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert server.most_under_way == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_tries_again(make, server, status):
    server.plan = [Refusal(status, {})] * 3
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))
    assert len(server.requests) == 4


def test_it_gives_up_in_the_end(make, server):
    server.plan = [Refusal(429, {})] * 9
    with pytest.raises(EmbeddingError, match=r"too much was asked of it \(HTTP 429\), after 2 retries; wait"):
        make(max_retries=2).embed_query("a")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "refused the API key"), (403, "does not let"), (404, "knows no model"), (400, "")],
)
def test_refusals_say_what_to_do_without_the_servers_words(make, server, status, says):
    said = {"message": f"Incorrect key provided: {KEY}, for text 'a secret'", "code": KEY}
    server.plan = [Refusal(status, said)]
    with pytest.raises(EmbeddingError, match=f"{says}.*HTTP {status}") as caught:
        make().embed_query("a secret")
    assert KEY not in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert len(server.requests) == 1


@pytest.mark.parametrize("named", [True, False])
def test_a_text_that_is_too_long_is_named_by_its_index(make, server, named):
    server.max_chars, server.name_the_input = 100, named
    texts = ["short", "b", "secret " * 30, "c"]
    with pytest.raises(EmbeddingError, match=r"^text 2 is longer than text-embedding-3-small takes") as caught:
        make().embed(texts)
    assert "secret" not in str(caught.value)
    with pytest.raises(EmbeddingError, match=r"^text 0 is longer"):
        make().embed_query(texts[2])


def test_a_refusal_for_the_sum_of_the_texts_is_met_by_asking_for_each(make, server):
    server.plan = [Refusal(400, {"message": "maximum context length is 512 tokens for the batch"})]
    np.testing.assert_array_equal(make().embed(["a", "bb"]), [vector_of("a"), vector_of("bb")])
    assert [request["input"] for request in server.requests] == [["a", "bb"], ["a"], ["bb"]]


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b"[]",
        b"not json",
        b'{"data": []}',
        b'{"data": null}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 7, "embedding": [1,1,1,1,1,1,1,1]}]}',
        b'{"data": [{"index": "0", "embedding": [1,1,1,1,1,1,1,1]}]}',
        b'{"data": [{"index": 0, "embedding": [1,1,1,1,1,1,1,NaN]}]}',
        b'{"data": [{"index": 0, "embedding": [[1,1,1,1,1,1,1,1]]}]}',
        b'{"data": [{"index": 0, "embedding": "AAAA?"}]}',
        b'{"data": [{"index": 0, "embedding": "AAAAAA"}]}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}]}',
    ],
)
def test_an_answer_that_is_not_the_vectors_asked_for(make, server, answer):
    embedder = make()
    server.plan = [answer]
    with pytest.raises(EmbeddingError, match=r"^127\.0\.0\.1 |answered with 2 dimensions; 8 were expected"):
        embedder.embed_query("a")
    np.testing.assert_array_equal(embedder.embed_query("a"), vector_of("a"))  # and nothing of it was kept


def test_two_answers_for_one_text(make, server):
    server.plan = [b'{"data": [{"index": 1, "embedding": [1]}, {"index": 1, "embedding": [1]}]}']
    with pytest.raises(EmbeddingError, match="something else than 2 finite vectors"):
        make().embed(["a", "b"])


def test_a_server_that_is_not_there(make):
    with pytest.raises(EmbeddingError, match=r"127\.0\.0\.1 cannot be reached, after 0 retries"):
        make(base_url="http://127.0.0.1:9/v1", max_retries=0).embed_query("a")


def test_a_server_that_does_not_answer_in_time(make, server):
    import threading

    server.hold = threading.Event()
    embedder = make(timeout=0.05, max_retries=0)
    server.requests.append({"input": []})  # the next is not the first: it is held
    with pytest.raises(EmbeddingError, match="did not answer in time"):
        embedder.embed_query("a")
    server.hold.set()


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


@pytest.mark.parametrize(
    "settings",
    [{"dimensions": 0}, {"max_concurrency": 0}, {"max_retries": -1}, {"timeout": 0}, {"timeout": float("nan")}],
)
def test_settings_out_of_range(make, settings):
    with pytest.raises(InvalidInputError):
        make(**settings)
