"""The key: where it comes from, and that it goes nowhere but to the server."""

import copy
import logging
import pickle
import subprocess
import sys
import traceback

import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.errors import EmbeddingError

from .conftest import KEY
from .fake_server import Refusal


def test_a_missing_key_says_what_to_set():
    with pytest.raises(EmbeddingError, match=r"api_key=.* OPENAI_API_KEY"):
        OpenAIEmbedder()


def test_an_empty_key_is_a_missing_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    with pytest.raises(EmbeddingError, match="there is no API key"):
        OpenAIEmbedder()


def test_the_key_of_the_environment_is_used_without_its_newline(server, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    with OpenAIEmbedder(base_url=server.url, cache=False, dimensions=8) as embedder:
        embedder.embed_query("a")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["sk-geheim-ü", "sk-secret\nX-Other: 1", "sk-secret\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_quoted(key):
    with pytest.raises(EmbeddingError, match="holds characters that no key has") as caught:
        OpenAIEmbedder(api_key=key)
    assert "secret" not in repr(caught.value) and "geheim" not in repr(caught.value)


def test_the_key_shows_nowhere(make, server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    embedder = make()
    server.plan = [Refusal(500, {"message": KEY}), Refusal(401, {"message": KEY})]
    with pytest.raises(EmbeddingError) as caught:
        embedder.embed_query("a")
    embedder.embed_query("a")
    shown = [
        repr(embedder),
        str(vars(embedder)),
        caplog.text,
        "".join(traceback.format_exception(caught.value)),
    ]
    assert all(KEY not in text for text in shown)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert stored and KEY.encode() not in stored


def test_an_embedder_does_not_travel(make):
    """Copies by pickle would carry the key along; in one process there need be none."""
    embedder = make()
    with pytest.raises(TypeError, match="its key would travel along"):
        pickle.dumps(embedder)
    assert copy.deepcopy(embedder) is copy.copy(embedder) is embedder


def test_the_package_is_imported_late_and_a_missing_one_names_the_extra():
    program = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "openai":
            raise ModuleNotFoundError("No module named 'openai'", name="openai")
sys.meta_path.insert(0, Blocker())
from bqstore.embeddings import OpenAIEmbedder
assert "openai" not in sys.modules
try:
    OpenAIEmbedder(api_key="sk-x")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "bqstore[openai]"' in done.stdout
