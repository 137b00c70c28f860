"""Whether an event loop goes on beside the work of many tasks."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any


async def longest_stall(work: Callable[[], Awaitable[Any]]) -> float:
    """Seconds by which a heartbeat of 5 ms came late while the work was done."""
    late: list[float] = [0.0]
    done = asyncio.Event()

    async def beat() -> None:
        while not done.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - began - 0.005)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.02)
    await work()
    done.set()
    await heart
    return max(late)


async def never_stalls(works: Mapping[str, Callable[[], Awaitable[Any]]]) -> None:
    """Each leaves the loop free but for 20 ms, in the best of up to six rounds, less what an idle loop takes."""
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection of all objects stalls every thread, whoever made them
    try:
        for name, work in works.items():
            stalls: list[float] = []
            while not stalls or (min(stalls) > 0.02 and len(stalls) < 6):
                quiet = await longest_stall(lambda: asyncio.sleep(0.3))
                stalls.append(await longest_stall(work) - quiet)
            assert min(stalls) <= 0.02, (name, stalls)
    finally:
        gc.enable()
        gc.unfreeze()
