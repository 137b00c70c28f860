"""Vectors of another model, kept beside a collection until there is one for each document: `reembed` goes on with them.

``reembed.bin`` is a file of vector records like any other, in no order: each names its document. No commit refers to
it, so a record is valid if it matches its checksum; one that was cut by a kill is overwritten. ``reembed.json`` says of
which model they are, and since which commit. A document's text may change in place, so each record has two more numbers
at its end, a hash of the text that was embedded, which `drop_changed` compares.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BqstoreError, CorruptionError
from .files import DiskFile, MemoryFile, RecordFile, make_file, storage_errors, write_all
from .format import F32, FORMS, Layout, damaged, rids_of, vector_records, vectors_of
from .lock import WriterLock
from .store import Store

_PLAN: Final = "reembed.json"
_DATA: Final = "reembed.bin"
_LOCK: Final = "REEMBED"
_AT_ONCE: Final = 1024


class Staging:
    """The vectors that are there so far.

    Attributes
    ----------
    dim : int or None       None before the first of them
    seq : int               the commit up to which texts are known not to have changed since they were embedded
    """

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model
        self._slots: dict[int, int] = {}  # of rids
        self._texts: dict[int, tuple[int, int]] = {}  # what was embedded, as `_hash` gives it
        self._count = 0
        self._file: RecordFile | None = None
        self.dim: int | None = None
        self.seq = store.head.seq

    def __contains__(self, rid: int) -> bool:
        return rid in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def load(self) -> None:
        """Take over what an interrupted call has left, if it is of this model and not in use already."""
        folder, head = self._store.folder, self._store.head
        if folder is None:
            return
        try:
            plan: dict[str, Any] = json.loads((folder / _PLAN).read_bytes())
            dim, self.seq = int(plan["dim"]), int(plan["seq"])
            used = plan["from"] != plan["model"] == head.settings["embedding_model"]
            if plan["model"] != self._model or used:
                raise ValueError
            self._file = DiskFile.open(
                folder / _DATA, _layout(dim), 0, head.store_id, 0, self._store.read_only, self._store.flat.entries
            )
        except (OSError, ValueError, KeyError, TypeError, BqstoreError):
            return  # there is none, or it cannot be used: the first `add` begins anew
        self.dim = dim
        slots = self._file.slots if isinstance(self._file, DiskFile) else 0
        for at in range(0, slots, _AT_ONCE):
            records = self._file.read(at, min(_AT_ONCE, slots - at))
            good = np.flatnonzero(~damaged(records))
            rids, hashes = rids_of(records)[good].tolist(), vectors_of(self._file.layout, records[good])[:, dim:]
            self._slots.update(zip(rids, (good + at).tolist(), strict=True))
            self._texts.update(zip(rids, map(tuple, hashes.astype(int).tolist()), strict=True))
            if len(good):
                self._count = at + int(good[-1]) + 1

    def drop_changed(self, seq: int) -> None:
        """Forget the vectors of texts that have changed, up to a commit that the store has reached."""
        for portion in self._store.column_rewritten(self.seq, "id") if self._slots else ():
            some = [rid for rid, _ in portion if rid in self._slots]
            for row in self._store.rows("rid", some):
                if self._texts[row.rid] != _hash(row.text or ""):
                    del self._slots[row.rid], self._texts[row.rid]
        self.seq = seq

    def add(self, rids: list[int], texts: Sequence[str], vectors: F32) -> None:
        """Keep vectors, float32 (n, dim), of texts, durably. Raises StorageError."""
        if self._file is None:
            self._begin(vectors.shape[1])
        assert self._file is not None
        hashes = [_hash(text) for text in texts]
        whole = np.concatenate([vectors, np.array(hashes, np.float32)], axis=1)
        records = vector_records(self._file.layout, np.array(rids, np.int64), whole)
        self._file.write(self._count, records)
        with storage_errors(f"sync {_DATA}"):
            self._file.sync()
        self._slots.update(zip(rids, range(self._count, self._count + len(rids)), strict=True))
        self._texts.update(zip(rids, hashes, strict=True))
        self._count += len(rids)

    def _begin(self, dim: int) -> None:
        folder, head, self.dim = self._store.folder, self._store.head, dim
        if folder is None:
            self._file = MemoryFile(_layout(dim))
            return
        self._store.check_place()
        entries = self._store.flat.entries
        plan = {"model": self._model, "dim": dim, "from": head.settings["embedding_model"], "seq": self.seq}
        with storage_errors(f"write {_PLAN}"):
            data = json.dumps(plan).encode()
            with suppress(FileNotFoundError):  # vectors of another model are removed before the plan names this one
                (folder / _DATA).unlink()
            os.close(make_file(folder / _PLAN, lambda fd: write_all(fd, data, 0), entries))
        self._file = DiskFile.create(folder / _DATA, _layout(dim), 0, head.store_id, entries=entries)

    def vectors(self, rids: NDArray[np.int64]) -> F32:
        """float32 (n, dim): the vectors for rids, all of which are here. Raises CorruptionError."""
        assert self._file is not None
        out = np.empty((len(rids), self._file.layout.dim - 2), np.float32)
        slots = np.array([self._slots[rid] for rid in rids.tolist()], np.int64)
        order = np.argsort(slots)
        for some in np.split(order, np.flatnonzero(np.diff(slots[order]) != 1) + 1):  # those that lie side by side
            if len(some):
                records = self._file.read_checked(slots[some])
                if (rids_of(records) != rids[some]).any():
                    raise CorruptionError(f"{_DATA} is damaged; remove it, and embed again")
                out[some] = vectors_of(self._file.layout, records)[:, :-2]
        return out

    def remove(self) -> None:
        """Remove the files: the vectors are in the collection now. They cost space, no more, where that fails."""
        self._file = None
        entries = self._store.flat.entries
        for name in [] if entries is None else (_PLAN, _DATA):
            with suppress(OSError):
                assert entries is not None
                entries.unlink(name)


def _layout(dim: int) -> Layout:
    return Layout("vectors", dim + 2, FORMS["float32"])


def _hash(text: str) -> tuple[int, int]:
    """48 bits of a text's hash, as two numbers that a float32 holds exactly."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:3], "big"), int.from_bytes(digest[3:6], "big")


@contextmanager
def staging(store: Store, model: str, *, alone: bool = True) -> Iterator[Staging]:
    """The staged vectors of a model; ``alone``: to add to them. Raises LockedError where another process does."""
    out = Staging(store, model)
    if store.folder is None or not alone:
        out.load()
        yield out
        return
    store.check_writable()
    duty = WriterLock(store.folder / _LOCK, entries=store.flat.entries)
    with duty.open() as file:
        duty.wait(file, 0)
        out.load()
        yield out
