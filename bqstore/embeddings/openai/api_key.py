"""The API key: where it comes from, that no traceback shows it, and that it travels encrypted only.

A key becomes a `Secret` as soon as it is passed: a traceback that prints the variables of a frame prints its ``repr``.
"""

import ipaddress
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from ...errors import EmbeddingError, InvalidInputError

P = ParamSpec("P")
R = TypeVar("R")


class Secret(str):
    """A string whose ``repr`` does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<hidden>'"


def hides_key(make: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of ``api_key=`` and a model so that no frame from here on holds a readable key."""

    @wraps(make)
    def hidden(*args: P.args, **kwargs: P.kwargs) -> R:
        args, secrets = _hide(args, kwargs)  # type: ignore[assignment]
        kwargs.update(secrets)
        if "model" in secrets or any(isinstance(arg, Secret) for arg in args):
            raise InvalidInputError(
                "the model's name looks like an API key; pass the key as api_key=..., and the model as "
                'model="text-embedding-3-small"'
            )
        return make(*args, **kwargs)

    return hidden


def _hide(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple[object, ...], dict[str, Any]]:
    """The arguments with keys made a `Secret`, and those keywords, even misspelled ones, that hold one."""
    secrets = {
        name: Secret(value)
        for name, value in kwargs.items()
        if isinstance(value, str) and (name == "api_key" or _looks_like_a_key(value))
    }
    return tuple(Secret(arg) if _looks_like_a_key(arg) else arg for arg in args), secrets


def _looks_like_a_key(value: object) -> bool:
    return isinstance(value, str) and value.strip().startswith("sk-")


def find_key(api_key: str | None) -> Secret:
    """The key, from the argument or the environment. Raises EmbeddingError if there is none, or it cannot be one."""
    if api_key is not None and not isinstance(api_key, str):
        raise EmbeddingError(f"api_key is of type {type(api_key).__name__}; expected a string")
    key = Secret((api_key or os.environ.get("OPENAI_API_KEY") or "").strip())  # a key from a file ends in a newline
    if not key:
        raise EmbeddingError("there is no API key: pass api_key=... or set the environment variable OPENAI_API_KEY")
    if not (key.isascii() and key.isprintable()):
        # The HTTP library would refuse it too, and quote it in its message.
        raise EmbeddingError("the API key holds characters that no key has; check api_key or OPENAI_API_KEY")
    return key


def check_encrypted(url: str) -> None:
    """Refuse http:// unless it leads to this machine: key and texts could be read on the way. InvalidInputError."""
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
