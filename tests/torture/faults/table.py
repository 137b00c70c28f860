"""The table of the sweep: which calls to the system fail, with which errors, and what a collection is doing then."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bqstore

NUMBERS = {  # of x86-64
    **{"read": 0, "write": 1, "close": 3, "lseek": 8, "mmap": 9, "pread64": 17, "pwrite64": 18, "access": 21},
    **{
        "fcntl": 72,
        "flock": 73,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "rename": 82,
        "mkdir": 83,
        "unlink": 87,
    },
    **{"fchmod": 91, "getdents64": 217, "openat": 257, "newfstatat": 262, "unlinkat": 263, "renameat": 264},
    **{"fallocate": 285, "preadv": 295, "clone3": 435},
}
ERRORS = {
    **{"read": ["EIO"], "pread64": ["EIO"], "preadv": ["EIO"], "lseek": ["EIO"], "close": ["EIO"]},
    **{"pwrite64": ["ENOSPC", "EDQUOT", "EIO"], "write": ["EIO"], "ftruncate": ["ENOSPC", "EDQUOT", "EIO"]},
    **{"fsync": ["EIO"], "fdatasync": ["EIO", "ENOSPC"], "fallocate": ["ENOSPC", "EDQUOT", "EOPNOTSUPP"]},
    **{"openat": ["EMFILE", "ENFILE", "EACCES", "EIO", "ENOSPC"], "getdents64": ["EIO"], "mkdir": ["ENOSPC"]},
    **{"newfstatat": ["EIO", "EACCES"], "access": ["EACCES"], "fchmod": ["EPERM"], "mmap": ["ENOMEM"]},
    **{"fcntl": ["EIO", "ENOLCK"], "flock": ["ENOLCK", "EIO"], "clone3": ["EAGAIN"]},
    **{"rename": ["EIO"], "renameat": ["EIO", "ENOSPC"], "unlink": ["EIO"], "unlinkat": ["EIO"]},
}
Contents = dict[str, str | None]
N, DIM = 90, 8
BEFORE: Contents = {f"d{i}": f"text {i}" for i in range(N) if i % 9}
NEW = ["d1", "d2", *(f"new{i}" for i in range(8))]
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)


def prepare(path: Path) -> None:
    """Make the collection that every operation begins with: a graph, columns, a snapshot, deleted documents."""
    with bqstore.open(path, threads=1) as col:
        col.add(VECTORS, [f"d{i}" for i in range(N)], [f"text {i}" for i in range(N)], [{"i": i % 7} for i in range(N)])
        assert col.count({"i": 1}) > 1
        col.flush()
        col.delete([f"d{i}" for i in range(0, N, 9)])


def opened(path: Path) -> bqstore.Collection:
    """The collection of an operation."""
    return bqstore.open(path, threads=1, lock_timeout=5)


def contents(col: bqstore.Collection) -> Contents:
    """Everything that is in it."""
    return {record.id: record.text for record in col.scroll()}


def search(col: bqstore.Collection) -> None:
    """Ask in every way; each answer must be right."""
    hits = col.search(VECTORS[5], 3, filter={"i": 5})
    assert hits[0].id == "d5" and len(hits) == 3
    assert len(col.search_batch(VECTORS[:4], 5)) == 4
    assert col.get(["d4"], with_vectors=True)[0].vector is not None


def add(col: bqstore.Collection) -> None:
    """Replace two documents and add others."""
    assert len(col.add(VECTORS[:10] + 1, NEW, [f"{id_}!" for id_ in NEW])) == 10


AFTER_ADD: Contents = {**BEFORE, **{id_: f"{id_}!" for id_ in NEW}}
AFTER_DELETE: Contents = {id_: text for id_, text in BEFORE.items() if int(id_[1:]) % 7 != 3}
OPERATIONS: dict[str, tuple[Callable[[bqstore.Collection], object], Contents]] = {
    "search": (search, BEFORE),
    "add": (add, AFTER_ADD),
    "delete": (lambda col: col.delete(filter={"i": 3}), AFTER_DELETE),
    "update": (lambda col: col.update_metadata(["d1", "d2"], {"i": 100}), BEFORE),
    "flush": (lambda col: col.flush(), BEFORE),
    "compact": (lambda col: col.compact(), BEFORE),
    "requantize": (lambda col: col.requantize(encoding="two_bits"), BEFORE),
    "clear": (lambda col: col.clear(), {}),
    "verify": (lambda col: col.verify(), BEFORE),
    "close": (lambda col: col.close(), BEFORE),
}
ALL = ("open", "read_only", *OPERATIONS)


def fresh(template: Path, work: Path) -> Path:
    """A copy of the prepared collection."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    return work
