"""A small collection whose contents are known, and every question that may be asked of it, with the right answers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import bqstore

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
