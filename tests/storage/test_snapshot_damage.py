"""Snapshots that are damaged, of something else or of a later format: a sentence, never wrong arrays."""

import errno
import json
import os
import shutil
import struct

import numpy as np
import pytest

from bqstore.storage import graph_snapshot as snapshot
from bqstore.storage import snapshot_format
from bqstore.storage.verify import problems_of

from .damage import flip
from .depth import depths
from .store_model import StoreModel
from .test_snapshot import check, files, write


@depths("stride", 7, 1)
def test_every_cut_and_every_flipped_bit_is_detected_or_harmless(store, stride):
    file = write(store)
    data = file.read_bytes()
    assert len(data) < 1000
    unnoticed = 0
    for damage in (
        lambda place: data[:place],
        lambda place: flip(data, place),
        lambda place: data + b"x" * (place + 1),
    ):
        for place in range(0, len(data), stride):
            file.write_bytes(damage(place))
            found, reason = store.read_snapshot()
            if found is None:
                assert reason.startswith(f"{file.name} ") and reason.endswith("; the graph will be rebuilt")
            else:
                check(found)
                unnoticed += 1
    assert unnoticed < 128  # zeros between the sections
    for bit in range(0, 8 * 64, stride):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert store.read_snapshot()[0] is None
    file.write_bytes(bytes(len(data)))
    assert "does not start" in store.read_snapshot()[1]


def test_holes_and_swaps_in_long_sections_are_found(store):
    given = {"long": np.random.default_rng(0).integers(0, 2**32, 50_000, np.uint32)}
    store.write_snapshot(3, store.head.seq, {}, given)
    file = store.folder / f"snap-0-{store.head.seq}.bin"
    data = file.read_bytes()
    start = data.index(given["long"].tobytes()[:64])
    for at in range(start, len(data) - 8192, 4096):
        for damaged in (bytes(4096) + data[at + 4096 : at + 8192], data[at + 4096 : at + 8192] + data[at : at + 4096]):
            file.write_bytes(data[:at] + damaged + data[at + 8192 :])
            assert "checksum of its section 'long'" in store.read_snapshot()[1]


def rewritten(data: bytes, **changes: object) -> bytes:
    """A snapshot with another header that agrees with its checksums."""
    length, *numbers = struct.unpack("<I5Q", data[12:56])
    names = ("generation", "store_id", "n", "seq", "size")
    prefix = dict(zip(names, numbers, strict=True)) | {k: v for k, v in changes.items() if k in names}
    table = json.loads(data[64:length]) | {k: v for k, v in changes.items() if k not in names}
    body = json.dumps(table, separators=(",", ":")).encode()
    body = body.ljust(max(length, -(-(len(body) + 64) // 64) * 64) - 64)
    whole = struct.pack("<8sII5QQ", b"BQSTsnap", 1, 64 + len(body), *prefix.values(), 0) + body
    words = np.frombuffer(whole, np.uint32).copy()
    words[14:16] = np.array([snapshot_format._header_sum(words)], np.uint64).view(np.uint32)
    return words.tobytes() + data[length:]


def test_a_header_that_agrees_with_its_checksum_is_not_believed_either(store):
    """No bounds are checked behind this."""
    file = write(store)
    data = file.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    table = json.loads(data[64:length])
    first, second = table["sections"]
    for wrong in (
        [*first[:2], [10, 3], *first[3:]],  # not what was summed
        [*first[:2], [10, 5], *first[3:]],
        [*first[:2], [2**40, 2**40], *first[3:]],
        [*first[:2], [-1, -40], *first[3:]],
        [*first[:2], [0, 2**62, 2**62], *first[3:]],
        [*first[:2], [1] * 70, *first[3:]],
        [*first[:2], ["40"], *first[3:]],
        [*first[:2], "40", *first[3:]],
        [*first[:3], 0, first[4]],  # the header
        [*first[:3], first[3] + 4, first[4]],
        [*first[:3], first[3] - 64, first[4]],
        [*first[:3], second[3], first[4]],
        [*first[:3], 2**63, first[4]],
        [*first[:4], "x"],
        [first[0], "object", *first[2:]],
        [first[0], "float16", *first[2:]],
        [first[0], "float32", [[10, 4]], *first[3:]],
        [first[0], ["int32"], *first[2:]],
        [7, *first[1:]],
        second,
        first[:4],
        [*first, 1],
        5,
        None,
    ):
        file.write_bytes(rewritten(data, sections=[wrong, second]))
        found, reason = store.read_snapshot()
        assert found is None and reason, wrong
    for sections_ in ([], [first], 7, None, {}):
        file.write_bytes(rewritten(data, sections=sections_))
        assert store.read_snapshot()[0] is None, sections_
    for numbers in ({"a": 2**63}, {"a": 1.5}, {"a": None}, [1], 5):
        file.write_bytes(rewritten(data, numbers=numbers))
        assert store.read_snapshot()[0] is None, numbers
    file.write_bytes(rewritten(data))
    check(store.read_snapshot()[0])


def test_a_newer_format_is_told_apart_from_damage(store):
    file = write(store)
    data = file.read_bytes()
    file.write_bytes(data[:8] + struct.pack("<I", 2) + data[12:])
    assert store.read_snapshot() == (
        None,
        f"{file.name} is in format 2, and this bqstore reads snapshots up to 1; the graph will be rebuilt",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store_id": 5}, "is of another collection"),
        ({"generation": 1}, "which is not its name"),
        ({"seq": 0}, "which is not its name"),
        ({"codes": 5}, "derived from other records"),
        ({"n": 9}, "derived from other records"),
        ({"n": 11}, "may come from an older copy"),
    ],
)
def test_a_snapshot_of_something_else_is_left_aside(store, changes, words):
    file = write(store)
    data = rewritten(file.read_bytes(), **changes)
    assert len(data) == file.stat().st_size
    file.write_bytes(data)
    found, reason = store.read_snapshot()
    assert found is None and words in reason


def test_an_older_snapshot_takes_the_place_of_a_damaged_one(store):
    old = write(store)
    kept = old.read_bytes()
    with_new = StoreModel.of(store)
    with_new.add(2)
    new = write(store, 1)
    assert not old.exists()
    old.write_bytes(kept)
    found, reason = store.read_snapshot()
    check(found, 1)
    new.write_bytes(flip(new.read_bytes(), 70))
    found, reason = store.read_snapshot()
    check(found)
    assert reason is None and (found.n, found.seq) == (10, store.head.seq - 1)
    old.write_bytes(b"")
    found, reason = store.read_snapshot()
    assert found is None and new.name in reason  # the newest is the one to tell of


def test_verify_says_that_a_damaged_snapshot_is_derived(store):
    file = write(store)
    assert problems_of(store)[0] == []
    file.write_bytes(flip(file.read_bytes(), 70))
    assert problems_of(store)[0] == [
        f"{file.name} does not match the checksum of its header; it is derived: answers are not affected, "
        "and the next flush() or close() writes a new one"
    ]
    write(store)
    assert problems_of(store)[0] == []


def test_a_snapshot_that_cannot_be_read_is_a_reason_not_an_error(store, monkeypatch):
    file = write(store)

    def fail(*arguments, **keywords):
        raise OSError(errno.EIO, "Input/output error")

    for module, call in ((os, "preadv"), (os, "pread"), (snapshot.platform, "map_file"), (os, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(module, call, fail)
            found, reason = store.read_snapshot()
            assert found is None and "Input/output error" in reason and file.name in reason
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fail)
        assert "cannot be listed" in store.read_snapshot()[1]
        assert problems_of(store)[0] == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda *_: 0)
        assert "ended at byte" in store.read_snapshot()[1] or "was cut short" in store.read_snapshot()[1]
    file.unlink()
    file.mkdir()
    assert "cannot be read" in store.read_snapshot()[1]


# ---- other commits, other histories


def test_a_snapshot_from_the_future_is_refused_and_removed_before_the_next_commit(tmp_path):
    """The numbers of its commits are given again in a folder that came from an older copy."""
    with StoreModel(tmp_path / "store") as model:
        model.add(4)
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        model.add(2)
        file = write(model.store)
        newer = file.read_bytes()
    (tmp_path / "copy/default" / file.name).write_bytes(newer)
    for read_only in (True, False):
        with StoreModel(tmp_path / "copy", read_only=read_only) as model:
            found, reason = model.store.read_snapshot()
            if read_only:
                assert found is None and "may come from an older copy" in reason and model.store.head.n_slots == 4
                assert problems_of(model.store)[0] == []  # of a later commit than it has seen, perhaps
            else:
                assert (found, reason, files(model.store)) == (None, None, set())
                model.salt = 7
                model.add(2)
                assert model.store.head.seq >= int(file.stem.split("-")[2])
                (model.store.folder / file.name).write_bytes(newer)  # copied into it, say
                assert "other records" in model.store.read_snapshot()[1]
