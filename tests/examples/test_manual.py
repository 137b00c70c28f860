"""The parts of the demo: the passages and the offline embedder."""

import hashlib
import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

from bqstore import Embedder

from .conftest import EXAMPLES


@pytest.mark.long
def test_several_thousand_passages(passages):
    from manual.corpus import MAX_CHARS

    assert len(passages) > 3000
    assert len({passage.id for passage in passages}) == len(passages)
    assert {passage.kind for passage in passages} == {"topic", "module", "class", "function"}
    bodies = [passage.text.partition("\n\n")[2] for passage in passages]
    assert len(set(bodies)) == len(bodies)
    assert sum(len(body) > 2 * MAX_CHARS for body in bodies) == 0
    assert all(len(passage.id.encode()) <= 1024 for passage in passages)


@pytest.mark.parametrize(
    "title",
    [
        "The with statement",
        "json.dumps",
        "argparse.ArgumentParser",
        "list.sort",
        "os.path.join",
        "functools.cache",
    ],
)
def test_what_a_reader_would_look_for_is_there(passages, title):
    assert title in {passage.title for passage in passages}


def digest(passages):
    """A hash of all passages but those of `sys`: pytest replaces some of its hooks."""
    return hashlib.sha256(repr([passage for passage in passages if passage.module != "sys"]).encode()).hexdigest()


def test_the_same_passages_in_every_process(passages):
    program = (
        f"import hashlib\nfrom manual.corpus import passages\n{inspect.getsource(digest)}\nprint(digest(passages()))"
    )
    there = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there.strip() == digest(passages)


@pytest.mark.slow
def test_a_limit_is_spread_over_the_whole(passages):
    from manual.corpus import spread

    some = spread(passages, 200)
    assert len(some) == 200
    assert [passage for passage in passages if passage in set(some)] == some
    assert {passage.kind for passage in some} == {"topic", "module", "class", "function"}
    assert spread(passages, None) == spread(passages, 10**6) == passages


def test_splitting_keeps_every_word_and_the_limit():
    from manual.corpus import MIN_TAIL, split

    text = "\n\n".join(f"paragraph {i} " + "word " * (i * 7 % 50) + "\n    indented" for i in range(60))
    text += "\n\n" + "\n".join("a long paragraph of many lines" for _ in range(100))
    pieces = list(split(text, most=300))
    assert max(len(piece) for piece in pieces) <= 300 + MIN_TAIL + 2
    assert " ".join(pieces).split() == text.split()


@pytest.fixture(scope="module")
def fitted(passages):
    from manual.offline import OfflineEmbedder

    texts = [passage.text for passage in passages[::8]]
    return OfflineEmbedder.fit(texts, dim=64), texts


def test_offline_vectors_are_unit_float32_and_deterministic(fitted):
    from manual.offline import OfflineEmbedder

    embedder, texts = fitted
    vectors = embedder.embed(texts)
    assert isinstance(embedder, Embedder) and embedder.model == "offline-lsa-64"
    assert vectors.dtype == np.float32 and vectors.shape == (len(texts), 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(OfflineEmbedder.fit(texts, dim=64).embed(texts), vectors, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_query(texts[3]), vectors[3], atol=1e-6)


def test_a_text_of_unknown_words_has_a_vector(fitted):
    vector = fitted[0].embed_query("xyzzy plugh")
    assert np.isfinite(vector).all() and np.linalg.norm(vector) == pytest.approx(1)


def test_offline_embedder_is_saved_and_loaded_without_pickle(fitted, tmp_path):
    from manual.offline import OfflineEmbedder

    embedder, texts = fitted
    embedder.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(OfflineEmbedder.load(tmp_path / "model.npz").embed(texts), embedder.embed(texts))
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]
    with pytest.raises(FileNotFoundError):
        OfflineEmbedder.load(tmp_path / "none.npz")


def test_offline_embedder_finds_what_was_asked(passages):
    from manual.offline import OfflineEmbedder

    some = [passage for i, passage in enumerate(passages) if i % 8 == 0 or passage.module == "functools"]
    texts = [passage.text for passage in some]
    embedder = OfflineEmbedder.fit(texts)
    best = np.argmax(embedder.embed(texts) @ embedder.embed_query("How do I cache the results of a function?"))
    assert some[best].title in {"functools.cache", "functools.lru_cache"}
