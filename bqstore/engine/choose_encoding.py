"""Chooses a collection's quantization: each possible one is measured on a sample of its vectors.

The smallest code within 1% of the best recall is taken; among equals the one best without rescoring. Works on arrays
and settings, without a store.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..config import AUTO, Quantization, as_settings
from ..index import ALONE, Plan, Quantizer, Search, Searchable
from ..index.search import NO_RECORDS
from ..kernels.layout import COSINE, DOT
from ..results.info import Choice, Trial
from ..storage import coding_of

F32 = NDArray[np.float32]

LEAST = 2048  # vectors to choose by; with fewer a scan of signs, or of the originals, is quick and good enough
ENOUGH = 1024  # vectors to train on; a training on fewer is repeated once there are so many
TRAINED_ON = 20_000  # vectors, at most
_SAMPLE, _QUERIES = 4096, 512
_K = 10
_SHORT_OF_BEST = 0.01  # how far below the best recall a smaller code may be
# The gain of recall without rescoring for which every query is rotated, which takes some microseconds: at least this,
# and at least so many standard errors. On real sets a rotation wins or loses .01, and loses .02 where the mean has
# changed since (docs/design).
_WORTH_ROTATING, _SURE = 0.02, 3.0
_WORTH_CORRECTING = 0.002  # the gain of recall without rescoring for which each code gets two floats more
_SEED = 0x6271_7376
_ALL = (  # encoding, estimator, rotate: smaller codes first, of equal ones the simplest
    *(("one_bit", "sign", False), ("one_bit", "rabitq", False), ("one_bit", "rabitq", True)),
    ("one_and_half_bits", "sign", False),
    *(("two_bits", "sign", False), ("two_bits", "rabitq", False), ("two_bits", "rabitq", True)),
    *(("four_bits", "rabitq", False), ("four_bits", "rabitq", True)),
)


@dataclass(frozen=True)
class Chosen:
    """A quantizer, and what was measured to choose it."""

    quantizer: Quantizer
    choice: Choice | None

    def settings(self, settings: Mapping[str, Any], wanted: Quantization) -> dict[str, Any]:
        """The collection's settings with this quantizer, for the head row."""
        without = ("choice", "untuned", "calibration", "missed_by_walks")
        out = {name: value for name, value in settings.items() if name not in without}
        out["search"] = settings.get("untuned", settings["search"])  # tuned settings were tuned for other codes
        out |= {"quantization": as_settings(wanted), "coding": self.quantizer.coding()}
        if self.choice is not None:
            trials = [
                {**asdict(trial), "quantization": as_settings(trial.quantization)} for trial in self.choice.trials
            ]
            out["choice"] = {**asdict(self.choice), "trials": trials}
        return out


def choice_of(settings: Mapping[str, Any]) -> Choice | None:
    """What `Chosen.settings` stored."""
    stored = settings.get("choice")
    if stored is None:
        return None
    trials = [Trial(**{**trial, "quantization": Quantization(**trial["quantization"])}) for trial in stored["trials"]]
    return Choice(**{**stored, "trials": tuple(trials)})


def possible(wanted: Quantization) -> list[Quantization]:
    """The quantizations that settings leave open, smaller codes first; just one if they leave nothing open."""
    estimator, rotate = wanted.estimator, wanted.rotate
    if estimator == AUTO and wanted.encoding not in (AUTO, "four_bits") and not rotate:
        estimator = "sign"  # an encoding that is given is Qdrant's
    if rotate is None and AUTO not in (wanted.encoding, wanted.estimator):
        rotate = False
    return [
        Quantization(
            each[0], query_encoding(wanted.query_encoding, *each[:2], measured=True), *each[1:], wanted.truncate_dim
        )
        for each in _ALL
        if wanted.encoding in (AUTO, each[0]) and estimator in (AUTO, each[1]) and rotate in (None, each[2])
    ]


def simplest(wanted: Quantization) -> Quantization:
    """The first of the `possible`, used until there are vectors enough to choose by."""
    return replace(possible(wanted)[0], query_encoding=wanted.query_encoding)


def query_encoding(wanted: str, encoding: str, estimator: str, measured: bool) -> str:
    """The query encoding that "auto" stands for: Qdrant's if signs were asked for, else the one that ranks best.

    For codes of four bits that is 8 bits: with 4, recall@10 on MiniLM is .931 instead of .948.
    """
    if wanted != AUTO:
        return wanted
    if estimator == "sign" and not measured:
        return "binary"
    return "scalar8bits" if encoding == "four_bits" else "scalar4bits"


def is_due(wanted: Quantization, settings: Mapping[str, Any], count: int) -> bool:
    """Whether a collection of so many vectors, originals kept, should be quantized again."""
    several = possible(wanted)
    if len(several) > 1:
        fitting = any(_is(each, settings) for each in several)
        return "choice" not in settings and (count >= LEAST or (count > 0 and not fitting))
    if not _is(several[0], settings):
        return count > 0  # asked for while nothing was chosen yet
    if (several[0].encoding, several[0].estimator) == ("one_bit", "sign"):
        return False  # nothing to train
    return bool(coding_of(dict(settings)).get("trained", ENOUGH) < ENOUGH <= count)


def _is(quantization: Quantization, settings: Mapping[str, Any]) -> bool:
    """Whether the stored codes were made by this quantization."""
    coding = coding_of(dict(settings))
    return all(
        coding.get(name) == getattr(quantization, name) for name in ("encoding", "estimator", "rotate", "truncate_dim")
    )


def is_open(settings: Mapping[str, Any]) -> bool:
    """Whether a collection's quantization is still to be chosen, or to become what was asked for."""
    several = possible(Quantization(**settings["quantization"]))
    return "choice" not in settings if len(several) > 1 else not _is(several[0], settings)


def first(vectors: F32, wanted: Quantization, metric: int) -> Chosen | None:
    """The quantizer for the first vectors, float32 (n, dim), used until there are more; None: plain signs.

    Where no originals are kept it stays for good, as codes cannot be made again.
    """
    several = possible(wanted)
    early = len(several) > 1 and len(vectors) < LEAST
    plain = (several[0].encoding, several[0].estimator, wanted.truncate_dim) == ("one_bit", "sign", None)
    if (early or len(several) == 1) and plain:
        return None  # nothing to train, nothing to store
    return choose(vectors, wanted, metric)


def choose(vectors: F32, wanted: Quantization, metric: int, documents: int | None = None) -> Chosen:
    """Measure the possible quantizations on vectors, float32 (n, dim), in any order, and train the best one on them.

    ``documents``: size of the collection that the vectors are a sample of. Neighbors lie farther apart in a sample, so
    recall is measured at fewer of them: as many as a sample has of the ten nearest in the whole collection.
    """
    several = possible(wanted)
    if len(vectors) < LEAST:
        several = several[:1]  # too few to tell
    best, choice = several[0], None
    random = np.random.default_rng(_SEED)
    if len(several) > 1:
        picked = random.permutation(len(vectors))[: _SAMPLE + _QUERIES]
        held = min(_QUERIES, len(picked) // 4)
        base, queries = _usable(vectors[picked[held:]], metric), _usable(vectors[picked[:held]], metric)
        if len(base) > 3 * _K and len(queries):  # else nearly all are zero vectors
            choice = _measured(base, queries, several, metric, documents)
            best = _best(choice)
    if choice is not None:
        reason = (
            f"{described(best)}: the smallest code within {_SHORT_OF_BEST:.0%} of the best recall; "
            "among equals the one best without rescoring"
        )
        choice = replace(choice, reason=reason)
    some = vectors
    if len(vectors) > TRAINED_ON:
        some = np.ascontiguousarray(vectors[np.sort(random.permutation(len(vectors))[:TRAINED_ON])])
    quantizer = trained(some, best, metric)
    quantizer.query_encoding = query_encoding(AUTO, best.encoding, best.estimator, choice is not None)
    return Chosen(quantizer, choice)


def _usable(vectors: F32, metric: int) -> F32:
    """Vectors for measuring: under cosine at unit length, without zero vectors."""
    if metric != COSINE:
        return np.ascontiguousarray(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray((vectors / np.where(lengths > 0, lengths, 1))[lengths[:, 0] > 0])


def _measured(
    base: F32, queries: F32, several: list[Quantization], metric: int, documents: int | None = None
) -> Choice:
    """Every quantization, measured against exact search of whole vectors."""
    k, oversampling = min(_K, len(base)), 3.0
    if documents is not None and documents > 2 * len(base):
        k = max(1, min(k, round(_K * len(base) / documents)))
    # centered, which changes no order: far from the mean, products of float32 lose the differences
    mean = base.mean(0, dtype=np.float64).astype(np.float32)
    centered = base - mean
    scores = (queries if metric in (COSINE, DOT) else queries - mean) @ centered.T
    if metric not in (COSINE, DOT):
        scores -= 0.5 * np.einsum("ij,ij->i", centered, centered)
    truth = np.partition(scores, len(base) - k, axis=1)[:, len(base) - k]
    truth -= np.float32(1e-6) * np.abs(scores).max()  # a tie counts as found, whatever the last bit of a product
    trials: list[Trial] = []
    for each in several:
        if trials and each.encoding != trials[-1].quantization.encoding and _is_enough(trials):
            break  # no larger code can beat this one by more than `_SHORT_OF_BEST`
        quantizer = trained(base, each, metric, bounds=False)
        data = Searchable(quantizer.encode(base), NO_RECORDS, len(base), base.shape[1], 0, metric, quantizer)
        wide = min(len(base), math.ceil(k * oversampling))
        search = Search(data, None, len(base), wide, Plan("scan", False, wide), index.ENCODINGS[each.query_encoding])
        search.nearest(queries[:1], ALONE)  # compiles, once
        started = time.perf_counter()
        found, _ = search.nearest(queries, ALONE)
        spent = time.perf_counter() - started
        good = np.take_along_axis(scores, found.astype(np.int64), 1) >= truth[:, None]
        recall = float(np.minimum(good.sum(1), k).mean() / k)
        raw = float(np.minimum(good[:, :k].sum(1), k).mean() / k)
        nanoseconds = 1e9 * spent / (len(queries) * len(base))
        trials.append(Trial(each, 8 * quantizer.words, round(recall, 4), round(raw, 4), round(nanoseconds, 1)))
    return Choice("", len(base), len(queries), k, oversampling, tuple(trials))


def _is_enough(trials: list[Trial]) -> bool:
    return max(trial.recall for trial in trials) >= 1 - _SHORT_OF_BEST


def _best(choice: Choice) -> Quantization:
    """The smallest encoding within 1% of the best recall, with the simplest estimator that no other clearly beats."""
    best = 1.0 if _is_enough(list(choice.trials)) else max(trial.recall for trial in choice.trials)
    good = [trial for trial in choice.trials if trial.recall >= best - _SHORT_OF_BEST]
    found, *others = [trial for trial in good if trial.quantization.encoding == good[0].quantization.encoding]
    for trial in others:  # from the simplest on
        worth = _WORTH_CORRECTING
        if trial.quantization.rotate:
            wrong = 2 * found.raw_recall * (1 - found.raw_recall) / (choice.queries * choice.k)
            worth = max(_WORTH_ROTATING, _SURE * math.sqrt(wrong))
        if trial.raw_recall >= found.raw_recall + worth:
            found = trial
    return found.quantization


def trained(vectors: F32, quantization: Quantization, metric: int, bounds: bool = True) -> Quantizer:
    """The quantizer of a quantization in which nothing is "auto", trained on vectors (`Quantizer.train`)."""
    of = quantization
    assert of.rotate is not None
    return Quantizer.train(vectors, of.encoding, of.estimator, of.rotate, metric, of.truncate_dim, bounds=bounds)


def described(quantization: Quantization) -> str:
    """A quantization in words."""
    rotated = ", rotated" if quantization.rotate else ""
    part = "" if quantization.truncate_dim is None else f", of the first {quantization.truncate_dim:,} values"
    return f"{quantization.encoding.replace('_', ' ')} ({quantization.estimator}{rotated}{part})"
