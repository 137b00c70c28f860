"""Damaged files: how they are made, and what a store may answer then."""

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import bqstore
from bqstore import BqstoreError

from .known_collection import BITS, Truth, questions

Damage = Callable[[bytes, int], bytes]
BY_INDEX = ("scrolled", "got", "contained")  # these find rows through SQLite's index of ids


def cut(data: bytes, place: int) -> bytes:
    """Only what stands before a byte."""
    return data[:place]


def flip(data: bytes, place: int) -> bytes:
    """One bit flipped."""
    out = bytearray(data)
    out[place] ^= 1 << (place * 7 % 8)
    return bytes(out)


def positions(size: int, some: int | None, seed: int = 0) -> list[int]:
    """Every position, or a sample with both ends."""
    if some is None or size <= some:
        return list(range(size))
    return sorted({0, size - 1, *random.Random(seed).sample(range(size), some)})


def bytes_of(path: Path) -> dict[str, bytes]:
    """What stands in a store: every file but the locks, SQLite's shared memory and an empty log."""
    files = {str(f.relative_to(path)): f for f in path.rglob("*") if f.is_file()}
    passing = ("LOCK", "SEQ", "SAVE", "MEASURE", "meta.db-shm")
    found = {name: f.read_bytes() for name, f in files.items() if f.name not in passing}
    return {name: data for name, data in found.items() if data or not name.endswith("-wal")}


def refuse(path: Path, error: type[BqstoreError], words: str, **settings: object) -> None:
    """Opening fails for the reader and the writer, and leaves every byte."""
    before = bytes_of(path)
    for read_only in (True, False):
        with pytest.raises(error, match=words):
            bqstore.open(path, read_only=read_only, **settings)
        assert bytes_of(path) == before


def check_damaged(path: Path, allowed: list[Truth]) -> str:
    """Open and ask a store that may be damaged: right answers of one allowed state, or BqstoreErrors.

    Returns "refused" if it would not open (its bytes must be as they were), "noticed" if some question was answered
    with an error, "right" if all answers are those of an undamaged store. Anything else raises.
    """
    before = bytes_of(path)
    try:
        with warnings.catch_warnings():  # codes are made anew, with a warning
            warnings.filterwarnings("ignore", r"\d+ codes in .* were damaged", RuntimeWarning)
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


def damage_all(
    tmp_path: Path, name: str, damage: Damage, places: list[int], states: list[Truth], source: Path
) -> set[str]:
    """The outcomes of damaging a file at each place."""
    outcomes = set()
    data = (source / "default" / name).read_bytes()
    work = tmp_path / "work"
    for place in places:
        shutil.copytree(source, work)
        (work / "default" / name).write_bytes(damage(data, place))
        try:
            outcomes.add(check_damaged(work, states))
        except AssertionError as error:
            raise AssertionError(f"{name}, {damage.__name__} at byte {place}: {error}") from error
        shutil.rmtree(work)
    return outcomes
