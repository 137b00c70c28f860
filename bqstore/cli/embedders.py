"""Embedding models by name: OpenAI's, those of this machine, and whatever a module of the user's makes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import bqstore

from . import lsa
from .console import told

LOCAL = ("model2vec", "fastembed", "sentence-transformers", "wordllama", "llama-cpp")
_LOCAL = f"one of this machine ({LOCAL[0]}:NAME, {LOCAL[1]}:NAME ...)"
KINDS = f"openai:MODEL, lsa (offline, by words), {_LOCAL}, or MODULE:FACTORY"


def embedder_named(name: str, base_url: str | None = None) -> Any:
    """The embedder that is meant: a context with ``embed``, ``embed_query``, ``add_to`` and ``search``.

    ``MODULE:FACTORY`` is a function, a class or an object of a module that Python finds from here: what it makes has
    ``embed`` (or ``embed_documents``) and ``embed_query``.

    Raises InvalidInputError for a name that means nothing, EmbeddingError where the model cannot be had.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        raise bqstore.InvalidInputError(f"the embedder is {name!r}; expected {KINDS}")
    try:
        if kind == "openai":
            return bqstore.OpenAIEmbedder(rest, base_url=base_url)
        if kind.replace("_", "-") in LOCAL:
            return bqstore.CachedEmbedder(name)
    except ImportError as error:
        raise bqstore.EmbeddingError(told(error)) from None
    made = _made_by(kind, rest)
    return made if isinstance(made, (bqstore.OpenAIEmbedder, bqstore.CachedEmbedder)) else _cached(made, name)


def embedder_of(
    col: bqstore.Collection, path: str, name: str | None, base_url: str | None = None
) -> AbstractContextManager[Any]:
    """The embedder that is named, or the one that is kept with the collection; a context of None: there is none.

    Raises as `embedder_named`.
    """
    info = col.info()
    if name != lsa.NAME and (name is not None or not (info.embedding_model or "").startswith(lsa.MODEL)):
        return nullcontext() if name is None else embedder_named(name, base_url)
    kept = lsa.of_collection(path, info.collection)
    if kept is None:
        raise bqstore.InvalidInputError(
            f"collection {info.collection!r} was not embedded by lsa; --embedder takes the model that embedded it"
        )
    return as_embedder(kept)


def as_embedder(model: lsa.Lsa) -> bqstore.CachedEmbedder:
    """The embedder lsa, as others are."""
    return bqstore.CachedEmbedder(model, cache=False)


def _cached(made: Any, name: str) -> Any:
    has_name = getattr(made, "model", None) or getattr(made, "model_name", None)
    return bqstore.CachedEmbedder(made, None if isinstance(has_name, str) else name, cache=False)


def _made_by(module: str, factory: str) -> Any:
    """What a factory of a module makes; the folder in which the command is run is looked in first, as Python does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise bqstore.EmbeddingError(f"module {module} needs {error.name}, which is not installed") from None
        raise bqstore.InvalidInputError(f"there is no module {module!r}; --embedder takes {KINDS}") from None
    for part in factory.split("."):
        if not hasattr(found, part):
            raise bqstore.InvalidInputError(f"module {module!r} has no {factory!r}")
        found = getattr(found, part)
    make: Callable[[], Any] | None = found if isinstance(found, type) or not hasattr(found, "embed_query") else None
    if make is None:
        return found
    try:
        return make()
    except Exception as error:  # of the user's own code, which may raise anything
        raise bqstore.EmbeddingError(f"{module}:{factory} raised {type(error).__name__}: {error}") from error
