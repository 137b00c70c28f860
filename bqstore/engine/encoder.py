"""How the vectors of one collection become codes: which encoding, when it is chosen, and how it changes later.

The first vectors choose the encoding if there are enough of them. Otherwise codes are the simplest that the settings
allow (plain signs, if nothing is given), until there are enough and all codes are made anew. Knows the published state
and the store; knows no rows.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..config import Quantization, as_settings, check_truncated
from ..index import METRICS, Quantizer
from ..results.info import Choice
from ..storage import Coding, coding_of
from . import choose_encoding, fetch, maintenance

if TYPE_CHECKING:
    from .core import Core

# Documents and values up to which the graph is linked before codes that nobody asked for are committed: that takes some
# five seconds, and other writers wait.
_LINKED_AT_ONCE, _VALUES_AT_ONCE = 100_000, 50_000_000

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]


class Encoder:
    """Makes the codes of a collection.

    Its settings are those that are stored, so that all openings of a collection agree, in all processes.
    """

    def __init__(self, core: "Core") -> None:
        self._core, self._store, self._publisher = core, core.store, core.publisher

    @property
    def wanted(self) -> Quantization:
        """The stored settings; may hold "auto"."""
        return Quantization(**self._store.head.settings["quantization"])

    def in_use(self, query_encoding: str) -> Quantization:
        """How codes are made and queries encoded now, or would be if there are no codes yet; nothing is "auto".

        Answered from the published state, without a look at commits of other processes, so also after `close`.
        """
        data = self._publisher.state.data
        if data is not None:
            return data.quantizer.resolved(query_encoding)
        way = choose_encoding.simplest(replace(self.wanted, query_encoding=query_encoding))
        query = choose_encoding.query_encoding(way.query_encoding, way.encoding, way.estimator, measured=False)
        return replace(way, query_encoding=query)

    @property
    def choice(self) -> Choice | None:
        """The measurements behind the choice of the encoding."""
        return choose_encoding.choice_of(self._store.head.settings)

    def encode(self, vectors: F32) -> tuple[Quantizer | None, U64]:
        """The codes of vectors, float32 (n, dim), and the quantizer that made them; runs beside other writes.

        An empty collection has no quantizer yet: then `settled` makes both.
        """
        data = self._publisher.current().data
        if data is None or data.dim != vectors.shape[1]:
            return None, np.zeros((0, 1), np.uint64)
        return data.quantizer, self._encoded(data.quantizer, vectors)

    def settled(self, vectors: F32, by: Quantizer | None, codes: U64) -> tuple[U64, Coding | None]:
        """The codes to store, and for the first vectors how they were made; under the writer's lock.

        ``by`` and ``codes`` are what `encode` returned; another thread may have changed the quantizer since. Raises
        InvalidInputError where ``truncate_dim`` is larger than the dimension of the first vectors.
        """
        state = self._publisher.state
        data = (state if state.head is self._store.head else self._publisher.follow()).data
        if data is not None and data.quantizer.trained and self._store.head.n_live == 0:
            self._store.clear()  # the vectors it was trained on are gone
            data = self._publisher.follow().data
        if data is not None:
            return (codes if data.quantizer is by else self._encoded(data.quantizer, vectors)), None
        check_truncated(self.wanted.truncate_dim, vectors.shape[1])
        settings = self._store.head.settings
        metric = METRICS[settings["distance"]]
        chosen = choose_encoding.first(vectors, self.wanted, metric)
        if chosen is None:
            return self._encoded(Quantizer.signs(vectors.shape[1], metric), vectors), None
        stored = Quantization(**settings["quantization"])
        coding = Coding(chosen.settings(settings, stored), chosen.quantizer.parameters)
        return self._encoded(chosen.quantizer, vectors), coding

    @property
    def due(self) -> bool:
        """Whether there are enough vectors by now to choose an encoding, or to train it again."""
        head = self._store.head
        return head.settings["originals"] != "none" and choose_encoding.is_due(self.wanted, head.settings, head.n_live)

    def renew(self) -> None:
        """Choose or train again if that is due; under the lock."""
        if self.due:
            self._recode(self.wanted)

    def choose_again(self) -> None:
        """Choose the encoding again, from all there is, if the settings leave it open; under the lock."""
        head, wanted = self._store.head, self.wanted
        if len(choose_encoding.possible(wanted)) == 1 or head.n_live < choose_encoding.LEAST:
            return
        sample = fetch.sample(self._publisher.follow(), choose_encoding.TRAINED_ON)
        chosen = choose_encoding.choose(sample, wanted, METRICS[head.settings["distance"]], head.n_live)
        if chosen.quantizer.coding() != coding_of(head.settings):
            many = head.n_live > _LINKED_AT_ONCE or head.n_live * (head.dim or 0) > _VALUES_AT_ONCE
            coded = chosen.quantizer, chosen.settings(head.settings, wanted)
            maintenance.recode(self._core, *coded, link_later=many)

    def change(self, wanted: Quantization) -> None:
        """Make all codes anew with other settings, which stay; under the lock."""
        head = self._store.head
        check_truncated(wanted.truncate_dim, head.dim)
        if head.n_live:
            self._recode(wanted)
            return
        if head.n_slots:
            head = self._store.clear()
        untuned = {name: value for name, value in head.settings.items() if name != "untuned"}
        untuned["search"] = head.settings.get("untuned", head.settings["search"])
        self._store.put_settings({**untuned, "quantization": as_settings(wanted)}, head.dim)

    def _recode(self, wanted: Quantization) -> None:
        """Choose by a sample of the vectors there are, and make all codes anew; the settings become what is stored."""
        settings = self._store.head.settings
        sample = fetch.sample(self._publisher.follow(), choose_encoding.TRAINED_ON)
        chosen = choose_encoding.choose(sample, wanted, METRICS[settings["distance"]], self._store.head.n_live)
        maintenance.recode(self._core, chosen.quantizer, chosen.settings(settings, wanted))

    def _encoded(self, quantizer: Quantizer, vectors: F32) -> U64:
        return quantizer.encode_all(vectors, self._core.workers)
