"""The embedder ``lsa``: latent semantic analysis, which needs no network, no key, no weights and no GPU.

It weighs words by TF-IDF and reduces them by a truncated SVD (scikit-learn's), fitted to the first passages of a
collection, with which it is kept (`bqstore.open_key_values`). It knows which of their words occur together, and nothing
else about language: a real model finds what is meant, this one finds what is written.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import bqstore

Vectors = npt.NDArray[np.float32]

NAME = "lsa"
DIM = 256
MODEL = "lsa-"  # its models' names begin so
_SEED = 20
_SAMPLE = 4000  # passages that it is fitted to
_MOST_WORDS, _LONGEST = 10_000, 40  # words, and characters of one
_FEW = 200  # passages: of fewer, words in one alone and in many of them count, too
_SPACE, _KEY = "lsa", "model"


class Lsa:
    """Latent semantic analysis, fitted to passages; a `bqstore.Embedder`."""

    def __init__(self, vocabulary: Sequence[str], idf: Vectors, components: Vectors) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vocabulary = vocabulary
        self._components = components  # float32 (dim, words)
        self.dim = len(components)
        # sublinear: a word that occurs ten times says little more than one that occurs twice
        self._tfidf = TfidfVectorizer(analyzer=words, vocabulary=vocabulary, sublinear_tf=True)
        self._tfidf.idf_ = idf
        self.model = f"{MODEL}{self.dim}-{hashlib.sha256(components.tobytes()).hexdigest()[:8]}"

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = DIM) -> Any:
        """Fit to texts; the same give the same embedder. Raises InvalidInputError where they have no words."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits

        bounds: dict[str, Any] = {"min_df": 2, "max_df": 0.3} if len(texts) >= _FEW else {}
        tfidf = TfidfVectorizer(analyzer=words, sublinear_tf=True, max_features=_MOST_WORDS, **bounds)
        try:
            counts = tfidf.fit_transform(texts).astype(np.float32)
        except ValueError:  # no word remains
            raise bqstore.InvalidInputError(
                f"the {len(texts):,} passages have no words that they could be told apart by"
            ) from None
        rank = min(dim, min(counts.shape) - 1)
        if rank < 2:  # hardly more than one passage: each word a direction of its own
            components: Vectors = np.random.default_rng(_SEED).standard_normal((dim, counts.shape[1]), np.float32)
        else:
            # One thread: on a matrix of this size more threads save nothing, and on a busy machine the waiting threads
            # of a BLAS cost much (measured).
            with threadpool_limits(1):
                svd = TruncatedSVD(rank, n_iter=4, random_state=_SEED).fit(counts)
            components = _rotated(svd.components_, dim)
        return cls(tfidf.get_feature_names_out().tolist(), tfidf.idf_.astype(np.float32), components)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of passages, float32 (n, dim), of unit length."""
        counts = self._tfidf.transform(texts).astype(np.float32)
        vectors = np.ascontiguousarray(counts @ self._components.T, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # a text without a known word gets some direction: the cosine of a zero vector is undefined
        vectors[lengths[:, 0] == 0] = np.float32(1 / np.sqrt(vectors.shape[1]))
        out: Vectors = (vectors / np.where(lengths == 0, np.float32(1), lengths)).astype(np.float32)
        return out

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one question, float32 (dim,)."""
        out: Vectors = self.embed([text])[0]
        return out

    def to_bytes(self) -> bytes:
        """Plain arrays: unlike a pickle, reading them runs no code."""
        out = io.BytesIO()
        np.savez(out, vocabulary=self._vocabulary, idf=self._tfidf.idf_, components=self._components)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Any:
        """The embedder of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(arrays["vocabulary"].tolist(), arrays["idf"], arrays["components"])


# ---- of a collection


def check_installed() -> None:
    """Raise EmbeddingError without scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise bqstore.EmbeddingError("the embedder lsa needs scikit-learn: pip install scikit-learn") from None


def of_collection(path: str, collection: str) -> Lsa | None:
    """The one that a collection was embedded with, if it was."""
    try:
        with bqstore.open_key_values(path, collection, read_only=True) as pairs:
            (data,) = pairs.get([_KEY], _SPACE)
    except bqstore.NotFoundError:
        return None
    if data is None:
        return None
    check_installed()
    found: Lsa = Lsa.from_bytes(data)
    return found


def keep(model: Lsa, path: str, collection: str) -> None:
    """Store it with the collection, before anything that it has embedded."""
    with bqstore.open_key_values(path, collection) as pairs:
        pairs.put({_KEY: model.to_bytes()}, _SPACE)


def fitted(texts: Iterable[str]) -> Lsa:
    """One that is fitted to some thousand of the texts. Raises EmbeddingError, InvalidInputError."""
    check_installed()
    chosen: list[str] = []
    random = np.random.default_rng(_SEED)
    for n, text in enumerate(texts):
        place = n if n < _SAMPLE else int(random.integers(n + 1))
        if place < _SAMPLE:  # each of n has had the same chance
            chosen[place : place + 1] = [text]
    if not chosen:
        raise bqstore.InvalidInputError("there is no passage to fit the embedder lsa to")
    made: Lsa = Lsa.fit(chosen)
    return made


# ---- words


def words(text: str) -> list[str]:
    """Return the stemmed words of a text, without the most common ones of English."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = re.findall(r"[^\W\d_][^\W_]+", re.sub(r"[_.]", " ", text).lower())
    return [_stem(word) for word in found if len(word) <= _LONGEST and word not in ENGLISH_STOP_WORDS]


def _stem(word: str) -> str:
    """Cut the commonest English endings, so that ``sorted`` and ``sorts`` are ``sort``: crude, but good enough here."""
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: len(word) - len(ending)] + instead
    return word


def _rotated(components: npt.NDArray[Any], dim: int) -> Vectors:
    """Rotate the axes at random, in ``dim`` dimensions: every cosine stays the same, and each axis carries as much.

    The SVD sorts its axes by weight, so one bit per axis would spend most bits on what hardly matters. With the
    rotation, codes of one bit find .82 of the nearest ten instead of .74 (measured on the manual).
    """
    axes = np.random.default_rng(_SEED).standard_normal((dim, dim))
    rotation, _ = np.linalg.qr(axes)
    part = rotation[:, : len(components)].astype(np.float32)
    return np.ascontiguousarray(part @ components.astype(np.float32), np.float32)
