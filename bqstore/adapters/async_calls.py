"""Async calls: a collection's calls run in threads, few at once, so that the event loop goes on meanwhile.

`awaited` makes the async form of a method. If a method must wait for something else in between, such as the answer of a
model, it yields that: see `in_steps`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial, wraps
from typing import Any, Final, Generic, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")
Async = Callable[P, Coroutine[Any, Any, T]]

# Each thread that computes may hold Python's lock for 5 ms before the loop has it again. All of these together are
# fewer than the threads of a loop's own executor: writers that wait for other processes never keep readers waiting.
_READS: Final = max(1, min(os.cpu_count() or 1, 16))
_WRITES: Final = 3


class _Turns:
    """How many calls an event loop may run at once, of each kind."""

    def __init__(self) -> None:
        self.reads, self.writes = asyncio.Semaphore(_READS), asyncio.Semaphore(_WRITES)
        self.adds: WeakKeyDictionary[Any, asyncio.Lock] = WeakKeyDictionary()  # by opening: one commits for all


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


async def reading(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Run a call that reads in a thread, when it is its turn, and return its result.

    >>> import asyncio, bqstore
    >>> with bqstore.open(dim=2) as col:
    ...     asyncio.run(bqstore.reading(col.count))
    0
    """
    return await _in_turn(_turns_here().reads, function, *args, **kwargs)


async def writing(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Run a call that writes in a thread. Cancelled while it waits it writes nothing, and later all of it.

    Calls of `bqstore.Collection.add` that run at the same time share commits, and so their syncs.

    >>> import asyncio, bqstore
    >>> with bqstore.open() as col:
    ...     asyncio.run(bqstore.writing(col.add, [[1.0, 0.0]], ids=["a"]))
    ['a']
    """
    turns, call = _turns_here(), partial(function, *args, **kwargs)
    prepare = _part(call.func, "prepare")  # of `Collection.add`
    if prepare is None or not inspect.ismethod(call.func):
        return await _in_turn(turns.writes, call)
    async with turns.writes:
        add = await asyncio.to_thread(_called, prepare, call.func.__self__, *call.args, **call.keywords)
        if not add.may_wait:
            try:
                return cast(T, await asyncio.to_thread(_called, add.finish))
            finally:
                add.give_up()  # cancelled: its thread may still wait
    return cast(T, await _together(turns, add))


async def _together(turns: _Turns, add: Any) -> Any:
    """Let an `engine.writes.Add` wait without a thread, until it is its turn or another add's thread commits it."""
    with add.waiting(asyncio.get_running_loop().is_running):
        async with turns.adds.setdefault(add.engine, asyncio.Lock()):
            if not add.mine.is_done:
                return await _in_turn(turns.writes, add.finish)
        return add.result()


def _part(function: Callable[..., Any], name: str) -> Any:
    """The function that a call was made from, in this attribute; None if a decorator was put around the call."""
    part = getattr(function, name, None)
    return part if part is not None and getattr(function, "__wrapped__", None) is part else None


def _turns_here() -> _Turns:
    loop = asyncio.get_running_loop()
    if loop not in _turns:
        for each in _turns.keyrefs():  # closed loops, which their semaphores keep alive
            if (old := each()) is not None and old.is_closed():
                _turns.pop(old, None)
        _turns[loop] = _Turns()
    return _turns[loop]


async def _in_turn(turn: asyncio.Semaphore, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    async with turn:
        return await asyncio.to_thread(_called, function, *args, **kwargs)


def _called(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:  # of a user's filter, say: a future cannot hold one, and would be waited for forever
        raise RuntimeError("a StopIteration was raised in the call") from error


class Waits(NamedTuple):
    """A step that waits for others, such as a server: by ``now`` in a thread, by ``later`` in an event loop.

    >>> import asyncio, bqstore
    >>> step = bqstore.Waits(lambda: "ready", lambda: asyncio.sleep(0, "ready"))
    >>> step.now(), asyncio.run(step.later())
    ('ready', 'ready')
    """

    now: Callable[[], Any]
    later: Callable[[], Awaitable[Any]]


Steps = Generator[Any, Any, T]


def in_steps(function: Callable[P, Steps[T]]) -> Callable[P, T]:
    """Make a call of a generator that yields its steps; each `yield` is what the step returned, or raises its error.

    A step is a `Waits`, or a function without arguments, for what takes time itself. All else must be short: the form
    that `awaited` makes runs it in the event loop.

    >>> import bqstore
    >>> class Store:
    ...     collection = bqstore.open(dim=2)
    ...
    ...     @bqstore.in_steps
    ...     def count(self):
    ...         return (yield self.collection.count)
    >>> Store().count()
    0
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        running = function(*args, **kwargs)
        try:
            step = next(running)
            while True:
                try:
                    value = step.now() if isinstance(step, Waits) else step()
                except BaseException as error:
                    step = running.throw(error)
                else:
                    step = running.send(value)
        except StopIteration as ended:
            result: T = ended.value
            return result

    shown = inspect.signature(function)
    returned = str(shown.return_annotation).removeprefix("Steps[").removesuffix("]")
    call.__signature__ = shown.replace(return_annotation=returned)  # type: ignore[attr-defined]
    call.steps = function  # type: ignore[attr-defined]
    return call


class awaited(Generic[P, T]):  # noqa: N801 - it reads as a function does
    """The async forms of a method: ``reading`` and ``writing`` run it as the functions of these names do.

    A method made by `in_steps` is run step by step. If a subclass overrides the method, the async form runs that one.

    >>> import asyncio, bqstore
    >>> class Store:
    ...     collection = bqstore.open(dim=2)
    ...
    ...     def count(self):
    ...         return self.collection.count()
    ...
    ...     acount = bqstore.awaited(count).reading
    >>> asyncio.run(Store().acount())
    0
    """

    def __init__(self, function: Callable[P, T]) -> None:
        self._function = function

    @property
    def reading(self) -> Async[P, T]:
        """The form of a call that reads."""
        return self._in_turns(reading)

    @property
    def writing(self) -> Async[P, T]:
        """The form of a call that writes."""
        return self._in_turns(writing)

    def _in_turns(self, turn: Callable[..., Awaitable[Any]]) -> Async[P, T]:
        function = self._function
        where, dot, name = function.__qualname__.rpartition(".")

        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            result: T
            method = getattr(args[0], name)  # a subclass may have its own
            steps: Callable[P, Steps[T]] | None = _part(method, "steps")
            if steps is None:
                result = await turn(method, *args[1:], **kwargs)
                return result
            running = steps(*args, **kwargs)
            try:
                step = next(running)
                while True:
                    try:
                        value = await (step.later() if isinstance(step, Waits) else turn(step))
                    except BaseException as error:  # a cancellation, too
                        step = running.throw(error)
                    else:
                        step = running.send(value)
            except StopIteration as ended:
                result = ended.value
                return result

        call.__name__, call.__qualname__ = f"a{name}", f"{where}{dot}a{name}"
        call.__doc__ = f"Run `{name}` without blocking the event loop.\n\n{inspect.getdoc(function) or ''}"
        return call
