"""Streams: in order, read as far as needed, errors after the batches before them."""

import numpy as np
import pytest

from bqstore.errors import EmbeddingError, InvalidInputError

from .fake_server import vector_of


def test_a_stream_is_in_order_and_reads_only_as_far_as_needed(make, server):
    read = []

    def texts():
        for i in range(1000):
            read.append(i)
            yield f"text {i}"

    embedder = make()
    coming = embedder.stream(texts(), batch=10, ahead=3)
    for place in range(5):
        start, vectors = next(coming)
        assert start == place * 10
        np.testing.assert_array_equal(vectors, [vector_of(f"text {i}") for i in range(start, start + 10)])
        assert len(read) <= start + 40
    coming.close()
    embedder.close()
    assert server.twice == [] and len(server.texts) <= 80


@pytest.mark.parametrize("ahead", [None, 0])
def test_an_error_in_a_stream_comes_after_the_batches_before_it(make, ahead):
    starts = []
    with pytest.raises(InvalidInputError, match="text 25 is empty"):
        for start, _ in make().stream([*"abcdefghijklmnopqrstuvwxy", ""], batch=10, ahead=ahead):
            starts.append(start)
    assert starts == [0, 10]


def test_batches_before_one_that_is_refused_come_all_the_same(make, server):
    """Batches are asked for together: what came before the refused text was lost with it."""
    server.max_chars = 20
    texts = [f"text {i}" for i in range(60)]
    texts[37] = "far too long for this server"
    starts = []
    with pytest.raises(EmbeddingError, match="text 37 is longer"):
        for start, vectors in make(max_request_texts=5, max_concurrency=1).stream(texts, batch=10, ahead=15):
            np.testing.assert_array_equal(vectors, [vector_of(text) for text in texts[start : start + 10]])
            starts.append(start)
    assert starts == [0, 10, 20]
