import os
import ssl
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bqstore.embeddings import OpenAIEmbedder, disk_cache
from bqstore.embeddings.openai import tokens
from bqstore.storage import platform

from .fake_server import DIM, Server, serve

SYNCHRONOUS = disk_cache._SYNCHRONOUS  # as users have it
KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def a_home_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the user's key, or writes to the user's cache."""
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def nothing_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has written outlives it, synced or not."""
    monkeypatch.setattr(disk_cache, "_SYNCHRONOUS", "OFF")
    for name in ("sync_file", "sync_folder"):
        monkeypatch.setattr(platform, name, lambda _: None)


@pytest.fixture(autouse=True)
def no_certificates_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client would parse all of them, in 25 ms; the servers of these tests speak plain HTTP."""

    def look(self: ssl.SSLContext, cafile: str | None = None, *args: object, **given: object) -> None:
        if cafile is not None and not Path(cafile).exists():
            raise FileNotFoundError(2, "No such file or directory")  # as OpenSSL says it

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", look)


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
    if server.hold is not None:  # of a test that has failed: closing waits for what is under way
        server.hold.set()
    for embedder in made:
        embedder.close()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """tiktoken's tables, which LlamaIndex ships."""
    pytest.importorskip("tiktoken")
    llama = find_spec("llama_index.core")  # found, not imported, which takes seconds
    if llama is None or llama.origin is None:
        pytest.skip("llama_index.core is not installed")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(llama.origin).parent / "_static" / "tiktoken_cache"))
    tokens.load_counter.cache_clear()
    yield
    tokens.load_counter.cache_clear()
