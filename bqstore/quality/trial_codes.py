"""Codes in encodings that a collection does not use: made in memory from its originals, and scanned to measure recall.

A large collection is sampled. Vectors are read in pieces and checked. Only the codes of one encoding stay in memory,
and the records if it is a sample.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np

from .. import index
from ..config import Quantization
from ..engine import fetch
from ..engine.choose_encoding import trained
from ..engine.state import State
from ..storage.format import damaged
from .ground_truth import F32, I64, GroundTruth, exact_search

MOST = 100_000  # documents that are scanned
_MOST_BYTES = 1 << 30  # of their records, where they are copied
_TRAINED = 20_000  # vectors that an encoding is trained on
_PIECE = 32 << 20  # bytes of originals that are read at a time
_SEED = 0x6271_7375


class Sample:
    """The documents that other encodings are measured on: all, or a random sample that includes the held-out ones."""

    def __init__(self, state: State, truth: GroundTruth, k: int, workers: index.Workers) -> None:
        self._whole, self._whole_truth, self._k, self._workers = state, truth, k, workers

    @property
    def documents(self) -> int:
        """How many there are."""
        return self._whole.head.n_live if self._ordinals is None else len(self._ordinals)

    @cached_property
    def truth(self) -> GroundTruth:
        """The queries, with their true nearest in the sample."""
        whole, ordinals = self._whole_truth, self._ordinals
        if ordinals is None:
            return whole
        own = None if whole.ordinals is None else np.searchsorted(ordinals, whole.ordinals)
        return exact_search(self._state, whole.queries, own, self._k, self._workers)

    def recoded(self, quantization: Quantization) -> State:
        """The sample's state with codes of another encoding, and no graph."""
        state = self._state
        data = state.data
        assert data is not None
        quantizer = trained(self._training_vectors, quantization, data.metric)
        words = np.empty((state.n, quantizer.words), np.uint64)
        step = _step(data)
        for at in range(0, state.n, step):
            words[at : at + step] = quantizer.encode_all(self._read(at, at + step), self._workers)
        return replace(state, data=replace(data, words=words, quantizer=quantizer, graph=None))

    @cached_property
    def _ordinals(self) -> I64 | None:
        """The ordinals of the sample, ascending; None: it is the whole collection."""
        state = self._whole
        assert state.data is not None
        if state.n <= MOST:
            return None
        most = min(MOST, _MOST_BYTES // (4 * state.data.records.shape[1]))
        own = self._whole_truth.ordinals
        first = np.zeros(0, np.int64) if own is None else own
        others = np.random.default_rng(_SEED).permutation(np.setdiff1d(np.flatnonzero(state.live), first))
        return np.sort(np.concatenate([first, others[: max(0, most - len(first))]]))

    @cached_property
    def _state(self) -> State:
        """The state of the sample, as if it were a collection in memory."""
        whole, ordinals = self._whole, self._ordinals
        if ordinals is None:
            return whole
        data, n = whole.data, len(ordinals)
        assert data is not None and whole.vectors is not None
        whole.vectors.check_size(whole.n)
        records = np.empty((n, data.records.shape[1]), np.uint32)
        step = _step(data)
        for at in range(0, n, step):
            records[at : at + step] = data.records[ordinals[at : at + step]]
            if damaged(records[at : at + step]).any():
                self._read(at, at + step)  # raises, and names the record
        records.flags.writeable = False  # as kernels expect
        head = replace(whole.head, n_slots=n, n_live=n)
        data = replace(data, records=records, n=n, graph=None)
        return replace(whole, head=head, rids=whole.rids[ordinals], live=np.ones(n, bool), data=data, vectors=None)

    @cached_property
    def _training_vectors(self) -> F32:
        """Vectors that encodings are trained on."""
        live = np.flatnonzero(self._state.live)
        picked = np.sort(np.random.default_rng(_SEED).permutation(live)[:_TRAINED])
        return self._vectors_at(picked)

    def _read(self, start: int, stop: int) -> F32:
        """The vectors of a range of the sample's documents."""
        return self._vectors_at(np.arange(start, min(stop, self._state.n)))

    def _vectors_at(self, places: I64) -> F32:
        ordinals = places if self._ordinals is None else self._ordinals[places]
        return np.stack(list(fetch.vectors(self._whole, ordinals).values()))


def _step(data: index.Searchable) -> int:
    """How many documents are read at a time."""
    return max(1, _PIECE // int(4 * data.records.shape[1]))
