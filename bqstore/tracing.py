"""Spans of OpenTelemetry: search, add, link, compact, requests for embeddings, where the program itself makes spans.

Nothing is imported here: a program that makes spans has imported OpenTelemetry and set a tracer provider. Where the
package is not installed, public calls are what they would be without this module. Attributes follow the semantic
conventions for databases (of embeddings, for generative AI), and are names, numbers and classes: no text, id, filter or
vector. Of errors only the class is recorded, as a message may quote what was given. See ``docs/observability.md``.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final, ParamSpec, TypeVar

from ._version import __version__

P = ParamSpec("P")
T = TypeVar("T")


def _is_installed() -> bool:
    with suppress(ValueError):  # something else has that name, such as the stand-in of a test
        return find_spec("opentelemetry") is not None
    return False


_INSTALLED: Final = _is_installed()
_API: Final = "opentelemetry.trace"
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.37.0"  # of the conventions that the attributes follow
_tracers: list[tuple[Any, Any]] = []  # last, the provider in use, and its tracer


def _tracer() -> Any:
    """The tracer of the program's provider; None if there is none, as spans would go nowhere."""
    api = sys.modules.get(_API)
    if api is None or not hasattr(api, "get_tracer_provider"):  # another thread imports it just now
        return None
    try:
        provider = api.get_tracer_provider()
        if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
            return None
        known = _tracers[-1:]
        if not known or known[0][0] is not provider:
            _tracers[:] = known = [(provider, provider.get_tracer("bqstore", __version__, schema_url=_SCHEMA))]
    except Exception:  # OTEL_PYTHON_TRACER_PROVIDER names none that is there, say, which OpenTelemetry logs
        return None  # no search fails because of it
    return known[0][1]


def span(operation: str, engine: Any = None, size: int = 1) -> AbstractContextManager[Any]:
    """A span of an operation on a collection; spans of what is called within it are its children.

    Parameters
    ----------
    engine : Engine     whose name and path tell which collection; None: the span around it knows, if there is one
    size : int          documents or nodes
    """
    tracer = _tracer() if _INSTALLED else None
    if tracer is None:
        return nullcontext()
    attributes: dict[str, Any] = {"db.system.name": "bqstore", "db.operation.name": operation}
    if size > 1:  # the conventions: never 1
        attributes["db.operation.batch.size"] = size
    if engine is None:
        return _opened(tracer, operation, "INTERNAL", attributes)
    attributes["db.collection.name"] = engine.name
    if engine.path is not None:
        attributes["db.namespace"] = engine.path.name  # the store's folder, not where it is
    return _opened(tracer, f"{operation} {engine.name}", "CLIENT", attributes)


def embedding(model: str, texts: int, provider: str) -> AbstractContextManager[Any]:
    """A span of a request for embeddings."""
    tracer = _tracer() if _INSTALLED else None
    if tracer is None:
        return nullcontext()
    attributes = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "bqstore.texts": texts,
    }
    return _opened(tracer, f"embeddings {model}", "CLIENT", attributes)


def traced(operation: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a method of `Collection` or `Searcher` so that its calls have a span.

    It is left as it is without the package.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if not _INSTALLED:
            return function

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if _tracer() is None:
                return function(*args, **kwargs)
            collection: Any = args[0]
            with span(operation, collection._engine) as made:
                found = function(*args, **kwargs)
                if operation == "search":
                    keywords = {**getattr(collection, "_keywords", {}), **kwargs}  # of a searcher, its own
                    made.set_attributes(_of_search(keywords, args[2] if len(args) > 2 else keywords.get("k"), found))
                return found

        return call

    return decorate


def _of_search(keywords: dict[str, Any], k: object, found: Any) -> dict[str, Any]:
    """The attributes of a search: whether it had a filter, k if given, the number of queries, or of hits for one."""
    out: dict[str, Any] = {"bqstore.search.filtered": keywords.get("filter") is not None}
    if isinstance(k, int):
        out["bqstore.search.k"] = k
    each = found[0] if isinstance(found, tuple) else found  # of search_ids
    if isinstance(found, tuple) or (found and isinstance(found[0], list)):
        return {**out, "db.operation.batch.size": len(each)} if len(each) > 1 else out
    return {**out, "db.response.returned_rows": len(found)}


@contextmanager
def _opened(tracer: Any, name: str, kind: str, attributes: dict[str, Any]) -> Iterator[Any]:
    api = sys.modules[_API]
    how = {"kind": api.SpanKind[kind], "attributes": attributes}
    with tracer.start_as_current_span(name, **how, record_exception=False, set_status_on_exception=False) as made:
        try:
            yield made
        except BaseException as error:
            module, word = type(error).__module__, type(error).__qualname__
            made.set_attribute("error.type", word if module == "builtins" else f"{module}.{word}")
            made.set_status(api.StatusCode.ERROR)
            raise
