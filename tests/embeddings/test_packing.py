"""Requests keep the limits of the API."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.embeddings.openai import packing


@settings(deadline=None)
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
