"""`OpenAIEmbedder`: the public calls, the threads that serve them, and what closing and forks do to these."""

import asyncio
import contextvars
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ...arguments import check_int, checked_keywords, shown
from ...errors import InvalidInputError
from ..disk_cache import KeyMaker, open_cache, user_cache_folder
from ..frameworks import FrameworkMixin
from ..ingest import STREAM_BATCH, CollectionMixin, EmbeddedBatches, check_batch, progress_line
from ..texts import as_list
from .api_key import hides_key
from .client import EmbeddingsClient, Refusal, Response
from .embedding_task import EmbeddingTask
from .estimate import estimate
from .packing import OPENAI, Limits
from .requester import Call, Requester, run_on_loop
from .settings import Settings
from .stream import stream_batches
from .usage import Estimate, Usage

if TYPE_CHECKING:
    from ..openai_batch.batch import EmbeddingBatch

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
OnTooLong = Literal["error", "truncate", "split_mean"]

_CALLERS = 64  # calls of `aembed` under way at once; more wait
_MOST_AHEAD = 1_000_000


class OpenAIEmbedder(CollectionMixin, FrameworkMixin):
    """Embeds with an OpenAI model, or with any server that speaks its API; threads may share it.

    Parameters
    ----------
    model : str                  the name of the model, which collections remember (`add_to`)
    dimensions : int, optional   ask for shorter vectors; only models of the third generation shorten them
    api_key : str, optional      otherwise the environment variable OPENAI_API_KEY
    base_url : str, optional     another server, by https unless it is on this machine; otherwise OPENAI_BASE_URL, or
                                 OpenAI's own
    cache : bool or path         True: the user's cache folder; a path: that folder; False: none
    max_concurrency : int        requests under way at once, in all threads; fewer while the server limits the rate
    client, async_client         clients of the openai package, such as Azure's. They are not closed. Their retries are
                                 turned off and made here. They check themselves where they are redirected to; the
                                 client that is made here follows no redirect to http
    max_retries : int            of each request, after 408, 409, 429, 5xx or a broken connection
    timeout : float              seconds for each try
    deadline : float, optional   seconds for each call, retries included; in a stream, for each batch
    on_too_long : str            what is done with a text that is longer than the model takes. "error": it is named by
                                 its index; "truncate": its beginning is embedded; "split_mean": its parts are, and
                                 their weighted mean is taken
    max_cache_bytes : int, optional   bound of the cache; the oldest entries are deleted first
    price : float, optional      US$ for a million tokens, if it is not the listed one
    progress : bool or callable  a callable is called with (done, total); True or None: a line on a terminal; False:
                                 nothing
    max_input_tokens, max_request_texts, max_request_tokens : int, optional
                                 the server's limits, if they are not OpenAI's: 8,192, 2,048 and 300,000

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no API key, or it holds characters that no key has
    InvalidInputError   a setting is unknown or out of range; the server would be reached by plain http
    StorageError        the cache folder that was named cannot be used

    Examples
    --------
    >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:  # the key is in OPENAI_API_KEY
    ...     vectors = embedder.embed(["Cats purr.", "Dogs bark."])
    >>> vectors.shape, vectors.dtype
    ((2, 1536), dtype('float32'))
    """

    model = ""  # so that one whose making failed has a repr
    dimensions: int | None = None
    _callers: Executor  # runs the calls of `aembed`
    _leaving: list[Executor]  # of calls that were interrupted; their requests still finish

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
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise InvalidInputError(f"progress is {shown(progress)}; expected a callable, True, False or None")
        if client is not None and (api_key is not None or base_url is not None):
            raise InvalidInputError("a client has a key and a server of its own: leave out api_key and base_url")
        limits = Limits(
            OPENAI.max_input_tokens if max_input_tokens is None else max_input_tokens,
            OPENAI.max_request_texts if max_request_texts is None else max_request_texts,
            OPENAI.max_request_tokens if max_request_tokens is None else max_request_tokens,
        )
        self._settings = Settings(
            model, dimensions, max_concurrency, max_retries, timeout, deadline, on_too_long, limits, price
        )
        self.model, self.dimensions, self._progress = model, self._settings.dimensions, progress
        self._client = EmbeddingsClient(api_key, base_url, self._settings.timeout, client, async_client)
        self._key_of = KeyMaker(self._client.endpoint, model, self.dimensions)
        self._cache = open_cache(cache, max_cache_bytes)
        self._start()

    def __repr__(self) -> str:
        return f"OpenAIEmbedder(model={self.model!r}, dimensions={self.dimensions})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an OpenAIEmbedder cannot be pickled: its key would travel along")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "OpenAIEmbedder":
        """The embedder itself, which any number may use: frameworks copy the settings that hold it."""
        return self

    __copy__ = __deepcopy__

    def close(self) -> None:
        """Wait for requests under way, and close the connections to the server; the cache needs no closing.

        Examples
        --------
        >>> embedder = OpenAIEmbedder("text-embedding-3-small")
        >>> embedder.close()  # or use it in a with statement
        """
        while self._leaving:
            self._leaving.pop().shutdown()
        self._callers.shutdown(wait=False)  # on an event loop, what is under way needs the loop to end
        self._callers = _new_callers()  # for later calls, which learn that it is closed
        self._client.close()

    def __enter__(self) -> "OpenAIEmbedder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def dim(self) -> int | None:
        """The dimension of the vectors, if it is known before the first text is embedded.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-large") as embedder:
        ...     embedder.dim
        3072
        """
        return self._requester.dim

    @property
    def usage(self) -> Usage:
        """What was requested since this embedder was made, and what it has cost.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small", price=0.5) as embedder:
        ...     vectors = embedder.embed(["Cats purr.", "Cats purr.", "Dogs bark."])
        ...     embedder.usage
        Usage(texts=2, tokens=20, requests=1, retried=0, cached=0, price=1e-05)
        """
        return self._requester.meter.read()

    def embed_query(self, text: str) -> Vectors:
        """The vector of one text, float32 (dim,). Raises as `embed`.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     embedder.embed_query("Which animals purr?").shape
        (512,)
        """
        return np.ascontiguousarray(self._embed([text], self._call(), _no_report)[0])

    def embed(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """The vectors of ``texts``.

        Texts in the cache are not requested. The others go out in requests that fit the API's limits, several at
        once; of equal texts only one is requested, in all threads of the process. Each answer is cached as it comes,
        so what was embedded before an error or Ctrl-C is not paid for again.

        Parameters
        ----------
        progress : callable, optional   called in this thread with (texts done, texts in all)

        Returns
        -------
        float32 (n, dim)    in the order of ``texts``

        Raises
        ------
        InvalidInputError   a text is empty or not a string; it is named by its index, and nothing was sent
        EmbeddingError      the server refused, cannot be reached or gave no vectors; the deadline is over; a text is
                            too long, and is named by its index

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     embedder.embed(["Cats purr.", "Dogs bark."]).shape
        (2, 512)
        """
        with self._reporting(progress) as report:
            return self._embed(texts, self._call(), report)

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """As `embed`, on an event loop: through ``async_client`` if there is one, else in a thread.

        Examples
        --------
        >>> import asyncio
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     asyncio.run(embedder.aembed(["Cats purr.", "Dogs bark."])).shape
        (2, 512)
        """
        call = self._call()
        loop = asyncio.get_running_loop()
        if self._client.is_async:

            def send(part: Sequence[str], timeout: float | None) -> Response | Refusal:
                request = self._client.send_async(part, self.model, self.dimensions, timeout)
                return run_on_loop(loop, request, call)

            call.send = send
        run = contextvars.copy_context().run
        try:
            # Threads of its own: the loop has few, and calls that wait in all of them wait for requests that need one.
            return await loop.run_in_executor(self._callers, run, self._embed, texts, call, _no_report)
        except asyncio.CancelledError:
            self._cancel(call)
            raise

    async def aembed_query(self, text: str) -> Vectors:
        """As `embed_query`, on an event loop. Raises as `embed`.

        Examples
        --------
        >>> import asyncio
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     asyncio.run(embedder.aembed_query("Which animals purr?")).shape
        (512,)
        """
        return np.ascontiguousarray((await self.aembed([text]))[0])

    def stream(
        self, texts: Iterable[str], *, batch: int = STREAM_BATCH, ahead: int | None = None
    ) -> Iterator[tuple[int, Vectors]]:
        """Embed any number of texts, batch by batch, in the memory of a few batches.

        The texts may be a generator: they are read as they are needed.

        Parameters
        ----------
        batch : int             texts in a batch
        ahead : int, optional   batches embedded while the caller works with one; ``2 * max_concurrency + 3`` otherwise

        Yields
        ------
        int, float32 (m, dim)   the index of the batch's first text, and the vectors of the batch; in order

        Raises as `embed`, after the batches before; a text is named by its index in all texts.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     for start, vectors in embedder.stream((f"text {i}" for i in range(250)), batch=100):
        ...         print(start, vectors.shape)
        0 (100, 512)
        100 (100, 512)
        200 (50, 512)
        """
        for start, _, vectors in self._batches(texts, batch, ahead):
            yield start, vectors

    def estimate(self, texts: Iterable[str], *, batch: bool = False) -> Estimate:
        """What `embed` would take: how many texts are cached, the tokens and requests of the rest, and the price.

        It sends nothing. Tokens are counted if tiktoken and its tables are on this machine; otherwise their number
        is bounded by the bytes of the texts.

        Parameters
        ----------
        batch : bool    through `batch`, which costs half

        Raises InvalidInputError as `embed`.

        Examples
        --------
        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     expected = embedder.estimate(["Cats purr.", "Dogs bark."])
        >>> expected.texts, expected.cached, expected.requests
        (2, 0, 1)
        """
        return estimate(texts, self._settings, self._cache, self._key_of, batch)

    def batch(self, folder: str | os.PathLike[str] | None = None, *, poll_seconds: float = 30.0) -> "EmbeddingBatch":
        """This model through OpenAI's Batch API: half the price, an answer within a day.

        Call ``submit(texts)`` on the result. At any later time, in this process or another, call ``submit(texts)``
        again, which sends nothing twice, and ``collect(wait=True)``. The cache of this embedder then holds the
        vectors: `embed` and `add_to` of the same texts request nothing. A text that is too long is refused, whatever
        ``on_too_long`` says.

        Parameters
        ----------
        folder : path, optional     keeps the state of jobs; otherwise a folder beside the user's cache of embeddings
        poll_seconds : float        between two looks at the server, while ``collect`` waits

        Raises EmbeddingError if only an async_client was given.

        Examples
        --------
        >>> texts = ["Cats purr.", "Dogs bark."]
        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     job = embedder.batch("batch-jobs")
        ...     ids = job.submit(texts)
        ...     vectors = job.collect(wait=True)
        >>> vectors.shape
        (2, 1536)
        """
        from ..openai_batch.batch import EmbeddingBatch  # here: that package builds on this one

        return EmbeddingBatch(
            self._client.sdk,
            self.model,
            dimensions=self.dimensions,
            folder=user_cache_folder().parent / "batches" if folder is None else folder,
            cache=self._cache,
            endpoint=self._client.endpoint,
            poll_seconds=poll_seconds,
            price=self._settings.price,
        )

    def _start(self, dim: int | None = None) -> None:
        """Make what the threads of this process share."""
        self._requester = Requester(self._settings)
        self._requester.dim = dim or self._requester.dim
        self._callers, self._leaving, self._pid = _new_callers(), [], os.getpid()

    def _call(self) -> Call:
        if os.getpid() != self._pid:  # a forked process has none of the threads that hold permits
            self._start(self.dim)
        return Call(self._send, self._settings.deadline)

    def _send(self, texts: Sequence[str], timeout: float | None) -> Response | Refusal:
        return self._client.send(texts, self.model, self.dimensions, timeout)

    def _cancel(self, call: Call) -> None:
        call.cancelled.set()
        self._requester.limiter.wake()

    def _task(self, texts: Sequence[str], indices: range, call: Call) -> EmbeddingTask:
        return EmbeddingTask(self._requester, self._cache, self._key_of, texts, indices, call)

    def _embed(self, texts: Sequence[str], call: Call, report: Progress) -> Vectors:
        texts = as_list(texts)
        task = self._task(texts, range(len(texts)), call)
        try:
            if len(task.requests) <= 1:  # a query: no threads to start, and Ctrl-C interrupts the request itself
                return task.finish(report)
            with self._pool(call, len(task.requests)) as pool:
                task.submit(pool)
                return task.finish(report)
        finally:
            task.close()

    def _batches(self, texts: Iterable[str], batch: int, ahead: int | None = None) -> EmbeddedBatches:
        batch, most = check_batch(batch), self._settings.max_concurrency
        ahead = 2 * most + 3 if ahead is None else check_int("ahead", ahead, 0, _MOST_AHEAD)
        call = self._call()

        def begin(part: Sequence[str], indices: range) -> EmbeddingTask:
            return self._task(part, indices, Call(self._send, self._settings.deadline, call.cancelled))

        with self._pool(call, most) as pool:
            yield from stream_batches(texts, begin, pool, batch, ahead)

    @contextmanager
    def _pool(self, call: Call, requests: int) -> Iterator[Executor]:
        """Threads for the requests of one call. Whatever ends it, requests under way finish and are stored."""
        pool = ThreadPoolExecutor(min(self._settings.max_concurrency, requests), "bqstore-openai")
        try:
            yield pool
        except Exception:
            self._cancel(call)
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:  # Ctrl-C, or the consumer stops: only `close` and Python's exit wait for the threads
            self._cancel(call)
            pool.shutdown(wait=False, cancel_futures=True)
            self._leaving.append(pool)
            raise
        else:
            pool.shutdown()

    @contextmanager
    def _reporting(self, progress: Progress | None = None) -> Iterator[Progress]:
        chosen = progress or self._progress
        if callable(chosen):
            yield chosen
        elif chosen is False:
            yield _no_report
        else:
            with progress_line(lambda: self.usage.price) as line:
                yield line


def _new_callers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CALLERS, "bqstore-openai-call")


def _no_report(done: int, total: int) -> None:
    """Report no progress."""
