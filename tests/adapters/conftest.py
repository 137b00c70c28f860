import asyncio
import contextlib
import inspect
import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def sentences_are_split_without_a_net() -> None:
    """Older versions of LlamaIndex seek stopwords in the net for the first text they split, and later do without."""
    if "llama_index.core" not in sys.modules:
        return
    from llama_index.core.utils import globals_helper

    from tests.adapters.llama_index_versions import STOPWORDS, VERSION

    if VERSION < STOPWORDS:
        with contextlib.suppress(LookupError):
            _ = globals_helper.punkt_tokenizer


@pytest.fixture(autouse=True)
def no_loop_is_left_behind(request: pytest.FixtureRequest) -> None:
    """LlamaIndex asks for the thread's event loop, and asyncio makes one that nobody closes, unless it was told not to.

    What is left is collected in some later test, which fails for it.
    """
    if not inspect.iscoroutinefunction(request.function):
        asyncio.set_event_loop(None)
