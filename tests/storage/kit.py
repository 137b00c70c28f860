"""What the tests of storage share: a small store whose contents are known, and all that may be asked of it."""

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import bqstore
from bqstore import BqstoreError
from bqstore.storage import Head, Recode, Rows, Store, open_store
from bqstore.storage.compaction import Progress
from bqstore.storage.format import codes_of, vectors_of
from bqstore.storage.head import code_form, coded_dim
from bqstore.storage.verify import problems_of

from . import codings
from .crash import SETTINGS

DIM = 12
BITS = {"full_scan_threshold": 0}


class Document:
    """What a store must give back for an id."""

    def __init__(self, vector: np.ndarray, text: str | None, metadata: dict):
        self.vector, self.text, self.metadata = vector, text, metadata

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Document)
            and np.array_equal(self.vector, other.vector)
            and (self.text, self.metadata) == (other.text, other.metadata)
        )

    __hash__ = None  # type: ignore[assignment]


Truth = dict[str, Document]


def documents(n: int, seed: int = 0, dim: int = DIM) -> Truth:
    """n documents of distinct directions."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return {
        f"id-{seed}-{i}": Document(v, None if i % 5 == 4 else f"text {i} é", {"n": i % 3, "tags": ["a", str(i)]})
        for i, v in enumerate(vectors)
    }


def add(col: bqstore.Collection, given: Truth) -> None:
    """Add documents."""
    docs = list(given.values())
    col.add([d.vector for d in docs], list(given), [d.text for d in docs], [d.metadata for d in docs])


def make_store(path: Path, n: int = 10, seed: int = 0, **settings: object) -> Truth:
    """A store with adds, an upsert, deletes and an update behind it; closed. What it holds."""
    truth = documents(n, seed)
    with bqstore.open(path, hnsw=BITS, **settings) as col:
        add(col, truth)
        changed = {id_: Document(-doc.vector, "new", {"n": 7}) for id_, doc in list(truth.items())[:2]}
        add(col, changed)
        truth.update(changed)
        for id_ in list(truth)[3:5]:
            col.delete([id_])
            del truth[id_]
        updated = list(truth)[-1]
        col.update_metadata([updated], {"n": 9})
        truth[updated] = Document(truth[updated].vector, truth[updated].text, {**truth[updated].metadata, "n": 9})
    return truth


def leave_log(path: Path, truth: Truth, seed: int = 9) -> list[Truth]:
    """Add and delete so that it stands in SQLite's log only, as after a kill; each committed state, the last last."""
    states = [dict(truth)]
    copy = path.with_name(path.name + "-live")
    with bqstore.open(path) as col:
        for step in range(3):
            more = documents(2, seed + step)
            add(col, more)
            states.append({**states[-1], **more})
        gone = next(iter(truth))
        col.delete([gone])
        states.append({id_: doc for id_, doc in states[-1].items() if id_ != gone})
        shutil.copytree(path, copy)
    shutil.rmtree(path)
    copy.rename(path)
    return states


def bytes_of(path: Path) -> dict[str, bytes]:
    """What stands in a store: every file but the lock, SQLite's shared memory and an empty log."""
    files = {str(f.relative_to(path)): f for f in path.rglob("*") if f.is_file()}
    found = {name: f.read_bytes() for name, f in files.items() if f.name not in ("LOCK", "meta.db-shm")}
    return {name: data for name, data in found.items() if data or not name.endswith("-wal")}


def scores(truth: Truth, query: np.ndarray) -> dict[str, float]:
    """The cosine of each document, the slow way."""
    query = query.astype(np.float64)
    return {
        id_: float(doc.vector.astype(np.float64) @ query / np.linalg.norm(query) / np.linalg.norm(doc.vector))
        for id_, doc in truth.items()
    }


def check_hits(hits: list[bqstore.Hit], truth: Truth, query: np.ndarray, k: int) -> None:
    """The k nearest, each with its own text, metadata and score."""
    expected = scores(truth, query)
    nearest = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose([hit.score for hit in hits], nearest, atol=1e-5)
    assert len({hit.id for hit in hits}) == len(hits)
    for hit in hits:
        doc = truth[hit.id]
        assert abs(hit.score - expected[hit.id]) < 1e-5
        assert (hit.text, hit.metadata) == (doc.text, doc.metadata)
        assert hit.vector is None or np.array_equal(hit.vector, doc.vector)


def questions(truth: Truth) -> Iterator[tuple[str, Callable[[bqstore.Collection], None]]]:
    """All that may be asked, each checking its own answer."""
    query = np.random.default_rng(99).standard_normal(DIM).astype(np.float32)
    threes = {id_: doc for id_, doc in truth.items() if doc.metadata["n"] == 1}

    def size(col: bqstore.Collection) -> None:
        assert len(col) == len(truth)

    def exact(col: bqstore.Collection) -> None:
        check_hits(col.search(query, 4, exact=True), truth, query, 4)

    def bits(col: bqstore.Collection) -> None:
        check_hits(col.search(query, 5, oversampling=100, with_vectors=True), truth, query, 5)

    def batch(col: bqstore.Collection) -> None:
        for hits, one in zip(col.search_batch([query, -query], 3, oversampling=100), (query, -query), strict=True):
            check_hits(hits, truth, one, 3)

    def filtered(col: bqstore.Collection) -> None:
        check_hits(col.search(query, 50, filter={"n": 1}, oversampling=100), threes, query, 50)

    def ids_only(col: bqstore.Collection) -> None:
        ids, _ = col.search_ids(query, 50, oversampling=100)
        expected = scores(truth, query)
        assert [i for i in ids[0] if i is not None] == sorted(expected, key=expected.__getitem__, reverse=True)

    def scrolled(col: bqstore.Collection) -> None:
        assert {r.id: (r.text, r.metadata) for r in col.scroll(batch=3)} == {
            id_: (doc.text, doc.metadata) for id_, doc in truth.items()
        }

    def counted(col: bqstore.Collection) -> None:
        assert col.count({"n": 1}) == len(threes)

    def got(col: bqstore.Collection) -> None:
        found = {r.id: Document(r.vector, r.text, r.metadata) for r in col.get(list(truth), with_vectors=True)}
        assert found == truth

    def contained(col: bqstore.Collection) -> None:
        assert all(id_ in col for id_ in truth)

    for ask in (size, exact, bits, batch, filtered, ids_only, scrolled, counted, got, contained):
        yield ask.__name__, ask


BY_INDEX = ("scrolled", "got", "contained")  # these find rows through SQLite's index of ids


def check_damaged(path: Path, allowed: list[Truth]) -> str:
    """Open and ask a store that may be damaged: right answers of one allowed state, or errors of the tree.

    Returns "refused" if it would not open (its bytes must be as they were), "noticed" if some question was answered
    with an error, "right" if all answers are those of an undamaged store. Anything else raises.
    """
    before = bytes_of(path)
    try:
        col = bqstore.open(path, hnsw=BITS)
    except BqstoreError:
        assert bytes_of(path) == before, "a refused opening has changed the store"
        return "refused"
    noticed = False
    with col:
        size = len(col)
        fitting = [truth for truth in allowed if len(truth) == size]
        assert fitting, f"{size} documents, in no state that was ever committed"
        wrong: list[BaseException] = []
        for truth in fitting:
            wrong_index = False
            try:
                for name, ask in questions(truth):
                    try:
                        ask(col)
                    except BqstoreError:
                        noticed = True
                    except AssertionError:
                        if name not in BY_INDEX:
                            raise
                        wrong_index = True
            except AssertionError as error:
                wrong.append(error)
                continue
            # SQLite's pages have no checksums: of a damaged index only verify() can tell
            report = col.verify()
            assert not (wrong_index and report.ok), "an answer is wrong and verify() finds nothing"
            return "noticed" if noticed or not report.ok else "right"
        raise wrong[0]


def positions(size: int, some: int | None, seed: int = 0) -> list[int]:
    """Every position, or a sample with both ends."""
    if some is None or size <= some:
        return list(range(size))
    return sorted({0, size - 1, *random.Random(seed).sample(range(size), some)})


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
            coding = codings.coding(self.store.head.settings, self.form, DIM, seed, self.part)
            codes = codings.encode(self.form, coding.parameters, vectors[:, : self.part])
        else:
            codes = self.codes_of(vectors)
        texts, none = [f"text {seed}"] * len(ids), [None] * len(ids)
        self.store.append(Rows(ids, texts, ["{}"] * len(ids), none, none), vectors, codes, coding)
        self.documents.update(zip(ids, zip(vectors, texts, strict=True), strict=True))

    def codes_of(self, vectors: np.ndarray) -> np.ndarray:
        """The codes that vectors have in this generation, uint64 (n, words)."""
        settings = self.store.head.settings
        return codings.encode(code_form(settings), self.store.parameters, vectors[:, : coded_dim(settings, DIM)])

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
        return self.compact(recode=codings.recode(self.store.head.settings, form, DIM, seed, part))

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


def interrupted(action: Callable[[], object], line: int) -> bool:
    """Do something, with Ctrl-C at some line of the storage; whether it came so far."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if "/bqstore/storage/" not in frame.f_code.co_filename or frame.f_code.co_name == "__del__":
            return None  # exceptions of a finalizer are printed, no more
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False
