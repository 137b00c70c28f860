"""Snapshots: what goes in comes out, or a sentence says why not; no data ever depends on it."""

import errno
import hashlib
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.errors import ClosedError, ReadOnlyError, StorageError
from bqstore.storage import Store, open_store
from bqstore.storage import graph_snapshot as snapshot
from bqstore.storage.files import DiskFile
from bqstore.storage.snapshot_format import DTYPES, LANES, PIECE, pieces_of, section_sum

from .crash import SETTINGS
from .damage import bytes_of
from .depth import depths, examples, for_all
from .interrupts import interrupted, lines_of, some_lines
from .store_model import StoreModel


def arrays_of(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"links": rng.integers(-9, 9, (10, 4)).astype(np.int32), "ids é": rng.integers(0, 255, 7).astype(np.uint8)}


def write(store: Store, seed: int = 0, **changes: int) -> Path:
    """A snapshot of the last commit; its file."""
    at = {"n": store.head.n_slots, "seq": store.head.seq, **changes}
    store.write_snapshot(at["n"], at["seq"], {"entry": seed}, arrays_of(seed))
    return store.folder / f"snap-{store.head.generation}-{at['seq']}.bin"


def check(found: snapshot.Snapshot | None, seed: int = 0) -> None:
    """It is the one that `write` wrote."""
    assert found is not None and found.numbers == {"entry": seed}
    same(found.arrays, arrays_of(seed))


def same(found: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> None:
    assert list(found) == list(given)
    for name, array in given.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        assert found[name].tobytes() == np.ascontiguousarray(array).astype(found[name].dtype).tobytes()
        assert found[name].flags.writeable and found[name].flags.c_contiguous and found[name].flags.aligned


def files(store: Store) -> set[str]:
    return {path.name for path in store.folder.iterdir() if path.name.startswith("snap")}


# ---- what goes in comes out


def test_every_type_and_shape_comes_back(store):
    given = {
        f"{dtype} {shape}": np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for dtype in sorted(DTYPES)
        for shape in [(), (0,), (1,), (7,), (3, 0, 2), (3, 5), (2, 3, 4)]
    }
    given["part of a larger one"] = np.arange(100, dtype=np.int64).reshape(10, 10)[2:5, ::3]
    given["columns first"] = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    given["big end first"] = np.arange(5, dtype=">i4")
    given["more than a piece"] = np.random.default_rng(0).integers(0, 255, 2 * PIECE + 12345, np.uint8)
    numbers = {"least": -(2**63), "most": 2**63 - 1, 'é\n"': 0, "numpy's": np.int64(7)}
    size = store.write_snapshot(7, store.head.seq, numbers, given)
    assert size == (store.folder / f"snap-0-{store.head.seq}.bin").stat().st_size
    found, reason = store.read_snapshot()
    assert reason is None and (found.n, found.seq, found.numbers) == (7, store.head.seq, numbers)
    same(found.arrays, given)
    assert len(given["more than a piece"]) > mmap.PAGESIZE
    address = found.arrays["more than a piece"].__array_interface__["data"][0]
    assert address % min(4096, mmap.PAGESIZE) == 0


names = st.text(max_size=5).filter(lambda name: name.isprintable())
array = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
)


@examples
def test_whatever_is_written_is_read(store, n):
    numbers_of_64_bits = st.dictionaries(names, st.integers(-(2**63), 2**63 - 1), max_size=3)

    @for_all(n, st.dictionaries(names, array, max_size=5), numbers_of_64_bits)
    def is_read(given_arrays, numbers):
        store.write_snapshot(3, store.head.seq, numbers, given_arrays)
        found, reason = store.read_snapshot()
        assert reason is None and found.numbers == numbers
        same(found.arrays, given_arrays)


def test_an_empty_snapshot_is_read(store):
    store.write_snapshot(0, store.head.seq, {}, {})
    found, reason = store.read_snapshot()
    assert reason is None and (found.n, found.numbers, found.arrays) == (0, {}, {})


def test_what_is_written_into_the_arrays_stays_in_this_process(store):
    before = write(store).read_bytes()
    found, _ = store.read_snapshot()
    found.arrays["links"][:] = 77
    assert write(store).exists() and before == (store.folder / f"snap-0-{store.head.seq}.bin").read_bytes()
    check(store.read_snapshot()[0])
    assert (found.arrays["links"] == 77).all()  # its file is gone: it was replaced by one of the same name


@pytest.mark.parametrize("supported", [True, False])
def test_released_arrays_come_back_from_the_file_and_their_neighbors_stay(store, monkeypatch, supported):
    size = 3 * mmap.PAGESIZE + 100
    given = {name: np.full(size, value, np.uint8) for name, value in [("a", 1), ("b", 2), ("c", 3)]}
    given["small"] = np.arange(5)
    store.write_snapshot(3, store.head.seq, {}, given)
    found, _ = store.read_snapshot()
    for name in given:
        found.arrays[name][:] = 99
    if not supported:
        monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    found.release(["b", "small"])
    if supported:
        assert np.count_nonzero(found.arrays["b"] == 2) >= 2 * mmap.PAGESIZE
    for name in ["a", "c", "small"] + ["b"] * (not supported):
        assert (found.arrays[name] == 99).all()


def test_in_memory_there_are_no_snapshots(tmp_path):
    with StoreModel(None) as model:
        model.add(3)
        assert model.store.write_snapshot(3, model.store.head.seq, {}, arrays_of()) == 0
        assert model.store.read_snapshot() == (None, None)


def test_without_a_snapshot_there_is_no_reason(store):
    assert store.read_snapshot() == (None, None)


# ---- the checksum


def test_the_checksum_finds_any_bit_any_swap_and_any_hole():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 3 * LANES + 100, np.uint64)
    whole = section_sum([words])
    seen = {whole}
    for place in [*rng.integers(0, len(words), 300).tolist(), 0, len(words) - 1]:
        for bit in (0, 31, 32, 63):
            words[place] ^= np.uint64(1 << bit)
            seen.add(section_sum([words]))
            words[place] ^= np.uint64(1 << bit)
    assert len(seen) >= 4 * 299
    for unit in (1, 8, 512, LANES):  # words, lines, pages, rows
        for first, second in ((0, 1), (0, 2), (1, 2)):
            moved = words.copy()
            a, b = slice(first * unit, (first + 1) * unit), slice(second * unit, (second + 1) * unit)
            moved[a], moved[b] = words[b], words[a]
            seen.add(section_sum([moved]))
            moved = words.copy()
            moved[b] = 0
            assert section_sum([moved]) != whole
    for place in range(0, 2 * LANES, LANES // 4):  # the upper bits of two words, which plain sums do not tell
        for other in (place + 1, place + LANES):
            moved = words.copy()
            moved[[place, other]] ^= np.uint64(1 << 63)
            assert section_sum([moved]) != whole
    assert section_sum([words]) == whole == section_sum(words[at : at + LANES] for at in range(0, len(words), LANES))
    lengths = [section_sum([np.zeros(n, np.uint64)]) for n in (0, 1, 2, LANES)]
    assert len(set(lengths)) == 4


@examples
def test_the_checksum_is_that_of_the_slow_way(n):
    for_all(n, st.integers(0, 70), st.integers(0, 2**32))(check_checksum)


def check_checksum(n, seed):
    data = np.random.default_rng(seed).integers(0, 255, n + LANES * 8 * (seed % 3), np.uint8).tobytes()
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    lanes = [0] * min(LANES, len(words))
    for i, word in enumerate(words):
        lane = lanes[i % LANES]
        lanes[i % LANES] = ((lane ^ (lane >> 29)) * 0x9E3779B97F4A7C15 + word) % 2**64
    digest = hashlib.blake2b(b"".join(lane.to_bytes(8, "little") for lane in lanes), digest_size=8).digest()
    assert section_sum(pieces_of(np.frombuffer(data, np.uint8))) == int.from_bytes(digest, "little")


# ---- generations


def test_clear_and_compaction_make_snapshots_useless(store):
    model = StoreModel.of(store)
    write(store)
    model.delete(2)
    model.compact()
    assert files(store) == set() and store.read_snapshot() == (None, None)
    file = write(store, 1)
    assert file.name.startswith("snap-1-")
    check(store.read_snapshot()[0], 1)
    store.clear()
    assert files(store) == set() and store.read_snapshot() == (None, None)


@pytest.mark.parametrize("move", ["clear", "compact"])
def test_a_snapshot_of_a_generation_that_has_ended_is_not_written(store, move):
    model, head = StoreModel.of(store), store.head
    getattr(model, move)()
    assert store.write_snapshot(head.n_slots, head.seq, {}, arrays_of(), generation=head.generation) == 0
    assert store.head.generation == head.generation + 1 and files(store) == set()
    model.check()


# ---- readers


def test_a_reader_sees_the_snapshot_of_the_writer(store):
    write(store)
    with StoreModel(store.folder.parent, read_only=True) as reader:
        check(reader.store.read_snapshot()[0])
        with pytest.raises(ReadOnlyError):
            reader.store.write_snapshot(1, 1, {}, {})


def test_a_snapshot_that_is_replaced_while_a_reader_opens_it_is_no_error(store, monkeypatch):
    old = write(store)
    with StoreModel(store.folder.parent, read_only=True) as reader:
        StoreModel.of(store).add(1)
        reader.store.reread()
        real, calls = os.open, []

        def opened(path, *rest, **more):
            if Path(path).name == old.name and not calls:
                calls.append(path)
                write(store, 1)  # its file is gone before it is opened
                assert not old.exists()
            return real(path, *rest, **more)

        monkeypatch.setattr(os, "open", opened)
        check(reader.store.read_snapshot()[0], 1)
        assert calls


def test_a_snapshot_that_is_replaced_while_it_is_read_stays_whole(store):
    write(store)
    with StoreModel(store.folder.parent, read_only=True) as reader:
        found, _ = reader.store.read_snapshot()
        write(store, 1)
        StoreModel.of(store).add(1)
        write(store, 2)
        assert len(files(store)) == 1
        check(found)


def test_a_snapshot_that_is_replaced_at_every_try_counts_as_none(store, monkeypatch):
    write(store)

    def gone(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(snapshot, "load", gone)
    assert store.read_snapshot() == (None, None)


# ---- failures


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync", "ftruncate", "open", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_the_old_one_and_poisons_nothing(store, monkeypatch, call, number):
    old = write(store)
    before = bytes_of(store.folder)
    model = StoreModel.of(store)

    def fail(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(*(os, "replace" if call == "rename" else call), fail)
        with pytest.raises(StorageError, match="nothing is lost") as caught:
            store.write_snapshot(3, store.head.seq, {}, arrays_of(1))
    assert caught.value.errno == number
    if call == "fsync":  # of the folder: it had its name already, and whether it keeps it is not known
        assert len(store.read_snapshot()[0].arrays) == 2
    else:
        assert bytes_of(store.folder) == before
        check(store.read_snapshot()[0])
    assert old.exists() and not list(store.folder.glob("*.tmp"))
    model.add(2)
    write(store, 2)
    check(store.read_snapshot()[0], 2)
    model.check()


def test_a_disk_that_fills_up_amid_a_section(store, monkeypatch):
    real, left = os.pwrite, [10_000]

    def pwrite(fd, data, at):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, data[: left[0]], at)
        left[0] -= done
        return done

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageError, match="No space left on device; nothing is lost"):
        store.write_snapshot(3, store.head.seq, {}, {"long": np.arange(100_000)})
    assert files(store) == set()
    monkeypatch.undo()
    StoreModel.of(store).add(1)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # an interrupted lock file closes with its frame
@depths("stride", 43, 1)
def test_an_interrupt_at_any_line_leaves_the_old_one_or_the_new(store, stride):
    model, entries = StoreModel.of(store), set()
    write(store, 1)
    model.add(1)
    assert store.rest()  # each begins alike
    count = lines_of(lambda: write(store, 1))
    for line in some_lines(count, stride):
        model.add(1)
        assert store.rest()
        assert interrupted(lambda: write(store, 2), line)
        found, reason = store.read_snapshot()
        assert reason is None
        check(found, found.numbers["entry"])
        entries.add(found.numbers["entry"])
        write(store, 1)
        assert len(files(store)) == 1  # no temporary either, but of this commit
    assert entries == {1, 2} and count > 50
    model.check()


def test_leftovers_are_swept_when_a_writer_begins(tmp_path):
    with StoreModel(tmp_path) as model:
        model.add(3)
        good = write(model.store)
        seq = model.store.head.seq
    folder = tmp_path / "default"
    litter = ["snap-0-1.tmp", f"snap-0-{seq}.tmp", "snap-3-1.bin", "snap-3-1.tmp", f"snap-0-{seq + 1}.bin"]
    others = ["snap-0.bin", "snapshot-0-1.bin", "snap-0-1.bin.old", "snap-x-1.bin"]
    for name in [*litter, *others]:
        (folder / name).write_bytes(b"litter")
    with StoreModel(tmp_path, read_only=True) as model:
        check(model.store.read_snapshot()[0])
        assert all((folder / name).exists() for name in litter)
    with StoreModel(tmp_path) as model:
        assert not any((folder / name).exists() for name in litter)
        assert all((folder / name).exists() for name in [*others, good.name])
        check(model.store.read_snapshot()[0])


def test_a_closed_store_writes_none(tmp_path):
    with StoreModel(tmp_path) as model:
        model.add(1)
        store = model.store
    with pytest.raises(ClosedError):
        store.write_snapshot(1, 1, {}, {})


def test_files_without_a_catalogue_are_still_what_makes_a_folder_damaged(tmp_path):
    """A snapshot alone is no sign of a collection: everything in it can be computed, and nothing from it."""
    (tmp_path / "default").mkdir()
    (tmp_path / "default/snap-0-3.bin").write_bytes(b"x")
    store = open_store(tmp_path / "default", SETTINGS, 3, False)
    store.start_writing()
    assert store.head.n_slots == 0 and files(store) == set()
    store.close()


def test_the_private_map_needs_no_file_for_its_arrays(store):
    write(store)
    found, _ = store.read_snapshot()
    for path in store.folder.glob("snap*"):
        path.unlink()
    check(found)
    assert isinstance(store.codes, DiskFile)
