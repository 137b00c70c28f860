"""One request to an embeddings API, and what its answers and refusals mean. It knows no cache and no batches.

The key goes to the SDK's client and is kept nowhere else. Servers quote keys and texts back in messages,
so an error raised here carries nothing of what the server said but a short code, and is chained to nothing:
the SDK's own exception, with the request in it, ends here.
"""

import base64
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ..errors import EmbeddingError

if TYPE_CHECKING:
    from openai import OpenAI

Vectors = npt.NDArray[np.float32]

_CODE = re.compile(r"[a-z_]{1,40}")  # what the API's error codes look like; a key or a sentence does not
_TOO_LONG = re.compile(r"maximum (context|input) length|context_length_exceeded|too many tokens for input", re.I)
_NAMED_INPUT = re.compile(r"input\[(\d{1,4})\]")


class TextTooLongError(EmbeddingError):
    """A text was refused for its length; ``position`` is its place in the request, if the server said."""

    def __init__(self, message: str, position: int | None) -> None:
        super().__init__(message)
        self.position = position


class EmbeddingsClient:
    """A client of OpenAI's embeddings API, for any number of threads.

    Raises
    ------
    ImportError      the ``openai`` package is missing
    EmbeddingError   there is no key, or what was given cannot be one
    """

    def __init__(self, api_key: str | None, base_url: str | None, max_retries: int, timeout: float) -> None:
        try:
            import openai
        except ImportError as error:
            message = 'OpenAIEmbedder needs the openai package: pip install "bqstore[openai]"'
            raise ImportError(message, name="openai") from error
        self._openai = openai
        key = _find_key(api_key)

        def connect() -> "OpenAI":
            return openai.OpenAI(api_key=key, base_url=base_url, max_retries=max_retries, timeout=timeout)

        self._connect: Callable[[], OpenAI] = connect
        self._client, self._pid = connect(), os.getpid()
        self.endpoint = str(self._client.base_url)
        self._server = urlsplit(self.endpoint).hostname or "the server"

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None) -> Vectors:
        """The vectors of one request, float32 (n, dim), in the order of ``texts``; retried by the SDK.

        Raises
        ------
        TextTooLongError   a text is longer than the model takes
        EmbeddingError     refused otherwise, unreachable, or the answer is not n finite vectors alike
        """
        if os.getpid() != self._pid:  # after a fork: two processes must not talk over one connection
            self._client, self._pid = self._connect(), os.getpid()
        refusal = None
        try:
            # Asked for base64, the SDK hands it over as it came; by default it would make Python lists of it.
            answer = self._client.embeddings.create(
                input=list(texts),
                model=model,
                encoding_format="base64",
                dimensions=self._openai.omit if dimensions is None else dimensions,
            )
        except Exception as error:  # whatever the SDK, its HTTP library or a broken answer can raise
            refusal = self._refusal(error, model)
        if refusal is not None:  # raised here, outside the handler, so that no context hangs on it
            raise refusal
        vectors = _decode(answer, len(texts))
        if vectors is None:
            raise EmbeddingError(
                f"{self._server} answered for {model} with something else than {len(texts)} finite vectors "
                "of one dimension"
            )
        return vectors

    def _refusal(self, error: Exception, model: str) -> EmbeddingError:
        """An error of the SDK in our words, without the server's."""
        openai, retries = self._openai, self._client.max_retries
        if isinstance(error, openai.APITimeoutError):
            return EmbeddingError(f"{self._server} did not answer in time, after {retries} retries")
        if isinstance(error, openai.APIConnectionError):
            return EmbeddingError(
                f"{self._server} cannot be reached, after {retries} retries; check the network and base_url"
            )
        if not isinstance(error, openai.APIStatusError):
            return EmbeddingError(f"{self._server} gave an answer that cannot be read ({type(error).__name__})")
        status, code = error.status_code, error.code or ""
        said = f"{code} {error.message} {error.param or ''}"
        if status in (400, 413, 422) and _TOO_LONG.search(said):
            named = _NAMED_INPUT.search(said)
            return TextTooLongError(f"{model} refused a text for its length", int(named[1]) if named else None)
        what = f"HTTP {status}" + (f", {code}" if _CODE.fullmatch(code) else "")
        advice = {
            401: "refused the API key; check api_key or OPENAI_API_KEY",
            403: f"does not let this API key use {model}",
            404: f"knows no model {model}; check model and base_url",
            429: f"says too much was asked of it, after {retries} retries; "
            "wait, lower concurrency, or check the account's quota",
        }.get(status, f"refused to embed with {model}")
        return EmbeddingError(f"{self._server} {advice} ({what})")


def _find_key(api_key: str | None) -> str:
    """The key, from the argument or the environment. A key read from a file often ends in a newline."""
    key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key:
        raise EmbeddingError("there is no API key: pass api_key=... or set the environment variable OPENAI_API_KEY")
    if not (key.isascii() and key.isprintable()):
        # The HTTP library would refuse it too, and quote it in its message.
        raise EmbeddingError("the API key holds characters that no key has; check api_key or OPENAI_API_KEY")
    return key


def _decode(answer: Any, n: int) -> Vectors | None:
    """The vectors of an answer in the order of the request, float32 (n, dim); None if it is anything else."""
    data = getattr(answer, "data", None)
    if not isinstance(data, list) or len(data) != n:
        return None
    rows: list[Vectors | None] = [None] * n
    try:
        for item in data:
            values = item.embedding
            if isinstance(values, str):  # servers that only know lists ignore that base64 was asked for
                values = np.frombuffer(base64.b64decode(values, validate=True), "<f4")
            if not 0 <= item.index < n or rows[item.index] is not None:
                return None
            rows[item.index] = np.asarray(values, np.float32)
        vectors = np.stack(rows)  # type: ignore[arg-type]  # n items, each in a place of its own: none is None
    except (AttributeError, TypeError, ValueError):
        return None
    return vectors if vectors.ndim == 2 and vectors.shape[1] > 0 and np.isfinite(vectors).all() else None
