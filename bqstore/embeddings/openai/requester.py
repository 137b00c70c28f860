"""From some texts to their vectors: wait, send, retry, send less at once, check. It knows no cache.

All retries are made here; the SDK is configured to make none. `client` knows what a refusal means, `rate_limiter`
when the next request may be sent. All of it runs on the event loop of `background`.
"""

import asyncio
import logging
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from ... import tracing
from ...errors import EmbeddingError
from .background import A_FEW, background
from .client import Response
from .long_texts import halves, truncated, weighted_mean
from .packing import plan_requests
from .rate_limiter import OutOfTimeError, RateLimiter, StoppedError
from .refusals import Refusal
from .responses import normalized
from .settings import Settings
from .usage import Meter

Vectors = npt.NDArray[np.float32]
Send = Callable[[Sequence[str], float | None], Awaitable[Response | Refusal]]

_LOG = logging.getLogger("bqstore.embeddings")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds: full jitter below min(longest, first * 2 ** tries)
_LONGEST_WAIT = 600.0  # a server that asks for more is not waited for, nor one that asks again and again
_TRICKLE = 10  # times the timeout: an answer that drips byte by byte never times out
_ERRORS_AMONG_SUCCESSES, _ERRORS_ALONE = 5, 2  # texts of one request that are refused, before the rest is given up


@dataclass(slots=True)  # not frozen: there is one for each text, and setting frozen fields takes longer than all else
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
    """One call of the embedder, or one task of a stream, which has its `cancelled` in common with the others."""

    send: Send
    seconds: float | None
    cancelled: threading.Event = field(default_factory=threading.Event)
    failed: bool = False
    until: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.until = None if self.seconds is None else time.monotonic() + self.seconds

    def stopped(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.failed or self.cancelled.is_set()


@dataclass
class _Request:
    """A request, the parts that it is cut into, and what has become of them."""

    call: Call
    on_vectors: OnVectors
    answered: bool = False
    errors: list[EmbeddingError] = field(default_factory=list)

    def add_error(self, error: EmbeddingError) -> None:
        """Note that one text is refused; raise the first such error if it looks as if others were, too."""
        self.errors.append(error)
        if len(self.errors) >= (_ERRORS_AMONG_SUCCESSES if self.answered else _ERRORS_ALONE):
            raise self.errors[0]


class Requester:
    """Makes the requests of all calls of one embedder. ``dim`` : of the vectors, as far as it is known.

    ``stores`` : whether vectors are written to a disk, which takes a worker
    """

    def __init__(self, settings: Settings, native: int | None, stores: bool) -> None:
        self.settings, self.meter = settings, Meter(settings.price)
        self.limiter = RateLimiter(settings.max_concurrency)
        self.dim, self._native, self._stores = settings.dimensions or native, native, stores
        self._first_answer = threading.Lock()  # the first of several answers tells the dimension
        self._limits = replace(settings.limits, max_request_tokens=10**9)  # lowered if a server takes less

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

    async def embed(self, texts: Sequence[PendingText], on_vectors: OnVectors, call: Call) -> None:
        """Request the vectors of all texts, and call ``on_vectors``, in a worker, after each request that is answered.

        Raises
        ------
        EmbeddingError   refused, unreachable, out of time, or answered with something else; a text that is too
                         long, or has no vector, is named by its index, after the others were embedded
        """
        whole = _Request(call, on_vectors)
        with tracing.embedding(self.settings.model, len(texts), "openai"):
            await self._embed(texts, whole, self.settings.max_retries)
        if whole.errors:
            raise whole.errors[0]

    async def _embed(self, texts: Sequence[PendingText], whole: _Request, retries: int) -> None:
        for run in plan_requests([text.tokens for text in texts], self._limits):
            part = texts[run.start : run.stop]
            if len(part) == 1 and self.is_too_long(part[0]):
                await self._embed_long(part[0], None, whole)
                continue
            tokens = sum(text.tokens for text in part)
            alone = len(part) == 1 and whole.answered
            keep = partial(_keep, part, whole.on_vectors)
            answer = await self._request(
                [text.text for text in part], tokens, whole.call, retries, quiet=alone, keep=keep
            )
            if isinstance(answer, Refusal):
                if len(part) > 1:
                    await self._embed_in_parts(part, answer, whole)
                elif answer.too_long and not (answer.status == 429 and self.settings.on_too_long == "error"):
                    await self._embed_long(part[0], answer, whole)
                else:
                    whole.add_error(EmbeddingError(f"text {part[0].index} has no vector: {_described(answer)}"))
                continue
            whole.answered = True
            if answer[1]:
                await self._embed([part[i] for i in answer[1]], whole, min(1, retries))

    async def _embed_in_parts(self, texts: Sequence[PendingText], refusal: Refusal, whole: _Request) -> None:
        """After a request of several texts was refused: the text that the server named and the rest, or parts."""
        retries = self.settings.max_retries if refusal.splits else min(1, self.settings.max_retries)
        _LOG.info("%s; %d texts are sent in parts. It said: %s", refusal.message, len(texts), refusal.words())
        if not refusal.splits and not await self._answers_one_of(texts, whole):
            raise EmbeddingError(_described(refusal))
        at = refusal.position
        if at is not None and at < len(texts) and refusal.too_long:
            await self._embed_long(texts[at], None, whole)
            await self._embed([*texts[:at], *texts[at + 1 :]], whole, retries)
            return
        n, failed = len(texts), len(whole.errors)
        step = math.ceil(n / min(n, 2 if refusal.fits is None else math.ceil(1 / refusal.fits)))
        if refusal.too_many_texts:
            self._limits = replace(self._limits, max_request_texts=min(self._limits.max_request_texts, max(1, n // 2)))
        for start in range(0, n, step):
            await self._embed(texts[start : start + step], whole, retries)
        if refusal.too_long and not refusal.too_many_texts and len(whole.errors) == failed:
            most = max(sum(text.tokens for text in texts[start : start + step]) for start in range(0, n, step))
            most = min(self._limits.max_request_tokens, max(most, self._limits.max_input_tokens))
            self._limits = replace(self._limits, max_request_tokens=most)

    async def _answers_one_of(self, texts: Sequence[PendingText], whole: _Request) -> bool:
        """Whether a server that failed at some texts is alive: it answers the first of them, or the last."""
        if whole.answered:
            return True
        for text in (texts[0], texts[-1]):
            answer = await self._request([text.text], text.tokens, whole.call, 0, quiet=True)
            if not isinstance(answer, Refusal):
                whole.answered = True  # it is asked again with the others, which costs less than to tell them apart
                return True
        return False

    async def _embed_long(self, text: PendingText, refusal: Refusal | None, whole: _Request) -> None:
        """One text that is too long, as ``on_too_long`` says."""
        try:
            if self.settings.on_too_long == "truncate":
                vector = await self._truncated(text, refusal, whole.call)
            elif self.settings.on_too_long == "split_mean":
                vector = weighted_mean(await self._halved(text, text.text, whole.call))
            else:
                raise _TooLongError
        except _TooLongError:
            said = refusal.words() if refusal is not None else ""
            error = self.too_long(text)
            whole.add_error(EmbeddingError(f'{error}. The server says: "{said}"') if said else error)
            return
        whole.answered = True
        await background().in_worker(whole.on_vectors, [text], vector[None, :], False)

    async def _truncated(self, text: PendingText, refusal: Refusal | None, call: Call) -> Vectors:
        beginning = text.text
        while True:
            beginning = truncated(beginning, self.settings.limits.max_input_tokens, self.settings.counter, refusal)
            if not beginning:
                raise _TooLongError
            tokens = min(text.tokens, len(beginning.encode()))
            answer = await self._request([beginning], tokens, call, self.settings.max_retries)
            if not isinstance(answer, Refusal):
                return np.ascontiguousarray(answer[0][0])
            refusal = answer

    async def _halved(self, text: PendingText, part: str, call: Call) -> list[tuple[Vectors, int]]:
        """A text halved until its parts fit: their vectors, and their sizes, which are the weights."""
        counter = self.settings.counter
        size = counter(part) if counter is not None else len(part.encode())
        if part != text.text and (counter is None or size <= self.settings.limits.max_input_tokens):
            answer = await self._request([part], size, call, self.settings.max_retries)
            if not isinstance(answer, Refusal):
                return [(answer[0][0], size)]
        smaller = [half for half in halves(part) if half.strip()]
        if not smaller or len(part) < 2:
            raise _TooLongError
        return [leaf for half in smaller for leaf in await self._halved(text, half, call)]

    async def _request(
        self,
        texts: Sequence[str],
        tokens: int,
        call: Call,
        retries: int,
        *,
        quiet: bool = False,
        keep: Callable[[Vectors, Sequence[int]], None] = lambda vectors, empty: None,
    ) -> tuple[Vectors, Sequence[int]] | Refusal:
        """The vectors of one request, and the rows without one, retried as the settings say; ``keep`` stores them.

        The refusal, if parts of the request may be answered; if ``quiet``, also if it is about this text alone.
        """
        refusal: Refusal | None = None
        sent = tries = 0
        patient_until = time.monotonic() + _LONGEST_WAIT if call.until is None else call.until
        try:
            while True:
                permit = await self.limiter.acquire(tokens, call.until, call.stopped)
                answer = await self._send(permit, texts, call, retry=sent > 0)
                sent += 1
                if isinstance(answer, Response):
                    self.meter.add(tokens=tokens if answer.tokens is None else answer.tokens)
                    with self.limiter.storing():
                        if len(texts) <= A_FEW and not self._stores:
                            return self._kept(answer, keep)
                        return await background().in_worker(self._kept, answer, keep)
                refusal = answer
                if refusal.splits:
                    return refusal
                asked = refusal.retry_after or 0.0
                # a server that says when to come back is shared by many, and comes round to each
                counts = not (refusal.rate_limited and asked and time.monotonic() + asked < patient_until)
                tries += counts
                if not refusal.retryable or tries > retries or asked > _LONGEST_WAIT:
                    # for one of several texts, perhaps
                    if (refusal.status == 500 and len(texts) > 1) or (refusal.status in (200, 500) and quiet):
                        return refusal
                    asks = f", and asks to wait for {asked:,.0f} s" if asked > _LONGEST_WAIT else ""
                    after = f", after {sent - 1} retries" if refusal.retryable or refusal.status is None else ""
                    raise EmbeddingError(_described(refusal, asks + after))
                pause = 0.0
                if not asked:  # a wait that the server asks for is kept by the limiter, for all calls
                    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries - 1, 20))
                    pause = random.uniform(0, longest)  # noqa: S311  jitter is no secret
                if _LOG.isEnabledFor(logging.INFO):
                    said = refusal.words()
                    _LOG.info(
                        "%s; sent again in %.1f s. It said: %s", refusal.message, asked or pause, said or "nothing"
                    )
                if not asked:
                    await self.limiter.pause(pause, call.until, call.stopped)
        except OutOfTimeError:
            last = "" if refusal is None else f"; the last answer: {_described(refusal)}"
            raise EmbeddingError(
                f"the deadline of {call.seconds:g} s is over{last}. What was embedded is kept in the cache"
            ) from None
        except StoppedError:
            raise EmbeddingError("the call was cancelled") from None

    async def _send(self, permit: int, texts: Sequence[str], call: Call, retry: bool) -> Response | Refusal:
        self.meter.add(requests=1, retried=int(retry))
        answer: Response | Refusal = Refusal("the request was interrupted")
        timeout, most = None, self.settings.timeout * _TRICKLE
        try:
            if call.until is not None:
                most = max(0.001, min(most, call.until - time.monotonic()))
                timeout = min(self.settings.timeout, most)
            answer = await asyncio.wait_for(call.send(texts, timeout), most)
        except asyncio.TimeoutError:
            answer = Refusal("the server did not answer in time", retryable=True)
        finally:  # after Ctrl-C, too
            refusal = answer if isinstance(answer, Refusal) else None
            hold = 0.0 if refusal is None else refusal.retry_after or 0.0
            self.limiter.release(
                permit,
                answer.headers,
                succeeded=refusal is None,
                rate_limited=refusal is not None and refusal.rate_limited,
                hold=hold if hold <= _LONGEST_WAIT else 0.0,
            )
        return answer

    def _kept(self, answer: Response, keep: Callable[[Vectors, Sequence[int]], None]) -> tuple[Vectors, Sequence[int]]:
        vectors, empty = self._checked(answer)
        keep(vectors, empty)
        return vectors, empty

    def _checked(self, answer: Response) -> tuple[Vectors, Sequence[int]]:
        vectors, empty = answer.vectors, answer.empty
        dim, asked, model = vectors.shape[1], self.settings.dimensions, self.settings.model
        with self._first_answer:
            self.dim = self.dim or dim
        if dim != self.dim:
            why = "" if asked is None else f"; the server ignores dimensions={asked}: leave it out"
            raise EmbeddingError(f"{model} answered with {dim} dimensions; {self.dim} were expected{why}")
        if asked in (None, self._native):
            return vectors, empty
        if empty:
            vectors[list(empty)] = 1.0  # they are not used
        restored = normalized(vectors)
        if restored is None:
            raise EmbeddingError(f"{model} answered with a vector that has no direction, such as zeros")
        return restored, empty


def _keep(texts: Sequence[PendingText], on_vectors: OnVectors, vectors: Vectors, empty: Sequence[int]) -> None:
    """Hand on the vectors of those texts that have one."""
    without = set(empty)
    rows = [row for row in range(len(texts)) if row not in without]
    on_vectors([texts[row] for row in rows], vectors[rows] if empty else vectors, True)


class _TooLongError(Exception):
    """A text is too long, and cannot be shortened as the settings say."""


def _described(refusal: Refusal, more: str = "") -> str:
    """The message of an error, with what the server said."""
    said = refusal.words()
    return f"{refusal.message}{more}{refusal.advice}" + (f'. The server says: "{said}"' if said else "")
