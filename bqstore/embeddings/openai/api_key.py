"""The API key: where it comes from, that it shows nowhere, and that it travels encrypted. It knows no requests.

A key is a `Secret` from the moment it is handed over: a traceback that prints the variables of a frame prints its
``repr``, which says nothing.
"""

import ipaddress
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from ...errors import EmbeddingError, InvalidInputError

P = ParamSpec("P")
R = TypeVar("R")


class Secret(str):
    """A string that is itself for whoever sends it, and nothing for whoever prints its ``repr``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<hidden>'"


def hides_key(make: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of ``api_key=`` and a model so that no frame from here on holds a key in the open."""

    @wraps(make)
    def hidden(*args: P.args, **kwargs: P.kwargs) -> R:
        args, hid, misplaced = _hide(args, kwargs)  # type: ignore[assignment]
        kwargs.update(hid)
        if misplaced:
            raise InvalidInputError(
                "the model's name looks like an API key; pass the key as api_key=..., and the model as "
                'model="text-embedding-3-small"'
            )
        return make(*args, **kwargs)

    return hidden


def _hide(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object], bool]:
    """The arguments with what is or looks like a key made a `Secret`; and whether one stands for the model."""
    hidden_args = tuple(Secret(arg) if _looks_like_a_key(arg) else arg for arg in args)
    hidden: dict[str, object] = {
        name: Secret(value)
        for name, value in kwargs.items()  # by a misspelt name, too
        if isinstance(value, str) and (name == "api_key" or _looks_like_a_key(value))
    }
    return hidden_args, hidden, "model" in hidden or any(isinstance(arg, Secret) for arg in hidden_args)


def _looks_like_a_key(value: object) -> bool:
    return isinstance(value, str) and value.strip().startswith("sk-")


def find_key(api_key: str | None) -> Secret:
    """The key, from the argument or the environment. A key read from a file often ends in a newline."""
    key = Secret((api_key or os.environ.get("OPENAI_API_KEY") or "").strip())
    if not key:
        raise EmbeddingError("there is no API key: pass api_key=... or set the environment variable OPENAI_API_KEY")
    if not (key.isascii() and key.isprintable()):
        # The HTTP library would refuse it too, and quote it in its message.
        raise EmbeddingError("the API key holds characters that no key has; check api_key or OPENAI_API_KEY")
    return key


def check_encrypted(url: str) -> None:
    """Refuse a server to which key and texts would travel in the open: http, unless it is this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise InvalidInputError("base_url is not a URL") from None
    if parts.scheme == "https" and host:
        return
    if parts.scheme != "http" or not host:
        raise InvalidInputError("base_url is not a URL that begins with https://")
    if not _is_loopback(host):
        raise InvalidInputError(
            f"base_url names {host} over http://, where the key and the texts could be read on the way; use https://, "
            "or a tunnel that ends on this machine (http:// is for localhost only)"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
