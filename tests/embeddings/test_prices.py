"""Prices, estimates and usage: the listed ones, the caller's before them, and none that is guessed."""

import datetime

import pytest

from bqstore.embeddings.openai.prices import PRICES_AS_OF, cost, price_of
from bqstore.errors import InvalidInputError


def test_estimate_and_usage(make, server):
    embedder = make(price=2.0)
    assert embedder.estimate(["abcd", "efg"]).price == pytest.approx(7 * 2.0 / 1e6)
    embedder.embed(["abcd", "efg"])
    said = embedder.estimate(iter(["abcd", "new one"]))
    assert (said.texts, said.cached, said.requests) == (2, 1, 1)
    used = embedder.usage
    assert (used.texts, used.tokens, used.requests, used.retried, used.cached) == (2, 7, 1, 0, 0)
    assert used.price == pytest.approx(7 * 2.0 / 1e6)
    assert make(model="home-made").usage.price is None and len(server.requests) == 1
    assert embedder.estimate(["abcdef"], batch=True).price == pytest.approx(6 * 1.0 / 1e6)


@pytest.mark.parametrize(
    ("model", "listed"),
    [("text-embedding-3-small", 0.02), ("text-embedding-3-large", 0.13), ("text-embedding-ada-002", 0.10)],
)
def test_listed_prices(model, listed):
    assert price_of(model) == listed


def test_an_unknown_model_has_no_price():
    assert price_of("text-embedding-3-smaller") is None


def test_the_callers_price_goes_before_the_table():
    assert price_of("text-embedding-3-small", price=0.5) == 0.5
    assert price_of("my own model", price=0.25) == 0.25
    assert price_of("text-embedding-3-small", price=0.0) == 0.0


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(price):
    with pytest.raises(InvalidInputError, match="US dollars for a million tokens"):
        price_of("text-embedding-3-small", price=price)


def test_cost():
    assert cost(0, 0.02) == 0
    assert cost(1_000_000, 0.02) == pytest.approx(0.02)
    assert cost(300_000, 0.13) == pytest.approx(0.039)


def test_the_table_says_how_old_it_is():
    assert datetime.datetime.strptime(f"{PRICES_AS_OF} +0000", "%Y-%m %z") < datetime.datetime.now(
        datetime.timezone.utc
    )
