"""Every public call of `bqstore.embeddings` has an example in its docstring, and the examples run, on a fake server."""

import doctest
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqstore
from bqstore import embeddings
from bqstore.embeddings import CachedEmbedder, Embedder, EmbeddingBatch, EmbeddingCache, OpenAIEmbedder

from . import fake_batch_server, fake_server
from .conftest import KEY

CLASSES = (OpenAIEmbedder, CachedEmbedder, EmbeddingBatch, EmbeddingCache)
DIM = 1536  # of the examples' model


def public_calls() -> dict[str, Any]:
    """The public functions, classes, methods and properties by name, inherited ones with those who inherit them."""
    calls: dict[str, Any] = {"user_cache_folder": embeddings.user_cache_folder, "Embedder": Embedder}
    for owner in CLASSES:
        calls[owner.__name__] = owner
        for name, member in inspect.getmembers(owner):
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                calls[f"{owner.__name__}.{name}"] = member
    return calls


CALLS = public_calls()


def test_every_public_call_is_looked_at() -> None:
    results = {"BatchStatus", "Estimate", "Usage", "PRICES_AS_OF"}  # which are no calls
    assert set(embeddings.__all__) - results == {name for name in CALLS if "." not in name}
    assert {"OpenAIEmbedder.add_to", "OpenAIEmbedder.usage", "CachedEmbedder.as_langchain"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {"bqstore": bqstore, "np": np} | {name: getattr(embeddings, name) for name in embeddings.__all__}
    doc = inspect.getdoc(CALLS[name]) or ""
    example = doctest.DocTestParser().get_doctest(doc, names, name, None, None)
    assert example.examples, f"{name} has no example"
    monkeypatch.chdir(tmp_path)
    servers = fake_batch_server if "batch-jobs" in doc else fake_server
    with servers.serve() as server:
        server.dim = DIM
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        said: list[str] = []
        result = doctest.DocTestRunner().run(example, out=said.append)
    assert result.failed == 0, "".join(said)
