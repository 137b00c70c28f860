"""Interprets a server's refusal: whether to retry, to wait, or to split the request, and the message of the error.

Servers quote keys and texts in their messages; a `Refusal` shows the message with these masked.
"""

import errno
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ...errors import InvalidInputError
from .api_key import without_password, without_secrets
from .rate_headers import duration, retry_after
from .responses import CODE

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
_COME_BACK = re.compile(r"(?:try again|retry) (?:in|after) (\d{1,4}[\d.mshd]{0,12})", re.I)
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_SPLIT = (400, 413, 422)
_QUOTA = -1  # used as a status
_AGAIN, _NEVER = (408, 409), (501, 505)
_BAD_KEY = re.compile(
    r"API[ _]key (is )?(not valid|invalid|expired|missing)|(not a valid|invalid) API[ _]key|API_KEY_INVALID", re.I
)


@dataclass(frozen=True)
class Refusal:
    """Why a request was not answered with vectors."""

    message: str  # of the error after the last attempt; the number of retries is inserted before the advice
    advice: str = ""
    status: int | None = None  # the HTTP status; None if the server did not answer
    words: Callable[[], str] = field(default=lambda: "", repr=False)  # the server's, masked
    retryable: bool = False  # another attempt may succeed
    rate_limited: bool = False  # a rate limit was exceeded
    retry_after: float | None = None  # seconds to wait before another attempt, if the server stated them
    splits: bool = False  # the request may succeed in parts
    too_long: bool = False  # the request or a text in it is too big
    too_many_texts: bool = False  # the number of texts is too big
    position: int | None = None  # of the text that is too long, if the server stated it
    fits: float | None = None  # the fraction of the request that would fit, by numbers in the server's message
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def described(self, more: str = "") -> str:
        """The message of the error, with the server's message."""
        said = self.words()
        return f"{self.message}{more}{self.advice}" + (f'. The server says: "{said}"' if said else "")


class RefusalReader:
    """Interprets the refusals of one server; ``key`` returns the API key, which is masked in messages."""

    def __init__(self, openai: Any, endpoint: str, server: str, key: Callable[[], str]) -> None:
        self._openai, self._server, self._key = openai, server, key
        to_set = "; servers other than OpenAI's may want it to end in /v1" if "/v1" not in endpoint else ""
        if endpoint.rstrip("/").endswith("/embeddings"):
            to_set = "; leave out its /embeddings, which every request appends"
        self.base_url = f"base_url, which is {without_password(endpoint)}{to_set}"

    def of_error(self, error: Exception, model: str, texts: Sequence[str]) -> Refusal:
        """The refusal for an error of the SDK."""
        openai, server = self._openai, self._server
        if isinstance(error, InvalidInputError) or isinstance(error.__cause__, InvalidInputError):  # of `check`
            return Refusal(f"{server} redirects to a server over http://, where texts could be read on the way")
        if isinstance(error, openai.APITimeoutError):
            return Refusal(f"{server} did not answer in time", retryable=True)
        if isinstance(error, openai.APIConnectionError):
            why = _why_unreachable(error)
            return Refusal(f"{server} cannot be reached", f"; {why}check the network and base_url", retryable=not why)
        if not isinstance(error, openai.APIStatusError):
            return Refusal(f"{server} gave an answer that cannot be read ({type(error).__name__})")
        said = error.body if error.body is not None else error.message
        return self.of_status(error.status_code, said, lower(error.response.headers), model, texts)

    def of_status(
        self, status: int, body: Any, headers: Mapping[str, str], model: str, texts: Sequence[str]
    ) -> Refusal:
        """The refusal for an HTTP status and body."""
        server, fields = self._server, body if isinstance(body, dict) else {}
        code, kind, param = (str(fields.get(name) or "") for name in ("code", "type", "param"))
        said = _message_of(body)
        # other servers put the message into other fields than OpenAI
        everything = f"{code} {kind} {param} {str(body)[:4_000]}"
        shown = next((word for word in (code, kind) if word in _QUOTA_CODES), code)
        what = f"HTTP {status}" + (f", {shown}" if CODE.fullmatch(shown) else "")
        fits = _fraction_that_fits(everything)
        bad_key = status == 400 and bool(_BAD_KEY.search(everything)) and not _BAD_KEY.search("\0".join(texts))
        splits = (
            (status in _SPLIT and not bad_key and param not in ("model", "dimensions", "encoding_format", "user"))
            or (status == 500 and bool(_TOO_BIG_FOR_LLAMA_CPP.search(everything)))
            or (status == 429 and fits is not None)  # the request exceeds the limit as a whole: waiting would not help
        )
        quota_used_up = status == 429 and bool({code, kind} & _QUOTA_CODES)
        rate_limited = status == 429 and not quota_used_up and not splits
        named = _NAMED_INPUT.search(everything)
        reason = {
            401: "refused the API key; check api_key or OPENAI_API_KEY",
            403: f"does not let this API key use {model}",
            404: f"knows no model {model}; check model and {self.base_url}",
            405: f"takes no embeddings there; check {self.base_url}",
            429: "refused the request for its rate limit",
            _QUOTA: "says that the account's quota is used up; check its plan and billing",
        }.get(401 if bad_key else _QUOTA if quota_used_up else status, f"refused to embed with {model}")
        return Refusal(
            f"{server} {reason} ({what})",
            "; wait, lower max_concurrency, or check the account's limits" if rate_limited else "",
            status=status,
            words=lambda: without_secrets(said, texts, self._key()),
            retryable=not splits and (rate_limited or status in _AGAIN or (status >= 500 and status not in _NEVER)),
            rate_limited=rate_limited,
            retry_after=_wait_of(headers, everything if rate_limited else ""),
            splits=splits,
            too_long=splits and (status in (413, 429, 500) or bool(_LENGTH.search(everything))),
            too_many_texts=bool(_TOO_MANY_TEXTS.search(everything)),
            position=int(named[1]) if named else None,
            fits=fits,
            headers=headers,
        )


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_INCURABLE: Final[Sequence[tuple[type[BaseException], Callable[[Any], bool], str]]] = (
    (ssl.SSLCertVerificationError, lambda e: True, "its certificate is not trusted ({0.verify_message})"),
    (ssl.SSLError, lambda e: e.reason in _NO_TLS, "it does not speak https there: its base_url may begin with http://"),
    (Exception, lambda e: type(e).__name__ == "TooManyRedirects", "it redirects from one address to the next"),
    (ConnectionRefusedError, lambda e: True, "it refused the connection, as where no server runs"),
    (socket.gaierror, lambda e: e.errno == socket.EAI_NONAME, "no host has this name"),
    (OSError, lambda e: e.errno == errno.ENETUNREACH, "there is no way to its network"),
)


def _why_unreachable(error: BaseException) -> str:
    """A cause that no retry can remove, such as a refused connection; "" for others."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and one not in seen:
            seen.append(one)
            for kind, applies, why in _INCURABLE:
                if isinstance(one, kind) and applies(one):
                    return f"{why.format(one)}; "
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return ""


def _message_of(body: Any) -> str:
    """The server's message in the body of a refusal."""
    for _ in range(4):
        if isinstance(body, dict):
            body = next((body[name] for name in ("message", "detail", "error", "msg") if body.get(name)), "")
        elif isinstance(body, list):
            body = body[0] if body else ""
    return body if isinstance(body, str) else ""


def _wait_of(headers: Mapping[str, str], said: str) -> float | None:
    """The seconds to wait by the headers, or by the message if a proxy has removed them."""
    told, named = retry_after(headers, time.time()), _COME_BACK.search(said)
    return duration(named[1].rstrip(".")) if told is None and named else told


def _fraction_that_fits(said: str) -> float | None:
    limit, asked = (int(found[1]) if (found := wanted.search(said)) else 0 for wanted in (_LIMIT, _ASKED))
    return limit / asked * 0.98 if 0 < limit < asked else None


def lower(headers: Any) -> dict[str, str]:
    """Headers with their names in lower case."""
    return {str(name).lower(): str(value) for name, value in dict(headers).items()}
