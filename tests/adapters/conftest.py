import asyncio
import inspect

import pytest


@pytest.fixture(autouse=True)
def no_loop_is_left_behind(request: pytest.FixtureRequest) -> None:
    """LlamaIndex asks for the thread's event loop, and asyncio makes one that nobody closes, unless it was told not to.

    What is left is collected in some later test, which fails for it.
    """
    if not inspect.iscoroutinefunction(request.function):
        asyncio.set_event_loop(None)
