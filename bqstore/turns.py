"""Runs calls of a collection in threads, few at once, so that an event loop goes on beside them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

# Each thread that computes may hold Python's lock for 5 ms before the loop has it again. All of these together are
# fewer than the threads of a loop's own executor: writers that wait for other processes never keep readers waiting.
_READS: Final = max(1, min(os.cpu_count() or 1, 16))
_WRITES: Final = 3
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, asyncio.Semaphore]] = WeakKeyDictionary()


async def reading(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Return what a call that reads returns, made in a thread when its turn has come.

    >>> import asyncio, bqstore
    >>> with bqstore.open(dim=2) as col:
    ...     asyncio.run(bqstore.reading(col.count))
    0
    """
    return await _in_turn(0, function, *args, **kwargs)


async def writing(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Run a call that writes in a thread. Cancelled while it waits it writes nothing, and later all of it.

    >>> import asyncio, bqstore
    >>> with bqstore.open() as col:
    ...     asyncio.run(bqstore.writing(col.add, [[1.0, 0.0]], ids=["a"]))
    ['a']
    """
    return await _in_turn(1, function, *args, **kwargs)


async def _in_turn(kind: int, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    loop = asyncio.get_running_loop()
    if loop not in _turns:
        _turns[loop] = asyncio.Semaphore(_READS), asyncio.Semaphore(_WRITES)
    async with _turns[loop][kind]:
        return await asyncio.to_thread(_called, function, *args, **kwargs)


def _called(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:  # of a user's filter, say: a future cannot hold one, and would be waited for forever
        raise RuntimeError("a StopIteration was raised in the call") from error
