"""Whether the settings of an embedder can be meant. It knows their names and ranges, and opens nothing."""

import os
from typing import Any

from ..arguments import check_int, check_real, shown
from ..config import MAX_DIM
from ..errors import EmbeddingError, InvalidInputError

_MANY = 1_000_000


def checked_dimensions(dimensions: Any) -> int | None:
    """The dimension that was asked for. Raises InvalidInputError."""
    return None if dimensions is None else check_int("dimensions", dimensions, 1, MAX_DIM)


def checked_seconds(name: str, value: Any) -> float:
    """A time to wait. Raises InvalidInputError."""
    seconds = check_real(name, value, "a number of seconds")
    if seconds <= 0:
        raise InvalidInputError(f"{name} is {shown(value)}; more than 0 seconds were expected")
    return seconds


def checked_folder(cache: Any) -> bool | str | os.PathLike[str]:
    """Where a cache is to be. Raises InvalidInputError."""
    if isinstance(cache, (bool, os.PathLike)) or (isinstance(cache, str) and cache):
        return cache
    raise InvalidInputError(f"cache is {shown(cache)}; expected True, False, or the path of a folder")


def check_names(model: Any, api_key: Any, base_url: Any) -> None:
    """Raise InvalidInputError, or EmbeddingError of a key, where something else than a string was given."""
    if not isinstance(model, str) or not model:
        raise InvalidInputError("model is no name of a model; a string was expected")
    if api_key is not None and not isinstance(api_key, str):
        raise EmbeddingError(f"api_key is of type {type(api_key).__name__}; a string was expected")
    if base_url is not None and not isinstance(base_url, str):
        raise InvalidInputError(f"base_url is of type {type(base_url).__name__}; a string was expected")


def checked_count(name: str, value: Any, least: int) -> int:
    """How many. Raises InvalidInputError."""
    return check_int(name, value, least, _MANY)


def check_reported(progress: Any) -> None:
    """Raise InvalidInputError where nobody could be told of progress."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InvalidInputError(f"progress is {shown(progress)}; expected a callable, True, False or None")
