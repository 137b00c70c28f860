"""From some texts to their vectors: wait, send, retry, send less at once, check. It knows no cache.

All retries are made here; the SDK is configured to make none. `client` knows what a refusal means, `rate_limiter`
when the next request may be sent.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EmbeddingError
from .client import Refusal, Response
from .long_texts import halves, truncated, weighted_mean
from .rate_limiter import OutOfTimeError, RateLimiter, StoppedError
from .responses import NATIVE_DIM, normalized
from .settings import Settings
from .usage import Meter

Vectors = npt.NDArray[np.float32]
Send = Callable[[Sequence[str], float | None], Response | Refusal]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds: full jitter below min(longest, first * 2 ** tries)
_LONGEST_WAIT = 600.0  # a server that asks for more is not waited for
_LOOK_AT_LOOP = 0.5  # an event loop that has stopped notifies nobody


@dataclass(frozen=True)
class PendingText:
    """A text to request: its index in the user's list, its row and key, and an upper bound of its tokens."""

    index: int
    row: int
    key: bytes
    text: str = field(repr=False)
    tokens: int


OnVectors = Callable[[Sequence[PendingText], Vectors, bool], None]  # the last: whether the texts were sent as they are


@dataclass
class Call:
    """One call of the embedder: how it sends, the ``seconds`` it may take, and whether it was cancelled."""

    send: Send
    seconds: float | None
    cancelled: threading.Event = field(default_factory=threading.Event)
    until: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.until = None if self.seconds is None else time.monotonic() + self.seconds


class Requester:
    """Makes the requests of all calls of one embedder."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.meter = settings, Meter(settings.price)
        self.limiter = RateLimiter(settings.max_concurrency)
        self.dim = settings.dimensions or NATIVE_DIM.get(settings.model)
        self._first_answer = threading.Lock()  # the first of several answers tells the dimension
        self._most_texts = settings.limits.max_request_texts  # lowered if the server takes fewer

    def is_too_long(self, text: PendingText) -> bool:
        """Whether a text is known to be too long before it is sent."""
        return self.settings.counter is not None and text.tokens > self.settings.limits.max_input_tokens

    def too_long(self, text: PendingText) -> EmbeddingError:
        """The error that names a text that is too long."""
        most = self.settings.limits.max_input_tokens
        return EmbeddingError(
            f"text {text.index} is longer than {self.settings.model} takes ({most:,} tokens for OpenAI's models); "
            'split it, or pass on_too_long="truncate" or "split_mean"'
        )

    def embed(self, texts: Sequence[PendingText], on_vectors: OnVectors, call: Call) -> None:
        """Request the vectors of all texts, and call ``on_vectors`` after each request that is answered.

        Raises
        ------
        EmbeddingError   refused, unreachable, out of time, or answered with something else; a text that is too
                         long is named by its index
        """
        most = self._most_texts
        if len(texts) > most:
            for start in range(0, len(texts), most):
                self.embed(texts[start : start + most], on_vectors, call)
            return
        if len(texts) == 1 and self.is_too_long(texts[0]):
            self._embed_long(texts[0], None, on_vectors, call)
            return
        outcome = self._request([text.text for text in texts], sum(text.tokens for text in texts), call)
        if not isinstance(outcome, Refusal):
            on_vectors(texts, outcome, True)
        elif len(texts) == 1:
            self._embed_long(texts[0], outcome, on_vectors, call)
        else:
            self._embed_in_parts(texts, outcome, on_vectors, call)

    def _embed_in_parts(
        self, texts: Sequence[PendingText], refusal: Refusal, on_vectors: OnVectors, call: Call
    ) -> None:
        """After a request was too big: the text that the server named and the rest, or two halves."""
        if refusal.too_many_texts:
            self._most_texts = max(1, min(self._most_texts, len(texts) // 2))
        at = refusal.position
        if at is not None and at < len(texts):
            self._embed_long(texts[at], None, on_vectors, call)
            self.embed([*texts[:at], *texts[at + 1 :]], on_vectors, call)
            return
        middle = len(texts) // 2
        self.embed(texts[:middle], on_vectors, call)
        self.embed(texts[middle:], on_vectors, call)

    def _embed_long(self, text: PendingText, refusal: Refusal | None, on_vectors: OnVectors, call: Call) -> None:
        """One text that is too long, as ``on_too_long`` says."""
        if self.settings.on_too_long == "truncate":
            vector = self._truncated(text, refusal, call)
        elif self.settings.on_too_long == "split_mean":
            vector = weighted_mean(self._halved(text, text.text, call))
        else:
            raise self.too_long(text)
        on_vectors([text], vector[None, :], False)

    def _truncated(self, text: PendingText, refusal: Refusal | None, call: Call) -> Vectors:
        beginning = text.text
        while True:
            beginning = truncated(beginning, self.settings.limits.max_input_tokens, self.settings.counter, refusal)
            if not beginning:
                raise self.too_long(text)
            outcome = self._request([beginning], min(text.tokens, len(beginning.encode())), call)
            if not isinstance(outcome, Refusal):
                return np.ascontiguousarray(outcome[0])
            refusal = outcome

    def _halved(self, text: PendingText, part: str, call: Call) -> list[tuple[Vectors, int]]:
        """A text halved until its parts fit: their vectors, and their sizes, which are the weights."""
        counter = self.settings.counter
        size = counter(part) if counter is not None else len(part.encode())
        if part != text.text and (counter is None or size <= self.settings.limits.max_input_tokens):
            outcome = self._request([part], size, call)
            if not isinstance(outcome, Refusal):
                return [(outcome[0], size)]
        smaller = [half for half in halves(part) if half.strip()]
        if not smaller or len(part) < 2:
            raise self.too_long(text)
        return [leaf for half in smaller for leaf in self._halved(text, half, call)]

    def _request(self, texts: Sequence[str], tokens: int, call: Call) -> Vectors | Refusal:
        """The vectors of one request, retried as the settings say; the refusal, if that was for its size."""
        refusal: Refusal | None = None
        tries = 0
        try:
            while True:
                permit = self.limiter.acquire(tokens, call.until, call.cancelled.is_set)
                outcome = self._send(permit, texts, call, retry=tries > 0)
                if isinstance(outcome, Response):
                    self.meter.add(tokens=tokens if outcome.tokens is None else outcome.tokens)
                    return self._checked(outcome.vectors)
                refusal = outcome
                if refusal.too_big:
                    return refusal
                asked = refusal.retry_after or 0.0
                if not refusal.retryable or tries >= self.settings.max_retries or asked > _LONGEST_WAIT:
                    asks = f", and asks to wait for {asked:,.0f} s" if asked > _LONGEST_WAIT else ""
                    after = f", after {tries} retries" if refusal.retryable else ""
                    raise EmbeddingError(f"{refusal.message}{asks}{after}{refusal.advice}")
                if not asked:  # a wait that the server asks for is kept by the limiter, for all threads
                    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries)
                    pause = random.uniform(0, longest)  # noqa: S311  jitter is no secret
                    self.limiter.pause(pause, call.until, call.cancelled.is_set)
                tries += 1
        except OutOfTimeError:
            last = "" if refusal is None else f"; the last answer: {refusal.message}"
            raise EmbeddingError(
                f"the deadline of {call.seconds:g} s is over{last}. What was embedded is kept in the cache"
            ) from None
        except StoppedError:
            raise EmbeddingError("the call was cancelled") from None

    def _send(self, permit: int, texts: Sequence[str], call: Call, retry: bool) -> Response | Refusal:
        self.meter.add(requests=1, retried=int(retry))
        outcome: Response | Refusal = Refusal("the request was interrupted")
        timeout = None
        try:
            if call.until is not None:
                timeout = max(0.001, min(self.settings.timeout, call.until - time.monotonic()))
            outcome = call.send(texts, timeout)
        finally:  # after Ctrl-C, too
            refusal = outcome if isinstance(outcome, Refusal) else None
            hold = 0.0 if refusal is None else refusal.retry_after or 0.0
            self.limiter.release(
                permit,
                outcome.headers,
                succeeded=refusal is None,
                rate_limited=refusal is not None and refusal.rate_limited,
                hold=hold if hold <= _LONGEST_WAIT else 0.0,
            )
        return outcome

    def _checked(self, vectors: Vectors) -> Vectors:
        dim, asked, model = vectors.shape[1], self.settings.dimensions, self.settings.model
        with self._first_answer:
            self.dim = self.dim or dim
        if dim != self.dim:
            why = "" if asked is None else f"; the server ignores dimensions={asked}: leave it out"
            raise EmbeddingError(f"{model} answered with {dim} dimensions; {self.dim} were expected{why}")
        if asked in (None, NATIVE_DIM.get(model)):
            return vectors
        restored = normalized(vectors)
        if restored is None:
            raise EmbeddingError(f"{model} answered with a vector that has no direction, such as zeros")
        return restored


def run_on_loop(
    loop: asyncio.AbstractEventLoop, request: Coroutine[Any, Any, Response | Refusal], call: Call
) -> Response | Refusal:
    """Run a request on the event loop of another thread and wait for it. Raises StoppedError if the loop has ended."""
    if loop.is_closed():
        request.close()
        raise StoppedError
    future = asyncio.run_coroutine_threadsafe(request, loop)
    while not wait([future], _LOOK_AT_LOOP).done:
        if loop.is_closed():
            raise StoppedError
        if call.cancelled.is_set() and not loop.is_running():
            future.cancel()
            raise StoppedError
    return future.result()
