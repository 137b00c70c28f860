"""What the headers of an answer say about waiting."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.embeddings.openai.rate_headers import duration, rate_limit, retry_after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("7.66s", 7.66), ("2", 2), ("1d", 86400)],
)
def test_durations(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1y", "-1s", "1s!", "nan", "inf", "s"])
def test_what_is_no_duration(text):
    assert duration(text) is None


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=40)))
def test_no_header_breaks_anything(headers):
    wait = retry_after(headers, 1e9)
    assert wait is None or wait >= 0


def test_dates():
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}
    assert retry_after(headers, 1445412480.0) == 10
    assert retry_after(headers, 1445412500.0) == 0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:10"}, 1445412480.0) == 10


def test_what_is_left_needs_both_headers():
    assert rate_limit({"x-ratelimit-remaining-tokens": "5"}, "tokens") is None
    assert rate_limit({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "?"}, "tokens") is None
