"""The quantizer: vectors to codes, in every encoding; trained on vectors, stored as a few numbers.

Knows arrays and settings, no files, and not which encoding is best (`engine.choose_encoding` does).
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import AUTO, Quantization
from ..errors import RESTORE, CorruptionError
from ..kernels import dispatch as kernels
from ..kernels import layout
from ..kernels.encode_query import BOUND_DEVIATIONS
from ..kernels.layout import COSINE, DOT, ONE_AND_HALF_BITS, ONE_BIT, RABITQ, TWO_BITS, lanes_of, words_per_code
from .splitmix import splitmix64
from .threads import Workers, drain, together

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]

SEED = 0x6271_7475
_KINDS = {
    ("one_bit", "sign"): (ONE_BIT, 1),
    ("one_and_half_bits", "sign"): (ONE_AND_HALF_BITS, 1),
    ("two_bits", "sign"): (TWO_BITS, 1),
    ("one_bit", "rabitq"): (RABITQ, 1),
    ("two_bits", "rabitq"): (RABITQ, 2),
    ("four_bits", "rabitq"): (RABITQ, 4),
}
_NOTHING = np.zeros(0, np.float32)
_FLAT = float(np.finfo(np.float32).eps)  # a smaller deviation, relative to the vectors' length, counts as zero
_SAMPLE = 2048  # vectors that the error of estimates is measured on
_QUERIES, _NEAREST = 200, 20  # how many of that sample are queries, and how many nearest neighbors are taken of each
_PORTION = 4096  # vectors encoded by a thread at a time


class Quantizer:
    """One encoding of vectors of one dimension, for one metric.

    Attributes
    ----------
    encoding, estimator, rotate, truncate_dim
                                    as in `Quantization`, but never "auto"; truncate_dim None means whole vectors
    arrays : layout.Quantizer       the form that kernels take
    metric : int                    for which the corrections of "rabitq" are made
    trained : int                   vectors it was trained on
    query_encoding : str            the query encoding that "auto" stands for
    """

    def __init__(
        self,
        encoding: str,
        estimator: str,
        rotate: bool,
        dim: int,
        metric: int,
        parameters: F32,
        trained: int = 0,
        truncate_dim: int | None = None,
    ) -> None:
        self.encoding, self.estimator, self.rotate, self.truncate_dim = encoding, estimator, rotate, truncate_dim
        dim = coded_dim(dim, truncate_dim)
        self.metric, self.trained, self.query_encoding = metric, trained, "binary"
        kind, bits = _KINDS[encoding, estimator]
        self.parameters = np.ascontiguousarray(parameters, np.float32)
        expected = {ONE_BIT: 0, RABITQ: 2 + dim}.get(kind, 2 * dim)
        if len(self.parameters) != expected or not np.isfinite(self.parameters).all():
            raise CorruptionError(
                f"the codes of {encoding} ({estimator}) have {len(self.parameters):,} parameters; expected {expected:,}"
                f" finite numbers: {RESTORE}"
            )
        lanes = lanes_of(dim, kind)
        mean = deviation = _NOTHING
        error_scales = np.zeros(2, np.float32)
        if kind == RABITQ:
            error_scales, mean = self.parameters[:2].copy(), self.parameters[2:].copy()
        elif kind != ONE_BIT:
            mean, deviation = self.parameters[:dim].copy(), self.parameters[dim:].copy()
            # the root mean square length of what it was trained on; 1 under cosine, where this is Qdrant's rule
            length = np.sqrt(np.square(self.parameters, dtype=np.float64).sum())
            deviation[deviation < _FLAT * length] = 0
        signs = random_signs(dim, rotation_rounds(dim) if rotate else 0)
        width = -(-lanes // 64)
        self.arrays = layout.Quantizer(
            kind=kind,
            bits=bits,
            width=width,
            lanes=lanes,
            dim=dim,
            mean=mean,
            deviation=deviation,
            rotation_signs=signs,
            error_scales=error_scales,
            linking=_linking(kind, bits, metric),
            shifts=layout.shifts_of(bits, width),
        )
        self.words = words_per_code(dim, kind, bits)

    @property
    def dim(self) -> int:
        """How many values of a vector are encoded, its first ones."""
        return self.arrays.dim

    @property
    def linked_otherwise_before(self) -> bool:
        """Whether older versions linked graphs of such codes by another measure."""
        scale, _, spread = self.arrays.linking.tolist()
        return bool(spread > 0 or (scale > 0 and self.arrays.bits == 1))  # of products, and of one bit

    def encode(self, vectors: F32) -> U64:
        """The codes of vectors.

        Parameters
        ----------
        vectors : float32 (n, dim), C-order     whole vectors of any length

        Returns
        -------
        uint64 (n, words)
        """
        codes = np.empty((len(vectors), self.words), np.uint64)
        kernels.encode(vectors, self.arrays, self.metric, codes)
        return codes

    def encode_all(self, vectors: F32, workers: Workers) -> U64:
        """`encode` by several threads, for many vectors."""
        if workers.threads == 1 or len(vectors) <= _PORTION:
            return self.encode(vectors)
        codes = np.empty((len(vectors), self.words), np.uint64)

        def work(portions: deque[int]) -> None:
            for at in drain(portions):
                kernels.encode(vectors[at : at + _PORTION], self.arrays, self.metric, codes[at : at + _PORTION])

        portions = deque(range(0, len(vectors), _PORTION))
        together(work, portions, workers.at_most(min(workers.threads, len(portions))))
        return codes

    @classmethod
    def signs(cls, dim: int, metric: int = COSINE) -> "Quantizer":
        """The quantizer that needs no training: one bit a dimension, 1 where the value is > 0."""
        return cls("one_bit", "sign", False, dim, metric, _NOTHING)

    @classmethod
    def train(
        cls,
        vectors: F32,
        encoding: str,
        estimator: str,
        rotate: bool,
        metric: int,
        truncate_dim: int | None = None,
        *,
        bounds: bool = True,
    ) -> "Quantizer":
        """Train a quantizer on vectors, float32 (n, dim), of the model whose vectors it will encode.

        Only the encoded part of each vector is used. ``bounds=False`` saves half of the time: errors of estimates are
        not measured, so that there are no score bounds; codes and scores are the same.
        """
        if truncate_dim is not None:
            dim = coded_dim(vectors.shape[1], truncate_dim)
            part = cls.train(np.ascontiguousarray(vectors[:, :dim]), encoding, estimator, rotate, metric, bounds=bounds)
            return cls(
                encoding, estimator, rotate, vectors.shape[1], metric, part.parameters, part.trained, truncate_dim
            )
        dim, n = vectors.shape[1], len(vectors)
        kind, _ = _KINDS[encoding, estimator]
        if kind == ONE_BIT:
            return cls(encoding, estimator, rotate, dim, metric, _NOTHING, n)
        kept = vectors
        if metric == COSINE:
            kept = np.zeros_like(vectors)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            np.divide(vectors, lengths, out=kept, where=lengths > 0)
        mean = kept.mean(0, dtype=np.float64)
        if kind != RABITQ:
            parameters = np.concatenate([mean, kept.std(0, dtype=np.float64)]).astype(np.float32)
            return cls(encoding, estimator, rotate, dim, metric, parameters, n)
        blank = cls(encoding, estimator, rotate, dim, metric, np.concatenate([[0, 0], mean]).astype(np.float32), n)
        if not bounds:
            return blank
        sample = np.ascontiguousarray(kept[:: max(1, n // _SAMPLE)][:_SAMPLE])
        scales, mean = _error_scales(blank, sample), blank.arrays.mean
        # a quantizer for products under any metric, because that is what `_error_excess` estimates
        plain = cls(encoding, estimator, rotate, dim, min(metric, DOT), np.concatenate([scales, mean]), n)
        scales *= np.float32(_error_excess(plain, sample))
        return cls(encoding, estimator, rotate, dim, metric, np.concatenate([scales, mean]), n)

    def coding(self) -> dict[str, Any]:
        """The settings that are stored beside the parameters."""
        coding = {
            "encoding": self.encoding,
            "estimator": self.estimator,
            "rotate": self.rotate,
            "trained": self.trained,
            "query_encoding": self.query_encoding,
        }
        # left out if it is None, so that older versions can read it
        return coding if self.truncate_dim is None else {**coding, "truncate_dim": self.truncate_dim}

    @classmethod
    def restore(cls, coding: Mapping[str, Any], parameters: F32, dim: int, metric: int) -> "Quantizer":
        """The quantizer with this `coding` and these parameters; CorruptionError if they are not valid."""
        try:
            encoding, estimator, rotate = coding["encoding"], coding["estimator"], bool(coding["rotate"])
            trained, truncate_dim = int(coding.get("trained", 0)), coding.get("truncate_dim")
            quantizer = cls(encoding, estimator, rotate, dim, metric, parameters, trained, truncate_dim)
            quantizer.query_encoding = str(coding.get("query_encoding", "binary"))
            return quantizer
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(f"the collection's codes are of an unknown kind ({coding!r})") from error

    def resolved(self, query_encoding: str) -> Quantization:
        """The settings, with the given query encoding, or for "auto" the quantizer's own."""
        query_encoding = self.query_encoding if query_encoding == AUTO else query_encoding
        return Quantization(self.encoding, query_encoding, self.estimator, self.rotate, self.truncate_dim)


def _linking(kind: int, bits: int, metric: int) -> F32:
    """How a graph compares two codes (`layout.Quantizer`), but for the reach, which depends on the vectors.

    Of one bit, products of signs are half too large for similar vectors. They are scaled so that the distance of a code
    from itself is what it should be for the length of the vector.
    """
    if kind != RABITQ or (bits == 1 and metric == COSINE):
        return np.zeros(3, np.float32)
    scale = 2 / np.pi if bits == 1 else 1
    spread = scale if metric == DOT else -scale / 2 if bits == 1 else 0
    return np.array([scale, 0, spread], np.float32)


def coded_dim(dim: int, truncate_dim: int | None) -> int:
    """How many values of a vector are encoded; CorruptionError if the stored number is not valid."""
    if truncate_dim is None:
        return dim
    if type(truncate_dim) is not int or not 1 <= truncate_dim <= dim:
        raise CorruptionError(
            f"the codes are said to be of the first {truncate_dim!r} of {dim:,} values; expected a number from 1 to "
            f"{dim:,}: {RESTORE}"
        )
    return truncate_dim


def rotation_rounds(dim: int) -> int:
    """How many transforms make a good rotation: two of the whole vector, or two of each end."""
    return 2 if dim & (dim - 1) == 0 else 4


def random_signs(dim: int, count: int) -> F32:
    """Random signs, float32 (count, dim), the same on every machine."""
    bits = splitmix64(SEED, 0, count * dim) >> np.uint64(63)
    return np.where(bits, np.float32(1), np.float32(-1)).reshape(count, dim)


def values_of(codes: U64, quantizer: Quantizer) -> tuple[F32, F32, F32]:
    """Codes with corrections taken apart: values float32 (n, dim), add float32 (n,), factor float32 (n,)."""
    arrays, dim = quantizer.arrays, quantizer.dim
    values = np.zeros((len(codes), dim), np.float32)
    for p in range(arrays.bits):
        plane = np.ascontiguousarray(codes[:, p * arrays.width : (p + 1) * arrays.width]).view(np.uint8)
        bits = np.unpackbits(plane, axis=1, bitorder="little")[:, :dim].astype(np.float32)
        values += (2 * bits - 1) * np.float32(1 << (arrays.bits - 1 - p))
    floats = np.ascontiguousarray(codes[:, -1:]).view(np.float32)
    return values, floats[:, 0].copy(), floats[:, 1].copy()


def squares_of(codes: U64, quantizer: Quantizer) -> F32:
    """The squared lengths of the vectors that codes for products stand for, mean included: float32 (n,)."""
    values, add, factor = values_of(codes, quantizer)
    squares = 2 * add + quantizer.arrays.linking[2] * factor**2 * np.einsum("ij,ij->i", values, values)
    return np.asarray(squares, np.float32)


def lengths_of(codes: U64, quantizer: Quantizer) -> F64:
    """The lengths of the vectors that codes for products stand for: float64 (n,)."""
    mean = np.square(quantizer.arrays.mean, dtype=np.float64).sum()
    return np.asarray(np.sqrt(np.maximum(squares_of(codes, quantizer) - mean, 0)), np.float64)


def _error_scales(quantizer: Quantizer, vectors: F32) -> F32:
    """The two factors of an estimate's error (`encode_query.estimate_deviation`), of a sample: float32 (2,)."""
    codes = quantizer.encode(vectors)
    values, _, factor = values_of(codes, quantizer)
    residual = vectors - quantizer.arrays.mean
    squares = np.einsum("ij,ij->i", residual, residual, dtype=np.float64)
    lengths = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    some = (factor > 0) & (squares > 0)
    if not some.any():
        return np.ones(2, np.float32)
    # factor = |r|^2 / <r, v>, so cos^2 = |r|^2 / (factor^2 |v|^2)
    cosines = squares[some] / (factor[some].astype(np.float64) ** 2 * lengths[some])
    lengths = lengths[some] / quantizer.dim
    across = np.sqrt(lengths * np.clip(1 - cosines, 0, 1))
    return np.array([np.quantile(across, 0.99), np.quantile(np.sqrt(lengths), 0.99)], np.float32)


def _error_excess(quantizer: Quantizer, vectors: F32) -> float:
    """How much larger the errors are than `encode_query.estimate_deviation` predicts, at least 1; measured on a sample.

    For rotated vectors the prediction is right. Without rotation a few dimensions may hold much of a vector, and what a
    code loses in them is not random: the errors of four bits of 3-large's vectors are three times as large.
    """
    queries, k = vectors[:_QUERIES], min(_NEAREST, len(vectors))
    codes = layout.Codes(quantizer.encode(vectors), len(vectors), quantizer.arrays)
    shape = (len(queries), k)
    found = layout.Candidates(np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(len(queries), np.int64))
    estimated, bounded = (layout.Hits(found.ordinals, np.empty(shape, np.float32)) for _ in range(2))
    records = np.zeros((0, layout.RECORD_HEADER_WORDS), np.uint32)
    records.flags.writeable = False
    # products under any metric: under euclid the square root would distort the errors
    originals = layout.Originals(records, vectors.shape[1], layout.FLOAT32, layout.DOT)
    planes = layout.SCALAR_8_BITS if quantizer.arrays.bits > 2 else layout.SCALAR_4_BITS
    for hits, prune in ((estimated, 0), (bounded, 1)):
        settings = layout.SearchSettings(1, 1, k, 0, planes, prune)
        kernels.search_bits(queries, codes, originals, layout.Accept(np.zeros(0, np.uint64), 1), settings, found, hits)
    true = np.einsum("ij,ikj->ik", queries, vectors[found.ordinals], dtype=np.float64)
    predicted = (bounded.scores - estimated.scores).astype(np.float64) / BOUND_DEVIATIONS
    some = predicted > 0
    errors = np.abs(true - estimated.scores)[some] / predicted[some]
    return max(1.0, float(np.quantile(errors, 0.999)) / 3.29) if errors.size else 1.0  # 3.29: of a normal distribution
