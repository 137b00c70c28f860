"""Embeds the texts of one request; after a refusal in parts, down to the text that the server cannot embed."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ... import tracing
from ...errors import EmbeddingError
from ..protocol import Vectors
from .background import background
from .packing import plan_requests
from .refusals import Refusal
from .requester import Requester
from .tokens import Counter

if TYPE_CHECKING:
    from .embedding_task import EmbeddingTask

_LOG = logging.getLogger("bqstore.embeddings")
_ERRORS_AMONG_SUCCESSES, _ERRORS_ALONE = 5, 2  # texts refused before the rest of the request is given up

_MARGIN = 0.98  # tokens are not spread evenly over a text
_BLIND = 0.7  # shortening factor if neither the counter nor the server tells how much too long a text is


class _TooLongError(Exception):
    """A text is too long, and the settings do not allow or achieve shortening it."""


class RequestParts:
    """Embeds the rows of one request of a task, and collects the errors of single texts."""

    def __init__(self, requester: Requester, task: "EmbeddingTask") -> None:
        self._requester, self._settings, self._task = requester, requester.settings, task
        self._answered = False
        self._errors: list[EmbeddingError] = []

    async def embed_all(self, rows: Sequence[int]) -> None:
        """Request the vectors of all rows; the task stores those of each answer.

        Raises
        ------
        EmbeddingError   as `Requester.request`; for a text that is too long or gets no vector, with its index, after
                         the others were embedded
        """
        with tracing.embedding(self._settings.model, len(rows), "openai"):
            await self._embed(rows, self._settings.max_retries)
        if self._errors:
            raise self._errors[0]

    async def _embed(self, rows: Sequence[int], retries: int) -> None:
        tokens = [self._task.tokens[row] for row in rows]
        for run in plan_requests(tokens, self._requester.limits):
            part, size = rows[run.start : run.stop], sum(tokens[run.start : run.stop])
            alone = len(part) == 1
            if alone and self._settings.is_too_long(size):
                await self._embed_long(part[0], None)
                continue
            texts = [self._task.texts[row] for row in part]
            answer = await self._requester.request(
                texts, size, self._task, retries, quiet=alone and self._answered, rows=part
            )
            if not isinstance(answer, Refusal):
                self._answered = True
                if answer.empty:
                    await self._embed([part[at] for at in answer.empty], min(1, retries))
            elif not alone:
                await self._embed_in_parts(part, answer)
            elif answer.too_long and not (answer.status == 429 and self._settings.on_too_long == "error"):
                await self._embed_long(part[0], answer)
            else:
                index = self._task.index_of(part[0])
                self._add_error(EmbeddingError(f"text {index} has no vector: {answer.described()}"))

    async def _embed_in_parts(self, rows: Sequence[int], refusal: Refusal) -> None:
        """After a refusal of several texts: send the text that the server named and the others apart, or parts."""
        most, tokens = self._settings.max_retries, self._task.tokens
        retries = most if refusal.splits else min(1, most)
        _LOG.info("%s; %d texts are sent in parts. It said: %s", refusal.message, len(rows), refusal.words())
        if not refusal.splits and not await self._answers_one_of(rows):
            raise EmbeddingError(refusal.described())
        at = refusal.position
        if at is not None and at < len(rows) and refusal.too_long:
            await self._embed_long(rows[at], None)
            await self._embed([*rows[:at], *rows[at + 1 :]], retries)
            return
        n, failed = len(rows), len(self._errors)
        step = math.ceil(n / min(n, 2 if refusal.fits is None else math.ceil(1 / refusal.fits)))
        if refusal.too_many_texts:
            self._lower(max_request_texts=max(1, n // 2))
        parts = [rows[start : start + step] for start in range(0, n, step)]
        for part in parts:
            await self._embed(part, retries)
        if refusal.too_long and not refusal.too_many_texts and len(self._errors) == failed:
            fitted = max(sum(tokens[row] for row in part) for part in parts)
            self._lower(max_request_tokens=max(fitted, self._requester.limits.max_input_tokens))

    def _lower(self, **limits: int) -> None:
        """Lower the limits of one request, learned from a refusal."""
        now = self._requester.limits
        self._requester.limits = replace(now, **{name: min(getattr(now, name), n) for name, n in limits.items()})

    async def _answers_one_of(self, rows: Sequence[int]) -> bool:
        """Whether the server works: it has answered before, or answers the first or the last text alone."""
        for row in () if self._answered else (rows[0], rows[-1]):
            answer = await self._requester.request(
                [self._task.texts[row]], self._task.tokens[row], self._task, 0, quiet=True
            )
            if not isinstance(answer, Refusal):
                self._answered = True  # the text is requested again with the others: simpler, and cheap
                break
        return self._answered

    async def _embed_long(self, row: int, refusal: Refusal | None) -> None:
        """Embed a text that is too long, according to ``on_too_long``."""
        try:
            if self._settings.on_too_long == "truncate":
                vector = await self._truncated(row, refusal)
            elif self._settings.on_too_long == "split_mean":
                vector = weighted_mean(await self._halved(self._task.texts[row], whole=True))
            else:
                raise _TooLongError
        except _TooLongError:
            said = refusal.words() if refusal is not None else ""
            error = self._settings.too_long(self._task.index_of(row))
            self._add_error(EmbeddingError(f'{error}. The server says: "{said}"') if said else error)
            return
        self._answered = True
        await background().in_worker(self._task.store, [row], vector[None, :], False)

    async def _truncated(self, row: int, refusal: Refusal | None) -> Vectors:
        beginning = self._task.texts[row]
        while True:
            beginning = truncated(beginning, self._settings.limits.max_input_tokens, self._settings.counter, refusal)
            if not beginning:
                raise _TooLongError
            tokens = min(self._task.tokens[row], len(beginning.encode()))
            answer = await self._requester.request([beginning], tokens, self._task)
            if not isinstance(answer, Refusal):
                return np.ascontiguousarray(answer.vectors[0])
            refusal = answer

    async def _halved(self, text: str, whole: bool = False) -> list[tuple[Vectors, int]]:
        """Halve a text until its parts fit; returns their vectors and sizes, which are the weights of the mean.

        ``whole`` : the text is known not to fit
        """
        counter = self._settings.counter
        size = counter(text) if counter is not None else len(text.encode())
        if not whole and not self._settings.is_too_long(size):
            answer = await self._requester.request([text], size, self._task)
            if not isinstance(answer, Refusal):
                return [(answer.vectors[0], size)]
        smaller = [half for half in halves(text) if half.strip()]
        if not smaller or len(text) < 2:
            raise _TooLongError
        return [leaf for half in smaller for leaf in await self._halved(half)]

    def _add_error(self, error: EmbeddingError) -> None:
        """Record that one text is refused; raise the first such error if so many are that the rest is given up."""
        self._errors.append(error)
        if len(self._errors) >= (_ERRORS_AMONG_SUCCESSES if self._answered else _ERRORS_ALONE):
            raise self._errors[0]


def truncated(text: str, most: int, counter: Counter | None, refusal: Refusal | None) -> str:
    """The beginning of a text: as much as fits, by ``counter``; without one, a part of what the server refused.

    ``most`` : tokens allowed
    """
    if counter is not None:
        while text and (count := counter(text)) > most:
            text = text[: min(len(text) - 1, int(len(text) * most / count * _MARGIN) or 1)]
            refusal = None
        if refusal is None:
            return text
    if refusal is None:  # a token has about four characters
        return text[: min(len(text) - 1, most * 4)]
    return text[: int(len(text) * (refusal.fits or _BLIND))]


def halves(text: str) -> tuple[str, str]:
    """A text cut in two near its middle, between words if possible."""
    middle = len(text) // 2
    for distance in range(min(middle, 200)):
        for at in (middle - distance, middle + distance):
            if 0 < at < len(text) and text[at].isspace():
                return text[:at], text[at:]
    return text[:middle], text[middle:]


def weighted_mean(parts: Sequence[tuple[Vectors, int]]) -> Vectors:
    """The mean of vectors, weighted by the sizes of their texts; scaled to unit length if they all have it."""
    vectors = np.stack([vector for vector, _ in parts]).astype(np.float64)
    mean = np.average(vectors, axis=0, weights=[size for _, size in parts])
    length = float(np.linalg.norm(mean))
    if length > 0 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        mean /= length
    return mean.astype(np.float32)
