"""The embedder ``lsa``: latent semantic analysis, which needs no network, key, model weights or GPU.

It weights words by TF-IDF and reduces them by a truncated SVD (scikit-learn's), fitted to a sample of the passages of
the first ingestion, and is stored with the collection (`bqstore.open_key_values`). It learns which words occur
together, and nothing else about language: a neural model finds meaning, this one finds words.
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
MODEL = "lsa-"  # prefix of its models' names
_SEED = 20
_SAMPLE = 4000  # passages to fit, at most
_MOST_WORDS, _LONGEST = 10_000, 40  # words, and characters of a word, at most
_FEW = 200  # with fewer passages, very rare and very frequent words are kept, too
_SPACE, _KEY = "lsa", "model"


class Lsa:
    """Latent semantic analysis, fitted to passages; a `bqstore.Embedder`."""

    def __init__(self, vocabulary: Sequence[str], idf: Vectors, components: Vectors) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vocabulary = vocabulary
        self._components = components  # float32 (dim, words)
        self.dim = len(components)
        # sublinear: ten occurrences of a word weigh little more than two
        self._tfidf = TfidfVectorizer(analyzer=words, vocabulary=vocabulary, sublinear_tf=True)
        self._tfidf.idf_ = idf
        self.model = f"{MODEL}{self.dim}-{hashlib.sha256(components.tobytes()).hexdigest()[:8]}"

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = DIM) -> Any:
        """Fit to texts; equal texts give an equal embedder. Raises InvalidInputError if they have no words."""
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
        if rank < 2:  # too few passages for an SVD: a random direction for each word
            components: Vectors = np.random.default_rng(_SEED).standard_normal((dim, counts.shape[1]), np.float32)
        else:
            # one thread: on a matrix of this size more save nothing, and on a busy machine the waiting threads of a
            # BLAS cost much (measured)
            with threadpool_limits(1):
                svd = TruncatedSVD(rank, n_iter=4, random_state=_SEED).fit(counts)
            components = _rotated(svd.components_, dim)
        return cls(tfidf.get_feature_names_out().tolist(), tfidf.idf_.astype(np.float32), components)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of passages, float32 (n, dim), of unit length."""
        counts = self._tfidf.transform(texts).astype(np.float32)
        vectors = np.ascontiguousarray(counts @ self._components.T, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # a text without known words gets an arbitrary direction: the cosine of a zero vector is undefined
        vectors[lengths[:, 0] == 0] = np.float32(1 / np.sqrt(vectors.shape[1]))
        out: Vectors = (vectors / np.where(lengths == 0, np.float32(1), lengths)).astype(np.float32)
        return out

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one query, float32 (dim,)."""
        out: Vectors = self.embed([text])[0]
        return out

    def to_bytes(self) -> bytes:
        """The embedder as plain arrays: unlike a pickle, reading them runs no code."""
        out = io.BytesIO()
        np.savez(out, vocabulary=self._vocabulary, idf=self._tfidf.idf_, components=self._components)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Any:
        """The embedder from the bytes of `to_bytes`."""
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
    """The embedder stored with a collection, or None."""
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
    """Store an embedder with the collection; call it before the first documents are stored."""
    with bqstore.open_key_values(path, collection) as pairs:
        pairs.put({_KEY: model.to_bytes()}, _SPACE)


def fitted(texts: Iterable[str]) -> Lsa:
    """An embedder fitted to a sample of the texts. Raises EmbeddingError, InvalidInputError."""
    check_installed()
    chosen: list[str] = []
    random = np.random.default_rng(_SEED)
    for n, text in enumerate(texts):
        place = n if n < _SAMPLE else int(random.integers(n + 1))
        if place < _SAMPLE:  # reservoir sampling: each text is chosen with equal probability
            chosen[place : place + 1] = [text]
    if not chosen:
        raise bqstore.InvalidInputError("there is no passage to fit the embedder lsa to")
    made: Lsa = Lsa.fit(chosen)
    return made


# ---- words


def words(text: str) -> list[str]:
    """Return the stemmed words of a text, without English stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = re.findall(r"[^\W\d_][^\W_]+", re.sub(r"[_.]", " ", text).lower())
    return [_stem(word) for word in found if len(word) <= _LONGEST and word not in ENGLISH_STOP_WORDS]


def _stem(word: str) -> str:
    """Cut common English suffixes, so that ``sorted`` and ``sorts`` become ``sort``: crude, but good enough here."""
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: len(word) - len(ending)] + instead
    return word


def _rotated(components: npt.NDArray[Any], dim: int) -> Vectors:
    """Rotate the axes at random in ``dim`` dimensions: cosines are unchanged, and all axes get similar variance.

    The SVD sorts its axes by variance, so one bit per axis would spend most bits on axes of little variance. With the
    rotation, one-bit codes find .82 of the nearest ten instead of .74 (measured on the manual).
    """
    axes = np.random.default_rng(_SEED).standard_normal((dim, dim))
    rotation, _ = np.linalg.qr(axes)
    part = rotation[:, : len(components)].astype(np.float32)
    return np.ascontiguousarray(part @ components.astype(np.float32), np.float32)
