"""One request to an embeddings API, and what its answers and refusals mean. It knows no cache, no batches, no retries.

The key goes to the SDK's client and is kept nowhere else. Servers quote keys and texts back in messages,
so an error raised here carries nothing of what the server said but a short code, and is chained to nothing:
the SDK's own exception, with the request in it, ends here.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ...errors import EmbeddingError, InvalidInputError
from .api_key import check_encrypted, find_key
from .rate_headers import wait_of
from .responses import decode

Vectors = npt.NDArray[np.float32]

_CODE = re.compile(r"[a-z_]{1,40}")  # what the API's error codes look like; a key or a sentence does not
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
_TOO_BIG_FOR_LLAMA_CPP = re.compile(r"too large to process|input length exceeds", re.I)  # says 500 to it
_NAMED_INPUT = re.compile(r"input\[(\d{1,4})\]")
_LIMIT = re.compile(r"(?:length is|less than|maximum|max) (\d{1,7}) ?(?:tokens)?", re.I)
_ASKED = re.compile(r"(?:requested|given:|you sent|has|input of) (\d{1,9})", re.I)
_FORKED = (
    "the client that was given is another process's, which this one was forked from, and two cannot share its "
    "connections; make client and embedder in this process"
)
_NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached"}
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Answer:
    """The vectors of one request, float32 (n, dim), in the order of its texts; ``tokens`` if the server said."""

    vectors: Vectors
    tokens: int | None
    headers: Mapping[str, str] = field(repr=False)


class RefusedError(EmbeddingError):
    """A request that was not answered with vectors; the message is whole but for the number of retries.

    ``again``: another try may help, after ``wait`` seconds if the server said; ``jam``: too much was asked at once;
    ``too_big``: a part of it may be taken; ``position``: of the text that is too long, if the server said.
    """

    again = jam = too_big = too_many = False
    wait: float | None = None
    position: int | None = None
    fits: float | None = None  # the part of a text that would, by the numbers the server named
    headers: Mapping[str, str] = _NOTHING
    advice = ""


class EmbeddingsClient:
    """A client of OpenAI's embeddings API, for any number of threads: the SDK's, made here or given.

    Raises
    ------
    ImportError         the ``openai`` package is missing
    EmbeddingError      there is no key, or what was given cannot be one
    InvalidInputError   what was given is no client, or the server is not to be reached by https
    """

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        timeout: float,
        client: Any = None,
        async_client: Any = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            message = 'OpenAIEmbedder needs the openai package: pip install "bqstore[openai]"'
            raise ImportError(message, name="openai") from error
        self._openai, self._timeout = openai, timeout
        self._own: Callable[[], Any] | None = None
        self._client: Any = None
        self._async: Any = None
        if client is not None:
            self._client = _without_retries(client, "client")
        elif async_client is None:
            key = find_key(api_key)

            class Http(openai.DefaultHttpxClient):  # type: ignore[misc, unused-ignore]
                def __del__(self) -> None:  # as the SDK's own does
                    with suppress(Exception):
                        self.close()

            def connect() -> Any:
                # http:// is this machine here, which no proxy is on the way to; a redirect may lead off it.
                http = Http(timeout=timeout, mounts={"http://": None}, event_hooks={"request": [_check_hop]})
                return openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=timeout, http_client=http)

            self._own = connect
            with suppress(Exception):  # a URL that the HTTP library will not have
                self._client = connect()
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
            # after a fork: two processes that talk over one connection get each other's answers
            if self._own is None:
                raise EmbeddingError(_FORKED)
            self._client, self._pid = self._own(), os.getpid()
        return self._client

    def close(self) -> None:
        """Close the connections to the server; those of a client that was given are its owner's."""
        if self._own is not None and self._client is not None:
            self._client.close()

    def send(self, texts: Sequence[str], model: str, dimensions: int | None, timeout: float | None = None) -> Answer:
        """One request, one try: the vectors of ``texts``. Raises RefusedError, or EmbeddingError if there is no client.

        ``timeout`` is for this try only; None: the client's own.
        """
        sdk = self.sdk
        closed = getattr(sdk, "is_closed", None)  # one that was given may be no more than its embeddings
        if closed is not None and closed():
            raise EmbeddingError("the connections to the server are closed; make the embedder anew")
        refusal = body = headers = None
        try:
            raw = sdk.embeddings.with_raw_response.create(**self._request(texts, model, dimensions, timeout))
            body, headers = raw.content, _lower(raw.headers)
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            refusal = self._refusal(error, model)
        if refusal is not None:  # raised here, outside the handler, so that no context hangs on it
            raise refusal
        return self._read(body, headers or {}, len(texts), model)

    async def send_async(
        self, texts: Sequence[str], model: str, dimensions: int | None, timeout: float | None = None
    ) -> Answer:
        """As `send`, through the async client."""
        refusal = body = headers = None
        assert self._async is not None
        if os.getpid() != self._pid:
            raise EmbeddingError(_FORKED)
        try:
            raw = await self._async.embeddings.with_raw_response.create(
                **self._request(texts, model, dimensions, timeout)
            )
            body, headers = raw.content, _lower(raw.headers)
        except Exception as error:
            refusal = self._refusal(error, model)
        if refusal is not None:
            raise refusal
        return self._read(body, headers or {}, len(texts), model)

    def _request(
        self, texts: Sequence[str], model: str, dimensions: int | None, timeout: float | None
    ) -> dict[str, Any]:
        # Asked for base64, the SDK hands it over as it came; by default it would make Python lists of it.
        request: dict[str, Any] = {"input": list(texts), "model": model, "encoding_format": "base64"}
        if self._own is not None:
            # The SDK looks at the type of each text four times over, some 10 us each, but for what goes past it here.
            # A client that was given may be watched by whoever made it: that one gets the texts where it expects them.
            request |= {"input": "", "extra_body": {"input": request["input"]}}
        if dimensions is not None:
            request["dimensions"] = dimensions
        if timeout is not None:
            request["timeout"] = timeout
        return request

    def _read(self, body: Any, headers: Mapping[str, str], n: int, model: str) -> Answer:
        answer = vectors = None
        with suppress(TypeError, ValueError, RecursionError):  # raised below: the error would carry the answer along
            answer = json.loads(body)
        if answer is not None:
            vectors = decode(answer.get("data") if isinstance(answer, dict) else None, n)
        if vectors is None or not isinstance(answer, dict):
            refused = RefusedError(
                f"{self._server} answered for {model} with something else than {n} finite vectors of one dimension"
            )
            refused.headers = headers
            raise refused
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return Answer(vectors, tokens if isinstance(tokens, int) and tokens >= 0 else None, headers)

    def _refusal(self, error: Exception, model: str) -> RefusedError:
        """An error of the SDK in our words, without the server's."""
        openai, server = self._openai, self._server
        if isinstance(error, _UnsafeHopError) or isinstance(error.__cause__, _UnsafeHopError):  # as the SDK has it
            return RefusedError(f"{server} redirects to a server over http://, where texts could be read on the way")
        if isinstance(error, openai.APITimeoutError):
            return _again(RefusedError(f"{server} did not answer in time"))
        if isinstance(error, openai.APIConnectionError):
            refused = _again(RefusedError(f"{server} cannot be reached"))
            refused.advice = "; check the network and base_url"
            return refused
        if not isinstance(error, openai.APIStatusError):
            return RefusedError(f"{server} gave an answer that cannot be read ({type(error).__name__})")
        status, code, kind = error.status_code, str(error.code or ""), str(getattr(error, "type", None) or "")
        headers = _lower(error.response.headers)
        body = str(getattr(error, "body", None))[:4_000]  # not in the message where it is not of OpenAI's form
        said = f"{code} {kind} {error.message} {error.param or ''} {body}"
        shown = next((word for word in (code, kind) if word in _NO_MONEY), code)
        what = f"HTTP {status}" + (f", {shown}" if _CODE.fullmatch(shown) else "")
        too_big = _TOO_BIG_FOR_LLAMA_CPP if status == 500 else _TOO_BIG
        if status == 413 or (status in (400, 422, 500) and too_big.search(said)):
            refused = RefusedError(f"{server} refused a request for its size ({what})")
            named = _NAMED_INPUT.search(said)
            refused.too_big, refused.position = True, int(named[1]) if named else None
            refused.too_many = bool(_TOO_MANY_TEXTS.search(said))
            refused.fits = _part_that_fits(said)
        else:
            no_money = status == 429 and bool({code, kind} & _NO_MONEY)
            advice = {
                401: "refused the API key; check api_key or OPENAI_API_KEY",
                403: f"does not let this API key use {model}",
                404: f"knows no model {model}; check model and base_url",
                429: "says that the account's quota is used up; check its plan and billing"
                if no_money
                else "says too much was asked of it",
            }.get(status, f"refused to embed with {model}")
            refused = RefusedError(f"{server} {advice} ({what})")
            refused.again = (status in (408, 409, 429) or status >= 500) and not no_money
            refused.jam = status == 429 and not no_money
            refused.advice = "; wait, lower max_concurrency, or check the account's limits" if refused.jam else ""
            refused.wait = wait_of(headers, time.time())
        refused.headers = headers
        return refused


class _UnsafeHopError(Exception):
    """A redirect leads where texts would travel in the open."""


def _check_hop(request: Any) -> None:
    unsafe = False
    try:
        check_encrypted(str(request.url))
    except InvalidInputError:
        unsafe = True
    if unsafe:
        raise _UnsafeHopError


def _again(refused: RefusedError) -> RefusedError:
    refused.again = True
    return refused


def _without_retries(client: Any, name: str) -> Any:
    """The client as it is, but that it leaves retries to us; one that cannot be told so keeps its own."""
    if not hasattr(getattr(client, "embeddings", None), "with_raw_response") or not hasattr(client, "base_url"):
        raise InvalidInputError(
            f"{name} is of type {type(client).__name__}; expected one of the openai package's, such as "
            + ("openai.AsyncOpenAI(...)" if name == "async_client" else "openai.OpenAI(...) or openai.AzureOpenAI(...)")
        )
    try:
        return client.with_options(max_retries=0)
    except Exception:  # a subclass with another constructor
        return client


def _part_that_fits(said: str) -> float | None:
    limit, asked = _LIMIT.search(said), _ASKED.search(said)
    if limit is None or asked is None or not 0 < int(limit[1]) < int(asked[1]):
        return None
    return int(limit[1]) / int(asked[1]) * 0.98


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}
