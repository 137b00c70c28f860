"""A server that refuses, breaks off, stalls or asks to wait: every text is embedded all the same, and paid for once."""

import threading
import time
from email.utils import formatdate

import numpy as np
import pytest

from bqstore.embeddings.openai import requester
from bqstore.errors import EmbeddingError

from .fake_server import DIM, Broken, Refusal, vector_of

TEXTS = [f"text {i}" for i in range(24)]
EXPECTED = np.stack([vector_of(text) for text in TEXTS])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(requester, "_FIRST_PAUSE", 0.005)


def many(make, **settings):
    """An embedder that needs 24 requests for the 24 texts."""
    return make(max_request_texts=1, **settings)


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"retry-after": "0.3"}, 0.3),
        ({"retry-after-ms": "300"}, 0.3),
        ({"retry-after-ms": "300", "retry-after": "99"}, 0.3),
        ({"retry-after": "nonsense"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "nan"}, 0),
        ({}, 0),
    ],
)
def test_every_form_of_retry_after_holds_all_requests_back(make, server, headers, least):
    server.plan = [Refusal(429, {}, headers)]
    embedder = many(make, max_concurrency=2)
    np.testing.assert_array_equal(embedder.embed(TEXTS), EXPECTED)
    assert server.times[3] - server.times[0] >= least * 0.9  # at most one was under way beside the one refused
    assert len(server.requests) == 25 and embedder.usage.retried == 1 and server.twice == []


def test_a_date_to_come_back_at(make, server):
    server.plan = [Refusal(429, {}, {"retry-after": formatdate(time.time() + 1.9, usegmt=True)})]
    begun = int(time.time() + 1.9)
    make().embed_query("a")
    assert server.times[1] >= begun - 0.05


def test_a_wait_of_hours_is_an_error_and_no_wait(make, server):
    server.plan = [Refusal(429, {}, {"retry-after": "7200"})]
    with pytest.raises(EmbeddingError, match="asks to wait for 7,200 s"):
        make().embed_query("a")


@pytest.mark.parametrize(
    "misbehaviour",
    [
        Refusal(500, {}),
        Refusal(503, {}, {}),
        Refusal(408, {}),
        Refusal(409, {}),
        Broken(),  # dropped before an answer
        Broken(after=50),  # and in the middle of one
    ],
    ids=["500", "503", "408", "409", "dropped", "cut"],
)
def test_one_in_three_requests_fails(make, server, misbehaviour):
    server.plan = [None, None, misbehaviour] * 8
    embedder = many(make, max_concurrency=4)
    np.testing.assert_array_equal(embedder.embed(TEXTS), EXPECTED)
    assert server.most_under_way <= 4 and server.twice == []
    assert embedder.usage.retried == 8 and embedder.usage.requests == len(server.requests) == 32


def test_a_stalled_connection_is_given_up_and_asked_again(make, server):
    let_go = threading.Event()
    server.plan = [Broken(until=let_go)]
    np.testing.assert_array_equal(make(timeout=0.2).embed_query("a"), vector_of("a"))
    let_go.set()
    assert len(server.requests) == 2


def test_a_429_halves_what_is_under_way_and_successes_bring_it_back(make, server):
    server.delay = 0.005
    server.plan = [None] * 8 + [Refusal(429, {})] * 8
    embedder = many(make, max_concurrency=8)
    assert embedder._requester.limiter.allowed == 8
    np.testing.assert_array_equal(embedder.embed(TEXTS), EXPECTED)
    assert embedder._requester.limiter.allowed < 8 and server.most_under_way <= 8
    embedder.embed([f"more {i}" for i in range(60)])
    assert embedder._requester.limiter.allowed == 8 and server.twice == []


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_an_account_without_money_is_not_asked_again(make, server, code):
    server.plan = [Refusal(429, {"code": code})] * 5
    with pytest.raises(EmbeddingError, match=rf"quota is used up; check its plan and billing \(HTTP 429, {code}\)"):
        make().embed_query("a")
    assert len(server.requests) == 1


def test_a_deadline_ends_it_and_keeps_what_was_embedded(make, server):
    embedder = many(make, max_concurrency=1, deadline=0.5)
    server.plan = [None, None, Refusal(503, {}, {"retry-after": "30"})]
    begun = time.monotonic()
    with pytest.raises(EmbeddingError, match=r"the deadline of 0\.5 s is over; the last answer: .*HTTP 503"):
        embedder.embed(TEXTS)
    assert time.monotonic() - begun < 25  # it does not wait for what would come too late
    server.requests.clear()
    np.testing.assert_array_equal(make().embed(TEXTS[:2]), EXPECTED[:2])
    assert server.requests == []


def test_a_deadline_ends_a_request_that_stalls(make, server):
    let_go = threading.Event()
    server.plan = [Broken(until=let_go)] * 9
    with pytest.raises(EmbeddingError, match=r"the deadline of 0\.3 s is over.*did not answer in time"):
        make(deadline=0.3).embed_query("a")
    let_go.set()


def test_rate_limit_headers_slow_down_before_a_429_comes(make, server):
    server.answer_headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "100ms"}
    embedder = many(make, max_concurrency=1)
    embedder.embed(TEXTS[:4])
    gaps = np.diff(server.times)
    assert (gaps >= 0.095).all() and len(server.requests) == 4


def test_servers_that_ignore_dimensions_are_named(make, server):
    server.ignore_dimensions = True
    with pytest.raises(EmbeddingError, match=r"answered with 8 dimensions; 4 were expected; .* ignores"):
        make(dimensions=4).embed_query("a")
    assert make(dimensions=None, model="own").embed_query("a").shape == (DIM,)


@pytest.mark.parametrize("as_lists", [True, False])
def test_shortened_vectors_are_of_unit_length(make, server, as_lists):
    server.cut, server.as_lists = True, as_lists
    vectors = make().embed(["a", "b"])
    np.testing.assert_allclose(vectors, [vector_of("a"), vector_of("b")], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert np.linalg.norm(make(dimensions=None, model="own").embed_query("a")) < 0.9  # the model's own are left alone


def test_the_worst_day(make, server):
    """All of it at once, in six threads."""
    server.delay = 0.001
    server.plan = [
        Refusal(429, {}), None, Broken(), Refusal(500, {}), None, Broken(after=20),
        Refusal(429, {}, {"retry-after": "0.05"}), None, Refusal(503, {}, {}), Refusal(408, {}),
    ] * 2  # fmt: skip
    embedder = many(make, max_concurrency=6, max_retries=20)
    results = [None] * 6

    def run(place):
        results[place] = embedder.embed(TEXTS)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, EXPECTED)
    assert server.most_under_way <= 6 and server.twice == []
    assert embedder.usage.texts == 24 and embedder.usage.cached == 24 * 5
