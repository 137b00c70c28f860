"""One request to an embeddings API, and what its answers and refusals mean. It knows no cache, batches or retries.

The key goes to the SDK's client and is kept nowhere else. Servers quote keys and texts in their messages, so the
SDK's exceptions end here: a `Refusal` carries nothing of what the server said but a short code.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ...errors import EmbeddingError, InvalidInputError
from .api_key import check_encrypted, find_key
from .rate_headers import retry_after
from .responses import CODE, decode

Vectors = npt.NDArray[np.float32]

_TOO_BIG = re.compile(
    r"(maximum|max\w*) (context|input|model|sequence) ?length|context.(length|size)|too many (tokens|texts)|"
    r"tokens per (submitted|request)|"
    r"max_tokens_per_request|must have less than|too (large|long)|above (the )?max|batch size|too many inputs|"
    r"(number|array) of inputs|maximum length|exceeds? (the )?(max|limit|context)",
    re.I,
)
_TOO_MANY_TEXTS = re.compile(
    r"(?<!physical )batch size|too many (inputs|texts)|(number|array) of inputs|array.{0,40}(maximum|too) lon?g", re.I
)
_TOO_BIG_FOR_LLAMA_CPP = re.compile(r"too large to process|input length exceeds", re.I)  # which answers with 500
_NAMED_INPUT = re.compile(r"input\[(\d{1,4})\]")
_LIMIT = re.compile(r"(?:length is|less than|maximum|max) (\d{1,7}) ?(?:tokens)?", re.I)
_ASKED = re.compile(r"(?:requested|given:|you sent|has|input of) (\d{1,9})", re.I)
_FORKED = (
    "the client that was given belongs to the process that this one was forked from, and two processes cannot share "
    "its connections; make client and embedder in this process"
)
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}


@dataclass(frozen=True)
class Response:
    """The vectors of one request, float32 (n, dim), in the order of its texts; ``tokens`` if the server said."""

    vectors: Vectors
    tokens: int | None
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Refusal:
    """Why a request was not answered with vectors.

    Attributes
    ----------
    message, advice : str       of the error, should this be the last try; the number of retries goes between them
    retryable : bool            another try may succeed
    rate_limited : bool         too much was asked in too short a time
    retry_after : float         seconds to wait before another try, if the server said
    too_big : bool              the request or a text in it is too big
    too_many_texts : bool       it is the number of texts that is too big
    position : int              of the text that is too long, if the server said
    fits : float                the fraction of a text that would fit, by the numbers the server named
    """

    message: str
    advice: str = ""
    retryable: bool = False
    rate_limited: bool = False
    retry_after: float | None = None
    too_big: bool = False
    too_many_texts: bool = False
    position: int | None = None
    fits: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class EmbeddingsClient:
    """A client of OpenAI's embeddings API for any number of threads: the SDK's, made here or given.

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no key, or what was given cannot be one
    InvalidInputError   what was given is no client, or the server is not to be reached by https
    """

    def __init__(
        self, api_key: str | None, base_url: str | None, timeout: float, client: Any = None, async_client: Any = None
    ) -> None:
        try:
            import openai
        except ImportError as error:
            message = 'OpenAIEmbedder needs the openai package: pip install "bqstore[openai]"'
            raise ImportError(message, name="openai") from error
        self._openai = openai
        self._connect: Callable[[], Any] | None = None  # None: the client is the caller's
        self._client: Any = None
        self._async: Any = None
        if client is not None:
            self._client = _without_retries(client, "client")
        elif async_client is None:
            self._connect = _connector(openai, api_key, base_url, timeout)
            with suppress(Exception):  # a URL that the HTTP library refuses
                self._client = self._connect()
            if self._client is None:
                raise InvalidInputError("base_url is not a URL that the openai package takes")
        if async_client is not None:
            self._async = _without_retries(async_client, "async_client")
        self._pid = os.getpid()
        self.endpoint = str((self._client or self._async).base_url)
        check_encrypted(self.endpoint)
        if self._client and self._async and str(self._async.base_url) != self.endpoint:
            raise InvalidInputError("client and async_client talk to different servers; expected the same base_url")
        self._server = urlsplit(self.endpoint).hostname or "the server"

    @property
    def is_async(self) -> bool:
        """Whether there is a client for `send_async`."""
        return self._async is not None

    @property
    def sdk(self) -> Any:
        """The SDK's client, for its other calls.

        Raises EmbeddingError if only an async one was given, or this process was forked since one was.
        """
        if self._client is None:
            raise EmbeddingError("only an async_client was given: use aembed and aembed_query, or give a client, too")
        if os.getpid() != self._pid:
            # After a fork: two processes that talk over one connection get each other's answers.
            if self._connect is None:
                raise EmbeddingError(_FORKED)
            self._client, self._pid = self._connect(), os.getpid()
        return self._client

    def close(self) -> None:
        """Close the connections to the server, unless the client is the caller's."""
        if self._connect is not None:
            self._client.close()

    def send(
        self, texts: Sequence[str], model: str, dimensions: int | None, timeout: float | None
    ) -> Response | Refusal:
        """Request the vectors of ``texts`` once; ``timeout`` for this try, None for the client's own.

        Raises EmbeddingError if there is no client to send it with.
        """
        sdk = self.sdk
        is_closed = getattr(sdk, "is_closed", None)  # a client that was given may have no more than its embeddings
        if is_closed is not None and is_closed():
            raise EmbeddingError("the connections to the server are closed; make a new embedder")
        try:
            raw = sdk.embeddings.with_raw_response.create(**self._request(texts, model, dimensions, timeout))
            body, headers = raw.content, _lower(raw.headers)
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            return self._refusal(error, model)
        return self._read(body, headers, len(texts), model)

    async def send_async(
        self, texts: Sequence[str], model: str, dimensions: int | None, timeout: float | None
    ) -> Response | Refusal:
        """As `send`, through the async client."""
        if os.getpid() != self._pid:
            raise EmbeddingError(_FORKED)
        try:
            raw = await self._async.embeddings.with_raw_response.create(
                **self._request(texts, model, dimensions, timeout)
            )
            body, headers = raw.content, _lower(raw.headers)
        except Exception as error:
            return self._refusal(error, model)
        return self._read(body, headers, len(texts), model)

    def _request(
        self, texts: Sequence[str], model: str, dimensions: int | None, timeout: float | None
    ) -> dict[str, Any]:
        # Asked for base64, the SDK returns it as it came; by default it would make Python lists of it.
        request: dict[str, Any] = {"input": list(texts), "model": model, "encoding_format": "base64"}
        if self._connect is not None:
            # The SDK checks the type of each text four times, some 10 us each, but not what is in extra_body. A client
            # that was given may be watched by its owner, who expects the texts in their usual place.
            request |= {"input": "", "extra_body": {"input": request["input"]}}
        if dimensions is not None:
            request["dimensions"] = dimensions
        if timeout is not None:
            request["timeout"] = timeout
        return request

    def _read(self, body: Any, headers: Mapping[str, str], n: int, model: str) -> Response | Refusal:
        answer: Any = None
        with suppress(TypeError, ValueError, RecursionError):
            answer = json.loads(body)
        vectors = decode(answer.get("data"), n) if isinstance(answer, dict) else None
        if vectors is None:
            message = (
                f"{self._server} answered for {model} with something else than {n} finite vectors of one dimension"
            )
            return Refusal(message, headers=headers)
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return Response(vectors, tokens if isinstance(tokens, int) and tokens >= 0 else None, headers)

    def _refusal(self, error: Exception, model: str) -> Refusal:
        """What an error of the SDK means, without the server's words."""
        openai, server = self._openai, self._server
        if isinstance(error, InvalidInputError) or isinstance(error.__cause__, InvalidInputError):  # check_redirect's
            return Refusal(f"{server} redirects to a server over http://, where texts could be read on the way")
        if isinstance(error, openai.APITimeoutError):
            return Refusal(f"{server} did not answer in time", retryable=True)
        if isinstance(error, openai.APIConnectionError):
            return Refusal(f"{server} cannot be reached", "; check the network and base_url", retryable=True)
        if not isinstance(error, openai.APIStatusError):
            return Refusal(f"{server} gave an answer that cannot be read ({type(error).__name__})")
        status, code, kind = error.status_code, str(error.code or ""), str(getattr(error, "type", None) or "")
        headers = _lower(error.response.headers)
        body = str(getattr(error, "body", None))[:4_000]  # other servers put their message elsewhere than OpenAI
        said = f"{code} {kind} {error.message} {error.param or ''} {body}"
        shown = next((word for word in (code, kind) if word in _QUOTA_CODES), code)
        what = f"HTTP {status}" + (f", {shown}" if CODE.fullmatch(shown) else "")
        too_big = _TOO_BIG_FOR_LLAMA_CPP if status == 500 else _TOO_BIG
        if status == 413 or (status in (400, 422, 500) and too_big.search(said)):
            named = _NAMED_INPUT.search(said)
            return Refusal(
                f"{server} refused a request for its size ({what})",
                too_big=True,
                too_many_texts=bool(_TOO_MANY_TEXTS.search(said)),
                position=int(named[1]) if named else None,
                fits=_fraction_that_fits(said),
                headers=headers,
            )
        quota_used_up = status == 429 and bool({code, kind} & _QUOTA_CODES)
        rate_limited = status == 429 and not quota_used_up
        reason = {
            401: "refused the API key; check api_key or OPENAI_API_KEY",
            403: f"does not let this API key use {model}",
            404: f"knows no model {model}; check model and base_url",
            429: "refused the request for its rate limit"
            if rate_limited
            else "says that the account's quota is used up; check its plan and billing",
        }.get(status, f"refused to embed with {model}")
        return Refusal(
            f"{server} {reason} ({what})",
            "; wait, lower max_concurrency, or check the account's limits" if rate_limited else "",
            retryable=rate_limited or status in (408, 409) or status >= 500,
            rate_limited=rate_limited,
            retry_after=retry_after(headers, time.time()),
            headers=headers,
        )


def _connector(openai: Any, api_key: str | None, base_url: str | None, timeout: float) -> Callable[[], Any]:
    """What makes a client of the SDK, now and after a fork."""
    key = find_key(api_key)
    if base_url is not None and not isinstance(base_url, str):
        raise InvalidInputError(f"base_url is of type {type(base_url).__name__}; expected a string")

    class Http(openai.DefaultHttpxClient):  # type: ignore[misc, unused-ignore]
        def __del__(self) -> None:  # as the SDK's own
            with suppress(Exception):
                self.close()

    def check_redirect(request: Any) -> None:
        check_encrypted(str(request.url))

    def connect() -> Any:
        # http:// leads to this machine, with no proxy in between; a redirect could lead away from it.
        http = Http(timeout=timeout, mounts={"http://": None}, event_hooks={"request": [check_redirect]})
        return openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=timeout, http_client=http)

    return connect


def _without_retries(client: Any, name: str) -> Any:
    """The client with retries turned off, which are made here; one that has no such setting keeps its own."""
    if not hasattr(getattr(client, "embeddings", None), "with_raw_response") or not hasattr(client, "base_url"):
        raise InvalidInputError(
            f"{name} is of type {type(client).__name__}; expected one of the openai package's, such as "
            + ("openai.AsyncOpenAI(...)" if name == "async_client" else "openai.OpenAI(...) or openai.AzureOpenAI(...)")
        )
    try:
        return client.with_options(max_retries=0)
    except Exception:  # a subclass with another constructor
        return client


def _fraction_that_fits(said: str) -> float | None:
    limit, asked = _LIMIT.search(said), _ASKED.search(said)
    if limit is None or asked is None or not 0 < int(limit[1]) < int(asked[1]):
        return None
    return int(limit[1]) / int(asked[1]) * 0.98


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}
