"""Encodes vectors, and packs bits into words."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bqstore.kernels.layout import (
    COSINE,
    EUCLID,
    ONE_BIT,
    RABITQ,
    TWO_BITS,
    Quantizer,
    quantizer_fits,
)
from bqstore.kernels.quantize import SIGMAS, TRIES_2, TRIES_4

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

_SUMMED = 512  # values summed at a time: longer float32 sums would be less precise than a kernel's
BLOCK_BYTES = 32 << 20  # of memory for bits unpacked at a time


def encode(vectors: F32, quantizer: Quantizer, metric: int, out: U64) -> None:
    """Write the codes of vectors (`api.encode`)."""
    if not quantizer_fits(quantizer, vectors.shape[1], out.shape[1]):
        return
    rows = min(len(vectors), len(out))
    step = max(1, BLOCK_BYTES // (8 * 64 * quantizer.width))
    for at in range(0, rows, step):
        part = vectors[at : min(rows, at + step), : quantizer.dim]
        out[at : at + len(part)] = codes_of(part, quantizer, metric)


def codes_of(vectors: F32, quantizer: Quantizer, metric: int) -> U64:
    """The codes of vectors of ``quantizer.dim`` values, uint64 (n, columns)."""
    if quantizer.kind == RABITQ:
        return _corrected_codes(vectors, quantizer, metric)
    if quantizer.kind == ONE_BIT:
        return packed(vectors > 0, quantizer.width)
    if metric == COSINE:
        vectors = unit_scales(vectors)[:, None] * vectors
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (vectors - quantizer.mean) / quantizer.deviation
    spread = quantizer.deviation > 0
    first, second = np.where(spread, apart > -SIGMAS, vectors > 0), spread & (apart >= SIGMAS)
    if quantizer.kind != TWO_BITS:  # two neighboring values share a bit
        if second.shape[1] & 1:
            second = np.pad(second, ((0, 0), (0, 1)))
        second = second[:, ::2] | second[:, 1::2]
    return packed(np.concatenate([first, second], axis=1), quantizer.width)


def packed(bits: npt.NDArray[np.bool_], width: int) -> U64:
    """Bits, bool (n, lanes), packed into words, uint64 (n, width)."""
    whole = np.zeros((len(bits), 8 * width), np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    whole[:, : packed.shape[1]] = packed
    return whole.view("<u8").astype(np.uint64, copy=False)


def unpacked(words: U64) -> U8:
    """Words, uint64 (n, width), unpacked into bits, uint8 (n, 64 * width)."""
    return np.unpackbits(words.astype("<u8", order="C").view(np.uint8), axis=1, bitorder="little")


def dots(rows: F32, other: F32) -> F32:
    """Products of rows with a vector, or with rows; equal rows give equal products at any position."""
    out = np.zeros(len(rows), np.float32)
    for at in range(0, rows.shape[1], _SUMMED):
        piece = slice(at, at + _SUMMED)
        out += np.einsum("ij,ij->i" if other.ndim > 1 else "ij,j->i", rows[:, piece], other[..., piece])
    return out


def unit_scales(vectors: F32) -> F32:
    """The factor that scales each vector to unit length, float32 (n,); 0 for a zero vector."""
    lengths = np.sqrt(dots(vectors, vectors).astype(np.float64))
    return np.divide(1, lengths, out=np.zeros(len(vectors)), where=lengths > 0).astype(np.float32)


def _corrected_codes(vectors: F32, quantizer: Quantizer, metric: int) -> U64:
    """The planes of the residuals and the two corrections (`quantize.pack_residual`)."""
    dim, bits, width = quantizer.dim, quantizer.bits, quantizer.width
    scales = unit_scales(vectors) if metric == COSINE else np.ones(len(vectors), np.float32)
    rest = scales[:, None] * vectors - quantizer.mean
    squares = dots(rest, rest)
    add = np.float32(-0.5) * squares if metric == EUCLID else scales * dots(vectors, quantizer.mean)
    rest = rotated(rest, quantizer.rotation_signs)
    sizes, steps = np.abs(rest), np.zeros(len(rest), np.float32)
    if bits > 1:
        units = np.sqrt(np.divide(dim, squares, out=np.zeros(len(rest)), where=squares > 0)).astype(np.float32)
        best = np.full(len(rest), -1, np.float32)
        for each in TRIES_2 if bits == 2 else TRIES_4:
            step = np.float32(each) * units
            products, lengths = _fits_of(sizes, step, bits)
            fit = products / np.sqrt(lengths.astype(np.float64)).astype(np.float32)
            better = (fit > best) & (squares > 0)
            best[better], steps[better] = fit[better], step[better]
    products, _ = _fits_of(sizes, steps, bits)
    factor = np.divide(squares, products, out=np.zeros(len(rest), np.float32), where=products > 0)
    middle = np.int32(1 << (bits - 1))
    size = _magnitudes(sizes, steps, bits)
    levels = np.where(rest > 0, middle + size, middle - 1 - size).astype(np.uint8)
    planes = [packed((levels >> (bits - 1 - p)) & 1 == 1, width) for p in range(bits)]
    low, high = (each.astype(np.float32).view(np.uint32).astype(np.uint64) for each in (add, factor))
    return np.concatenate([*planes, (low | (high << np.uint64(32)))[:, None]], axis=1)


def _magnitudes(sizes: F32, steps: F32, bits: int) -> npt.NDArray[np.int32]:
    return np.minimum((sizes * steps[:, None]).astype(np.int32), np.int32((1 << (bits - 1)) - 1))


def _fits_of(sizes: F32, steps: F32, bits: int) -> tuple[F32, F32]:
    """The products of magnitudes with their odd values, and the squared lengths of these values."""
    values = 2 * _magnitudes(sizes, steps, bits) + 1
    return dots(sizes, values.astype(np.float32)), (values * values).sum(1).astype(np.float32)


def _hadamard(size: int) -> F32:
    """The matrix of the Walsh-Hadamard transform."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def rotated(rows: F32, signs: F32) -> F32:
    """Rows after the rotation of `rotate.rotate_row`."""
    rounds, dim = signs.shape
    size = 1 << (dim.bit_length() - 1)
    scale = np.float32(1.0 / math.sqrt(size))
    rows = rows.copy()
    for i in range(rounds):
        start = (dim - size) * (i & 1)
        part = rows[:, start : start + size] * (signs[i, start : start + size] * scale)
        step = min(size, 16)  # the first transforms at once: short rows are slow
        part = (part.reshape(-1, step) @ _hadamard(step)).reshape(len(rows), size)
        while step < size:
            pairs = part.reshape(len(rows), -1, 2, step)
            low, high = pairs[:, :, 0], pairs[:, :, 1]
            sums = low + high
            np.subtract(low, high, out=high)
            low[:] = sums
            step *= 2
        rows[:, start : start + size] = part.reshape(len(rows), size)
    return rows


def blocks(ordinals: npt.NDArray[np.int64], row_bytes: int) -> Iterator[npt.NDArray[np.int64]]:
    """Ordinals in portions whose unpacked rows, each of a given number of bytes, fit ``BLOCK_BYTES``."""
    step = max(1, BLOCK_BYTES // row_bytes)
    return (ordinals[at : at + step] for at in range(0, len(ordinals), step))
