"""How many requests may be under way, and when the next may go. It knows no texts and sends nothing.

All threads of an embedder pass through one `Limiter`:

- at most ``most`` requests at once; a 429 halves what is allowed, a full round of successes adds one again (AIMD,
  as TCP does). Refusals of requests that left before the last halving do not halve again: they tell of the same jam.
- a wait that the server asks for holds all of them back, not only the one that was told.
- where the answers say how much of a rate limit is left, requests wait for it to fill up, before a 429 comes.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .rate_headers import Left, left_of

_LONGEST_HINT = 60.0  # seconds: a broken header must not hold everything up


class OutOfTimeError(Exception):
    """The deadline passes before the request may go."""


class StoppedError(Exception):
    """The caller has given up."""


class _Allowance:
    """What is left of one rate limit, as of the last answer that told."""

    def __init__(self) -> None:
        self._left: Left | None = None
        self._told, self._spent = 0.0, 0.0

    def tell(self, left: Left, now: float) -> None:
        self._left, self._told, self._spent = left, now, 0.0

    def wait(self, cost: float, now: float) -> float:
        """Seconds until ``cost`` may be spent."""
        left = self._left
        if left is None:
            return 0.0
        reset = min(left.reset, _LONGEST_HINT)
        passed = now - self._told
        there = left.remaining - self._spent
        if passed >= reset or there >= cost:
            return 0.0
        if left.limit is None or left.limit <= left.remaining:
            return reset - passed
        rate = (left.limit - left.remaining) / reset
        return min(reset, max(0.0, (cost - there) / rate)) - passed

    def spend(self, cost: float) -> None:
        self._spent += cost


@dataclass(frozen=True)
class Ticket:
    """Leave to send one request; ``era`` counts the halvings before it."""

    era: int


class Limiter:
    """The gate that every request passes. Safe for any number of threads."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self._allowed = most
        self._clock = clock
        self._gate = threading.Condition()
        self._under_way = self._good = self._era = 0
        self._not_before = 0.0
        self._allowances = {"requests": _Allowance(), "tokens": _Allowance()}

    @property
    def allowed(self) -> int:
        """Requests that may be under way at once, just now."""
        return self._allowed

    def enter(self, tokens: int, until: float | None, stopped: Callable[[], bool]) -> Ticket:
        """Wait for leave to send a request of so many tokens.

        Raises
        ------
        OutOfTimeError   ``until``, a time of the clock, would pass first
        StoppedError     ``stopped()`` became true; whoever makes it so calls `wake`
        """
        with self._gate:
            while True:
                if stopped():
                    raise StoppedError
                now = self._clock()
                wait = self._not_before - now
                wait = max(wait, self._allowances["requests"].wait(1, now))
                wait = max(wait, self._allowances["tokens"].wait(tokens, now))
                if until is not None and now + max(wait, 0.0) >= until:
                    raise OutOfTimeError
                if wait <= 0 and self._under_way < self._allowed:
                    break
                limits = [wait] if wait > 0 else []
                limits += [] if until is None else [until - now]
                self._gate.wait(min(limits, default=None))
            self._under_way += 1
            self._allowances["requests"].spend(1)
            self._allowances["tokens"].spend(tokens)
            return Ticket(self._era)

    def leave(
        self, ticket: Ticket, headers: Mapping[str, str], *, good: bool, jam: bool = False, hold: float = 0.0
    ) -> None:
        """A request is over: answered (``good``), refused for too much traffic (``jam``), or lost otherwise.

        ``hold`` : nothing goes out for so many seconds. Said here, lest another take the place that comes free first.
        """
        with self._gate:
            self._under_way -= 1
            self._not_before = max(self._not_before, self._clock() + hold)
            if good:
                self._good += 1
                if self._good >= self._allowed:
                    self._allowed, self._good = min(self._most, self._allowed + 1), 0
            elif jam and ticket.era == self._era:
                self._allowed, self._good, self._era = max(1, self._allowed // 2), 0, self._era + 1
            for of, allowance in self._allowances.items():
                left = left_of(headers, of)
                if left is not None:
                    allowance.tell(left, self._clock())
            self._gate.notify_all()

    def pause(self, seconds: float, until: float | None, stopped: Callable[[], bool]) -> None:
        """Hold this thread back for so long. Raises as `enter`."""
        end = self._clock() + seconds
        if until is not None and end >= until:
            raise OutOfTimeError
        with self._gate:
            while (left := end - self._clock()) > 0:
                if stopped():
                    raise StoppedError
                self._gate.wait(left)

    def wake(self) -> None:
        """Have all that wait look at ``stopped()`` again."""
        with self._gate:
            self._gate.notify_all()
