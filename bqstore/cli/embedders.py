"""Embedding models by name: OpenAI's, local ones, and those that a user's module makes."""

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
    """The embedder with this name: a context manager with ``embed``, ``embed_query``, ``add_to`` and ``search``.

    ``MODULE:FACTORY`` is an embedder in a module, or a function or class that makes one; the module may be in the
    current folder. The embedder has ``embed`` (or ``embed_documents``) and ``embed_query``.

    Raises InvalidInputError for an unknown name, EmbeddingError if the model cannot be loaded.
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
    """The embedder with this name, or else the one stored with the collection; a context of None if there is neither.

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
    """The lsa model as an embedder."""
    return bqstore.CachedEmbedder(model, cache=False)


def _cached(made: Any, name: str) -> Any:
    has_name = getattr(made, "model", None) or getattr(made, "model_name", None)
    return bqstore.CachedEmbedder(made, None if isinstance(has_name, str) else name, cache=False)


def _made_by(module: str, factory: str) -> Any:
    """The embedder of a module's factory. The current folder is searched first, as by Python."""
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
    except Exception as error:  # the user's code may raise anything
        raise bqstore.EmbeddingError(f"{module}:{factory} raised {type(error).__name__}: {error}") from error
