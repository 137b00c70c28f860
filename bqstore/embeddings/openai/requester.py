"""Some texts to their vectors: wait for leave, ask, try again, ask for less at once, check. It knows no cache.

The one owner of retries: the SDK has been told to make none. What a refusal means is `client`'s part, when the next
request may go `limiter`'s.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import EmbeddingError
from .client import Answer, EmbeddingsClient, RefusedError
from .long_texts import halves, mean_of, shortened
from .packing import Limits
from .rate_limiter import Limiter, OutOfTimeError, StoppedError, Ticket
from .tokens import Counter
from .usage import Meter

Vectors = npt.NDArray[np.float32]
Send = Callable[[Sequence[str], float | None], Answer]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds: full jitter below min(longest, first * 2 ** tries)
_LONGEST_WAIT = 600.0  # a server that asks for more is not waited for
_LOOK_AT_LOOP = 0.5  # a loop that has stopped answers nothing

NATIVE_DIM = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}


@dataclass(frozen=True)
class Item:
    """One text to ask for: its index in the user's list, its row, its key, and at least its number of tokens."""

    index: int
    row: int
    key: bytes
    text: str = field(repr=False)
    tokens: int


Keep = Callable[[Sequence[Item], Vectors, bool], None]  # the last: whether the texts were embedded as they are


@dataclass
class Call:
    """One call of the embedder: how it sends, until when, and whether it has been given up."""

    send: Send
    until: float | None
    seconds: float | None
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Settings:
    """What does not change in an embedder's life."""

    model: str
    dimensions: int | None
    max_retries: int
    timeout: float
    on_too_long: str
    limits: Limits
    counter: Counter | None

    @property
    def how(self) -> str | None:
        """What becomes of a text that is too long, as the cache's keys say it; None: an error."""
        return None if self.on_too_long == "error" else f"{self.on_too_long} {self.limits.input_tokens}"


class Asker:
    """Asks for texts on behalf of all calls of one embedder."""

    def __init__(self, client: EmbeddingsClient, settings: Settings, most: int, meter: Meter) -> None:
        self.client, self.settings, self.meter = client, settings, meter
        self.limiter = Limiter(most)
        self.dim = settings.dimensions or NATIVE_DIM.get(settings.model)
        self._settling = threading.Lock()  # the first of several answers says the dimension
        self._most_texts = settings.limits.texts  # lower once a server has said so

    def is_too_long(self, item: Item) -> bool:
        """Whether a text is known to be too long before it is sent."""
        return self.settings.counter is not None and item.tokens > self.settings.limits.input_tokens

    def ask(self, items: Sequence[Item], keep: Keep, call: Call) -> None:
        """Have every item answered, and ``keep`` called with what came, request by request.

        Raises
        ------
        EmbeddingError   refused, unreachable, out of time, or answered with something else; a text that is too
                         long is named by its index
        """
        most = self._most_texts
        if len(items) > most:
            for start in range(0, len(items), most):
                self.ask(items[start : start + most], keep, call)
            return
        if len(items) == 1 and self.is_too_long(items[0]):
            self._shorter(items[0], None, keep, call)
            return
        vectors, refused = self._try([item.text for item in items], sum(item.tokens for item in items), call)
        if vectors is not None:
            keep(items, vectors, True)
        elif refused is not None and len(items) == 1:
            self._shorter(items[0], refused, keep, call)
        elif refused is not None:
            self._in_parts(items, refused, keep, call)

    def _in_parts(self, items: Sequence[Item], refused: RefusedError, keep: Keep, call: Call) -> None:
        """A request was too big: if a text is to blame for it, that one by itself; else two halves."""
        if refused.too_many:
            self._most_texts = max(1, min(self._most_texts, len(items) // 2))
        at = refused.position
        if at is not None and at < len(items):
            if self.settings.on_too_long == "error":
                raise self.too_long(items[at])
            rest = [*items[:at], *items[at + 1 :]]
            self._shorter(items[at], None, keep, call)
            self.ask(rest, keep, call)
            return
        middle = len(items) // 2
        self.ask(items[:middle], keep, call)
        self.ask(items[middle:], keep, call)

    def too_long(self, item: Item) -> EmbeddingError:
        """The error that names a text that is too long."""
        most = self.settings.limits.input_tokens
        return EmbeddingError(
            f"text {item.index} is longer than {self.settings.model} takes ({most:,} tokens for OpenAI's models); "
            'split it, or pass on_too_long="truncate" or "split_mean"'
        )

    def _shorter(self, item: Item, refused: RefusedError | None, keep: Keep, call: Call) -> None:
        """One text that is too long: what ``on_too_long`` says."""
        how = self.settings.on_too_long
        if how == "truncate":
            vector = self._truncated(item, refused, call)
        elif how == "split_mean":
            vector = mean_of(self._halved(item, item.text, call))
        else:
            raise self.too_long(item)
        keep([item], vector[None, :], False)

    def _truncated(self, item: Item, refused: RefusedError | None, call: Call) -> Vectors:
        most, counter = self.settings.limits.input_tokens, self.settings.counter
        text = item.text
        while True:
            text = shortened(text, most, counter, refused)
            if not text:
                raise self.too_long(item)
            vectors, refused = self._try([text], min(item.tokens, len(text.encode())), call)
            if vectors is not None:
                return np.ascontiguousarray(vectors[0])

    def _halved(self, item: Item, text: str, call: Call) -> list[tuple[Vectors, int]]:
        """A text halved as often as it takes: the vectors of the parts, and their sizes, which are their weights."""
        counter = self.settings.counter
        size = counter(text) if counter is not None else len(text.encode())
        if text == item.text or (counter is not None and size > self.settings.limits.input_tokens):
            vectors = None  # known to be too long
        else:
            vectors, _ = self._try([text], size, call)
        if vectors is not None:
            return [(vectors[0], size)]
        parts = [part for part in halves(text) if part.strip()]
        if not parts or len(text) < 2:
            raise self.too_long(item)
        return [leaf for part in parts for leaf in self._halved(item, part, call)]

    def _try(self, texts: Sequence[str], tokens: int, call: Call) -> tuple[Vectors | None, RefusedError | None]:
        """The vectors of one request, as often tried as it takes; or the refusal, if that was for its size."""
        tries, refused = 0, None
        while True:
            try:
                ticket = self.limiter.enter(tokens, call.until, call.over.is_set)
                timeout = None
                if call.until is not None:
                    timeout = max(0.001, min(self.settings.timeout, call.until - time.monotonic()))
                answer, refused = self._send(ticket, texts, timeout, call, again=tries > 0)
                if answer is not None:
                    self.meter.add(tokens=tokens if answer.tokens is None else answer.tokens)
                    return self._checked(answer.vectors), None
                if refused is None or refused.too_big:
                    return None, refused
                if not refused.again or tries >= self.settings.max_retries or (refused.wait or 0) > _LONGEST_WAIT:
                    raise self._final(refused, tries)
                if not refused.wait:  # else all threads wait; a random pause is for this one
                    most = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries)
                    self.limiter.pause(random.uniform(0, most), call.until, call.over.is_set)  # noqa: S311  no secret
                tries += 1
            except (OutOfTimeError, StoppedError) as error:
                given_up = self._given_up(error, refused, call)
            else:
                continue
            raise given_up

    def _send(
        self, ticket: Ticket, texts: Sequence[str], timeout: float | None, call: Call, again: bool
    ) -> tuple[Answer | None, RefusedError | None]:
        self.meter.add(requests=1, retried=int(again))
        answer = refused = None
        try:
            answer = call.send(texts, timeout)
        except RefusedError as error:
            refused = error
        finally:
            said = answer if answer is not None else refused
            headers: Mapping[str, str] = {} if said is None else said.headers
            jam = refused is not None and refused.jam
            asked = 0.0 if refused is None or refused.wait is None else refused.wait
            hold = asked if asked <= _LONGEST_WAIT else 0.0
            self.limiter.leave(ticket, headers, good=answer is not None, jam=jam, hold=hold)
        return answer, refused

    def _final(self, refused: RefusedError, tries: int) -> EmbeddingError:
        after = f", after {tries} retries" if refused.again else ""
        asked = refused.wait or 0
        asks = f", and asks to wait for {asked:,.0f} s" if asked > _LONGEST_WAIT else ""
        return EmbeddingError(f"{refused}{asks}{after}{refused.advice}")

    def _given_up(self, error: Exception, refused: RefusedError | None, call: Call) -> EmbeddingError:
        if isinstance(error, StoppedError):
            return EmbeddingError("the call was given up")
        last = "" if refused is None else f"; the last answer: {refused}"
        return EmbeddingError(
            f"the deadline of {call.seconds:g} s is over{last}. What was embedded is kept in the cache"
        )

    def _checked(self, vectors: Vectors) -> Vectors:
        dim, asked = vectors.shape[1], self.settings.dimensions
        with self._settling:
            self.dim = self.dim or dim
        if dim != self.dim:
            why = "" if asked is None else f"; the server does not heed dimensions={asked}: leave it out"
            raise EmbeddingError(f"{self.settings.model} answered with {dim} dimensions; {self.dim} were expected{why}")
        if asked in (None, NATIVE_DIM.get(self.settings.model)):
            return vectors
        restored = of_unit_length(vectors)
        if restored is None:
            raise EmbeddingError(f"{self.settings.model} answered with a vector that has no direction, such as zeros")
        return restored


def of_unit_length(vectors: Vectors) -> Vectors | None:
    """Vectors that a server has shortened, float32 (n, dim), at length 1 again; as they are where they have it.

    None if one has no length that could be made 1: it is 0, or beyond what a float32 holds.
    """
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        return None
    if (np.abs(norms - 1) <= 1e-4).all():
        return vectors
    restored: Vectors = (vectors / norms).astype(np.float32)
    return restored


def answer_on(loop: asyncio.AbstractEventLoop, asked: Coroutine[Any, Any, Answer], call: Call) -> Answer:
    """What a loop of another thread makes of a request. Raises StoppedError if it will make nothing of it any more."""
    if loop.is_closed():
        asked.close()
        raise StoppedError
    future = asyncio.run_coroutine_threadsafe(asked, loop)
    while not wait([future], _LOOK_AT_LOOP).done:
        if loop.is_closed():
            raise StoppedError
        if call.over.is_set() and not loop.is_running():
            future.cancel()
            raise StoppedError
    return future.result()


def call_for(send: Send, seconds: float | None) -> Call:
    """A call that begins now."""
    return Call(send, None if seconds is None else time.monotonic() + seconds, seconds)
