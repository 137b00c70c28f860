"""What was deleted or replaced is gone from every byte of the folder after `compact()`."""

import random
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore.storage.catalogue import Catalogue

DIM = 32


def holders(path: Path, canaries: list[bytes]) -> dict[bytes, list[str]]:
    """The files that still hold one of the canaries."""
    files = {f.name: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    found = {canary: [name for name, data in files.items() if canary in data] for canary in canaries}
    return {canary: names for canary, names in found.items() if names}


def document(name: str, long: int, rng: np.random.Generator) -> tuple[dict, list[bytes]]:
    """The arguments that add a document, and what must not be found of it later."""
    vector = rng.standard_normal((1, DIM)).astype(np.float32)
    text = f"canary-text-{name}. " * long + f"canary-end-{name}."
    metadata = {
        "key": f"canary-meta-{name}.",
        "_bq_ref_doc_id": f"canary-ref-{name}.",
        "_bq_x": f"canary-private-{name}.",
    }
    words = ["text", "end", "meta", "ref", "private", "id"]
    given = {"vectors": vector, "ids": [f"canary-id-{name}."], "texts": [text], "metadatas": [metadata]}
    return given, [*(f"canary-{word}-{name}.".encode() for word in words), vector.tobytes()[4:44]]


@pytest.fixture(autouse=True)
def sqlite_as_it_may_be_compiled(monkeypatch):
    """SQLite leaves deleted rows where they are; some systems have it compiled to overwrite most of them."""
    real = Catalogue.start_writing

    def start_writing(self):
        real(self)
        self._main.execute("PRAGMA secure_delete = OFF")

    monkeypatch.setattr(Catalogue, "start_writing", start_writing)


@pytest.mark.parametrize("seed", range(2))
def test_deleted_and_replaced_documents_are_gone_from_every_byte_of_the_folder(tmp_path, seed):
    random.seed(seed)
    rng = np.random.default_rng(seed)
    with bqstore.open(tmp_path, index_metadata=["key"]) as col:
        alive: dict[str, list[bytes]] = {}
        gone: list[bytes] = []
        for step in range(12):
            names = [f"{seed}-{step}-{i}" for i in range(30)]
            documents = [document(name, random.choice((1, 3, 30, 300)), rng) for name in names]
            alive.update(zip(names, (canaries for _, canaries in documents), strict=True))
            given = {key: [each[key][0] for each, _ in documents] for key in documents[0][0]}
            col.add(**given)
            doomed = random.sample(sorted(alive), 12)
            gone += [canary for name in doomed for canary in alive.pop(name)]
            col.delete([f"canary-id-{name}." for name in doomed])
            for name in random.sample(sorted(alive), 3):
                col.update_metadata([f"canary-id-{name}."], {"key": f"canary-new-{name}."})
                gone += [canary for canary in alive[name] if b"-meta-" in canary]
                alive[name] = [canary for canary in alive[name] if b"-meta-" not in canary]
                alive[name] += [f"canary-new-{name}.".encode()]
            if step == 5:
                col.flush()
        there = [canary for canaries in alive.values() for canary in canaries]
        assert holders(tmp_path, there[:20]).keys() == set(there[:20]), "the test looks for what is stored"
        assert holders(tmp_path, gone), "before the compaction they are there"
        col.compact()
        assert holders(tmp_path, gone) == {}
        name = next(name for name in alive if f"canary-meta-{name}.".encode() in alive[name])
        col.update_metadata([f"canary-id-{name}."], {}, replace=True)  # nothing to copy, and yet something to erase
        col.compact()
        assert holders(tmp_path, [f"canary-meta-{name}.".encode()]) == {}
        assert col.verify().ok and len(col) == len(alive)
    assert holders(tmp_path, gone) == {}


def test_a_cleared_collection_holds_nothing_of_what_it_held(tmp_path):
    with bqstore.open(tmp_path) as col:
        given, canaries = document("x", 2000, np.random.default_rng(0))
        col.add(**given)
        assert holders(tmp_path, canaries).keys() == set(canaries)
        col.clear()
        col.compact()
        assert holders(tmp_path, canaries) == {}
