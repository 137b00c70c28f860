import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai import tokens

from .fake_server import DIM, Server, serve

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def a_home_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the user's key, or writes to the user's cache."""
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Iterator[Callable[..., OpenAIEmbedder]]:
    """Embedders on the server, closed at the end; the cache is the test's own."""
    made = []

    def make(**settings: Any) -> OpenAIEmbedder:
        defaults: dict[str, Any] = {
            "api_key": KEY,
            "dimensions": DIM,
            "base_url": server.url,
            "cache": tmp_path / "cache",
        }
        made.append(OpenAIEmbedder(**(defaults | settings)))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """tiktoken's tables, which LlamaIndex ships."""
    pytest.importorskip("tiktoken")
    llama = pytest.importorskip("llama_index.core")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(llama.__file__).parent / "_static" / "tiktoken_cache"))
    tokens.load_counter.cache_clear()
    yield
    tokens.load_counter.cache_clear()
