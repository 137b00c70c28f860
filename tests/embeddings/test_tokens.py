"""Tokens are counted where that helps, and nothing waits for a download."""

import pytest

from bqstore.embeddings.openai import tokens
from bqstore.errors import EmbeddingError


def test_tokens_are_counted_where_that_helps(make, server, tables):
    counter = tokens.counter_for("text-embedding-3-small")
    assert counter is not None and counter("hello world") == 2
    assert tokens.counter_for("home-made") is None
    texts = [f"{i} and many more words of plain English" for i in range(200)]
    make(max_request_tokens=2_200, cache=False).embed(texts)  # 9 tokens each, 40 bytes
    assert len(server.requests) == 1
    with pytest.raises(EmbeddingError, match="text 1 is longer"):
        make(cache=False).embed(["a", "word " * 9_000])
    assert len(server.requests) == 1  # nothing was sent
    make(on_too_long="truncate").embed(["word " * 9_000])
    assert counter(server.texts[-1]) <= 8_192 < counter(server.texts[-1]) * 1.05
    said = make().estimate(["hello world", "hello world", "a b c"])
    assert (said.texts, said.cached, said.tokens, said.requests, said.exact) == (3, 0, 5, 1, True)


def test_tables_that_are_not_there_are_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    tokens.load_counter.cache_clear()
    assert tokens.counter_for("text-embedding-3-small") is None
    (tmp_path / tokens.table_path().name).write_bytes(b"cut off")
    tokens.load_counter.cache_clear()
    assert tokens.counter_for("text-embedding-3-small") is None and len(list(tmp_path.iterdir())) == 1
    tokens.load_counter.cache_clear()


def test_a_million_spaces_are_counted(tables):
    """tiktoken's PanicException, which is no Exception, got out."""
    counter = tokens.counter_for("text-embedding-3-small")
    assert counter is not None and 1_000 < counter(" " * 1_000_000 + "a") < 20_000


def test_an_estimate_that_was_not_counted_says_its_range(make):
    text = "The quick brown fox jumps over the lazy dog. " * 10
    said = make(model="own", price=1.0).estimate([text])
    assert not said.exact and said.least_tokens < 100 < said.tokens == len(text)
    assert said.least_price == pytest.approx(said.least_tokens / 1e6)
