"""The API key: its sources, keeping it out of tracebacks, and sending it over encrypted connections only.

A key is wrapped in a `SecretStr` as soon as it is passed, so a traceback that prints local variables prints stars.
"""

import inspect
import ipaddress
import os
import re
import warnings
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from ...errors import EmbeddingError, InvalidInputError
from .background import background

if TYPE_CHECKING:
    from pydantic import SecretStr

P = ParamSpec("P")
R = TypeVar("R")

Provider = Callable[[], Awaitable[str]]

_INSIDE = (".local", ".internal", ".home.arpa", ".svc")  # suffixes of host names that are never public
_NO_KEY = re.compile(r"""["']|bearer\s""", re.I)
_LEAST_OF_A_TEXT, _LEAST_OF_A_KEY = 12, 6  # the shortest quotation that is masked, in characters


def hides_key(make: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function with ``api_key=`` and ``model`` so that no frame it calls holds a readable key."""

    @wraps(make)
    def hidden(*args: P.args, **kwargs: P.kwargs) -> R:
        args = tuple(_secret(arg) if _looks_like_a_key(arg) else arg for arg in args)  # type: ignore[assignment]
        keys = [name for name in kwargs if _looks_like_a_key(kwargs[name])]
        keys += ["api_key"] if isinstance(kwargs.get("api_key"), str) else []
        kwargs.update({name: _secret(kwargs[name]) for name in keys})
        if type(kwargs.get("model")).__name__ == "SecretStr" or any(type(arg).__name__ == "SecretStr" for arg in args):
            raise InvalidInputError(
                "the model's name looks like an API key; pass the key as api_key=..., and the model as "
                'model="text-embedding-3-small"'
            )
        return make(*args, **kwargs)

    return hidden


def import_openai() -> Any:
    """Import the SDK, and pydantic with it. Raises an ImportError that says how to install them."""
    try:
        import openai
        import pydantic  # noqa: F401
    except ImportError as error:
        message = 'OpenAIEmbedder needs the openai package: pip install "bqstore[openai]"'
        raise ImportError(message, name="openai") from error
    return openai


def _secret(value: Any) -> "SecretStr":
    import_openai()
    from pydantic import SecretStr

    return SecretStr(value)


def _looks_like_a_key(value: object) -> bool:
    return isinstance(value, str) and value.strip().startswith("sk-")


def find_key(api_key: Any, of_openai: bool = True) -> "SecretStr | Provider":
    """The key from the argument or the environment; an async function that returns it if a function was passed.

    Raises EmbeddingError if there is no key, or it is malformed.
    """
    if callable(api_key):
        return lambda: _given_by(api_key)
    if not (api_key is None or isinstance(api_key, str) or hasattr(api_key, "get_secret_value")):
        raise EmbeddingError(
            f"api_key is of type {type(api_key).__name__}; expected a string, a SecretStr, or a function that gives one"
        )
    given = getattr(api_key, "get_secret_value", lambda: api_key)
    # never in a plain variable of this frame; stripped, as keys read from files end in a newline
    key = _secret((given() or os.environ.get("OPENAI_API_KEY") or "").strip())
    if not key:
        any_will_do = "" if of_openai else '; a server that asks for none takes any, such as api_key="none"'
        raise EmbeddingError(
            f"there is no API key: pass api_key=... or set the environment variable OPENAI_API_KEY{any_will_do}"
        )
    if _NO_KEY.match(key.get_secret_value()):
        raise EmbeddingError("the API key is in quotes, or begins with Bearer; pass the key alone")
    if not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
        # The HTTP library would refuse it too, and quote it in its message.
        raise EmbeddingError("the API key holds characters that no key has; check api_key or OPENAI_API_KEY")
    return key


async def _given_by(give: Callable[[], Any]) -> str:
    """The key that a function returns. It is called in a worker thread, as it may use the network."""
    try:
        given = await background().in_worker(give)
        found = find_key(await given if inspect.isawaitable(given) else given)
    except EmbeddingError:
        raise
    except Exception as error:
        raise EmbeddingError(f"the function given as api_key raised {type(error).__name__}") from error
    if callable(found):
        raise EmbeddingError("the function given as api_key gave another function; expected a string")
    return found.get_secret_value()


def without_secrets(said: str, texts: Iterable[str], key: str) -> str:
    """A server's message, at most 300 characters, with its quotations of texts or of the key masked."""
    said = re.sub(r"(?:sk-|[Bb]earer )\S+", "…", said)
    said = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", said).strip()  # and control characters, which a terminal obeys
    known = "\0".join(texts)
    for whole in (key, *map(str.strip, known.split("\0"))):
        if len(whole) > 2 and whole in said:
            said = said.replace(whole, "…")
    said = said[:500]
    known = re.sub(r"\s+", " ", known)
    letters = list(said)
    for least, secret in ((_LEAST_OF_A_TEXT, known), (_LEAST_OF_A_KEY, key)):
        for at in range(len(said) - least + 1):
            if said[at : at + least] in secret:
                letters[at : at + least] = "\0" * least
    shown = re.sub("\0+", "…", "".join(letters))
    return shown if len(shown) <= 300 else f"{shown[:299]}…"


def without_password(said: str) -> str:
    """The text with user and password removed from its URLs."""
    return re.sub(r"//[^/@\s]*@", "//", said)


def check_encrypted(url: str, allow_http: bool = False, warn: bool = True) -> None:
    """Refuse http:// to a public host, where others could read key and texts in transit, unless ``allow_http``.

    To this machine http is allowed; to a private network, with a warning. Raises InvalidInputError.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise InvalidInputError("base_url is not a URL") from None
    if not url.isprintable():  # `urlsplit` drops tabs
        raise InvalidInputError("base_url is not a URL: it holds a character that none has")
    if parts.scheme == "https" and host:
        return
    if parts.scheme != "http" or not host:
        raise InvalidInputError("base_url is not a URL that begins with https://")
    if allow_http or is_private(host, this_machine=True):
        return
    if not is_private(host):
        raise InvalidInputError(
            f"base_url names {host} over http://, where the key and the texts could be read on the way; use https://, "
            "a tunnel that ends on this machine, or pass allow_http=True"
        )
    if warn:
        message = f"key and texts go to {host} over http://, and could be read in its network; allow_http=True says so"
        warnings.warn(message, stacklevel=6)


def is_private(host: str, this_machine: bool = False) -> bool:
    """Whether a host is in a private network or, with ``this_machine``, is this machine; by its address or name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        inside = host == "localhost" or host.endswith(".localhost")
        return inside or (not this_machine and ("." not in host or host.endswith(_INSIDE)))
    # `not is_global` includes 100.64.0.0/10, used by providers and mesh networks
    return address.is_loopback if this_machine else not address.is_global
