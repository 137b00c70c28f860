"""Jobs of the Batch API on a fake server, with batches small enough that a few texts need several."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from bqstore.embeddings import EmbeddingCache
from bqstore.embeddings.openai_batch import plan as batch_plan
from bqstore.embeddings.openai_batch.batch import EmbeddingBatch

from ..conftest import KEY
from ..fake_batch_server import Server, serve
from ..fake_server import DIM, vector_of

TEXTS = [f"text {i}" for i in range(10)]


def small_requests(sizes: Any, limits: Any = None) -> Iterator[range]:
    """Two texts to a request."""
    yield from (range(start, min(start + 2, len(sizes))) for start in range(0, len(sizes), 2))


def right(texts: list[str]) -> np.ndarray:
    rows = np.stack([vector_of(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture
def make(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EmbeddingBatch]]:
    """Jobs on the server, of batches of three requests of two texts each; the client's own retries are on."""
    monkeypatch.setattr(batch_plan, "plan_requests", small_requests)
    monkeypatch.setattr(batch_plan, "MAX_BATCH_TEXTS", 6)
    client = openai.OpenAI(api_key=KEY, base_url=server.url)

    def make(model: str = "text-embedding-3-small", **settings: Any) -> EmbeddingBatch:
        defaults = {"dimensions": DIM, "folder": tmp_path / "jobs", "endpoint": str(client.base_url), "poll_seconds": 0}
        cache = settings.pop("cache", EmbeddingCache(tmp_path / "cache"))
        return EmbeddingBatch(client, model, cache=cache, **(defaults | settings))

    yield make
    client.close()


def make_and_collect(job: EmbeddingBatch, texts: list[str] = TEXTS) -> np.ndarray:
    job.submit(texts)
    return job.collect()
