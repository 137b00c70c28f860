"""A run of writes that can be repeated, as data: what a child process does, and what must be there when it is gone.

    python -m tests.storage.crash FOLDER SEED OPERATIONS [collection | store | generations]

The child writes ``done I`` when operation I is acknowledged, ``failed I`` when it was refused. With "store" it
runs without kernels and starts in a tenth of a second, for `strace`. With "generations" it does, too, and writes
snapshots, compacts, and makes codes of other forms between the operations.
"""

import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bqstore.errors import BqstoreError

from . import naive_codes

DIM = 8
SETTINGS = {
    "distance": "cosine",
    "originals": "float32",
    "embedding_model": None,
    "quantization": {"encoding": "one_bit", "query_encoding": "binary", "estimator": "sign"},
    "hnsw": {"m": 16, "ef_construct": 128, "full_scan_threshold": 0},
    "search": {"oversampling": 3.0, "rescore": True, "hnsw_ef": None},
}
Contents = dict[str, tuple[tuple[float, ...], str, int]]  # id -> vector, text, number in the metadata
Operation = tuple[str, Any]


def operations(seed: int) -> Iterator[Operation]:
    """Adds of several sizes, upserts, deletes, updates and now and then a clear, without end."""
    rng = random.Random(seed)
    known: Contents = {}
    for step in range(10**9):
        kind = rng.choices(["add", "upsert", "delete", "update", "clear"], [60, 15, 12, 12, 1])[0]
        if not known:
            kind = "add"
        some = rng.sample(sorted(known), min(len(known), rng.randint(1, 4)))
        operation: Operation
        if kind in ("add", "upsert"):
            ids = some if kind == "upsert" else [f"{step}-{i}" for i in range(rng.choice([1, 2, 3, 40]))]
            operation = ("add", {id_: _document(rng, step) for id_ in ids})
        elif kind == "update":
            operation = ("update", (some, step))
        else:
            operation = (kind, some)
        known = after(known, operation)
        yield operation


def with_generations(given: Iterator[Operation]) -> Iterator[Operation]:
    """The operations with a snapshot, a recoding or a compaction after every second one."""
    for step, operation in enumerate(given):
        yield operation
        if step % 2:
            kind = ("snapshot", "recode", "compact")[step // 2 % 3]
            yield (kind, (6, 2, 5, 1, 3, 4)[step // 6 % 6] if kind == "recode" else None)  # forms of codes


def _document(rng: random.Random, step: int) -> tuple[tuple[float, ...], str, int]:
    vector = np.array([rng.uniform(-1, 1) for _ in range(DIM)], np.float32)
    return tuple(vector.tolist()), f"text {step} " + "x" * rng.randint(0, 300), step


def after(contents: Contents, operation: Operation) -> Contents:
    """What the store holds after an operation."""
    kind, what = operation
    if kind == "add":
        return {**contents, **what}
    if kind == "delete":
        return {id_: doc for id_, doc in contents.items() if id_ not in what}
    if kind in ("snapshot", "compact", "recode"):
        return contents
    if kind == "update":
        return {id_: (*doc[:2], what[1]) if id_ in what[0] else doc for id_, doc in contents.items()}
    return {}


def possible(given: Iterator[Operation], report: str) -> list[Contents]:
    """What may be there after a run: all that was acknowledged, and what was not acknowledged wholly or not at all."""
    said = {int(number): word for word, number in (line.split() for line in report.splitlines() if line.strip())}
    assert sorted(said) == list(range(len(said)))
    states: list[Contents] = [{}]
    for i, operation in enumerate(islice(given, len(said) + 1)):
        changed = [after(contents, operation) for contents in states]
        states = changed if said.get(i) == "done" else states + [c for c in changed if c not in states]
    return states


def contents_of(path: Path) -> Contents:
    """What the store holds, read with every check there is."""
    import bqstore

    with bqstore.open(path) as col:
        report = col.verify()
        assert report.ok, report.problems
        ids = [record.id for record in col.scroll()]
        records = col.get(ids, with_vectors=True)
        assert len(records) == len(col) == len(ids)
        if records:
            vector = records[0].vector
            assert vector is not None
            found = col.search(vector, k=len(ids), hnsw_ef=None, exact=True)
            assert {hit.id for hit in found} == set(ids)
            assert len(col.search(vector, k=len(ids), filter={"n": records[0].metadata["n"]})) >= 1
    return {r.id: (tuple(r.vector.tolist()), r.text, r.metadata["n"]) for r in records}


def check(path: Path, seed: int, report: str) -> None:
    """Nothing acknowledged is lost, nothing is half there, and the store can be written."""
    _check(path, possible(operations(seed), report), contents_of)


def check_generations(path: Path, seed: int, report: str) -> None:
    """The same without a collection; also, a snapshot that was left is whole, and of a commit that is there."""
    _check(path, possible(with_generations(operations(seed)), report), contents_of_store)


def _check(path: Path, states: list[Contents], contents: Callable[[Path], Contents]) -> None:
    found = contents(path)
    assert found in states, f"{len(found)} documents; expected one of {[len(state) for state in states]}"
    apply_to_store, close = store_writer(path)
    apply_to_store(("add", {"afterwards": ((1.0,) * DIM, "", 0)}))
    close()
    assert contents(path) == {**found, "afterwards": ((1.0,) * DIM, "", 0)}


def contents_of_store(path: Path) -> Contents:
    """What the store holds, read without a collection."""
    from bqstore.storage import open_store
    from bqstore.storage.format import vectors_of
    from bqstore.storage.head import code_form
    from bqstore.storage.verify import problems_of

    store = open_store(path / "default", SETTINGS, None, False)
    store.start_writing()
    try:
        head = store.head
        assert problems_of(store) == ([], head.n_live, head.n_slots)
        snapshot, reason = store.read_snapshot()
        assert reason is None, reason
        if snapshot is not None:
            assert (snapshot.numbers, snapshot.seq <= head.seq) == ({"seq": snapshot.seq}, True)
            assert snapshot.arrays["slots"].tolist() == list(range(snapshot.n))
            assert (snapshot.arrays["filler"] == snapshot.seq % 251).all()
        names = [file.name for file in (path / "default").glob("*-[0-9]*")]
        assert all(re.fullmatch(rf"\w+-{head.generation}(-\d+)?\.bin", name) for name in names), names
        if head.n_slots == 0:
            return {}
        assert store.vectors is not None
        vectors = vectors_of(store.vectors.layout, store.vectors.read(0, head.n_slots))
        rids, codes = store.read_codes(0, head.n_slots)
        assert (codes == naive_codes.encode(code_form(head.settings), store.parameters, vectors)).all()
        rows = {row.rid: row for row in store.rows("rid", rids.tolist())}
        return {
            rows[rid].id: (tuple(vector.tolist()), rows[rid].text, json.loads(rows[rid].metadata)["n"])
            for rid, vector in zip(rids.tolist(), vectors, strict=True)
            if rid in rows
        }
    finally:
        store.close()


def collection_writer(path: Path) -> tuple[Callable[[Operation], None], Callable[[], None]]:
    """Writes through a collection."""
    import bqstore

    col = bqstore.open(path)

    def apply(operation: Operation) -> None:
        kind, what = operation
        if kind == "add":
            vectors, texts, numbers = zip(*what.values(), strict=True)
            col.add(vectors, list(what), texts, [{"n": n} for n in numbers])
        elif kind == "delete":
            col.delete(what)
        elif kind == "update":
            col.update_metadata(what[0], {"n": what[1]})
        else:
            col.clear()

    return apply, col.close


def derived(head: Any) -> tuple[dict[str, int], dict[str, Any]]:
    """What a snapshot holds here: it can be told from its commit."""
    return {"seq": head.seq}, {"slots": np.arange(head.n_slots), "filler": np.full(9000, head.seq % 251, np.uint8)}


def store_writer(path: Path, form: int = 1) -> tuple[Callable[[Operation], None], Callable[[], None]]:
    """Writes through the storage alone; the first codes of a generation are of a form."""
    from bqstore.storage import Rows, open_store
    from bqstore.storage.head import code_form

    store = open_store(path / "default", SETTINGS, None, False)
    store.start_writing()

    def apply(operation: Operation) -> None:
        kind, what = operation
        if kind == "add":
            vectors = np.array([doc[0] for doc in what.values()], np.float32)
            head, coding = store.head, None
            if form != 1 and head.n_slots == 0:
                coding = naive_codes.coding(head.settings, form, DIM, head.seq)
                codes = naive_codes.encode(form, coding.parameters, vectors)
            else:
                codes = naive_codes.encode(code_form(head.settings), store.parameters, vectors)
            metadata = [f'{{"n":{doc[2]}}}' for doc in what.values()]
            none = [None] * len(what)
            rows = Rows(list(what), [doc[1] for doc in what.values()], metadata, none, none)
            store.append(rows, vectors, codes, coding)
        elif kind == "delete":
            store.bury(sorted(store.rids_by_id(what).values()))
        elif kind == "snapshot":
            head = store.head
            store.write_snapshot(head.n_slots, head.seq, *derived(head))
        elif kind in ("compact", "recode"):
            head = store.head
            rids = store.read_codes(0, head.n_slots)[0] if head.n_slots else np.zeros(0, np.int64)
            live = np.flatnonzero(~np.isin(rids, np.array(store.dead_since(-1), np.int64)))
            recode = naive_codes.recode(head.settings, what, DIM, head.seq) if what else None
            store.commit_compaction(store.begin_compaction(live, None, recode))
        elif kind == "update":
            rows = store.rows("id", what[0])
            store.rewrite([row._replace(metadata=f'{{"n":{what[1]}}}') for row in rows])
        else:
            store.clear()

    return apply, store.close


def main(folder: str, seed: str, count: str, layer: str = "collection") -> None:
    """Write, and say after each operation how it went."""
    try:
        if layer == "collection":
            apply, close = collection_writer(Path(folder))
        else:
            apply, close = store_writer(Path(folder), form=4 if layer == "generations" else 1)
        steps = with_generations(operations(int(seed))) if layer == "generations" else operations(int(seed))
    except BqstoreError:  # refused before anything was said
        return
    for i, operation in enumerate(islice(steps, int(count))):
        try:
            apply(operation)
            word = "done"
        except BqstoreError:
            word = "failed"
        os.write(1, f"{word} {i}\n".encode())
    with suppress(BqstoreError):
        close()


if __name__ == "__main__":
    main(*sys.argv[1:])
