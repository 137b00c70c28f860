"""Requests that are too big for a server are sent again in parts."""

import numpy as np
import pytest

from .fake_server import Refusal, vector_of


def test_a_refusal_for_the_sum_of_the_texts_is_met_by_asking_for_each(make, server):
    server.plan = [Refusal(400, {"message": "maximum context length is 512 tokens for the batch"})]
    np.testing.assert_array_equal(make().embed(["a", "bb"]), [vector_of("a"), vector_of("bb")])
    assert [request["input"] for request in server.requests] == [["a", "bb"], ["a"], ["bb"]]


def test_a_batch_too_big_is_halved_and_the_server_remembered(make, server):
    server.max_texts = 3
    texts = [f"text {i}" for i in range(40)]
    embedder = make(max_concurrency=1)
    np.testing.assert_array_equal(embedder.embed(texts), [vector_of(text) for text in texts])
    refused = [request for request in server.requests if len(request["input"]) > 3]
    embedder.embed([f"more {i}" for i in range(40)])
    assert server.twice == []
    assert [r for r in server.requests if len(r["input"]) > 3] == refused  # no more of them
    server.max_texts, server.max_request_chars = 10**9, 50
    np.testing.assert_array_equal(make(cache=False).embed(texts), [vector_of(text) for text in texts])


SIZE = {
    "vLLM": (400, {"object": "error", "message": "This model's maximum context length is 512 tokens.", "code": 400}),
    "Ollama": (400, {"error": {"message": "the input length exceeds the context length", "code": None}}),
    "LM Studio": (400, {"error": "the model is loaded with context length of only 512 tokens, which is not enough"}),
    "text-embeddings-inference": (413, {"message": "`inputs` must have less than 512 tokens. Given: 600", "code": 413}),
    "llama.cpp": (
        500,
        {"error": {"message": "input (600 tokens) is too large to process. increase the batch"}},
    ),
    "llama.cpp, newer": (400, {"error": {"message": "input (600 tokens) is larger than the max context size (512)"}}),
    "detail": (422, {"detail": "Input text exceeds maximum length of 8192 tokens"}),
    "Azure": (400, {"error": {"message": "Too many inputs. The max number of inputs is 16."}}),
}


@pytest.mark.parametrize("words", SIZE.values(), ids=SIZE)
def test_a_refusal_for_size_is_known_by_each_servers_words(make, server, words):
    status, body = words
    refusal = Refusal(status, {})
    refusal.body = lambda: body
    server.plan = [refusal]
    np.testing.assert_array_equal(make().embed(["a", "b"]), [vector_of("a"), vector_of("b")])
    assert [request["input"] for request in server.requests] == [["a", "b"], ["a"], ["b"]]
