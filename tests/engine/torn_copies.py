"""Copies of a collection that is being written, made as ``cp -r`` makes them: a piece of a file, then the next.

Between two pieces the writer commits, so that a copy may hold pages of several commits.
"""

import random
import shutil
import warnings
from pathlib import Path

import numpy as np

import bqstore
from bqstore.errors import BqstoreError

DIM = 8
Contents = dict[str, tuple[str | None, object]]


class Writer:
    """A collection that is written at random, and what it held after each commit."""

    def __init__(self, path: Path, rng: random.Random, n: int) -> None:
        self.rng = rng
        self.col = bqstore.open(path, threads=1)
        self.made = n
        self.truth: Contents = {f"d{i}": (f"text {i} " + "x" * rng.randrange(900), 0) for i in range(n)}
        texts = [text for text, _ in self.truth.values()]
        self.col.add(self.vectors(n), list(self.truth), texts, [{"c": 0}] * n)
        self.col.flush()
        self.states = [dict(self.truth)]

    def vectors(self, n: int) -> np.ndarray:
        return np.random.default_rng(self.rng.randrange(1 << 30)).standard_normal((n, DIM)).astype(np.float32)

    def step(self) -> None:
        """One commit, or a checkpoint."""
        rng, number = self.rng, len(self.states)
        ids = rng.sample(list(self.truth), rng.choice([1, 3, len(self.truth) // 2, len(self.truth)]))
        way = rng.randrange(6)
        if way == 0:
            self.col.flush()
            return
        if way < 3:
            self.col.update_metadata(ids, {"c": number})
            self.truth.update((id_, (self.truth[id_][0], number)) for id_ in ids)
        elif way == 3:
            ids = ids[:9]
            self.col.add(self.vectors(len(ids)), ids, [f"again {number}"] * len(ids), [{"c": number}] * len(ids))
            self.truth.update((id_, (f"again {number}", number)) for id_ in ids)
        else:
            self.col.delete(ids[:5])
            new = [f"d{i}" for i in range(self.made, self.made + 5)]
            self.made += 5
            for id_ in ids[:5]:
                del self.truth[id_]
            self.states.append(dict(self.truth))
            self.col.add(self.vectors(5), new, [f"new {number}"] * 5, [{"c": number}] * 5)
            self.truth.update((id_, (f"new {number}", number)) for id_ in new)
        self.states.append(dict(self.truth))


def copy_torn(source: Path, target: Path, writer: Writer, rng: random.Random, piece: int) -> None:
    """Copy a folder while it is written: a few commits fall between two pieces."""
    target.mkdir(parents=True)
    names = sorted(path.name for path in source.iterdir())
    rng.shuffle(names)  # in the order of the file system
    stops = rng.choice([1, 2, 4])
    total = sum((source / name).stat().st_size for name in names) // piece + len(names)
    places = {rng.randrange(max(1, total)) for _ in range(stops)}
    at = 0
    for name in names:
        try:
            with (source / name).open("rb", buffering=0) as old, (target / name).open("wb") as new:
                while data := old.read(piece):
                    new.write(data)
                    at += 1
                    if at in places:
                        for _ in range(rng.randrange(1, 5)):
                            writer.step()
        except FileNotFoundError:  # -wal, -shm, a snapshot
            continue


def outcome(copy: Path, states: list[Contents]) -> str:
    """What opening the copy gives: "refused", a state that was committed, or "wrong", which `verify` may notice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            with bqstore.open(copy, read_only=True, threads=1) as col:
                found = {record.id: (record.text, record.metadata["c"]) for record in col.scroll()}
                if found in states:
                    return "right" if col.verify().ok else "right, and verify complains"
                problems = col.verify().problems
                return f"noticed {problems[0]}" if problems else "WRONG"
        except BqstoreError:
            return "refused"


def one(root: Path, seed: int, n: int = 60, piece: int = 4096) -> str:
    """A copy of one seed, and what it is worth."""
    rng = random.Random(seed)
    shutil.rmtree(root, ignore_errors=True)
    writer = Writer(root / "store", rng, n)
    for _ in range(rng.randrange(4)):
        writer.step()
    copy_torn(root / "store" / "default", root / "copy" / "default", writer, rng, piece)
    found = outcome(root / "copy", writer.states)
    writer.col.close()
    return found
