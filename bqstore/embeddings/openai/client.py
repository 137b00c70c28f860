"""One request to an embeddings API, and what its answers and refusals mean. It knows no cache, batches or retries.

The key goes to the SDK's client and is kept nowhere else. Servers quote keys and texts in their messages, so the
SDK's exceptions end here: what a `Refusal` shows of the server's words is without them.
"""

import asyncio
import errno
import json
import os
import re
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ...errors import EmbeddingError, InvalidInputError
from .api_key import check_encrypted, find_key, is_private, without_secrets
from .background import background
from .rate_headers import retry_after
from .rate_limiter import StoppedError
from .responses import CODE, count_tokens_of, decode

Vectors = npt.NDArray[np.float32]

_OPENAI_URL = "https://api.openai.com/v1"
_LENGTH = re.compile(
    r"token|context|too (long|large|big)|(maximum|max|input|sequence) length|exceeds? |must have less", re.I
)
_TOO_MANY_TEXTS = re.compile(
    r"(?<!physical )batch|(too many|number of|at most \d+|array of) (\w+ )?(inputs?|texts|items|requests|instance)|"
    r"instance\(s\)|texts must|(array|inputs?).{0,40}(maximum|too) lon?g",
    re.I,
)
_TOO_BIG_FOR_LLAMA_CPP = re.compile(r"too large to process|input length exceeds", re.I)  # which answers with 500
_NAMED_INPUT = re.compile(r"input\[(\d{1,4})\]")
_LIMIT = re.compile(r"(?:length is|less than|maximum|max|limit:?) (\d{1,9}) ?(?:tokens)?", re.I)
_ASKED = re.compile(r"(?:requested:?|given:|you sent|has|input of) (\d{1,9})", re.I)
_FORMAT = re.compile(r"encoding_format|base64", re.I)
_FORKED = (
    "the client that was given belongs to the process that this one was forked from, and two processes cannot share "
    "its connections; make client and embedder in this process"
)
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_FORMATS = ("base64", "float", None)  # None: not named at all
_SPLIT = (400, 413, 422)


@dataclass(frozen=True)
class Response:
    """The vectors of one request, float32 (n, dim), in the order of its texts; ``tokens`` if the server said.

    ``empty`` : the rows for which the server gave none
    """

    vectors: Vectors
    tokens: int | None
    headers: Mapping[str, str] = field(repr=False)
    empty: Sequence[int] = ()


@dataclass(frozen=True)
class Refusal:
    """Why a request was not answered with vectors.

    Attributes
    ----------
    message, advice : str       of the error, should this be the last try; the number of retries goes between them
    status : int                of HTTP; None if the server did not answer
    words : callable            what the server said, without key and texts
    retryable : bool            another try may succeed
    rate_limited : bool         too much was asked in too short a time
    retry_after : float         seconds to wait before another try, if the server said
    splits : bool               a part of the request may be answered
    too_long : bool             the request or a text in it is too big
    too_many_texts : bool       it is the number of texts that is too big
    position : int              of the text that is too long, if the server said
    fits : float                the fraction of the request that would fit, by the numbers the server named
    """

    message: str
    advice: str = ""
    status: int | None = None
    words: Callable[[], str] = field(default=lambda: "", repr=False)
    retryable: bool = False
    rate_limited: bool = False
    retry_after: float | None = None
    splits: bool = False
    too_long: bool = False
    too_many_texts: bool = False
    position: int | None = None
    fits: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class EmbeddingsClient:
    """A client of OpenAI's embeddings API for any number of threads: the SDK's, made here or given.

    ``timeout`` : seconds; None for that of the client that was given.

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no key, what was given cannot be one, or the environment lets no client be made
    InvalidInputError   what was given is no client, or the server is not to be reached by https
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
        threads: int = 8,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            message = 'OpenAIEmbedder needs the openai package: pip install "bqstore[openai]"'
            raise ImportError(message, name="openai") from error
        self._openai, self._timeout, self._headers, self._threads = openai, timeout, dict(headers or {}), threads
        self._given, self._async, self._own, self._sync = client, async_client, None, None
        self._format, self._closed, self._pid = 0, False, os.getpid()
        self._pool: ThreadPoolExecutor | None = None  # for a client that was given and is not async
        for name, given in (("client", client), ("async_client", async_client)):
            if given is not None:
                _check_client(given, name)
        if client is None and async_client is None:
            self._key = find_key(api_key)
            if base_url is not None and not isinstance(base_url, str):
                raise InvalidInputError(f"base_url is of type {type(base_url).__name__}; expected a string")
            self.endpoint = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL).strip()
            check_encrypted(self.endpoint, allow_http)
            self._own = self._connect(openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient)
            self._finalizer = weakref.finalize(self, _close_later, self._own, self._pid)
            self._finalizer.atexit = False
        self.endpoint = str((self._own or client or async_client).base_url)
        check_encrypted(self.endpoint, allow_http, warn=self._own is None)
        if client is not None and async_client is not None and str(async_client.base_url) != self.endpoint:
            raise InvalidInputError("client and async_client talk to different servers; expected the same base_url")
        self._server = urlsplit(self.endpoint).hostname or "the server"

    @property
    def is_async(self) -> bool:
        """Whether there is a client of the caller's event loop."""
        return self._async is not None

    def for_batches(self) -> Any:
        """A synchronous client of the SDK. Raises EmbeddingError if only an async one was given."""
        if self._given is not None:
            return self._given
        if self._own is None:
            raise EmbeddingError("only an async_client was given: use aembed and aembed_query, or give a client, too")
        if self._sync is None:
            self._sync = self._connect(self._openai.OpenAI, self._openai.DefaultHttpxClient)
        return self._sync

    def close(self) -> None:
        """Close the connections to the server, unless the client is the caller's."""
        self._closed = True
        if self._sync is not None:
            self._sync.close()
        if self._own is not None and self._finalizer.detach() and self._pid == os.getpid():
            with suppress(Exception):  # Python is ending
                background().submit(self._own.close()).result(5)
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    async def send(
        self,
        texts: Sequence[str],
        body: Mapping[str, Any],
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> Response | Refusal:
        """Request the vectors of ``texts`` once; to be awaited on the loop of `background`.

        Parameters
        ----------
        body : mapping              the rest of the request: model and dimensions, say
        timeout : float, optional   for this try; the client's own otherwise
        loop : optional             the caller's, on which the async client works

        Raises EmbeddingError if there is no client to send it with, StoppedError if the caller's loop has ended.
        """
        model, n = str(body.get("model")), len(texts)
        if timeout is None:
            timeout = self._timeout
        try:
            if self._own is not None:
                content, headers = await self._send_own(texts, body, timeout)
            else:
                content, headers = await self._send_given(texts, body, timeout, loop)
        except (EmbeddingError, StoppedError):
            raise
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            if self._next_format(error):
                return await self.send(texts, body, timeout, loop)
            return self._refusal(error, model, texts)
        if n <= 16:  # it takes less time than to hand it over
            return self._read([content], headers, texts, model)
        box = [content]  # for nobody but the reader to hold the 16 MB of a large answer
        del content
        return await background().in_worker(self._read, box, headers, texts, model)

    async def _send_own(
        self, texts: Sequence[str], body: Mapping[str, Any], timeout: float | None
    ) -> tuple[bytes, Mapping[str, str]]:
        if self._closed:
            raise EmbeddingError("the connections to the server are closed; make a new embedder")
        if os.getpid() != self._pid:
            # After a fork: two processes that talk over one connection get each other's answers.
            self._finalizer.detach()
            self._own, self._pid = (
                self._connect(self._openai.AsyncOpenAI, self._openai.DefaultAsyncHttpxClient),
                os.getpid(),
            )
            self._finalizer = weakref.finalize(self, _close_later, self._own, self._pid)
            self._finalizer.atexit = False
        import httpx

        chosen = _FORMATS[self._format]
        request = {"input": list(texts), **body} | ({} if chosen is None else {"encoding_format": chosen})
        options = {} if timeout is None else {"timeout": timeout}
        # not by `embeddings.create`, which checks the type of each text four times, some 10 us each
        assert self._own is not None
        raw = await self._own.post("/embeddings", cast_to=httpx.Response, body=request, options=options)
        return raw.content, _lower(raw.headers)

    async def _send_given(
        self,
        texts: Sequence[str],
        body: Mapping[str, Any],
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> tuple[bytes, Mapping[str, str]]:
        if os.getpid() != self._pid:
            raise EmbeddingError(_FORKED)
        known = {name: body[name] for name in ("model", "dimensions", "user") if name in body}
        extra = {name: value for name, value in body.items() if name not in known}
        request: dict[str, Any] = {"input": list(texts), "encoding_format": _FORMATS[self._format] or "float", **known}
        request |= {"extra_body": extra} if extra else {}
        request |= {"extra_headers": self._headers} if self._headers else {}
        request |= {} if timeout is None else {"timeout": timeout}
        if loop is not None:
            raw = await _on_loop(loop, _without_retries(self._async).embeddings.with_raw_response.create(**request))
        else:
            client = self._given
            if client is None:
                raise EmbeddingError(
                    "only an async_client was given: use aembed and aembed_query, or give a client, too"
                )
            if self._closed or (hasattr(client, "is_closed") and client.is_closed()):
                raise EmbeddingError("the connections to the server are closed; make a new embedder")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "bqstore-openai")
            create = _without_retries(client).embeddings.with_raw_response.create
            raw = await asyncio.wrap_future(self._pool.submit(create, **request))
        return raw.content, _lower(raw.headers)

    def _connect(self, sdk: Any, http: Any) -> Any:
        """A client of the SDK. Raises EmbeddingError for what is wrong in the environment."""
        host = urlsplit(self.endpoint).hostname or ""
        # within the private network there is no proxy in between; a redirect could lead away from the server
        plain: dict[str, Any] = {"mounts": {"http://": None}} if is_private(host) else {}
        is_async = sdk is self._openai.AsyncOpenAI

        def check(request: Any) -> None:
            if urlsplit(str(request.url)).hostname != host:
                check_encrypted(str(request.url), warn=False)

        async def check_async(request: Any) -> None:
            check(request)

        key: Any = self._key
        if hasattr(key, "get_secret_value"):
            key = key.get_secret_value()
        elif not is_async:
            provide = key
            key = lambda: asyncio.run(provide())  # noqa: E731
        try:
            made = http(event_hooks={"request": [check_async if is_async else check]}, **plain)
            options = {} if self._timeout is None else {"timeout": self._timeout}
            headers = self._headers or None
            return sdk(
                api_key=key, base_url=self.endpoint, max_retries=0, http_client=made, default_headers=headers, **options
            )
        except Exception as error:
            said = re.sub(r"//[^/@\s]*@", "//", str(error))  # the password of a proxy
            failed, kind = f"{type(error).__name__}: {said}", type(error).__name__
        if kind == "InvalidURL":
            raise InvalidInputError("base_url is not a URL that the openai package takes")
        raise EmbeddingError(
            f"no connection can be made in this environment ({failed}); check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, "
            "SSL_CERT_FILE and SSL_CERT_DIR"
        )

    def _next_format(self, error: Exception) -> bool:
        """Whether a server that takes no base64, or no ``encoding_format``, is asked in another way from now on."""
        refused = getattr(error, "status_code", None) in (400, 422) and _FORMAT.search(_words(error))
        last = len(_FORMATS) - (1 if self._own is not None else 2)
        if refused and self._format < last:
            self._format += 1
            return True
        return False

    def _read(self, box: list[Any], headers: Mapping[str, str], texts: Sequence[str], model: str) -> Response | Refusal:
        answer: Any = None
        broken = False
        content = box.pop()
        try:
            answer = json.loads(content)
        except RecursionError:
            pass
        except (TypeError, ValueError):
            broken = bytes(content[:1]) in (b"{", b"[")  # JSON that breaks off
        del content
        if isinstance(answer, dict) and isinstance(answer.get("error"), (dict, str)) and not answer.get("data"):
            return self._refused_with_200(answer["error"], headers, model, texts)
        n = len(texts)
        found = decode(answer.get("data"), n) if isinstance(answer, dict) else None
        if found is None or len(found[1]) == n:
            splits = found is not None and n > 1
            message = (
                f"{self._server} answered for {model} with something else than {n} finite vectors of one dimension"
            )
            advice = "" if isinstance(answer, dict) else f"; check base_url, which is {self.endpoint}"
            return Refusal(message, advice, status=200, retryable=broken, splits=splits, headers=headers)
        vectors, empty = found
        return Response(vectors, count_tokens_of(answer.get("usage")), headers, empty)

    def _refused_with_200(self, said: Any, headers: Mapping[str, str], model: str, texts: Sequence[str]) -> Refusal:
        """What an error in an answer with status 200 means: what it would with the status that it names."""
        code = str(said.get("code")) if isinstance(said, dict) else ""
        status = int(code) if code.isdigit() and 400 <= int(code) < 600 else 400
        return self._refused(status, said, headers, model, texts)

    def _refusal(self, error: Exception, model: str, texts: Sequence[str]) -> Refusal:
        """What an error of the SDK means."""
        openai, server = self._openai, self._server
        if isinstance(error, InvalidInputError) or isinstance(error.__cause__, InvalidInputError):  # check's
            return Refusal(f"{server} redirects to a server over http://, where texts could be read on the way")
        if isinstance(error, openai.APITimeoutError):
            return Refusal(f"{server} did not answer in time", retryable=True)
        if isinstance(error, openai.APIConnectionError):
            why = _why_unreachable(error)
            advice = f"; {why}check the network and base_url"
            return Refusal(f"{server} cannot be reached", advice, retryable=not why)
        if not isinstance(error, openai.APIStatusError):
            return Refusal(f"{server} gave an answer that cannot be read ({type(error).__name__})")
        said = error.body if error.body is not None else error.message
        return self._refused(error.status_code, said, _lower(error.response.headers), model, texts)

    def _refused(self, status: int, body: Any, headers: Mapping[str, str], model: str, texts: Sequence[str]) -> Refusal:
        """What a status of HTTP with a body means."""
        server, fields = self._server, body if isinstance(body, dict) else {}
        code, kind, param = (str(fields.get(name) or "") for name in ("code", "type", "param"))
        said = _message_of(body)
        everything = (
            f"{code} {kind} {param} {str(body)[:4_000]}"  # other servers put their message elsewhere than OpenAI
        )
        shown = next((word for word in (code, kind) if word in _QUOTA_CODES), code)
        what = f"HTTP {status}" + (f", {shown}" if CODE.fullmatch(shown) else "")
        fits = _fraction_that_fits(everything)
        splits = (
            (status in _SPLIT and param not in ("model", "dimensions", "encoding_format", "user"))
            or (status == 500 and bool(_TOO_BIG_FOR_LLAMA_CPP.search(everything)))
            or (status == 429 and fits is not None)  # which would not help to wait for
        )
        quota_used_up = status == 429 and bool({code, kind} & _QUOTA_CODES)
        rate_limited = status == 429 and not quota_used_up and not splits
        named = _NAMED_INPUT.search(everything)
        to_set = "; servers other than OpenAI's may want it to end in /v1" if "/v1" not in self.endpoint else ""
        reason = {
            401: "refused the API key; check api_key or OPENAI_API_KEY",
            403: f"does not let this API key use {model}",
            404: f"knows no model {model}; check model and base_url, which is {self.endpoint}{to_set}",
            429: "refused the request for its rate limit"
            if not quota_used_up
            else "says that the account's quota is used up; check its plan and billing",
        }.get(status, f"refused to embed with {model}")
        return Refusal(
            f"{server} {reason} ({what})",
            "; wait, lower max_concurrency, or check the account's limits" if rate_limited else "",
            status=status,
            words=lambda: without_secrets(said, texts, self._secret()),
            retryable=not splits and (rate_limited or status in (408, 409) or (status >= 500 and status != 501)),
            rate_limited=rate_limited,
            retry_after=retry_after(headers, time.time()),
            splits=splits,
            too_long=splits and (status in (413, 429, 500) or bool(_LENGTH.search(everything))),
            too_many_texts=bool(_TOO_MANY_TEXTS.search(everything)),
            position=int(named[1]) if named else None,
            fits=fits,
            headers=headers,
        )

    def _secret(self) -> str:
        key = getattr(self._own or self._given or self._async, "api_key", "")
        return key if isinstance(key, str) else ""


def _check_client(given: Any, name: str) -> None:
    if not hasattr(getattr(given, "embeddings", None), "with_raw_response") or not hasattr(given, "base_url"):
        raise InvalidInputError(
            f"{name} is of type {type(given).__name__}; expected one of the openai package's, such as "
            + ("openai.AsyncOpenAI(...)" if name == "async_client" else "openai.OpenAI(...) or openai.AzureOpenAI(...)")
        )


def _without_retries(client: Any) -> Any:
    """The client with retries turned off, which are made here; one that has no such setting keeps its own.

    Made for each request: its owner may have given it another key.
    """
    try:
        return client.with_options(max_retries=0)
    except Exception:  # a subclass with another constructor
        return client


async def _on_loop(loop: asyncio.AbstractEventLoop, request: Any) -> Any:
    """Await a request on the event loop of another thread. Raises StoppedError if that has ended."""
    if loop.is_closed():
        request.close()
        raise StoppedError
    future = asyncio.run_coroutine_threadsafe(request, loop)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:  # as a loop that ends cancels all that is under way
        raise StoppedError from None


def _close_later(client: Any, pid: int) -> None:
    """Close the connections of an embedder that was dropped without being closed."""
    if pid == os.getpid():
        with suppress(Exception):
            background().submit(client.close())


def _why_unreachable(error: BaseException | None) -> str:
    """What no other try can mend, such as a refused connection; "" if it may be mended."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({one.verify_message}); "
        if isinstance(one, ConnectionRefusedError):
            return "it refused the connection, as where no server runs; "
        if isinstance(one, socket.gaierror) and one.errno == socket.EAI_NONAME:
            return "no host has this name; "
        if isinstance(one, OSError) and one.errno == errno.ENETUNREACH:
            return "there is no way to its network; "
        left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return ""


def _message_of(body: Any) -> str:
    """The server's own words in the body of a refusal."""
    for _ in range(4):
        if isinstance(body, dict):
            body = next((body[name] for name in ("message", "detail", "error", "msg") if body.get(name)), "")
        elif isinstance(body, list):
            body = body[0] if body else ""
    return body if isinstance(body, str) else ""


def _words(error: Exception) -> str:
    return f"{getattr(error, 'param', '')} {str(getattr(error, 'body', ''))[:4_000]}"


def _fraction_that_fits(said: str) -> float | None:
    limit, asked = _LIMIT.search(said), _ASKED.search(said)
    if limit is None or asked is None or not 0 < int(limit[1]) < int(asked[1]):
        return None
    return int(limit[1]) / int(asked[1]) * 0.98


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}
