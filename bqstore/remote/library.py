"""qdrant-client, an optional dependency: imported when a remote collection is opened, not before."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Final

from ..errors import InvalidInputError

NEWEST: Final = (999,)  # the version of a server that does not tell it, and of local mode


@cache
def models() -> Any:
    """The module `qdrant_client.models`. Raises InvalidInputError where the package is not installed."""
    return _module("models")


def client_class() -> Any:
    """The class `QdrantClient`."""
    return _module("").QdrantClient


def model(name: str, what: str) -> Any:
    """A class of `models` that older versions lack. Raises InvalidInputError, which says ``what`` needs it."""
    found = getattr(models(), name, None)
    if found is None:
        raise InvalidInputError(f"{what} needs a newer qdrant-client: pip install -U qdrant-client")
    return found


def is_client(given: object) -> bool:
    """Whether it is a `QdrantClient`, told without an import."""
    return any(
        cls.__name__ == "QdrantClient" and cls.__module__.partition(".")[0] == "qdrant_client"
        for cls in type(given).__mro__
    )


def is_local(client: Any) -> bool:
    """Whether a client is qdrant-client's local mode, an emulation in Python without indexes and quantization."""
    return type(getattr(client, "_client", None)).__name__ == "QdrantLocal"


def _module(name: str) -> Any:
    try:
        return import_module(f"qdrant_client.{name}" if name else "qdrant_client")
    except ImportError as error:
        raise InvalidInputError(f'qdrant:// needs qdrant-client ({error}): pip install "bqstore[qdrant]"') from None
