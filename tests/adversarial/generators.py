"""Data unlike a model's: each generator gives vectors in the order of their arrival, and queries of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Made = tuple[F32, F32]
QUERIES = 150


def unit(vectors: NDArray[np.floating]) -> F32:
    """At length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def split(vectors: NDArray[np.floating], n: int) -> Made:
    """The first n, and the others as queries."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors[:n], vectors[n:]


def model(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.floating]:
    """Somewhat like an embedding model's: a common mean, few large directions, clusters of all sizes."""
    spectrum = (1 + np.arange(dim)) ** -0.5
    centers = rng.standard_normal((max(10, n // 60), dim)) * spectrum
    return np.asarray(
        0.5 + centers[rng.integers(0, len(centers), n)] + 0.7 * rng.standard_normal((n, dim)) * spectrum, np.float64
    )


def topics(noise: float, count: int = 200) -> Callable[[np.random.Generator, int, int], Made]:
    """A product catalogue, tickets by template: within a topic all signs are nearly equal."""

    def made(rng: np.random.Generator, n: int, dim: int) -> Made:
        centers = unit(rng.standard_normal((count, dim)))
        rows = centers[rng.integers(0, count, n + QUERIES)]
        return split(unit(rows + noise * rng.standard_normal(rows.shape) / np.sqrt(dim)), n)

    return made


def one_hot_first(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Categories first, and then a model's: what the first vectors say is wrong for the rest."""
    first = np.eye(dim)[rng.integers(0, dim, n // 6)]
    rest = unit(model(rng, n - len(first) + QUERIES, dim))
    return split(np.concatenate([first, rest]), n)


def one_hot_last(rng: np.random.Generator, n: int, dim: int) -> Made:
    """A model's, and then some categories."""
    rows = unit(model(rng, n - n // 40 + QUERIES, dim))
    last = np.eye(dim)[rng.integers(0, dim, n // 40)]
    return split(np.concatenate([rows[QUERIES:], last, rows[:QUERIES]]), n)


def sparse(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Eight values of each vector are not zero, as of word counts."""
    rows = np.zeros((n + QUERIES, dim))
    kinds = np.argsort(rng.random((50, dim)), axis=1)[:, : dim // 4]
    for row, kind in zip(rows, rng.integers(0, 50, len(rows)), strict=True):
        row[rng.choice(kinds[kind], 8, replace=False)] = rng.exponential(1, 8)
    return split(rows, n)


def near_duplicates(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Thirty versions of every document."""
    rows = model(rng, (n + QUERIES) // 30 + 1, dim).repeat(30, axis=0)
    rows += 0.02 * rng.standard_normal(rows.shape)
    return split(rng.permutation(rows)[: n + QUERIES], n)


def heavy_tailed(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Lengths from a hundredth to a hundred."""
    rows = model(rng, n + QUERIES, dim) * rng.lognormal(0, 1.5, (n + QUERIES, 1))
    return split(rows, n)


def bimodal(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Two halves on opposite sides of the origin, one of them a hundred times denser."""
    rows = rng.standard_normal((n + QUERIES, dim)) * (1 + np.arange(dim)) ** -0.3
    side = rng.random(len(rows)) < 0.5
    rows[side] *= 0.05
    rows += np.where(side[:, None], 2.0, -2.0)
    return split(rows, n)


def nested_topics(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Topics within topics: eight in each, four times, each level some three times tighter."""
    label = np.zeros(n + QUERIES, int)
    rows = 0.01 * rng.standard_normal((n + QUERIES, dim))
    for scale in (1.0, 0.3, 0.1, 0.03):
        label = 8 * label + rng.integers(0, 8, len(label))
        rows += scale * rng.standard_normal((label.max() + 1, dim))[label]
    return split(rows, n)


def drifting(rng: np.random.Generator, n: int, dim: int) -> Made:
    """A walk at random through space, as of windows over a time series: what comes first is far from the last."""
    rows = np.cumsum(0.05 * rng.standard_normal((n + QUERIES, dim)), axis=0) + 0.3 * rng.standard_normal(
        (n + QUERIES, dim)
    )
    asked = np.zeros(len(rows), bool)
    asked[rng.choice(len(rows), QUERIES, replace=False)] = True
    return split(np.concatenate([rows[~asked], rows[asked]]), n)


def by_topic(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Topic after topic, two hundred documents each: no later document is near an earlier one of another."""
    label = np.concatenate([np.sort(rng.integers(0, n // 200, n)), rng.integers(0, n // 200, QUERIES)])
    centers = rng.standard_normal((n // 200, dim))
    return split(centers[label] + 0.7 * rng.standard_normal((n + QUERIES, dim)), n)


def islands(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Tight topics of all sizes, from one that holds a tenth to very many of a few documents; queries ask for each."""
    share = 1 / (1 + np.arange(n // 30))
    label = rng.choice(len(share), n + QUERIES, p=share / share.sum())
    label[n:] = rng.integers(0, len(share), QUERIES)
    return split(rng.standard_normal((len(share), dim))[label] + 0.25 * rng.standard_normal((n + QUERIES, dim)), n)


def opposites(rng: np.random.Generator, n: int, dim: int) -> Made:
    """For each document one on the opposite side: the mean says nothing."""
    half = model(rng, (n + QUERIES) // 2 + 1, dim)
    rows = np.concatenate([half, -half]) + 0.05 * rng.standard_normal((2 * len(half), dim))
    return split(rng.permutation(rows)[: n + QUERIES], n)


def categories(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Some fields of sixteen values each, one-hot: few different distances, many documents at each."""
    rows = np.zeros((n + QUERIES, dim))
    for field in range(dim // 16):
        values = np.minimum(15, rng.geometric(0.25, len(rows)) - 1)
        rows[np.arange(len(rows)), 16 * field + values] = 1
    return split(rows, n)


def curve(rng: np.random.Generator, n: int, dim: int) -> Made:
    """All on one curve, as of sensors that follow one cause."""
    time, speed, phase = 20 * rng.random((n + QUERIES, 1)), 3 * rng.random(dim), 2 * np.pi * rng.random(dim)
    return split(np.sin(time * speed + phase) + 0.01 * rng.standard_normal((n + QUERIES, dim)), n)


def all_densities(rng: np.random.Generator, n: int, dim: int) -> Made:
    """One cloud whose density changes by a factor of a thousand, all around one point far from the origin."""
    return split(3 + np.exp(rng.uniform(-5, 2, (n + QUERIES, 1))) * rng.standard_normal((n + QUERIES, dim)), n)


def two_models(rng: np.random.Generator, n: int, dim: int) -> Made:
    """Half of them in the first half of the dimensions, half in the others."""
    rows, first = model(rng, n + QUERIES, dim), rng.random(n + QUERIES) < 0.5
    rows[first, : dim // 2] = 0
    rows[~first, dim // 2 :] = 0
    return split(rows, n)


GENERATORS: dict[str, Callable[[np.random.Generator, int, int], Made]] = {
    "topics, noise 0.1": topics(0.1),
    "topics, noise 0.3": topics(0.3),
    "topics, noise 1": topics(1),
    "topics, noise 2": topics(2),
    "2,000 topics": topics(1, 2000),
    "one-hot first": one_hot_first,
    "one-hot last": one_hot_last,
    "sparse": sparse,
    "near-duplicates": near_duplicates,
    "heavy-tailed lengths": heavy_tailed,
    "bimodal": bimodal,
    "nested topics": nested_topics,
    "drifting": drifting,
    "topic after topic": by_topic,
    "islands": islands,
    "opposites": opposites,
    "categories": categories,
    "curve": curve,
    "all densities": all_densities,
    "two models": two_models,
}
