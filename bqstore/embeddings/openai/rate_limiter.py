"""Limits the number of concurrent requests, and decides when the next may be sent. It sends nothing itself.

All calls of an embedder share one `RateLimiter`, on the event loop of `background`:

- At most ``most`` requests are running, or answered and not yet stored, so that a crash loses no more. A 429 halves
  the number allowed; as many successes as are allowed add one (additive increase, multiplicative decrease, as in TCP).
  A request sent before the last halving does not halve it again when refused: it reports the same congestion.
- A wait that the server asks for delays all requests, not only the one that was refused.
- If answers state how much of a rate limit remains, requests wait for it to refill instead of provoking a 429.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

from .rate_headers import RateLimit, rate_limit

_LONGEST_RESET = 60.0  # seconds: a broken header must not stop all requests for hours


class OutOfTimeError(Exception):
    """The deadline would pass before the request may be sent."""


class StoppedError(Exception):
    """The caller has cancelled the call."""


class RateLimiter:
    """Every request acquires a permit and releases it. Used on one event loop."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self.allowed = most  # concurrent requests: the maximum, and the number allowed at present
        self._clock = clock
        self._waiting: dict[object, asyncio.Future[None] | None] = {}  # in order of arrival
        self._pausing: set[asyncio.Future[None]] = set()
        self._under_way = self._storing = self._successes = self._halvings = 0
        self._not_before = 0.0
        self._quotas: dict[str, tuple[RateLimit, float]] = {}  # the last one stated of each kind, and when
        self._spent = Counter[str]()  # requests and tokens since then

    async def acquire(self, tokens: int, until: float | None, stopped: Callable[[], bool]) -> int:
        """Wait until a request of so many tokens may be sent. Returns a permit: the number of halvings so far.

        Raises OutOfTimeError if ``until``, a time of the clock, would pass first, and StoppedError if ``stopped()``
        is true. Call `wake` after a change of ``stopped()``.
        """
        me, costs = object(), {"requests": 1, "tokens": tokens}
        self._waiting[me] = None
        try:
            while True:
                if stopped():
                    raise StoppedError
                now = self._clock()
                wait = max(self._not_before - now, *(self._quota_wait(kind, cost, now) for kind, cost in costs.items()))
                if until is not None and now + max(wait, 0.0) >= until:
                    raise OutOfTimeError
                if wait <= 0 and me in islice(self._waiting, max(0, self._free)):  # first come, first served
                    break
                limits = [wait] if wait > 0 else []
                limits += [] if until is None else [until - now]
                self._waiting[me] = future = asyncio.get_running_loop().create_future()
                await asyncio.wait([future], timeout=min(limits, default=None))
        except BaseException:
            del self._waiting[me]
            self._let_go()  # pass the wake-up on to the next in line
            raise
        del self._waiting[me]
        self._under_way += 1
        self._spent.update(costs)
        return self._halvings

    def release(
        self, permit: int, headers: Mapping[str, str], *, succeeded: bool, rate_limited: bool = False, hold: float = 0.0
    ) -> None:
        """Release a permit after the request succeeded, was refused with a 429 (``rate_limited``), or failed.

        No request is sent for ``hold`` seconds. One call does both: otherwise a request could start in between.
        """
        self._under_way -= 1
        self._not_before = max(self._not_before, self._clock() + hold)
        if succeeded:
            self._successes += 1
            if self._successes >= self.allowed:
                self.allowed, self._successes = min(self._most, self.allowed + 1), 0
        elif rate_limited and permit == self._halvings:
            self.allowed, self._successes = max(1, self.allowed // 2), 0
            self._halvings += 1
        for kind in ("requests", "tokens"):
            if (limit := rate_limit(headers, kind)) is not None:
                self._quotas[kind], self._spent[kind] = (limit, self._clock()), 0
        self._let_go()

    @contextmanager
    def storing(self) -> Iterator[None]:
        """While an answer is stored, it counts as a running request."""
        self._storing += 1
        try:
            yield
        finally:
            self._storing -= 1
            self._let_go()

    def _quota_wait(self, kind: str, cost: float, now: float) -> float:
        """Seconds until ``cost`` of a rate limit is available."""
        if kind not in self._quotas:
            return 0.0
        told, told_at = self._quotas[kind]
        reset, passed = min(told.reset, _LONGEST_RESET), now - told_at
        available = told.remaining - self._spent[kind]
        if passed >= reset or available >= cost:
            return 0.0
        if told.limit is None or told.limit <= told.remaining:
            return reset - passed
        refill_rate = (told.limit - told.remaining) / reset
        return min(reset, max(0.0, (cost - available) / refill_rate)) - passed

    @property
    def _free(self) -> int:
        return min(self.allowed - self._under_way, self._most - self._under_way - self._storing)

    async def pause(self, seconds: float, until: float | None, stopped: Callable[[], bool]) -> None:
        """Delay this request. Raises as `acquire`."""
        end = self._clock() + seconds
        if until is not None and end >= until:
            raise OutOfTimeError
        while (left := end - self._clock()) > 0:
            if stopped():
                raise StoppedError
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._pausing.add(future)
            try:
                await asyncio.wait([future], timeout=left)
            finally:
                self._pausing.discard(future)

    def wake(self) -> None:
        """Make all waiting requests check ``stopped()`` again."""
        _wake(self._waiting.values())
        _wake(self._pausing)

    def _let_go(self) -> None:
        _wake(islice(self._waiting.values(), max(0, self._free)))


def _wake(waiting: "Iterable[asyncio.Future[None] | None]") -> None:
    for future in waiting:
        if future is not None and not future.done():
            future.set_result(None)
