"""Which model made the vectors. Vectors of two models cannot be compared, even where their dimensions agree.

text-embedding-3-small and ada-002 both have 1,536 dimensions: with both in one collection every search answers, and no
answer is right.
"""

from typing import TYPE_CHECKING, Any

from ..arguments import check_int, shown, text_bytes
from ..config import MAX_DIM
from ..errors import InvalidInputError, SettingsConflictError
from ..storage import Head

if TYPE_CHECKING:
    from .engine import Engine


def checked_model(model: Any, name: str = "embedding_model") -> str:
    """A model's name, of 1 to 1,024 bytes, or that of an embedder. Raises InvalidInputError."""
    if not isinstance(model, (str, bytes, type)):
        found = (getattr(model, each, None) for each in ("model", "model_name", "model_id"))
        model = next((each for each in found if isinstance(each, str)), model)
    if not isinstance(model, str) or not 1 <= text_bytes(model, name) <= 1024:
        raise InvalidInputError(f"{name} is {shown(model)}; expected a name of 1 to 1,024 bytes")
    return model


def refuse_another(model: str, dim: int | None, stored: str | None, stored_dim: int | None) -> None:
    """Raise SettingsConflictError, which names both, unless vectors of a model belong beside those stored.

    None: not known.
    """
    if dim is not None:
        check_int("dim", dim, 1, MAX_DIM)
    if (stored is None or stored == model) and (dim is None or stored_dim is None or dim == stored_dim):
        return
    raise SettingsConflictError(
        f"this collection holds vectors of {_named(stored, stored_dim)}, which those of {_named(model, dim)} cannot be "
        "compared with; use what it was made with, or another collection"
    )


def refuse_older(model: str | None, generation: int, head: Head) -> None:
    """Raise SettingsConflictError where a collection was embedded again since vectors were checked against it."""
    now = head.settings["embedding_model"]
    if now != model and (model is not None or generation != head.generation):
        raise SettingsConflictError(
            f"all texts were embedded again meanwhile, with embedding_model={now!r}; these vectors are of "
            f"{_named(model, None)}: embed them again"
        )


def check(engine: "Engine", model: str, dim: int | None, remember: bool) -> None:
    """Raise SettingsConflictError unless a model's vectors belong here; store its name if there is none yet."""
    head = engine.publisher.current().head
    refuse_another(model, dim, _binding(head), head.dim)
    if not remember or model == head.settings["embedding_model"]:
        return

    def keep() -> None:
        head = engine.store.head  # another thread may have said so since
        refuse_another(model, dim, _binding(head), head.dim)
        if model != head.settings["embedding_model"]:
            engine.store.put_settings({**head.settings, "embedding_model": model}, head.dim)

    engine.write(keep)


def _binding(head: Head) -> str | None:
    """The model whose vectors are stored, or must be the first; None where vectors of any model may come."""
    return None if head.is_cleared else head.settings["embedding_model"]


def _named(model: str | None, dim: int | None) -> str:
    of = "an unknown model" if model is None else f"embedding_model={model!r}"
    return of if dim is None else f"{of} ({dim:,} dimensions)"
