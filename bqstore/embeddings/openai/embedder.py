"""`OpenAIEmbedder`: its public calls, and how they handle closing, forks and Ctrl-C."""

import asyncio
import contextvars
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from ...arguments import check_bool, check_int, checked_keywords, shown
from ...errors import InvalidInputError
from ..base import EmbeddedBatches, EmbedderBase
from ..disk_cache import open_cache, user_cache_folder
from ..ingest import STREAM_BATCH, check_batch, progress_line
from ..protocol import Vectors
from ..texts import as_list
from .api_key import hides_key
from .background import A_FEW, background
from .client import EmbeddingsClient
from .embedding_task import EmbeddingTask, Progress, Side, stop
from .estimate import Estimate, estimate
from .packing import Limits
from .prices import Usage
from .requester import Requester
from .responses import native_dim
from .settings import Settings
from .stream import stream_batches

if TYPE_CHECKING:
    from ..openai_batch.batch import EmbeddingBatch

OnTooLong = Literal["error", "truncate", "split_mean"]

_MOST_AHEAD = 1_000_000
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TIMEOUT = 60.0  # compared by identity: by default a client that was passed in keeps its own timeout


class OpenAIEmbedder(EmbedderBase[Side]):
    """Embeds with an OpenAI model, or a model of any server with OpenAI's API. Thread-safe.

    Parameters
    ----------
    model : str                  the model's name, which collections remember (`add_to`)
    dimensions : int, optional   request shorter vectors; of OpenAI's models only text-embedding-3 supports it
    api_key : optional           a string, a pydantic SecretStr, or a function that returns one, called for each
                                 request; by default the environment variable OPENAI_API_KEY
    base_url : str, optional     the server's URL; by default OPENAI_BASE_URL, or OpenAI's. To public hosts it must be
                                 https; http to a private network gives a warning
    allow_http : bool            allow http to any server, without a warning: others can read key and texts in transit
    cache : bool or path         True: the user's cache folder; a path: that folder; False: none
    max_concurrency : int        concurrent requests, of all threads together; fewer while the server limits the rate
    client, async_client         clients of the openai package, such as Azure's. They are not closed, and their retries
                                 are disabled: the embedder retries. It follows no redirect to http with a client of its
                                 own; for a client passed in, checking redirects is left to that client
    max_retries : int            retries of each request after 408, 409, 429, 5xx or a broken connection. A 429 that
                                 states a wait is not counted for ten minutes, or until the deadline
    timeout : float              seconds to wait for the server in each attempt; by default a client passed in keeps its
                                 own timeout
    deadline : float, optional   seconds per call including retries; in a stream, for the batches requested together
    on_too_long : str            what to do with a text longer than the model accepts: "error": raise, with the text's
                                 index; "truncate": embed its beginning; "split_mean": embed its parts, and take their
                                 weighted mean
    max_cache_bytes : int, optional   limit of the cache's size; the oldest entries are deleted first
    price : float, optional      US$ per million tokens, if it differs from the listed price
    progress : bool or callable  a callable is called with (done, total); True or None: a line on a terminal; False:
                                 nothing
    max_input_tokens, max_request_texts, max_request_tokens : int, optional
                                 the server's limits, if they differ from OpenAI's: 8,192, 2,048 and 300,000
    document_prefix, query_prefix : str
                                 prepended to each text of `embed` and of `embed_query`, as some models require
    extra_headers : dict, optional   HTTP headers added to each request
    extra_body : dict, optional      fields added to each request, such as ``{"input_type": "passage"}``
    query_body : dict, optional      fields added for `embed_query` only; they override those of ``extra_body``

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no API key, or it is malformed; the environment names a proxy or certificates that
                        cannot be used
    InvalidInputError   a setting is unknown or out of range; a public server would be reached over http
    StorageError        the given cache folder cannot be used

    >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:  # the key is in OPENAI_API_KEY
    ...     vectors = embedder.embed(["Cats purr.", "Dogs bark."])
    >>> vectors.shape, vectors.dtype
    ((2, 1536), dtype('float32'))
    """

    model = ""  # for `repr` of an object whose constructor failed
    dimensions: int | None = None
    _active: set[Future[None]]  # the running calls of this process

    @hides_key
    @checked_keywords
    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        api_key: Any = None,
        base_url: str | None = None,
        allow_http: bool = False,
        cache: bool | str | os.PathLike[str] = True,
        max_concurrency: int = 8,
        client: Any = None,
        async_client: Any = None,
        max_retries: int = 8,
        timeout: float = _TIMEOUT,
        deadline: float | None = None,
        on_too_long: OnTooLong = "error",
        max_cache_bytes: int | None = None,
        price: float | None = None,
        progress: bool | Progress | None = None,
        max_input_tokens: int | None = None,
        max_request_texts: int | None = None,
        max_request_tokens: int | None = None,
        document_prefix: str = "",
        query_prefix: str = "",
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        query_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise InvalidInputError(f"progress is {shown(progress)}; expected a callable, True, False or None")
        given = client is not None or async_client is not None
        if given and not (api_key is None and base_url is None):
            raise InvalidInputError("a client has a key and a server of its own: leave out api_key and base_url")
        limits = Limits.given(max_input_tokens, max_request_texts, max_request_tokens)
        self._settings = Settings(
            model, dimensions, max_concurrency, max_retries, timeout, deadline, on_too_long, limits, price
        )
        self.model, self.dimensions, self._progress = model, self._settings.dimensions, progress
        self._client = EmbeddingsClient(
            api_key,
            base_url,
            None if given and timeout is _TIMEOUT else self._settings.timeout,
            client,
            async_client,
            allow_http=check_bool("allow_http", allow_http),
            headers=_headers(extra_headers),
        )
        endpoint, extra = self._client.endpoint, _fields("extra_body", extra_body)
        of_questions = extra | _fields("query_body", query_body)
        self._passages = Side(endpoint, document_prefix, model, self.dimensions, extra)
        self._questions = Side(endpoint, query_prefix, model, self.dimensions, of_questions)
        self._cache = open_cache(cache, max_cache_bytes)
        self._start()

    def __repr__(self) -> str:
        return f"OpenAIEmbedder(model={self.model!r}, dimensions={self.dimensions})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an OpenAIEmbedder cannot be pickled: its key would travel along")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "OpenAIEmbedder":
        """The embedder itself, which is safe to share: frameworks copy settings that contain it."""
        return self

    __copy__ = __deepcopy__

    def close(self) -> None:
        """Wait for running requests, and close the connections to the server; the cache needs no closing.

        A call in another thread still succeeds if all its requests have been sent.

        >>> embedder = OpenAIEmbedder("text-embedding-3-small")
        >>> embedder.close()  # or use it in a with statement
        """
        if not self._client.is_async and self._pid == os.getpid():  # an async_client's calls need the caller's loop
            wait(list(self._active))
        self._client.close()

    @property
    def usage(self) -> Usage:
        """The requests made since this embedder was created, and their price.

        >>> with OpenAIEmbedder("text-embedding-3-small", price=0.5) as embedder:
        ...     vectors = embedder.embed(["Cats purr.", "Cats purr.", "Dogs bark."])
        ...     embedder.usage
        Usage(texts=2, tokens=20, requests=1, retried=0, cached=0, price=1e-05)
        """
        return self._requester.meter.read()

    def embed(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """The vectors of ``texts``, float32 (n, dim), in their order.

        Texts in the cache are not requested. The others are sent in concurrent requests that fit the API's limits;
        equal texts are sent once. Each answer is cached when it arrives, so texts embedded before an error or Ctrl-C
        are not paid for again. ``progress`` is called in this thread with (texts done, total).

        Raises
        ------
        InvalidInputError   a text is empty or not a string; the message has its index, and nothing was sent
        EmbeddingError      the server refused, cannot be reached or returned no vectors; the deadline has passed; a
                            text is too long or got no vector (the message has its index). Vectors that have arrived
                            are cached

        >>> with OpenAIEmbedder("text-embedding-3-small", dimensions=512) as embedder:
        ...     embedder.embed(["Cats purr.", "Dogs bark."]).shape
        (2, 512)
        """
        with self._reporting(progress) as report:
            return self._embed(texts, self._passages, report)

    def stream(
        self, texts: Iterable[str], *, batch: int = STREAM_BATCH, ahead: int | None = None
    ) -> Iterator[tuple[int, Vectors]]:
        """Embed any number of texts, batch by batch, in the memory of a few batches.

        The texts may be a generator, which is read as needed. Yields, for each batch in order, the index of its first
        text and its vectors, float32 (m, dim).

        Parameters
        ----------
        batch : int             texts per batch
        ahead : int, optional   batches embedded while the caller uses one; by default ``2 * max_concurrency + 3``

        Raises as `embed`, after yielding the earlier batches; messages give a text's index among all texts.

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
        """Estimate `embed`: how many texts are cached, the tokens and requests of the others, and the price.

        Sends nothing. Tokens are counted if tiktoken and its tables are installed (``exact`` is True). Otherwise
        ``tokens`` is an upper bound, the number of UTF-8 bytes, 2 to 4.5 times too high; ``least_tokens`` and
        ``least_price`` are the lower end of the range. ``batch`` : estimate for `batch`, which costs half.

        Raises InvalidInputError as `embed`.

        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     expected = embedder.estimate(["Cats purr.", "Dogs bark."])
        >>> expected.texts, expected.cached, expected.requests
        (2, 0, 1)
        """
        return estimate(texts, self._settings, self._cache, self._passages, batch)

    def batch(self, folder: str | os.PathLike[str] | None = None, *, poll_seconds: float = 30.0) -> "EmbeddingBatch":
        """Use this model through OpenAI's Batch API: half the price, results within a day.

        Call ``submit(texts)`` on the result. At any later time, in this process or another, call ``submit(texts)``
        again, which sends nothing twice, and ``collect(wait=True)``. The cache of this embedder then holds the
        vectors: `embed` and `add_to` of the same texts request nothing. A text that is too long is always refused;
        ``on_too_long`` does not apply.

        Parameters
        ----------
        folder : path, optional     keeps the state of jobs; by default a folder beside the user's embedding cache
        poll_seconds : float        interval of status requests while ``collect`` waits

        Raises EmbeddingError if only an async_client was given.

        >>> texts = ["Cats purr.", "Dogs bark."]
        >>> with OpenAIEmbedder("text-embedding-3-small") as embedder:
        ...     job = embedder.batch("batch-jobs")
        ...     ids = job.submit(texts)
        ...     vectors = job.collect(wait=True)
        >>> vectors.shape
        (2, 1536)
        """
        from ..openai_batch.batch import EmbeddingBatch  # imported here, since that package imports this one

        return EmbeddingBatch(
            self._client.for_batches(),
            self.model,
            dimensions=self.dimensions,
            folder=user_cache_folder().parent / "batches" if folder is None else folder,
            cache=self._cache,
            endpoint=self._client.endpoint,
            poll_seconds=poll_seconds,
            price=self._settings.price,
            limits=self._settings.limits,
            prefix=self._passages.prefix,
            extra=self._passages.extra,
        )

    def _known_dim(self) -> int | None:
        return self._requester.dim

    def _start(self, dim: int | None = None) -> None:
        """Create the state that all calls of this process share."""
        native = native_dim(self._client.endpoint, self.model)
        self._requester = Requester(self._settings, native, stores=self._cache is not None)
        self._requester.dim = dim or self._requester.dim
        self._active, self._pid = set(), os.getpid()

    def _task(
        self,
        texts: Sequence[str],
        side: Side,
        *,
        start: int = 0,
        cancelled: threading.Event | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> EmbeddingTask:
        if os.getpid() != self._pid:  # a forked process starts anew
            self._start(self.dim)
        return EmbeddingTask(
            self._requester,
            self._cache,
            side,
            texts,
            start,
            lambda part, timeout: self._client.send(part, side.body, timeout, loop),
            cancelled or threading.Event(),
        )

    def _submitted(self, task: EmbeddingTask) -> EmbeddingTask:
        self._active.add(task.submit())
        task.future.add_done_callback(self._active.discard)
        return task

    def _embed(self, texts: Sequence[str], side: Side, report: Progress | None = None) -> Vectors:
        task = self._task(as_list(texts), side)
        try:
            return self._submitted(task).finish(report)
        except BaseException as error:
            if not isinstance(error, Exception) and len(task.requests) == 1:  # Ctrl-C cancels a query
                task.future.cancel()
            stop([task], error)
            raise

    async def _aembed(self, texts: Sequence[str], side: Side) -> Vectors:
        loop = asyncio.get_running_loop() if self._client.is_async else None
        run, texts = contextvars.copy_context().run, as_list(texts)
        if self._cache is None and len(texts) <= A_FEW:
            task = self._task(texts, side, loop=loop)
        else:
            making = background().workers.submit(run, lambda: self._task(texts, side, loop=loop))
            task = await asyncio.wrap_future(making)
        answered = asyncio.wrap_future(self._submitted(task).future)
        try:
            await asyncio.shield(answered)
        except asyncio.CancelledError:
            answered.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio logs the error
            task.cancel()
            raise
        return task.finish()

    def _batches(self, texts: Iterable[str], batch: int, ahead: int | None = None) -> EmbeddedBatches:
        batch, most = check_batch(batch), self._settings.max_concurrency
        ahead = 2 * most + 3 if ahead is None else check_int("ahead", ahead, 0, _MOST_AHEAD)
        cancelled = threading.Event()

        def begin(part: Sequence[str], start: int) -> EmbeddingTask:
            return self._submitted(self._task(part, self._passages, start=start, cancelled=cancelled))

        return stream_batches(texts, begin, batch, ahead)

    def _reporting(self, progress: Progress | None = None) -> AbstractContextManager[Progress]:
        chosen = progress or self._progress
        if callable(chosen) or chosen is False:
            return nullcontext(chosen or (lambda done, total: None))
        return progress_line(lambda: self.usage.price)


def _fields(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {} if given is None else given
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        kind = type(given).__name__
        raise InvalidInputError(f"{name} is of type {kind}; expected a dictionary with strings as its keys")
    if "input" in given:
        raise InvalidInputError(f"{name} names input, which is the texts themselves; leave it out")
    try:
        json.dumps(dict(given), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} cannot be written as JSON: {error}") from None
    return dict(given)


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    headers = _fields("extra_headers", given)
    for name, value in headers.items():
        if not (_HEADER.fullmatch(name) and isinstance(value, str) and value.isascii() and value.isprintable()):
            raise InvalidInputError(
                f"extra_headers: {name!r} is no header; expected a name, and a value in ASCII letters"
            )
    return headers
