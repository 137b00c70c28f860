"""An embedding model that needs no network, no key and no GPU: latent semantic analysis with scikit-learn.

It weighs words by TF-IDF and reduces them by a truncated SVD. It knows which words of the manual occur together, and
nothing else about language: a real model finds what is meant, this one finds what is written. It is here so that the
demo runs anywhere.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from threadpoolctl import threadpool_limits

Vectors = npt.NDArray[np.float32]

DIM = 512
SEED = 20


class OfflineEmbedder:
    """Latent semantic analysis, fitted to the passages that it will embed; a `bqstore.Embedder`."""

    def __init__(self, vocabulary: Sequence[str], idf: Vectors, components: Vectors) -> None:
        self.model = f"offline-lsa-{components.shape[0]}"
        self._vocabulary = vocabulary
        self._components = components  # float32 (dim, words)
        # sublinear: a word that occurs ten times says little more than one that occurs twice
        self._tfidf = TfidfVectorizer(analyzer=words, vocabulary=vocabulary, sublinear_tf=True)
        self._tfidf.idf_ = idf

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = DIM) -> "OfflineEmbedder":
        """Fit to ``texts``; the same texts give the same embedder."""
        tfidf = TfidfVectorizer(analyzer=words, min_df=2, max_df=0.3, sublinear_tf=True)
        counts = tfidf.fit_transform(texts).astype(np.float32)
        # One thread: on a matrix of this size more threads save nothing, and on a busy machine the waiting threads of
        # a BLAS cost much (measured).
        with threadpool_limits(1):
            svd = TruncatedSVD(min(dim, min(counts.shape) - 1), n_iter=4, random_state=SEED).fit(counts)
        components = _rotated(svd.components_.astype(np.float32))
        return cls(tfidf.get_feature_names_out().tolist(), tfidf.idf_.astype(np.float32), components)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of passages, float32 (n, dim), of unit length."""
        counts = scipy.sparse.csr_matrix(self._tfidf.transform(texts), dtype=np.float32)
        vectors = np.ascontiguousarray(counts @ self._components.T, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # a text without a known word gets some direction: the cosine of a zero vector is undefined
        vectors[lengths[:, 0] == 0] = np.float32(1 / np.sqrt(vectors.shape[1]))
        return vectors / np.where(lengths == 0, np.float32(1), lengths)

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one question, float32 (dim,)."""
        return self.embed([text])[0]

    def save(self, path: Path) -> None:
        """Write the embedder to a file of plain arrays: unlike a pickle, loading it runs no code."""
        unfinished = path.with_name(f"unfinished-{path.name}")
        np.savez(unfinished, vocabulary=self._vocabulary, idf=self._tfidf.idf_, components=self._components)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "OfflineEmbedder":
        """Read an embedder from a file. Raises FileNotFoundError if there is none."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["vocabulary"].tolist(), arrays["idf"], arrays["components"])


def words(text: str) -> list[str]:
    """Return the stemmed words of a text, without the most common ones."""
    found = re.findall(r"[a-z][a-z0-9]+", re.sub(r"[_.]", " ", text).lower())
    return [_stem(word) for word in found if word not in ENGLISH_STOP_WORDS]


def _stem(word: str) -> str:
    """Cut the commonest English endings, so that ``sorted`` and ``sorts`` are ``sort``: crude, but good enough here."""
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: len(word) - len(ending)] + instead
    return word


def _rotated(components: Vectors) -> Vectors:
    """Rotate the axes at random: every cosine stays the same, and each axis carries as much as any other.

    The SVD sorts its axes by weight, so one bit per axis would spend most bits on what hardly matters. With the
    rotation, codes of one bit find .82 of the nearest ten instead of .74 (measured on the manual).
    """
    axes = np.random.default_rng(SEED).standard_normal((components.shape[0],) * 2)
    rotation, _ = np.linalg.qr(axes)
    return np.ascontiguousarray(rotation.astype(np.float32) @ components)
