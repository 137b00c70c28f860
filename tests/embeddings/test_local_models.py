"""Models that run on this machine, by name."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bqstore.cli.embedders import embedder_named
from bqstore.embeddings import CachedEmbedder
from bqstore.errors import EmbeddingError, InvalidInputError

from .fake_server import vector_of


def vectors(texts):
    return np.stack([vector_of(text) for text in texts])


class SentenceTransformer:
    def __init__(self, name):
        assert name == "a-model"

    def encode(self, texts, show_progress_bar=None, convert_to_numpy=False):
        assert convert_to_numpy and show_progress_bar is False
        return vectors(texts)

    def encode_query(self, texts, **given):
        return -self.encode(texts, **given)


class TextEmbedding:
    def __init__(self, model_name):
        assert model_name == "a-model"

    def passage_embed(self, texts):
        yield from vectors(texts)

    def query_embed(self, texts):
        yield from -vectors(texts)


class Llama:
    def __init__(self, model_path, embedding, verbose):
        assert (model_path, embedding, verbose) == ("a-model", True, False)

    def embed(self, texts):
        return vectors(texts).tolist()


class StaticModel:
    @classmethod
    def from_pretrained(cls, path):
        assert path == "a-model"
        return cls()

    def encode(self, texts):
        return vectors(texts)


class WordLlama:
    @staticmethod
    def load(config, cache_dir=None, disable_download=False):
        assert config in ("a-model", "one that is downloaded")
        if disable_download and config != "a-model":
            raise FileNotFoundError
        return SimpleNamespace(embed=lambda texts, norm: vectors(texts) if norm else None)


# their interfaces; the libraries themselves come with hundreds of megabytes
LIBRARIES = {
    "sentence-transformers": (SimpleNamespace(SentenceTransformer=SentenceTransformer), -1),
    "fastembed": (SimpleNamespace(TextEmbedding=TextEmbedding), -1),
    "llama-cpp": (SimpleNamespace(Llama=Llama), 1),
    "model2vec": (SimpleNamespace(StaticModel=StaticModel), 1),
    "wordllama": (SimpleNamespace(WordLlama=WordLlama, __file__="wordllama/__init__.py"), 1),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_by_name(monkeypatch, tmp_path, library):
    module, sign = LIBRARIES[library]
    monkeypatch.setitem(sys.modules, library.replace("-", "_"), module)
    by_module = CachedEmbedder(f"{library.replace('-', '_')}:a-model", cache=tmp_path)
    embedder = CachedEmbedder(f"{library}:a-model", cache=tmp_path)
    assert embedder.model == "a-model" and embedder._passages.key_of("a") == by_module._passages.key_of("a")
    np.testing.assert_array_equal(embedder.embed(["a", "b"]), vectors(["a", "b"]))
    np.testing.assert_array_equal(embedder.embed_query("a"), sign * vector_of("a"))
    with pytest.raises(EmbeddingError, match=f"{library} cannot load another"):
        CachedEmbedder(f"{library}:another", cache=tmp_path)


def test_a_model_that_is_not_in_wordllama(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordllama", LIBRARIES["wordllama"][0])
    embedder = CachedEmbedder("wordllama:one that is downloaded", cache=False)
    np.testing.assert_array_equal(embedder.embed(["a"]), vectors(["a"]))


def test_libraries_do_not_share_what_is_cached_of_one_name(monkeypatch, tmp_path):
    for library, (module, _) in LIBRARIES.items():
        monkeypatch.setitem(sys.modules, library.replace("-", "_"), module)
    one, other = (CachedEmbedder(f"{library}:a-model", cache=tmp_path) for library in list(LIBRARIES)[:2])
    one.embed(["a"])
    assert other._cache.get([other._passages.key_of("a")]) == {}


def test_a_small_model_of_model2vec(tmp_path):
    model2vec = pytest.importorskip("model2vec")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "cats": 1, "dogs": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model2vec.StaticModel(np.eye(3, dtype=np.float32), tokenizer, {"normalize": True}).save_pretrained(
        tmp_path / "model"
    )
    embedder = CachedEmbedder(f"model2vec:{tmp_path / 'model'}", cache=tmp_path / "cache")
    np.testing.assert_allclose(embedder.embed(["cats", "dogs"]), np.eye(3)[1:], atol=1e-6)


def test_the_model_that_comes_with_wordllama(tmp_path):
    pytest.importorskip("wordllama", reason="wordllama, whose package holds a model, is not installed")
    embedder = CachedEmbedder("wordllama:l2_supercat", cache=tmp_path)
    texts = ["A cat sleeps on the sofa.", "Stock prices fell on Monday."]
    vectors = embedder.embed(texts)
    assert vectors.shape == (2, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors @ embedder.embed_query("kitten") @ [1, -1] > 0.1


def test_a_library_that_turns_on_the_log_of_everything(monkeypatch, tmp_path):
    (tmp_path / "wordllama.py").write_text(
        "import logging\nlogging.root.handlers.append(logging.StreamHandler())\n"
        "logging.root.setLevel(logging.INFO)\nclass WordLlama:\n    load = staticmethod(lambda *given, **more: None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wordllama", raising=False)
    before = logging.root.level, logging.root.handlers[:]
    CachedEmbedder("wordllama:l2_supercat", cache=False)
    del sys.modules["wordllama"]  # or monkeypatch would put this one back
    assert (logging.root.level, logging.root.handlers) == before


def test_what_is_not_known_or_not_installed_is_named(monkeypatch):
    with pytest.raises(InvalidInputError, match=r"embedder is 'a-model'; expected .* model2vec"):
        CachedEmbedder("a-model")
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(ImportError, match="fastembed is not installed: pip install fastembed"):
        CachedEmbedder("fastembed:a-model")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(EmbeddingError, match="llama-cpp is not installed: pip install llama-cpp-python"):
        embedder_named("llama_cpp:a-model")  # of the command line, which took it for a module of the user's
