"""Texts that are longer than the model takes: an error, truncated, or split and averaged."""

import numpy as np
import pytest

from bqstore.embeddings.openai import tokens
from bqstore.errors import EmbeddingError

from .fake_server import vector_of


@pytest.mark.parametrize("named", [True, False])
def test_a_text_that_is_too_long_is_named_by_its_index(make, server, named):
    server.max_chars, server.name_the_input = 100, named
    texts = ["short", "b", "secret " * 30, "c"]
    with pytest.raises(EmbeddingError, match=r"^text 2 is longer than text-embedding-3-small takes") as caught:
        make().embed(texts)
    assert "secret" not in str(caught.value)
    with pytest.raises(EmbeddingError, match=r"^text 0 is longer"):
        make().embed_query(texts[2])


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("counted", [True, False])
def test_truncate(make, server, counted, named):
    server.max_chars, server.count_the_input, server.name_the_input = 100, counted, named
    text = "word " * 60
    vector = make(on_too_long="truncate", max_input_tokens=40).embed(["a", text])[1]
    sent = next(text for text in server.answered if text != "a")
    assert text.startswith(sent) and 60 < len(sent) <= 100
    np.testing.assert_array_equal(vector, vector_of(sent))
    server.requests.clear()
    again = make(on_too_long="truncate", max_input_tokens=40).embed(["a", text])[1]
    np.testing.assert_array_equal(again, vector)
    said = make(on_too_long="truncate", max_input_tokens=40).estimate(["a", text, "new"])
    assert (said.texts, said.cached) == (3, 2)
    assert server.requests == []  # what was made of a long text is kept under that name only
    with pytest.raises(EmbeddingError, match="text 0 is longer"):
        make().embed([text])


def test_split_mean(make, server):
    server.max_chars = 100
    text = " ".join(f"word{i}" for i in range(40))
    vector = make(on_too_long="split_mean").embed_query(text)
    parts = list(server.answered)
    assert "".join(parts) == text and max(map(len, parts)) <= 100
    mean = np.average([vector_of(part) for part in parts], axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-3, atol=1e-4)
    server.requests.clear()
    make(on_too_long="split_mean").embed_query(text)
    assert server.requests == []


def test_a_text_without_spaces_is_split_in_the_middle(make, server):
    server.max_chars = 100
    make(on_too_long="split_mean", cache=False).embed_query("x" * 301)
    assert "".join(server.answered.elements()) == "x" * 301


@pytest.mark.parametrize("on_too_long", ["truncate", "split_mean"])
def test_a_text_of_which_nothing_is_taken_is_named(make, server, on_too_long):
    server.max_chars = 0
    with pytest.raises(EmbeddingError, match="text 0 is longer"):
        make(on_too_long=on_too_long).embed_query("abc def")


@pytest.mark.usefixtures("tables")
def test_what_the_server_refuses_though_it_was_counted_is_shortened_further(make, server):
    server.max_chars = 30
    make(on_too_long="truncate", max_input_tokens=10).embed_query("word " * 100)
    assert ("word " * 100).startswith(server.texts[-1]) and len(server.texts[-1]) <= 30 < len(server.texts[0])


@pytest.mark.usefixtures("tables")
def test_a_text_cut_to_one_length_is_not_kept_as_cut_to_another(make, server):
    text = "word " * 100
    for most in (10, 20):
        make(on_too_long="truncate", max_input_tokens=most).embed([text])
        assert most * 0.9 <= tokens.counter_for("text-embedding-3-small")(server.texts[-1]) <= most
    assert len(server.requests) == 2
