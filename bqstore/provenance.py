"""Where vectors come from. Two models' cannot be compared, whatever their dimensions. Floor 3; knows names and numbers.

1,536 dimensions are text-embedding-3-small's and ada-002's: mixed, every search answers, and none is right.
"""

from typing import Any

from .config import MAX_DIM, check_int, shown
from .errors import InvalidInputError, SettingsConflictError
from .validate import text_bytes


def checked_model(model: Any, name: str = "embedding_model") -> str:
    """A model's name, of 1 to 1,024 bytes. Raises InvalidInputError."""
    if not isinstance(model, str) or not 1 <= text_bytes(model, name) <= 1024:
        raise InvalidInputError(f"{name} is {shown(model)}; expected a name of 1 to 1,024 bytes")
    return model


def refuse_another(model: str, dim: int | None, stored: str | None, stored_dim: int | None) -> None:
    """Raise SettingsConflictError, which names both, unless vectors of a model belong beside those stored.

    None is what is not known.
    """
    if dim is not None:
        check_int("dim", dim, 1, MAX_DIM)
    if (stored is None or stored == model) and (dim is None or stored_dim is None or dim == stored_dim):
        return
    raise SettingsConflictError(
        f"this collection holds vectors of {_named(stored, stored_dim)}, which those of {_named(model, dim)} cannot be "
        "compared with; use what it was made with, or another collection"
    )


def _named(model: str | None, dim: int | None) -> str:
    of = "an unknown model" if model is None else f"embedding_model={model!r}"
    return of if dim is None else f"{of} ({dim:,} dimensions)"
