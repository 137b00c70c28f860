"""Makes one request: wait, send, retry, check.

All retries are made here; the SDK's are disabled. `refusals` interprets refusals, `rate_limiter` decides when the
next request may be sent. Everything runs on the event loop of `background`.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import EmbeddingError
from .background import A_FEW, background
from .client import Response
from .prices import Meter
from .rate_limiter import OutOfTimeError, RateLimiter, StoppedError
from .refusals import Refusal
from .responses import normalized
from .settings import Settings

if TYPE_CHECKING:
    from .embedding_task import EmbeddingTask

Send = Callable[[Sequence[str], float | None], Awaitable[Response | Refusal]]

_LOG = logging.getLogger("bqstore.embeddings")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds: full jitter below min(longest, first * 2 ** tries)
_LONGEST_WAIT = 600.0  # seconds: a longer wait, or repeated waits beyond it, are not granted
_TRICKLE = 10  # times the timeout for a whole answer: one that arrives byte by byte never times out


class Requester:
    """Makes the requests of all calls of one embedder. ``dim`` is the dimension of the vectors, if known.

    ``stores`` : whether vectors are written to disk, which is done in a worker
    """

    def __init__(self, settings: Settings, native: int | None, stores: bool) -> None:
        self.settings, self.meter = settings, Meter(settings.price)
        self.limiter = RateLimiter(settings.max_concurrency)
        self.limits = replace(settings.limits, max_request_tokens=10**9)  # lowered when the server refuses
        self.dim, self._native, self._stores = settings.dimensions or native, native, stores
        self._first_answer = threading.Lock()  # the first of concurrent answers sets the dimension

    async def request(
        self,
        texts: Sequence[str],
        tokens: int,
        task: "EmbeddingTask",
        retries: int | None = None,
        *,
        quiet: bool = False,
        rows: Sequence[int] = (),
    ) -> Response | Refusal:
        """The vectors of one request, which ``task`` stores under ``rows``; retried by the settings.

        Returns the refusal if the request may succeed in parts; with ``quiet``, also if this text may be at fault.

        Raises EmbeddingError if the request is refused, the server cannot be reached, the deadline passes, or the
        answer is not as expected.
        """
        refusal: Refusal | None = None
        sent = tries = 0
        retries = self.settings.max_retries if retries is None else retries
        patient_until = time.monotonic() + _LONGEST_WAIT if task.until is None else task.until
        try:
            while True:
                permit = await self.limiter.acquire(tokens, task.until, task.stopped)
                answer = await self._send(permit, texts, task, retry=sent > 0)
                sent += 1
                if isinstance(answer, Response):
                    self.meter.add(tokens=tokens if answer.tokens is None else answer.tokens)
                    with self.limiter.storing():
                        if len(texts) <= A_FEW and not self._stores:
                            return self._kept(answer, rows, task)
                        return await background().in_worker(self._kept, answer, rows, task)
                refusal = answer
                if refusal.splits:
                    return refusal
                asked = refusal.retry_after or 0.0
                # not counted: a busy server that states a wait will serve this request, too
                tries += not (refusal.rate_limited and asked and time.monotonic() + asked < patient_until)
                if not refusal.retryable or tries > retries or asked > _LONGEST_WAIT:
                    # perhaps because of one text
                    if (refusal.status == 500 and len(texts) > 1) or (refusal.status in (200, 500) and quiet):
                        return refusal
                    asks = f", and asks to wait for {asked:,.0f} s" if asked > _LONGEST_WAIT else ""
                    after = f", after {sent - 1} retries" if refusal.retryable or refusal.status is None else ""
                    raise EmbeddingError(refusal.described(asks + after))
                # the limiter applies a wait that the server asks for to all calls
                longest = 0.0 if asked else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries - 1, 20))
                pause = random.uniform(0, longest)  # noqa: S311  jitter is no secret
                if _LOG.isEnabledFor(logging.INFO):
                    said = refusal.words() or "nothing"
                    _LOG.info("%s; sent again in %.1f s. It said: %s", refusal.message, asked or pause, said)
                if not asked:
                    await self.limiter.pause(pause, task.until, task.stopped)
        except OutOfTimeError:
            last = "" if refusal is None else f"; the last answer: {refusal.described()}"
            raise EmbeddingError(
                f"the deadline of {self.settings.deadline:g} s has passed{last}. What was embedded is kept in the cache"
            ) from None
        except StoppedError:
            raise EmbeddingError("the call was cancelled") from None

    async def _send(self, permit: int, texts: Sequence[str], task: "EmbeddingTask", retry: bool) -> Response | Refusal:
        self.meter.add(requests=1, retried=int(retry))
        answer: Response | Refusal = Refusal("the request was interrupted")
        timeout, most = None, self.settings.timeout * _TRICKLE
        try:
            if task.until is not None:
                most = max(0.001, min(most, task.until - time.monotonic()))
                timeout = min(self.settings.timeout, most)
            answer = await asyncio.wait_for(task.send(texts, timeout), most)
        except asyncio.TimeoutError:
            answer = Refusal("the server did not answer in time", retryable=True)
        finally:  # after Ctrl-C, too
            refusal = answer if isinstance(answer, Refusal) else None
            limited, hold = (refusal.rate_limited, refusal.retry_after or 0.0) if refusal else (False, 0.0)
            hold = hold if hold <= _LONGEST_WAIT else 0.0
            self.limiter.release(permit, answer.headers, succeeded=not refusal, rate_limited=limited, hold=hold)
        return answer

    def _kept(self, answer: Response, rows: Sequence[int], task: "EmbeddingTask") -> Response:
        vectors, without = answer.vectors, set(answer.empty)
        dim, asked, model = vectors.shape[1], self.settings.dimensions, self.settings.model
        with self._first_answer:
            self.dim = self.dim or dim
        if dim != self.dim:
            why = "" if asked is None else f"; the server ignores dimensions={asked}: leave it out"
            raise EmbeddingError(f"{model} answered with {dim} dimensions; {self.dim} were expected{why}")
        if asked not in (None, self._native):
            vectors[list(without)] = 1.0  # they are not used
            restored = normalized(vectors)
            if restored is None:
                raise EmbeddingError(f"{model} answered with a vector that has no direction, such as zeros")
            vectors = restored
        if rows:
            there = [at for at in range(len(rows)) if at not in without]
            task.store([rows[at] for at in there], vectors[there] if without else vectors, True)
        return replace(answer, vectors=vectors)
