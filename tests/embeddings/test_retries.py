"""A server that refuses, breaks off, stalls or asks to wait: every text is embedded and paid for once."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bqstore.embeddings.openai import refusals, requester
from bqstore.embeddings.openai.rate_limiter import RateLimiter
from bqstore.errors import EmbeddingError

from .fake_server import Broken, Refusal, vector_of


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_tries_again(make, server, status):
    server.plan = [Refusal(status, {})] * 3
    np.testing.assert_array_equal(make().embed_query("a"), vector_of("a"))
    assert len(server.requests) == 4


def test_it_gives_up_in_the_end(make, server):
    server.plan = [Refusal(429, {}, {})] * 9
    with pytest.raises(
        EmbeddingError, match=r"refused the request for its rate limit \(HTTP 429\), after 2 retries; wait"
    ):
        make(max_retries=2).embed_query("a")
    assert len(server.requests) == 3


TEXTS = [f"text {i}" for i in range(24)]

EXPECTED = np.stack([vector_of(text) for text in TEXTS])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(requester, "_FIRST_PAUSE", 0.005)


def many(make, **settings):
    """An embedder that needs 24 requests for the 24 texts."""
    return make(max_request_texts=1, **settings)


@pytest.fixture
def holds(monkeypatch):
    """The seconds for which all requests are held back, which are noted instead of waited for."""
    noted, release = [], RateLimiter.release

    def note(self, permit, headers, *, hold=0.0, **outcome):
        noted.extend([hold] if hold else [])
        release(self, permit, headers, **outcome)

    monkeypatch.setattr(RateLimiter, "release", note)
    return noted


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "30"}, [30]),
        ({"retry-after-ms": "300"}, [0.3]),
        ({"retry-after-ms": "300", "retry-after": "99"}, [0.3]),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}, [10]),
        ({"retry-after": "nonsense"}, []),
        ({"retry-after": "-5"}, []),
        ({"retry-after": "nan"}, []),
        ({}, []),
    ],
)
def test_every_form_of_retry_after_holds_all_requests_back(make, server, monkeypatch, holds, headers, seconds):
    monkeypatch.setattr(refusals, "time", SimpleNamespace(time=lambda: 1445412480.0))  # 10 s before the date
    server.plan = [Refusal(429, {}, headers)]
    embedder = many(make, max_concurrency=2)
    np.testing.assert_array_equal(embedder.embed(TEXTS), EXPECTED)
    assert holds == seconds
    assert len(server.requests) == 25 and embedder.usage.retried == 1 and server.twice == []


def test_a_wait_that_the_server_asks_for_is_kept(make, server):
    server.plan = [Refusal(429, {}, {"retry-after-ms": "100"})]
    many(make, max_concurrency=1).embed(TEXTS[:2])
    assert server.times[1] - server.times[0] >= 0.1


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
    vector = make(timeout=0.2, max_retries=100).embed_query("a")  # a slow machine may need several tries
    let_go.set()
    np.testing.assert_array_equal(vector, vector_of("a"))
    assert len(server.requests) >= 2


def test_a_429_halves_what_is_under_way_and_successes_bring_it_back(make, server):
    server.delay = 0.005
    server.plan = [None] * 8 + [Refusal(429, {})] * 8
    embedder = many(make, max_concurrency=8)
    assert embedder._requester.limiter.allowed == 8
    np.testing.assert_array_equal(embedder.embed(TEXTS), EXPECTED)
    assert embedder._requester.limiter._halvings >= 1 and server.most_under_way <= 8
    embedder.embed([f"more {i}" for i in range(60)])
    assert embedder._requester.limiter.allowed == 8 and server.twice == []


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_an_account_without_money_is_not_asked_again(make, server, code):
    server.plan = [Refusal(429, {"code": code})] * 5
    with pytest.raises(EmbeddingError, match=rf"quota is used up; check its plan and billing \(HTTP 429, {code}\)"):
        make().embed_query("a")
    assert len(server.requests) == 1


def test_a_deadline_ends_it_and_keeps_what_was_embedded(make, server):
    embedder = many(make, max_concurrency=1, deadline=300)
    server.plan = [None, None, Refusal(503, {}, {"retry-after": "500"})]
    begun = time.monotonic()
    with pytest.raises(EmbeddingError, match=r"the deadline of 300 s has passed; the last answer: .*HTTP 503"):
        embedder.embed(TEXTS)
    assert time.monotonic() - begun < 300  # it does not wait for what would come too late
    server.requests.clear()
    np.testing.assert_array_equal(make().embed(TEXTS[:2]), EXPECTED[:2])
    assert server.requests == []


def test_a_deadline_ends_a_request_that_stalls(make, server, monkeypatch):
    let_go = threading.Event()
    server.plan = [Broken(until=let_go)] * 9
    embedder, timeouts = make(deadline=0.3), []
    send = embedder._client.send

    def note(texts, body, timeout, loop):
        timeouts.append(timeout)
        return send(texts, body, timeout, loop)

    monkeypatch.setattr(embedder._client, "send", note)
    with pytest.raises(EmbeddingError, match=r"the deadline of 0\.3 s has passed"):
        embedder.embed_query("a")
    let_go.set()
    assert all(0 < timeout <= 0.3 for timeout in timeouts)


def test_rate_limit_headers_slow_down_before_a_429_comes(make, server):
    server.answer_headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "100ms"}
    embedder = many(make, max_concurrency=1)
    embedder.embed(TEXTS[:4])
    gaps = np.diff(server.times)
    assert (gaps >= 0.1).all() and len(server.requests) == 4


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
        results[place] = embedder.embed(TEXTS[place::6])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, result in enumerate(results):
        np.testing.assert_array_equal(result, EXPECTED[place::6])
    assert server.most_under_way <= 6 and server.twice == []
    assert embedder.usage.texts == 24


@pytest.mark.parametrize("said", ["0", "Wed, 21 Oct 2015 07:28:10 GMT"])
def test_a_wait_of_nothing_does_not_use_up_the_retries_at_once(make, server, monkeypatch, said):
    pauses = []

    async def note(self, seconds, until, stopped):
        pauses.append(seconds)

    monkeypatch.setattr(RateLimiter, "pause", note)
    server.plan = [Refusal(429, {}, {"retry-after": said})] * 3
    make().embed_query("a")
    assert len(pauses) == 3
