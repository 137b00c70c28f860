"""OpenAI's embedding models: many texts in, float32 out. The story: cache, plan, ask, keep, put in order."""

import asyncio
import contextvars
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...arguments import checked_keywords
from ...errors import InvalidInputError
from ..bar import Bar
from ..cache import KeyMaker, open_cache, user_cache_folder
from ..checks import check_names, check_reported, checked_count, checked_dimensions, checked_folder, checked_seconds
from ..frameworks import ForFrameworks
from ..ingest import STREAM_BATCH, Batches, IntoStore
from ..openai_batch.batch import EmbeddingBatch
from .api_key import hides_key
from .client import Answer, EmbeddingsClient
from .embedding_task import Work
from .estimate import estimate
from .packing import Limits
from .prices import price_of
from .requester import Asker, Call, Settings, answer_on, call_for
from .stream import in_batches, listed
from .tokens import counter_for
from .usage import Estimate, Meter, Usage

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
OnTooLong = Literal["error", "truncate", "split_mean"]

_CALLERS = 64  # calls of `aembed` under way at once; more wait


class OpenAIEmbedder(IntoStore, ForFrameworks):
    """Embeds with an OpenAI model, or with any server that speaks its API; safe to use from several threads.

    Parameters
    ----------
    model : str                  the name of the model; also the provenance to store with a collection
    dimensions : int, optional   ask for shorter vectors; models of the third generation only
    api_key : str, optional      the environment variable OPENAI_API_KEY otherwise
    base_url : str, optional     another server; OPENAI_BASE_URL, or OpenAI's own, otherwise. https, but on this machine
    cache : bool or path         True: the user's cache folder; a path: that folder; False: none
    max_concurrency : int        requests under way at once, in all threads; fewer while the server says so
    client, async_client         of the openai package, ready made: Azure's, say. Used as they are, and not closed;
                                 their retries are made here. Where they follow redirects to is theirs to check: the
                                 client that is made here follows none to http
    max_retries : int            for each request, after 408, 409, 429, 5xx or a broken connection
    timeout : float              seconds for each try
    deadline : float, optional   seconds for each call in all; in a stream, for each batch
    on_too_long : str            a text longer than the model takes: "error" names it; "truncate" embeds its beginning;
                                 "split_mean" the parts of it, and takes their mean
    max_cache_bytes : int, optional   bound the cache; what was written first goes first
    price : float, optional      US$ a million tokens, if not as listed
    progress : bool or callable  a callable gets (done, in all); True or None: a line on a terminal; False: nothing
    max_input_tokens, max_request_texts, max_request_tokens : int, optional
                                 what the server takes, if not as OpenAI's: 8,192, 2,048 and 300,000

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no key, or what was given cannot be one
    InvalidInputError   a setting is out of range, or unknown; the server is not to be reached by https
    StorageError        the cache folder that was named cannot be used
    """

    model = ""  # so that one whose making failed has a repr
    dimensions: int | None = None

    @hides_key
    @checked_keywords
    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        cache: bool | str | os.PathLike[str] = True,
        max_concurrency: int = 8,
        client: Any = None,
        async_client: Any = None,
        max_retries: int = 8,
        timeout: float = 60.0,
        deadline: float | None = None,
        on_too_long: OnTooLong = "error",
        max_cache_bytes: int | None = None,
        price: float | None = None,
        progress: bool | Progress | None = None,
        max_input_tokens: int | None = None,
        max_request_texts: int | None = None,
        max_request_tokens: int | None = None,
    ) -> None:
        check_names(model, api_key, base_url)
        check_reported(progress)
        dimensions, cache = checked_dimensions(dimensions), checked_folder(cache)
        max_concurrency = checked_count("max_concurrency", max_concurrency, 1)
        max_retries = checked_count("max_retries", max_retries, 0)
        timeout = checked_seconds("timeout", timeout)
        deadline = None if deadline is None else checked_seconds("deadline", deadline)
        if on_too_long not in ("error", "truncate", "split_mean"):
            raise InvalidInputError(f'on_too_long is {on_too_long!r}; expected "error", "truncate" or "split_mean"')
        if client is not None and (api_key is not None or base_url is not None):
            raise InvalidInputError("a client has a key and a server of its own: leave out api_key and base_url")
        limits = Limits.of(max_input_tokens, max_request_texts, max_request_tokens)
        price = price_of(model, price=price)
        self.model, self.dimensions = model, dimensions
        self._deadline, self._progress, self._most = deadline, progress, max_concurrency
        self._client = EmbeddingsClient(api_key, base_url, timeout, client, async_client)
        self._key_of = KeyMaker(self._client.endpoint, model, dimensions)
        self._cache = open_cache(cache, max_cache_bytes)
        settings = Settings(model, dimensions, max_retries, timeout, on_too_long, limits, counter_for(model))
        self._asker = Asker(self._client, settings, max_concurrency, Meter(price))
        self._pid = os.getpid()
        self._leaving: list[Executor] = []
        self._callers = _callers()

    def __repr__(self) -> str:
        return f"OpenAIEmbedder(model={self.model!r}, dimensions={self.dimensions})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an OpenAIEmbedder does not travel: its key would travel along")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "OpenAIEmbedder":
        """The embedder itself, which any number may use: frameworks copy the settings that it stands in."""
        return self

    __copy__ = __deepcopy__

    def close(self) -> None:
        """Wait for what is under way, and close the connections to the server; the cache needs no closing."""
        while self._leaving:
            self._leaving.pop().shutdown()
        self._callers.shutdown(wait=False)  # on a loop: what is under way there needs the loop to end
        self._callers = _callers()  # for calls that come after all, and are told that it is closed
        self._client.close()

    def __enter__(self) -> "OpenAIEmbedder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def usage(self) -> Usage:
        """What was asked for since this embedder was made, and what it has cost."""
        return self._asker.meter.read()

    # ---- embedding

    def embed_query(self, text: str) -> Vectors:
        """The vector of one text, float32 (dim,). Raises as `embed`."""
        return np.ascontiguousarray(self._embed([text], self._call(), lambda done, total: None)[0])

    def embed(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """The vectors of ``texts``, float32 (n, dim), in their order.

        What is in the cache is not asked for; the rest goes out in requests that fit the API's limits,
        several at once, equal texts only once, in all threads of the process. Every answer is kept as it comes, so
        what was embedded before an error or Ctrl-C is not paid for again.

        Parameters
        ----------
        progress : callable, optional   called in this thread with (texts done, texts in all)

        Raises
        ------
        InvalidInputError   a text is empty or no string; it is named by its index, and nothing was sent
        EmbeddingError      the server refused, cannot be reached or answered with something else; the deadline is over;
                            a text that is too long is named by its index
        """
        with self._reporting(progress) as report:
            return self._embed(texts, self._call(), report)

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """As `embed`, on an event loop: through ``async_client`` if there is one, else in a thread."""
        call = self._call()
        loop = asyncio.get_running_loop()
        if self._client.is_async:

            def send(part: Sequence[str], timeout: float | None) -> Answer:
                asked = self._client.send_async(part, self.model, self.dimensions, timeout)
                return answer_on(loop, asked, call)

            call.send = send
        run = contextvars.copy_context().run
        try:
            # Threads of its own: the loop's are few, and what waits in them waits for requests that need one, too.
            return await loop.run_in_executor(self._callers, run, self._embed, texts, call, lambda done, total: None)
        except asyncio.CancelledError:
            self._give_up(call)
            raise

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`, on an event loop. Raises as `embed`."""
        return np.ascontiguousarray((await self.aembed([text]))[0])

    def stream(
        self, texts: Iterable[str], *, batch: int = STREAM_BATCH, ahead: int | None = None
    ) -> Iterator[tuple[int, Vectors]]:
        """The index of the first text and the vectors, float32 (m, dim), of one batch after another, in order.

        Takes the memory of a few batches, however many texts there are: they are read as they are needed, and
        ``ahead`` batches (``2 * max_concurrency + 3`` unless told) are embedded while the caller works with one.

        Raises as `embed`, after the batches before; the index is that in all of the texts.
        """
        for start, _, vectors in self._batches(texts, batch, ahead):
            yield start, vectors

    def estimate(self, texts: Iterable[str], *, batch: bool = False) -> Estimate:
        """What `embed` would take: how many texts are cached, how many tokens and requests the rest, and the price.

        batch : bool    through `batch`, which costs half

        Sends nothing. Raises InvalidInputError as `embed`.
        """
        per_million = self._asker.meter.per_million
        return estimate(texts, self._asker.settings, self._cache, self._key_of, per_million, batch)

    def batch(self, folder: str | os.PathLike[str] | None = None, *, poll_seconds: float = 30.0) -> EmbeddingBatch:
        """This model through OpenAI's Batch API: half the price, an answer within a day.

        ``batch.submit(texts)``, and any time later, in this process or another, ``batch.submit(texts)`` again, which
        sends nothing twice, and ``batch.collect(wait=True)``. What was collected is in this embedder's cache: then
        `embed` and `add_to` of the same texts ask for nothing.

        Parameters
        ----------
        folder : path, optional     keeps how far jobs are; beside the user's cache of embeddings unless told
        poll_seconds : float        between two looks, while ``collect`` waits

        Raises EmbeddingError if only an async_client was given. A text that is too long is refused, whatever
        ``on_too_long`` says.
        """
        return EmbeddingBatch(
            self._client.sdk,
            self.model,
            dimensions=self.dimensions,
            folder=user_cache_folder().parent / "batches" if folder is None else folder,
            cache=self._cache,
            endpoint=self._client.endpoint,
            poll_seconds=poll_seconds,
            price=self._asker.meter.per_million,
        )

    # ---- inside

    def _call(self) -> Call:
        if os.getpid() != self._pid:  # a fork: the threads that would have left the gate are not in this process
            meter = Meter(self._asker.meter.per_million)
            dim = self._asker.dim
            self._asker = Asker(self._client, self._asker.settings, self._most, meter)
            self._asker.dim, self._leaving, self._pid = dim, [], os.getpid()
            self._callers = _callers()
        return call_for(self._send, self._deadline)

    def _send(self, texts: Sequence[str], timeout: float | None) -> Answer:
        return self._client.send(texts, self.model, self.dimensions, timeout)

    def _give_up(self, call: Call) -> None:
        call.over.set()
        self._asker.limiter.wake()

    def _embed(self, texts: Sequence[str], call: Call, report: Progress) -> Vectors:
        texts = listed(texts)
        work = Work(self._asker, self._cache, self._key_of, texts, range(len(texts)), call)
        try:
            if len(work.requests) <= 1:  # a query: no threads to start, and Ctrl-C breaks the request itself off
                return work.finish(report)
            with self._pool(call, len(work.requests)) as pool:
                work.submit(pool)
                return work.finish(report)
        finally:
            work.close()

    @property
    def dim(self) -> int | None:
        """The dimension of what comes, if it is known before the first text is embedded."""
        return self._asker.dim

    def _batches(self, texts: Iterable[str], batch: int, ahead: int | None = None) -> Batches:
        batch = checked_count("batch", batch, 1)
        ahead = 2 * self._most + 3 if ahead is None else checked_count("ahead", ahead, 0)
        call = self._call()

        def begin(part: Sequence[str], indices: range) -> Work:
            mine = replace(call_for(self._send, self._deadline), over=call.over)
            return Work(self._asker, self._cache, self._key_of, part, indices, mine)

        with self._pool(call, self._most) as pool:
            yield from in_batches(texts, begin, pool, batch, ahead)

    @contextmanager
    def _pool(self, call: Call, requests: int) -> Iterator[Executor]:
        """Threads for the requests of one call. Whatever ends it, requests under way finish and are kept."""
        pool = ThreadPoolExecutor(min(self._most, requests), "bqstore-openai")
        try:
            yield pool
        except Exception:
            self._give_up(call)
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:  # Ctrl-C, or nobody takes the rest: only `close` and Python's exit wait for them
            self._give_up(call)
            pool.shutdown(wait=False, cancel_futures=True)
            self._leaving.append(pool)
            raise
        else:
            pool.shutdown()

    @contextmanager
    def _reporting(self, progress: Progress | None = None) -> Iterator[Progress]:
        """What to call with (done, in all)."""
        chosen = progress or self._progress
        if callable(chosen):
            yield chosen
        elif chosen is False:
            yield lambda done, total: None
        else:
            with Bar(lambda: self.usage) as bar:
                yield bar


def _callers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CALLERS, "bqstore-openai-call")
