"""Filters that are functions of a framework's document, or of its metadata as FAISS's are, as functions of a record.

A function takes metadata if its code tests ``key in`` its argument or loops over that (a document of LangChain's allows
both, with wrong answers), or if it fails on a document in a way that shows it.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

from ..errors import InvalidInputError


def of_records(given: Any, document: Callable[[Any], Any]) -> Any:
    """A filter whose functions, in an ``$and`` too, take what ``document`` makes of a record; others as they are.

    An async function is an InvalidInputError: the coroutine it returns is true for every document.
    """
    if isinstance(given, Mapping):
        parts = given.get("$and")
        if isinstance(parts, (list, tuple)) and any(callable(part) for part in parts):
            return {**given, "$and": [of_records(part, document) for part in parts]}
        return given
    return _of_record(given, document) if callable(given) and not isinstance(given, type) else given


def _of_record(function: Callable[[Any], object], document: Callable[[Any], Any]) -> Callable[[Any], object]:
    if inspect.iscoroutinefunction(function):
        raise InvalidInputError("filter is an async function; expected one that returns a bool, or a dict")
    of_metadata = _looks_for_keys(function)

    def accepts(record: Any) -> object:
        nonlocal of_metadata
        made = document(record)
        if not of_metadata:
            try:
                return function(made)
            except (AttributeError, TypeError) as error:
                if type(made).__name__ not in str(error):  # "'Document' object has no attribute 'get'", and others
                    raise
            of_metadata = True
        return function(made.metadata)

    return accepts


def _looks_for_keys(function: Callable[[Any], object]) -> bool:
    """Whether a function asks ``key in`` what it is given, or for the keys that it loops over."""
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__func__", None), "__code__", None)
    if code is None or not code.co_argcount:
        return False
    return _asks_in(code, code.co_varnames[min(inspect.ismethod(function), code.co_argcount - 1)])


def _asks_in(code: CodeType, name: str) -> bool:
    """Whether the code, or a part of it such as a generator, tests for an element of the variable, or loops over it."""
    loaded: Any = None
    for step in dis.get_instructions(code):
        if step.opname in ("CONTAINS_OP", "GET_ITER") and loaded == name:
            return True
        value = step.argval if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) else None
        loaded = value[-1] if isinstance(value, tuple) else value
    parts = [part for part in code.co_consts if isinstance(part, CodeType) and name in part.co_freevars]
    return any(_asks_in(part, name) for part in parts)
