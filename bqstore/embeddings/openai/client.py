"""One request to an embeddings API, and the parsing of its answer; no cache, batches or retries.

The key is passed to the SDK's client. Servers quote keys and texts in their messages, so no exception of the SDK leaves
this module: each becomes a `Refusal`.
"""

import asyncio
import json
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ...errors import EmbeddingError, InvalidInputError
from ..protocol import Vectors
from .api_key import check_encrypted, find_key, import_openai, is_private, without_password
from .background import A_FEW, background
from .rate_limiter import StoppedError
from .refusals import Refusal, RefusalReader, lower
from .responses import count_tokens_of, decode

_OPENAI_URL = "https://api.openai.com/v1"
_FORMAT = re.compile(r"encoding.?format|base64", re.I)
_FORKED = (
    "the client that was given belongs to the process that this one was forked from, and two processes cannot share "
    "its connections; make client and embedder in this process"
)
_CLOSED = "the connections to the server are closed; make a new embedder"
_ASYNC_ALONE = "only an async_client was given: use aembed and aembed_query, or give a client, too"
_FORMATS = ("base64", "float", None)  # None: omit the field


@dataclass(frozen=True)
class Response:
    """The vectors of one request, float32 (n, dim), in the order of its texts."""

    vectors: Vectors
    tokens: int | None  # if the server stated them
    headers: Mapping[str, str] = field(repr=False)
    empty: Sequence[int] = ()  # the rows without a vector


class EmbeddingsClient:
    """A thread-safe client of OpenAI's embeddings API, around a client of the SDK that is made here or passed in.

    Raises as `OpenAIEmbedder`. ``timeout=None`` keeps the timeout of the client passed in.
    """

    def __init__(
        self,
        api_key: Any,
        base_url: str | None,
        timeout: float | None,
        client: Any = None,
        async_client: Any = None,
        *,
        allow_http: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._openai = openai = import_openai()
        self._timeout, self._headers = timeout, dict(headers or {})
        self._given, self._async, self._own, self._sync = client, async_client, None, None
        self.is_async = async_client is not None  # whether requests are made on the caller's event loop
        self._format, self._closed, self._pid = 0, False, os.getpid()
        for name, given, such in (
            ("client", client, "openai.OpenAI(...) or openai.AzureOpenAI(...)"),
            ("async_client", async_client, "openai.AsyncOpenAI(...)"),
        ):
            fits = hasattr(getattr(given, "embeddings", None), "with_raw_response") and hasattr(given, "base_url")
            if given is not None and not fits:
                kind = type(given).__name__
                raise InvalidInputError(
                    f"{name} is of type {kind}; expected one of the openai package's, such as {such}"
                )
        if client is None and async_client is None:
            if base_url is not None and not isinstance(base_url, str):
                raise InvalidInputError(f"base_url is of type {type(base_url).__name__}; expected a string")
            self.endpoint = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL).strip()
            check_encrypted(self.endpoint, allow_http)
            if "?" in self.endpoint or "#" in self.endpoint:
                raise InvalidInputError(
                    "base_url holds a query (?) or a fragment (#), to which no path can be appended; leave it "
                    "out. For Azure, pass client=openai.AzureOpenAI(...)"
                )
            self._key = find_key(api_key, self.endpoint == _OPENAI_URL)
            self._begin()
        self.endpoint = str((self._own or client or async_client).base_url)
        check_encrypted(self.endpoint, allow_http, warn=self._own is None)
        if client is not None and async_client is not None and str(async_client.base_url) != self.endpoint:
            raise InvalidInputError("client and async_client talk to different servers; expected the same base_url")
        self._server = urlsplit(self.endpoint).hostname or "the server"
        self._refusals = RefusalReader(openai, self.endpoint, self._server, self._secret)

    def for_batches(self) -> Any:
        """A synchronous client of the SDK. Raises EmbeddingError if only an async one was given."""
        if self._given is not None:
            return self._given
        if self._own is None:
            raise EmbeddingError(_ASYNC_ALONE)
        if self._sync is None:
            self._sync = self._connect(self._openai.OpenAI, self._openai.DefaultHttpxClient)
        return self._sync

    def close(self) -> None:
        """Close the connections, unless the client was passed in by the caller."""
        self._closed = True
        if self._sync is not None:
            self._sync.close()
        if self._own is not None and self._finalizer.detach() and self._pid == os.getpid():
            with suppress(Exception):  # Python is ending
                background().submit(self._own.close()).result(5)

    async def send(
        self,
        texts: Sequence[str],
        body: Mapping[str, Any],
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> Response | Refusal:
        """Request the vectors of ``texts`` once. Call it on the loop of `background`.

        ``body`` holds the other fields of the request, such as model and dimensions. ``loop`` is the caller's event
        loop, on which an async client runs.

        Raises EmbeddingError if there is no client to send with, StoppedError if the caller's loop was closed.
        """
        model, n, asked = str(body.get("model")), len(texts), self._format
        timeout = self._timeout if timeout is None else timeout
        try:
            content, headers = await self._post(texts, body, timeout, loop)
        except (EmbeddingError, StoppedError):
            raise
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            if self._next_format(error, asked):
                return await self.send(texts, body, timeout, loop)
            return self._refusals.of_error(error, model, texts)
        if n <= A_FEW:
            return self._read([content], headers, texts, model)
        box = [content]  # so that parsing can release the 16 MB of a large answer
        del content
        return await background().in_worker(self._read, box, headers, texts, model)

    async def _post(
        self,
        texts: Sequence[str],
        body: Mapping[str, Any],
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> tuple[bytes, Mapping[str, str]]:
        own, fields = self._own is not None, {"encoding_format": _FORMATS[self._format] or self._openai.Omit(), **body}
        request: dict[str, Any] = {"model": fields.pop("model"), "input": list(texts), "extra_body": fields}
        request |= {} if timeout is None else {"timeout": timeout}
        if os.getpid() != self._pid:
            if not own:
                raise EmbeddingError(_FORKED)
            # after a fork: processes that share a connection would get each other's answers
            self._finalizer.detach()
            self._begin()
        if own:
            # texts go into `extra_body`: in `input` the SDK checks the type of each four times, some 10 us each
            fields["input"], request["input"] = request["input"], []
        elif self._headers:
            request["extra_headers"] = self._headers
        client = self._own or (self._given if loop is None else self._async)
        if client is None:
            raise EmbeddingError(_ASYNC_ALONE)
        if loop is None and (self._closed or (hasattr(client, "is_closed") and client.is_closed())):
            raise EmbeddingError(_CLOSED)
        create = partial((client if own else _without_retries(client)).embeddings.with_raw_response.create, **request)
        if loop is not None:
            raw = await _on_loop(loop, create())
        else:
            raw = await (create() if own else asyncio.wrap_future(_in_thread(create)))
        return raw.content, lower(raw.headers)

    def _begin(self) -> None:
        self._own = self._connect(self._openai.AsyncOpenAI, self._openai.DefaultAsyncHttpxClient)
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _close_later, self._own, self._pid)
        self._finalizer.atexit = False

    def _connect(self, sdk: Any, http: Any) -> Any:
        """A new client of the SDK. Raises EmbeddingError if the environment has unusable proxies or certificates."""
        host = urlsplit(self.endpoint).hostname or ""
        # no proxy within a private network; the hook checks redirects, which may lead to another host
        plain: dict[str, Any] = {"mounts": {"http://": None}} if is_private(host) else {}
        is_async = sdk is self._openai.AsyncOpenAI

        def check(request: Any) -> None:
            if urlsplit(str(request.url)).hostname != host:
                check_encrypted(str(request.url), warn=False)

        async def check_async(request: Any) -> None:
            check(request)

        key: Any = self._key
        hidden = hasattr(key, "get_secret_value")
        try:
            return sdk(
                api_key=key.get_secret_value() if hidden else key if is_async else lambda: asyncio.run(key()),
                base_url=self.endpoint,
                max_retries=0,
                http_client=http(event_hooks={"request": [check_async if is_async else check]}, **plain),
                default_headers=self._headers or None,
                timeout=self._timeout,
            )
        except Exception as error:
            failed, kind = without_password(str(error)), type(error).__name__  # a proxy's URL may hold a password
        if kind == "InvalidURL":
            raise InvalidInputError("base_url is not a URL that the openai package takes")
        raise EmbeddingError(
            f"no connection can be made in this environment ({kind}: {failed}); check HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        )

    def _next_format(self, error: Exception, asked: int) -> bool:
        """Switch to the next encoding format if the server refused the format ``asked``; returns whether to retry."""
        said = f"{getattr(error, 'param', '')} {str(getattr(error, 'body', ''))[:4_000]}"
        refused = getattr(error, "status_code", None) in (400, 422) and _FORMAT.search(said)
        if not refused or asked == len(_FORMATS) - 1:
            return False
        self._format = max(self._format, asked + 1)  # a concurrent request may have switched already
        return True

    def _read(self, box: list[Any], headers: Mapping[str, str], texts: Sequence[str], model: str) -> Response | Refusal:
        answer: Any = None
        broken, n = box[0][:1] in (b"", b"{", b"["), len(texts)  # if it cannot be parsed: truncated JSON
        try:
            answer = json.loads(box.pop())
        except (TypeError, ValueError, RecursionError) as error:
            broken = broken and not isinstance(error, RecursionError)
        data, said = (answer.get("data"), answer.get("error")) if isinstance(answer, dict) else (None, None)
        if isinstance(said, (dict, str)) and not data:  # handled as if sent with the status that it names
            code = str(said.get("code")) if isinstance(said, dict) else ""
            status = int(code) if code.isdigit() and 400 <= int(code) < 600 else 400
            return self._refusals.of_status(status, said, headers, model, texts)
        found = decode(data, n)
        if found is None or len(found[1]) == n:
            return Refusal(
                f"{self._server} answered for {model} with something else than {n} finite vectors of one dimension",
                "" if isinstance(answer, dict) else f"; check {self._refusals.base_url}",
                status=200,
                retryable=broken and answer is None,
                splits=found is not None and n > 1,
                headers=headers,
            )
        return Response(found[0], count_tokens_of(answer.get("usage")), headers, found[1])

    def _secret(self) -> str:
        key = getattr(self._own or self._given or self._async, "api_key", "")
        return key if isinstance(key, str) else ""


def _without_retries(client: Any) -> Any:
    """The client with its retries disabled, as `Requester` retries; unchanged if it has no such setting.

    Made for each request, since the caller may have changed the client's key.
    """
    try:
        return client.with_options(max_retries=0)
    except Exception:  # a subclass with another constructor
        return client


def _in_thread(request: Callable[[], Any]) -> "Future[Any]":
    """Make a request in a daemon thread, since no timeout ends an answer that arrives byte by byte."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(request())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="bqstore-openai", daemon=True).start()
    return future


async def _on_loop(loop: asyncio.AbstractEventLoop, request: Any) -> Any:
    """Await a request on another thread's event loop. Raises StoppedError if that loop was closed."""
    if loop.is_closed():
        request.close()
        raise StoppedError
    future = asyncio.run_coroutine_threadsafe(request, loop)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:  # a loop that is closing cancels its tasks
        raise StoppedError from None


def _close_later(client: Any, pid: int) -> None:
    """Close the connections of an embedder that was garbage-collected without `close`."""
    if pid == os.getpid():
        with suppress(Exception):
            background().submit(client.close())
