"""Codes of encodings that a collection does not have, made in memory from its originals, to be scanned. Floor 3.

Of a large collection a random part is taken. Vectors are read in pieces, and checked: what stays in memory is the codes
of one encoding and, of a large collection, the part's records.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np

from .. import index
from ..engine import fetch
from ..engine.state import State
from ..storage.format import damaged
from .ground_truth import F32, I64, Exam, examine

MOST = 100_000  # documents that are scanned
_MOST_BYTES = 1 << 30  # of their records, where they are copied
_TRAINED = 20_000  # vectors that an encoding is trained on
_PIECE = 32 << 20  # bytes of originals that are read at a time
_SEED = 0x6271_7375


class Part:
    """The documents that other encodings are tried on: all, or a random part, the held-out ones among them.

    Attributes
    ----------
    documents : int     how many there are; 0 until there was need of them
    """

    def __init__(self, state: State, own: I64 | None, vectors: F32, workers: index.Workers) -> None:
        self._workers, self._whole, self._own, self._vectors = workers, state, own, vectors
        self.documents = 0
        self._exam: Exam | None = None

    def memory(self, recoded: State | None) -> int:
        """Bytes in memory of the codes and links of the whole collection; the links are of any codes."""
        whole = self._whole.data
        assert whole is not None
        words = whole.words.shape[1] if recoded is None or recoded.data is None else recoded.data.words.shape[1]
        links = 0
        if whole.graph is not None:
            graph = whole.graph
            upper = int(np.sum(graph.levels[: graph.n], dtype=np.int64))
            links = graph.n * (graph.links[0].nbytes + 5) + upper * graph.upper[0].nbytes
        return int(self._whole.n * words * 8 + links)

    def exam(self, exam: Exam, k: int) -> Exam:
        """The queries, with what there is to find in the part."""
        if self._ordinals is None:
            return exam
        if self._exam is None:
            own = None if self._own is None else np.searchsorted(self._ordinals, self._own)
            self._exam = examine(self._state, self._vectors, own, k, self._workers)
        return self._exam

    def recoded(self, encoding: str, estimator: str, rotate: bool | None, truncate_dim: int | None) -> State:
        """The part's state with codes of an encoding, and no graph."""
        state = self._state
        data = state.data
        assert data is not None
        train = index.Quantizer.train
        quantizer = train(self._sample, encoding, estimator, bool(rotate), data.metric, truncate_dim)
        words = np.empty((state.n, quantizer.words), np.uint64)
        step = _step(data)
        for at in range(0, state.n, step):
            words[at : at + step] = quantizer.encode_all(self._read(at, at + step), self._workers)
        return replace(state, data=replace(data, words=words, quantizer=quantizer, graph=None))

    @cached_property
    def _ordinals(self) -> I64 | None:
        """The ordinals of the part, ascending; None: it is the whole."""
        state = self._whole
        assert state.data is not None
        most = min(MOST, _MOST_BYTES // (4 * state.data.records.shape[1]))
        if state.n <= MOST:
            self.documents = state.head.n_live
            return None
        first = np.zeros(0, np.int64) if self._own is None else self._own
        others = np.random.default_rng(_SEED).permutation(np.setdiff1d(np.flatnonzero(state.live), first))
        chosen: I64 = np.sort(np.concatenate([first, others[: max(0, most - len(first))]]))
        self.documents = len(chosen)
        return chosen

    @cached_property
    def _state(self) -> State:
        """The state of the part, as if it were a collection in memory."""
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
                self._read(at, at + step)  # which raises, and says where
        records.flags.writeable = False  # as kernels expect
        head = replace(whole.head, n_slots=n, n_live=n)
        data = replace(data, records=records, n=n, graph=None)
        return replace(whole, head=head, rids=whole.rids[ordinals], live=np.ones(n, bool), data=data, vectors=None)

    @cached_property
    def _sample(self) -> F32:
        """Vectors that encodings are trained on."""
        live = np.flatnonzero(self._state.live)
        picked = np.sort(np.random.default_rng(_SEED).permutation(live)[:_TRAINED])
        return self._vectors_at(picked)

    def _read(self, start: int, stop: int) -> F32:
        """The vectors of a range of the part's documents."""
        return self._vectors_at(np.arange(start, min(stop, self._state.n)))

    def _vectors_at(self, places: I64) -> F32:
        ordinals = places if self._ordinals is None else self._ordinals[places]
        return np.stack(list(fetch.vectors(self._whole, ordinals).values()))


def _step(data: index.Searchable) -> int:
    """How many documents are read at a time."""
    return max(1, _PIECE // int(4 * data.records.shape[1]))
