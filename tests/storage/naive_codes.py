"""Codes of every form the slow, obvious way, as FORMAT.md gives their bits; sums are exact, and the same everywhere.

The storage does not know what a code means. The tests do, so that each stored one can be made again of its vector and
of the parameters that lie in its file.
"""

import math
import struct
from typing import Any

import numpy as np

from bqstore.storage import Coding, Recode
from bqstore.storage.format import CODE_FORMS

PAIRS = {form: pair for pair, form in CODE_FORMS.items()}  # form -> (encoding, estimator)


def settings_for(settings: dict[str, Any], form: int, seed: int = 0, part: int | None = None) -> dict[str, Any]:
    """The settings with a coding of a form; also with a choice that holds a tuple, which JSON has no word for.

    part : how many values of each vector are encoded; None: all
    """
    encoding, estimator = PAIRS[form]
    coding: dict[str, Any] = {"encoding": encoding, "estimator": estimator, "rotate": False}
    if part is not None:
        coding["truncate_dim"] = part
    return {**settings, "coding": coding, "choice": {"seed": seed, "trials": ((form, 0.5),)}}


def trained(form: int, dim: int, seed: int = 0) -> np.ndarray:
    """Parameters, float32: none, or means and deviations, or two numbers and means; others for each seed."""
    if form == 1:
        return np.zeros(0, np.float32)
    rng = np.random.default_rng((form, seed))
    means, others = rng.normal(0, 0.1, dim), rng.uniform(0.3, 1, dim)
    return np.concatenate([means, others] if form < 4 else [others[:1], others[-1:], means]).astype(np.float32)


def coding(settings: dict[str, Any], form: int, dim: int, seed: int = 0, part: int | None = None) -> Coding:
    """What the first write of a generation is given."""
    return Coding(settings_for(settings, form, seed, part), trained(form, part or dim, seed))


def recode(settings: dict[str, Any], form: int, dim: int, seed: int = 0, part: int | None = None) -> Recode:
    """What a compaction is given."""
    parameters = trained(form, part or dim, seed)
    new = settings_for(settings, form, seed, part)
    return Recode(new, parameters, lambda vectors: encode(form, parameters, vectors[:, :part]))


def encode(form: int, parameters: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The codes of vectors, float32 (n, dim): uint64 (n, words)."""
    n, dim = vectors.shape
    words = [_words(form, parameters.tolist(), vector) for vector in [*vectors.tolist(), [0.0] * dim]]  # also if n is 0
    return np.array(words, np.uint64)[:n]


def _words(form: int, parameters: list[float], vector: list[float]) -> list[int]:
    dim = len(vector)
    if form == 1:
        return _packed([value > 0 for value in vector])
    mean = parameters[:dim] if form < 4 else parameters[2:]
    if form < 4:
        apart = [(value - m) / d for value, m, d in zip(vector, mean, parameters[dim:], strict=True)]
        upper = [a >= 2 / 3 for a in apart]
        if form == 2:
            upper = [any(upper[j : j + 2]) for j in range(0, dim, 2)]
        return _packed([a > -2 / 3 for a in apart] + upper)
    bits = {4: 1, 5: 2, 6: 4}[form]
    rest = [value - m for value, m in zip(vector, mean, strict=True)]
    step = max(map(abs, rest)) / 2 ** (bits - 1) or 1.0
    levels = [min(max(math.floor(r / step) + 2 ** (bits - 1), 0), 2**bits - 1) for r in rest]
    values = [2 * level - (2**bits - 1) for level in levels]
    add = math.fsum(m * value for m, value in zip(mean, vector, strict=True))
    product = math.fsum(r * value for r, value in zip(rest, values, strict=True))
    factor = math.fsum(r * r for r in rest) / product if product > 0 else 0.0
    planes = [_packed([bool(level >> (bits - 1 - plane) & 1) for level in levels]) for plane in range(bits)]
    return [*(word for plane in planes for word in plane), *struct.unpack("<Q", struct.pack("<2f", add, factor))]


def _packed(bits: list[bool]) -> list[int]:
    words = [0] * -(-len(bits) // 64)
    for j, bit in enumerate(bits):
        words[j // 64] |= bit << j % 64
    return words
