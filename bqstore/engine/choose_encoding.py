"""Which quantization a collection gets: every way measured on some of its vectors, the cheapest of the best taken.

Knows arrays and settings; knows no store and no states. Floor 3.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import index
from ..config import AUTO, ENCODINGS, ESTIMATORS, Quantization, as_settings
from ..index import ALONE, Plan, Quantizer, Search, Searchable
from ..index.search import NO_RECORDS
from ..kernels.layout import COSINE, DOT
from ..results import Choice, Trial
from ..storage import coding_of

F32 = NDArray[np.float32]

# Vectors below which nothing is chosen by measuring: a scan of signs, or of the originals, is quick and good enough.
LEAST = 2048
# A training on fewer is repeated when there are so many.
ENOUGH = 1024
TRAINED_ON = 20_000
_SAMPLE, _QUERIES = 4096, 512
_K = 10
_SHORT_OF_BEST = 0.01  # recall a cheaper encoding may lack
_WORTH_ROTATING = 0.01  # raw recall that pays for turning every query, some microseconds
_WORTH_CORRECTING = 0.002  # raw recall that pays for two floats a code
_SEED = 0x6271_7376


@dataclass(frozen=True)
class Chosen:
    """A quantizer, and what the head row keeps of how it came about."""

    quantizer: Quantizer
    choice: Choice | None

    def settings(self, settings: Mapping[str, Any], wanted: Quantization) -> dict[str, Any]:
        """The collection's settings with it."""
        out = {name: value for name, value in settings.items() if name not in ("choice", "untuned")}
        out["search"] = settings.get("untuned", settings["search"])  # what was tuned was tuned for other codes
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


def ways(wanted: Quantization) -> list[Quantization]:
    """What may be chosen, fewer bits first; with all that matters given, one."""
    pairs = [(encoding, estimator) for encoding in ENCODINGS for estimator in ESTIMATORS]
    pairs = [pair for pair in pairs if pair not in (("four_bits", "sign"), ("one_and_half_bits", "rabitq"))]
    if wanted.encoding != AUTO:
        pairs = [pair for pair in pairs if pair[0] == wanted.encoding]
    if wanted.estimator != AUTO:
        pairs = [pair for pair in pairs if pair[1] == wanted.estimator]
    elif wanted.encoding not in (AUTO, "four_bits") and not wanted.rotate:
        pairs = [pair for pair in pairs if pair[1] == "sign"]  # an encoding that is given is Qdrant's
    out = []
    for encoding, estimator in pairs:
        given = wanted.encoding != AUTO and (wanted.estimator != AUTO or estimator == "sign")
        for rotate in (False,) if estimator == "sign" else (False, True):
            if wanted.rotate is None and rotate and given:
                continue
            if wanted.rotate is not None and rotate != wanted.rotate:
                continue
            query = query_encoding(wanted.query_encoding, encoding, estimator, measured=True)
            out.append(Quantization(encoding, query, estimator, rotate, wanted.truncate_dim))
    return out


def simplest(wanted: Quantization) -> Quantization:
    """The first of the `ways`, which serves until there are vectors enough to choose by."""
    way = ways(wanted)[0]
    return replace(way, query_encoding=wanted.query_encoding)


def query_encoding(wanted: str, encoding: str, estimator: str, measured: bool) -> str:
    """The query encoding that "auto" stands for: of signs that were asked for, Qdrant's; of others, what ranks best.

    Against codes of four bits the four of a query would be the coarser side: .931 for .948 of recall@10 on MiniLM.
    """
    if wanted != AUTO:
        return wanted
    if estimator == "sign" and not measured:
        return "binary"
    return "scalar8bits" if encoding == "four_bits" else "scalar4bits"


def is_due(wanted: Quantization, settings: Mapping[str, Any], count: int) -> bool:
    """Whether a collection of so many vectors, originals kept, should be quantized anew."""
    several = ways(wanted)
    if len(several) > 1:
        fitting = any(_is(way, settings) for way in several)
        return "choice" not in settings and (count >= LEAST or (count > 0 and not fitting))
    if not _is(several[0], settings):
        return count > 0  # asked for while nothing was chosen yet
    if (several[0].encoding, several[0].estimator) == ("one_bit", "sign"):
        return False  # nothing to train
    return bool(coding_of(dict(settings)).get("trained", ENOUGH) < ENOUGH <= count)


def _is(way: Quantization, settings: Mapping[str, Any]) -> bool:
    """Whether the codes there are were made in a way."""
    coding = coding_of(dict(settings))
    return all(coding.get(name) == getattr(way, name) for name in ("encoding", "estimator", "rotate", "truncate_dim"))


def is_open(settings: Mapping[str, Any]) -> bool:
    """Whether a collection's quantization is still to be chosen, or to become what was asked for."""
    several = ways(Quantization(**settings["quantization"]))
    return "choice" not in settings if len(several) > 1 else not _is(several[0], settings)


def first(vectors: F32, wanted: Quantization, metric: int) -> Chosen | None:
    """What the first vectors, float32 (n, dim), are quantized by, until there are more; None: by all their signs.

    Where no originals are kept it stays so: codes cannot be made of codes.
    """
    several = ways(wanted)
    early = len(several) > 1 and len(vectors) < LEAST
    plain = (several[0].encoding, several[0].estimator, wanted.truncate_dim) == ("one_bit", "sign", None)
    if (early or len(several) == 1) and plain:
        return None  # nothing to train, nothing to store
    return choose(vectors, wanted, metric)


def choose(vectors: F32, wanted: Quantization, metric: int) -> Chosen:
    """Measure what may be chosen on vectors, float32 (n, dim), in no order that matters, and train the best on them."""
    several = ways(wanted)
    if len(vectors) < LEAST:
        several = several[:1]  # too few to tell
    best, choice = several[0], None
    random = np.random.default_rng(_SEED)
    if len(several) > 1:
        picked = random.permutation(len(vectors))[: _SAMPLE + _QUERIES]
        held = min(_QUERIES, len(picked) // 4)
        choice = _measured(
            _usable(vectors[picked[held:]], metric), _usable(vectors[picked[:held]], metric), several, metric
        )
        best = _cheapest(choice)
        reason = (
            f"{_named(best)}: the fewest bits that come within {_SHORT_OF_BEST:.0%} of the best recall, and of their "
            "ways the one that finds most by itself"
        )
        choice = replace(choice, reason=reason)
    some = vectors
    if len(vectors) > TRAINED_ON:
        some = np.ascontiguousarray(vectors[np.sort(random.permutation(len(vectors))[:TRAINED_ON])])
    assert best.rotate is not None
    quantizer = Quantizer.train(some, best.encoding, best.estimator, best.rotate, metric, best.truncate_dim)
    quantizer.query_encoding = query_encoding(AUTO, best.encoding, best.estimator, choice is not None)
    return Chosen(quantizer, choice)


def _usable(vectors: F32, metric: int) -> F32:
    """Vectors at unit length under cosine, those of no length left out."""
    if metric != COSINE:
        return np.ascontiguousarray(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray((vectors / np.where(lengths > 0, lengths, 1))[lengths[:, 0] > 0])


def _measured(base: F32, queries: F32, several: list[Quantization], metric: int) -> Choice:
    """Every way, measured against exact search of whole vectors."""
    k, oversampling = min(_K, len(base)), 3.0
    # beside the mean, which changes no order: far from it, products of float32 tell nothing apart
    mean = base.mean(0, dtype=np.float64).astype(np.float32)
    beside = base - mean
    scores = (queries if metric in (COSINE, DOT) else queries - mean) @ beside.T
    if metric not in (COSINE, DOT):
        scores -= 0.5 * np.einsum("ij,ij->i", beside, beside)
    truth = np.partition(scores, len(base) - k, axis=1)[:, len(base) - k]
    truth -= np.float32(1e-6) * np.abs(scores).max()  # of ties any will do, whatever the last bit of a product
    trials = []
    for way in several:
        assert way.rotate is not None
        quantizer = Quantizer.train(base, way.encoding, way.estimator, way.rotate, metric, way.truncate_dim)
        data = Searchable(quantizer.encode(base), NO_RECORDS, len(base), base.shape[1], 0, metric, quantizer)
        wide = min(len(base), math.ceil(k * oversampling))
        search = Search(data, None, len(base), wide, Plan("scan", False, wide), index.ENCODINGS[way.query_encoding])
        search.nearest(queries[:1], ALONE)  # compiled, once for all
        started = time.perf_counter()
        found, _ = search.nearest(queries, ALONE)
        spent = time.perf_counter() - started
        good = np.take_along_axis(scores, found.astype(np.int64), 1) >= truth[:, None]
        recall = float(np.minimum(good.sum(1), k).mean() / k)
        raw = float(np.minimum(good[:, :k].sum(1), k).mean() / k)
        each = 1e9 * spent / (len(queries) * len(base))
        trials.append(Trial(way, 8 * quantizer.words, round(recall, 4), round(raw, 4), round(each, 1)))
    return Choice("", len(base), len(queries), k, oversampling, tuple(trials))


def _cheapest(choice: Choice) -> Quantization:
    """Of the encoding with the fewest bits that comes near the best recall, the estimator that tells most."""
    best = max(trial.recall for trial in choice.trials)
    for encoding in ENCODINGS:
        of = [trial for trial in choice.trials if trial.quantization.encoding == encoding]
        good = [trial for trial in of if trial.recall >= best - _SHORT_OF_BEST]
        if not good:
            continue
        found = good[0]
        for trial in good[1:]:  # from the simplest on
            worth = _WORTH_ROTATING if trial.quantization.rotate else _WORTH_CORRECTING
            if trial.raw_recall >= found.raw_recall + worth:
                found = trial
        return found.quantization
    raise AssertionError("the best comes near itself")


def _named(way: Quantization) -> str:
    turned = ", rotated" if way.rotate else ""
    part = "" if way.truncate_dim is None else f", of the first {way.truncate_dim:,} values"
    return f"{way.encoding} ({way.estimator}{turned}{part})"
