"""The servers of docs/servers.md, imitated by what they document: each is embedded with as the page says."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import openai
import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai import requester
from bqstore.errors import EmbeddingError

from . import servers
from .conftest import KEY
from .fake_server import DIM, vector_of

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
NAMES = [module.name for module in pkgutil.iter_modules(servers.__path__) if module.name != "common"]

MANY = {"openai_api": 2_100, "jina": 520, "litellm_vertex": 260}  # more than one request takes


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(requester, "_FIRST_PAUSE", 0.001)


@pytest.mark.parametrize("name", NAMES)
def test_a_server(make, server, name):
    imitation = importlib.import_module(f"{servers.__name__}.{name}")
    assert f"| {imitation.NAME} | `{imitation.BASE_URL}` |" in PAGE
    assert all(f"{setting}=" in PAGE for setting in imitation.SETTINGS)
    server.imitate = imitation.answer
    texts = [f"text {i}" for i in range(MANY.get(name, 130))]
    if "on_too_long" in imitation.SETTINGS:
        texts = [*texts[:20], "word " * 60]
    embedder = make(**({"dimensions": None, "model": "own"} | imitation.SETTINGS))
    vectors = embedder.embed(texts)
    dim = 6 if name == "localai" else DIM
    assert vectors.shape == (len(texts), dim)
    n = len(texts) - ("on_too_long" in imitation.SETTINGS)
    np.testing.assert_allclose(vectors[:n], [vector_of(text, dim) for text in texts[:n]], rtol=1e-6)
    np.testing.assert_allclose(embedder.embed_query("text 0"), vector_of("text 0", dim), rtol=1e-6)


def settings_of(server_name):
    """What the page says to set for a server, as keywords."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {server_name} |"))
    said = ", ".join(re.findall(r"`(\w+=[^`]+)`", row.split(" | ", 2)[2]))
    call = ast.parse(f"dict({said})", mode="eval").body
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


@pytest.mark.parametrize("name", NAMES)
def test_a_server_refuses_nothing_where_what_the_page_says_is_set(make, server, name):
    imitation = importlib.import_module(f"{servers.__name__}.{name}")
    said, refused = settings_of(imitation.NAME), []

    def imitate(request):
        answer = imitation.answer(request)
        refused.extend([answer] if answer is not None and answer[0] != 200 else [])
        return answer

    server.imitate = imitate
    embedder = make(**({"dimensions": None, "model": "own", "max_concurrency": 1, "cache": False} | said))
    prefix = said.get("document_prefix", "")
    embedder.embed_query("the form of vectors is settled")
    refused.clear()
    texts = [f"text {i}" for i in range(MANY.get(name, 130))]
    dim = 6 if name == "localai" else DIM
    np.testing.assert_allclose(embedder.embed(texts), [vector_of(prefix + text, dim) for text in texts], rtol=1e-6)
    assert not refused or "max_request_texts" not in said


def test_azure(server):
    assert "| Azure |" in PAGE
    with (
        openai.AzureOpenAI(api_key=KEY, azure_endpoint=server.url, api_version="2024-10-21") as client,
        OpenAIEmbedder("my-deployment", client=client, cache=False, dimensions=DIM) as embedder,
    ):
        np.testing.assert_array_equal(embedder.embed(["a", "b"]), [vector_of("a"), vector_of("b")])
    assert server.headers[0]["api-key"] == KEY


def test_a_text_that_ollama_cannot_embed_is_named(make, server):
    server.imitate = importlib.import_module(f"{servers.__name__}.ollama").answer
    texts = [f"text {i}" for i in range(12)]
    texts[9] = "\x7f"
    with pytest.raises(EmbeddingError, match="text 9 has no vector"):
        make(max_retries=1).embed(texts)
    assert len(server.answered) == 11
