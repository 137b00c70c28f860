"""Answers that are not the vectors asked for are refused, and not cached."""

import base64
import json

import numpy as np
import pytest

from bqstore.errors import EmbeddingError

from .fake_server import DIM, vector_of


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


def test_servers_that_ignore_dimensions_are_named(make, server):
    server.ignore_dimensions = True
    with pytest.raises(EmbeddingError, match=r"answered with 8 dimensions; 4 were expected; .* ignores"):
        make(dimensions=4).embed_query("a")
    assert make(dimensions=None, model="own").embed_query("a").shape == (DIM,)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_a_vector_without_a_length_is_refused_and_not_kept(make, server, value):
    row = base64.b64encode(np.full(DIM, value, "<f4").tobytes()).decode()
    server.plan = [json.dumps({"data": [{"index": 0, "embedding": row}]}).encode()]
    with pytest.raises(EmbeddingError, match="no direction"):
        make().embed_query("a")
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))
    assert len(server.requests) == 2
