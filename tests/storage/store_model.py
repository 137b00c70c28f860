"""A store without a collection above it, beside a dictionary of what it must hold."""

import random
from pathlib import Path

import numpy as np

from bqstore.storage import Head, Recode, Rows, Store, open_store
from bqstore.storage.compaction import Progress
from bqstore.storage.format import codes_of, vectors_of
from bqstore.storage.head import code_form, coded_dim
from bqstore.storage.verify import problems_of

from . import naive_codes
from .crash import SETTINGS

DIM = 12


class StoreModel:
    """A store without a collection above it, beside a dictionary of what it must hold; a context manager.

    ``documents`` is a dictionary of id to (vector, text). ``path`` is the folder of the store, None for memory. Another
    ``salt`` gives other vectors to the same commits. The first vectors of a generation get codes of ``form``, if given.
    """

    salt = 0
    form: int | None = None
    part: int | None = None

    def __init__(self, path: Path | None, read_only: bool = False, originals: str = "float32") -> None:
        settings = {**SETTINGS, "originals": originals}
        self.store = open_store(path and path / "default", settings, None, read_only)
        if not read_only:
            self.store.start_writing()
        self.documents: dict[str, tuple[np.ndarray, str]] = self._stored()

    @classmethod
    def of(cls, store: Store) -> "StoreModel":
        """A model of a store that is open, as it stands."""
        model = cls.__new__(cls)
        model.store = store
        model.documents = model._stored()
        return model

    def __enter__(self) -> "StoreModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def _put(self, ids: list[str]) -> None:
        seed = self.store.head.seq
        vectors = np.random.default_rng((self.salt, seed)).standard_normal((len(ids), DIM)).astype(np.float32)
        coding = None
        if self.form is not None and self.store.head.n_slots == 0 and ids:
            coding = naive_codes.coding(self.store.head.settings, self.form, DIM, seed, self.part)
            codes = naive_codes.encode(self.form, coding.parameters, vectors[:, : self.part])
        else:
            codes = self.codes_of(vectors)
        texts, none = [f"text {seed}"] * len(ids), [None] * len(ids)
        self.store.append(Rows(ids, texts, ["{}"] * len(ids), none, none), vectors, codes, coding)
        self.documents.update(zip(ids, zip(vectors, texts, strict=True), strict=True))

    def codes_of(self, vectors: np.ndarray) -> np.ndarray:
        """The codes that vectors have in this generation, uint64 (n, words)."""
        settings = self.store.head.settings
        return naive_codes.encode(code_form(settings), self.store.parameters, vectors[:, : coded_dim(settings, DIM)])

    def add(self, n: int) -> None:
        """Add n documents."""
        self._put([f"{self.store.head.next_rid + i}" for i in range(n)])

    def upsert(self, n: int) -> None:
        """Put others in the place of n of them."""
        self._put(self._some(n))

    def delete(self, n: int) -> None:
        """Delete n of them."""
        ids = self._some(n)
        self.store.bury(sorted(self.store.rids_by_id(ids).values()))
        for id_ in ids:
            del self.documents[id_]

    def update(self, n: int) -> None:
        """Change the texts of n of them."""
        ids = self._some(n)
        text = f"changed {self.store.head.seq}"
        self.store.rewrite([row._replace(text=text) for row in self.store.rows("id", ids)])
        self.documents.update((id_, (self.documents[id_][0], text)) for id_ in ids)

    def _some(self, n: int) -> list[str]:
        return random.Random(self.store.head.seq).sample(sorted(self.documents), min(n, len(self.documents)))

    def clear(self) -> None:
        """Delete all."""
        self.store.clear()
        self.documents = {}

    def live(self) -> np.ndarray:
        """The ordinals of the living."""
        head, store = self.store.head, self.store
        rids = store.read_codes(0, head.n_slots)[0] if head.n_slots else np.zeros(0, np.int64)
        return np.flatnonzero(~np.isin(rids, np.array(store.dead_since(-1), np.int64)))

    def compact(
        self, live: np.ndarray | None = None, progress: Progress | None = None, recode: Recode | None = None
    ) -> Head:
        """Copy the living to a new generation, and commit it."""
        prepared = self.store.begin_compaction(self.live() if live is None else live, progress, recode)
        return self.store.commit_compaction(prepared)

    def recode(self, form: int, seed: int = 0, part: int | None = None) -> Head:
        """The same with new codes, of a form, and of the first values of each vector."""
        return self.compact(recode=naive_codes.recode(self.store.head.settings, form, DIM, seed, part))

    def _stored(self) -> dict[str, tuple[np.ndarray, str]]:
        """What is there. Where originals are not kept, a vector is what its signs tell, or else nothing but NaN."""
        store, head = self.store, self.store.head
        if head.n_slots == 0:
            return {}
        rids, codes = self._codes()
        vectors = np.full((len(rids), DIM), np.nan, np.float32)
        if store.vectors is not None:
            vectors = vectors_of(store.vectors.layout, store.vectors.read(0, head.n_slots))
            assert (codes == self.codes_of(vectors)).all()
        elif code_form(head.settings) == 1:
            bits = np.unpackbits(codes.view(np.uint8), axis=1, bitorder="little")[:, :DIM]
            vectors = np.where(bits, np.float32(1), np.float32(-1))
        by_rid = dict(zip(rids.tolist(), vectors, strict=True))
        rows = store.rows("rid", rids.tolist())
        assert len(rows) == head.n_live
        return {row.id: (by_rid[row.rid], row.text) for row in rows}

    def _codes(self) -> tuple[np.ndarray, np.ndarray]:
        """The rids and the codes of all slots."""
        store, n = self.store, self.store.head.n_slots
        rids, codes = store.read_codes(0, n)
        assert (codes == codes_of(store.codes.layout, store.codes.read(0, n))).all()
        assert (codes == codes_of(store.codes.layout, store.codes.view(n)[:n])).all()
        return rids, codes

    def check(self) -> None:
        """Everything is there, as it was given, and no byte contradicts another."""
        found = self._stored()
        assert found.keys() == self.documents.keys()
        for id_, (vector, text) in self.documents.items():
            assert found[id_][1] == text
            if self.store.vectors is not None:
                assert np.array_equal(found[id_][0], vector)
        if found:
            ids = list(found)
            rows = self.store.rows("id", ids)
            codes = dict(zip(*(array.tolist() for array in self._codes()), strict=True))
            expected = self.codes_of(np.array([self.documents[row.id][0] for row in rows]))
            assert [codes[row.rid] for row in rows] == expected.tolist()
        head = self.store.head
        form = code_form(head.settings)
        truncated = "truncate_dim" in head.settings.get("coding", {})
        assert head.stored()[0] == head.format_version == (3 if truncated else 1 if form == 1 else 2)
        if head.n_slots == 0:
            assert form == 1 and "choice" not in head.settings
            assert self.store.parameters.shape == (0,)
        assert problems_of(self.store) == ([], len(found), head.n_slots)
