"""When a request may be sent, by a clock that the test sets."""

import asyncio

import pytest

from bqstore.embeddings.openai.rate_limiter import OutOfTimeError, RateLimiter, StoppedError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def free(limiter, clock, seconds=0.0, tokens=1):
    """Whether a request may go so many seconds from now; it is not sent."""
    clock.now += seconds
    looks = iter([False])  # the clock stands still: whoever looks a second time would wait for ever
    try:
        permit = asyncio.run(limiter.acquire(tokens, clock.now + 1e-6, lambda: next(looks, True)))
    except (OutOfTimeError, StoppedError):
        return False
    finally:
        clock.now -= seconds
    limiter.release(permit, {}, succeeded=False)
    return True


def test_a_jam_halves_once_and_a_round_of_successes_adds_one():
    limiter = RateLimiter(8, Clock())
    permits = [asyncio.run(limiter.acquire(1, None, lambda: False)) for _ in range(8)]
    for permit in permits:  # all of them left before the first refusal
        limiter.release(permit, {}, succeeded=False, rate_limited=True)
    assert limiter.allowed == 4
    for done in range(1, 5 + 4):
        limiter.release(asyncio.run(limiter.acquire(1, None, lambda: False)), {}, succeeded=True)
        assert limiter.allowed == (4 if done < 4 else 5)
    for _ in range(5):
        limiter.release(asyncio.run(limiter.acquire(1, None, lambda: False)), {}, succeeded=False, rate_limited=True)
    assert limiter.allowed == 1


def test_no_more_than_allowed():
    clock = Clock()
    limiter = RateLimiter(2, clock)
    permits = [asyncio.run(limiter.acquire(1, None, lambda: False)) for _ in range(2)]
    assert not free(limiter, clock)
    limiter.release(permits[0], {}, succeeded=True)
    assert free(limiter, clock)


def test_a_wait_holds_everything_back():
    clock = Clock()
    limiter = RateLimiter(2, clock)
    permits = [asyncio.run(limiter.acquire(1, None, lambda: False)) for _ in range(2)]
    limiter.release(permits[0], {}, succeeded=False, hold=3)
    limiter.release(permits[1], {}, succeeded=False, hold=1)
    assert not free(limiter, clock, 2.9) and free(limiter, clock, 3)


def tell(limiter, of, **values):
    headers = {f"x-ratelimit-{name}-{of}": str(value) for name, value in values.items()}
    limiter.release(asyncio.run(limiter.acquire(0, None, lambda: False)), headers, succeeded=True)


def test_tokens_fill_up_at_the_rate_the_headers_tell():
    clock = Clock()
    limiter = RateLimiter(4, clock)
    tell(limiter, "tokens", remaining=100, limit=1100, reset="10s")  # a hundred a second
    assert free(limiter, clock, tokens=100)  # which are spent now
    assert not free(limiter, clock, 1.9, tokens=200) and free(limiter, clock, 2.0, tokens=200)
    assert free(limiter, clock, 10, tokens=10**9)  # more than there ever is: when all of it is there


def test_a_limit_without_its_size_is_waited_out():
    clock = Clock()
    limiter = RateLimiter(4, clock)
    tell(limiter, "requests", remaining=0, reset="2s")
    assert not free(limiter, clock, 1.9) and free(limiter, clock, 2)


def test_a_reset_of_hours_is_not_believed():
    clock = Clock()
    limiter = RateLimiter(4, clock)
    tell(limiter, "requests", remaining=0, reset="5h")
    assert free(limiter, clock, 60)


def test_whoever_has_given_up_does_not_wait():
    limiter = RateLimiter(1)
    limiter.release(asyncio.run(limiter.acquire(1, None, lambda: False)), {}, succeeded=False, hold=1000)
    with pytest.raises(StoppedError):
        asyncio.run(limiter.acquire(1, None, lambda: True))
    with pytest.raises(StoppedError):
        asyncio.run(limiter.pause(1000, None, lambda: True))


def test_a_place_that_comes_free_with_a_wait_is_not_taken_before_it_is_over():
    clock = Clock()
    limiter = RateLimiter(1, clock)
    limiter.release(
        asyncio.run(limiter.acquire(1, None, lambda: False)), {}, succeeded=False, rate_limited=True, hold=2
    )
    assert not free(limiter, clock, 1.9) and free(limiter, clock, 2)


def test_nobody_overtakes_who_waits():
    """Who came in the moment of a release took the place that another had waited for: texts went out of order."""

    async def order():
        limiter, came = RateLimiter(1, Clock()), []

        async def go(name):
            permit = await limiter.acquire(1, None, lambda: False)
            came.append(name)
            await asyncio.sleep(0)
            limiter.release(permit, {}, succeeded=True)

        permit = await limiter.acquire(1, None, lambda: False)
        first = asyncio.ensure_future(go("first"))
        await asyncio.sleep(0)
        limiter.release(permit, {}, succeeded=True)
        await asyncio.gather(go("second"), first)  # "second" runs before "first" is woken
        return came

    assert asyncio.run(order()) == ["first", "second"]
