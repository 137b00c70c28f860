"""Compaction: the same documents in fewer bytes, or everything as it was; "recode" is one that makes new codes, too."""

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from bqstore.errors import ClosedError, CorruptionError, ReadOnlyError, StorageError
from bqstore.storage import Head, compaction, open_store, platform
from bqstore.storage.store import SupersededError

from . import naive_codes
from .crash import SETTINGS
from .damage import bytes_of, flip
from .depth import examples, for_all
from .interrupts import interrupted, lines_of, some_lines
from .store_model import DIM, StoreModel

ORIGINALS = ["float32", "none"]
with_and_without_recoding = pytest.mark.parametrize("how", ["compact", "recode"])


def filled(path: Path | None, originals: str = "float32") -> StoreModel:
    """A store with living and dead: 29 slots, 20 of them alive."""
    model = StoreModel(path, originals=originals)
    model.add(25)
    model.upsert(4)
    model.delete(5)
    model.update(3)
    assert (model.store.head.n_slots, model.store.head.n_live) == (29, 20)
    return model


def free(model: StoreModel, how: str) -> Head:
    """Free the space of the dead, with new codes or without."""
    return model.compact() if how == "compact" else model.recode(5, seed=1)


@pytest.fixture(params=["disk", "memory"])
def model(request, tmp_path):
    with filled(tmp_path / "store" if request.param == "disk" else None) as model:
        yield model


@pytest.fixture
def on_disk(tmp_path):
    with filled(tmp_path / "store") as model:
        yield model


def flat_bytes(model: StoreModel) -> int:
    return sum(path.stat().st_size for path in model.store.folder.glob("*-*.bin"))


def names(model: StoreModel) -> set[str]:
    return {path.name for path in model.store.folder.glob("*-*.*")} - {"meta.db-wal", "meta.db-shm"}


# ---- what it leaves


def test_live_documents_stay_as_they_were_and_dead_records_are_gone(model):
    before, rids = model.store.head, model.store.read_codes(0, 29)[0]
    live = model.live()
    head = model.compact(live)
    assert head == model.store.head
    assert (head.generation, head.seq, head.n_slots, head.n_live) == (1, before.seq + 1, 20, 20)
    assert (head.next_rid, head.meta_seq, head.settings) == (before.next_rid, before.meta_seq, before.settings)
    assert (model.store.read_codes(0, 20)[0] == rids[live]).all() and model.store.dead_since(-1) == []
    model.check()
    model.add(3)
    model.upsert(2)
    model.delete(1)
    model.check()
    model.compact()
    model.check()


@pytest.mark.parametrize("originals", ORIGINALS)
def test_disk_space_is_freed_and_the_next_opening_finds_all(tmp_path, originals):
    with filled(tmp_path, originals) as model:
        model.delete(10)
        before = flat_bytes(model)
        model.compact()
        assert flat_bytes(model) < before / 2
        kinds = {"codes"} if originals == "none" else {"codes", "vectors"}
        assert names(model) == {f"{kind}-1.bin" for kind in kinds}
        record = sum(file.layout.record_bytes for file in model.store.flat.both())
        assert flat_bytes(model) == 64 * len(kinds) + 10 * record
        documents = model.documents
        model.check()
    with StoreModel(tmp_path, originals=originals) as model:
        assert model.documents.keys() == documents.keys()
        model.check()


def test_a_compaction_without_live_documents_leaves_no_files(model):
    model.delete(20)
    head = model.compact()
    assert (head.generation, head.n_slots, head.n_live, head.next_rid) == (1, 0, 0, 29)
    assert model.store.codes is None and model.store.vectors is None
    if model.store.folder is not None:
        assert names(model) == set()
    model.check()
    model.add(2)
    model.check()


def test_a_store_that_never_held_anything_may_be_compacted(tmp_path):
    for path in (None, tmp_path):
        with StoreModel(path) as model:
            assert model.compact().generation == 1
            model.add(2)
            model.check()


def test_progress_is_reported_piece_by_piece(model, monkeypatch):
    monkeypatch.setattr(compaction, "_PIECE", 300)
    told: list[tuple[int, int]] = []
    model.compact(model.live(), lambda done, total: told.append((done, total)))
    assert [total for _, total in told] == [20] * len(told) and len(told) > 5
    assert [done for done, _ in told] == sorted({done for done, _ in told}) and told[-1] == (20, 20)
    model.check()


WRITES = ["add", "add", "upsert", "delete", "delete", "update", "compact", "recode", "clear", "reopen", "follow"]
writes = st.lists(st.tuples(st.sampled_from(WRITES), st.integers(1, 6)), max_size=25)


@examples
def test_any_sequence_of_writes_and_compactions(tmp_path_factory, n):
    @for_all(n, writes, st.sampled_from(ORIGINALS), st.booleans(), st.none() | st.integers(1, 6))
    def agrees(operations, originals, memory, form):
        check_a_sequence(tmp_path_factory.mktemp("store"), operations, originals, memory, form)


def check_a_sequence(folder, operations, originals, memory, form):
    """Beside a dictionary, and beside a reader that looks now and then."""
    model = StoreModel(None if memory else folder, originals=originals)
    model.form = form
    reader = None if memory else StoreModel(folder, read_only=True, originals=originals)
    try:
        for name, n in operations:
            if name in ("compact", "clear"):
                getattr(model, name)()
            elif name == "reopen":
                if not memory:
                    documents = model.documents
                    model.store.close()
                    model = StoreModel(folder, originals=originals)
                    model.documents, model.form = documents, form
            elif name == "recode" and originals == "none" and model.documents:
                with pytest.raises(StorageError, match="keeps no originals"):
                    model.recode(n)
            elif name == "follow":
                if reader is not None:
                    reader.store.reread()
                    reader.documents = model.documents
                    reader.check()
            else:
                getattr(model, name)(n)
            model.check()
    finally:
        model.store.close()
        if reader is not None:
            reader.store.close()
        shutil.rmtree(folder)


# ---- readers


def test_a_reader_goes_on_with_the_files_it_has_and_then_follows(on_disk):
    with StoreModel(on_disk.store.folder.parent, read_only=True) as reader:
        vectors = reader.store.vectors
        before = vectors.read(0, 29)
        view = vectors.view(29)
        with reader.store.consistent():
            old = reader.store.reread()
            on_disk.compact()
            assert reader.store.reread() == old  # it stands at its commit
            assert len(reader.store.dead_since(-1)) == 9
            assert reader._stored().keys() == on_disk.documents.keys()
        assert (vectors.read(0, 29) == before).all() and (view[:29] == before).all()
        assert reader.store.reread() == on_disk.store.head
        assert reader.store.vectors is not vectors
        reader.check()


def test_a_reader_that_comes_too_late_for_the_old_files_is_told_to_look_again(on_disk):
    with StoreModel(on_disk.store.folder.parent, read_only=True) as reader:
        with reader.store.consistent():
            reader.store.reread()
            on_disk.compact()
            reader.store.flat.drop()
            with pytest.raises(SupersededError):
                reader.store.reread()
        reader.store.reread()
        reader.check()
        with pytest.raises(ReadOnlyError):
            reader.compact(reader.live())


def test_searches_go_on_between_the_copying_and_the_commit(model):
    prepared = model.store.begin_compaction(model.live())
    model.check()
    assert model.store.head.generation == 0
    before = model.store.codes
    head = model.store.commit_compaction(prepared)
    assert head.generation == 1 and model.store.codes is not before
    assert (before.read(0, 29)[:, 0] != 0).all()  # a search that holds them
    model.check()


# ---- what is refused


@with_and_without_recoding
@pytest.mark.parametrize("kind", ["vectors", "codes"])
@pytest.mark.parametrize("slot", [0, 13, 28])
def test_a_damaged_record_stops_it_and_changes_nothing(tmp_path, kind, slot, how):
    with filled(tmp_path) as model:
        live = model.live()
        slot = int(live[np.argmin(np.abs(live - slot))])
        file = getattr(model.store, kind)
        data = file.path.read_bytes()
        place = 64 + slot * file.layout.record_bytes + 40 % file.layout.record_bytes
        with file.path.open("r+b") as raw:
            raw.seek(place)
            raw.write(flip(data, place)[place : place + 1])
        before = bytes_of(tmp_path)
        with pytest.raises(CorruptionError, match=f"record {slot} of {kind}-0.bin does not match"):
            model.compact(live, None, naive_codes.recode(SETTINGS, 5, DIM) if how == "recode" else None)
        assert bytes_of(tmp_path) == before and model.store.head.generation == 0
        with file.path.open("r+b") as raw:
            raw.seek(place)
            raw.write(data[place : place + 1])
        free(model, how)
        model.check()


def test_a_damaged_record_of_a_deleted_document_does_not_matter(on_disk):
    live = on_disk.live()
    dead = int(np.setdiff1d(np.arange(29), live)[2])
    file = on_disk.store.vectors
    data = bytearray(file.path.read_bytes())
    data[64 + dead * file.layout.record_bytes + 40] ^= 1
    file.path.write_bytes(data)
    on_disk.compact(live)
    on_disk.check()


def test_swapped_records_are_not_copied(on_disk):
    live = on_disk.live()
    file = on_disk.store.vectors
    records = file.read(0, 29)
    records[[live[3], live[4]]] = records[[live[4], live[3]]]
    file.write(0, records)
    with pytest.raises(CorruptionError, match="are not those of the rows"):
        on_disk.compact(live)
    assert on_disk.store.head.generation == 0 and names(on_disk) == {"codes-0.bin", "vectors-0.bin"}


def test_ordinals_with_a_tombstone_are_refused(model):
    """An old list of them would bring the dead back and lose as many others."""
    live = model.live()
    dead = np.setdiff1d(np.arange(29), live)
    wrong = np.sort(np.concatenate([live[1:], dead[:1]]))
    with pytest.raises(CorruptionError, match="are not those of the rows"):
        model.compact(wrong)
    for wrong in (live[1:], live[::-1], np.append(live[:-1], live[-2])):
        with pytest.raises(AssertionError):
            model.compact(wrong)
    model.check()


@with_and_without_recoding
@pytest.mark.parametrize("write", ["add", "delete", "update", "clear", "compact"])
def test_a_write_before_its_commit_makes_a_compaction_void(model, write, how):
    recode = naive_codes.recode(SETTINGS, 5, DIM) if how == "recode" else None
    prepared = model.store.begin_compaction(model.live(), None, recode)
    getattr(model, write)(*([] if write in ("clear", "compact") else [1]))
    with pytest.raises(StorageError, match="has moved on"):
        model.store.commit_compaction(prepared)
    model.store.discard_compaction(prepared)
    model.check()
    model.compact()
    model.check()


def test_only_the_last_compaction_begun_can_be_committed_and_only_once(model):
    first = model.store.begin_compaction(model.live())
    second = model.store.begin_compaction(model.live())
    for _ in range(2):
        with pytest.raises(StorageError, match="has moved on"):
            model.store.commit_compaction(first)
        model.store.discard_compaction(first)
    model.store.commit_compaction(second)
    with pytest.raises(StorageError, match="has moved on"):
        model.store.commit_compaction(second)
    model.check()


def test_a_discarded_compaction_leaves_no_files(on_disk):
    before = bytes_of(on_disk.store.folder)
    prepared = on_disk.store.begin_compaction(on_disk.live())
    assert names(on_disk) == {f"{kind}-{generation}.bin" for kind in ("codes", "vectors") for generation in (0, 1)}
    on_disk.store.discard_compaction(prepared)
    assert bytes_of(on_disk.store.folder) == before
    on_disk.check()


def test_the_next_writer_removes_a_compaction_that_was_not_committed(tmp_path):
    with filled(tmp_path) as model:
        documents = model.documents
        model.store.begin_compaction(model.live())
    assert (tmp_path / "default/vectors-1.bin").exists()
    (tmp_path / "default/codes-1.tmp").write_bytes(b"half")
    with StoreModel(tmp_path, read_only=True) as reader:
        reader.documents = documents
        reader.check()
        assert (tmp_path / "default/vectors-1.bin").exists()
    with StoreModel(tmp_path) as model:
        assert names(model) == {"codes-0.bin", "vectors-0.bin"}
        model.check()
    with pytest.raises(ClosedError):
        model.store.begin_compaction(np.arange(20))


def test_an_exception_of_the_progress_ends_a_compaction(model):
    def stop(*_):
        raise RuntimeError("enough")

    before = None if model.store.folder is None else bytes_of(model.store.folder)
    with pytest.raises(RuntimeError, match="enough"):
        model.compact(model.live(), stop)
    assert before is None or bytes_of(model.store.folder) == before
    model.check()
    model.compact()
    model.check()


# ---- the disk refuses


@with_and_without_recoding
@pytest.mark.parametrize("call", ["pwrite", "open", "fsync", "rename", "preadv"])
def test_a_disk_that_refuses_leaves_everything_as_it_was(on_disk, monkeypatch, call, how):
    live, before = on_disk.live(), bytes_of(on_disk.store.folder)
    recode = naive_codes.recode(SETTINGS, 5, DIM) if how == "recode" else None

    def fail(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*(os, "replace" if call == "rename" else call), fail)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            on_disk.compact(live, None, recode)
    assert caught.value.errno == errno.ENOSPC and bytes_of(on_disk.store.folder) == before
    on_disk.check()
    free(on_disk, how)
    on_disk.check()


@with_and_without_recoding
def test_a_disk_that_fills_up_amid_the_copying(on_disk, monkeypatch, how):
    before = bytes_of(on_disk.store.folder)
    real, left = os.pwrite, [700]

    def pwrite(fd, data, at):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, data[: left[0]], at)
        left[0] -= done
        return done

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageError, match="No space left on device; nothing was changed"):
        free(on_disk, how)
    monkeypatch.undo()
    assert bytes_of(on_disk.store.folder) == before
    on_disk.add(1)
    on_disk.check()


@with_and_without_recoding
def test_a_failed_sync_poisons_the_writer(tmp_path, monkeypatch, how):
    with filled(tmp_path) as model:
        calls = []
        real = platform.sync_file

        def sync(fd):
            calls.append(fd)
            if len(calls) > 2:  # the first two make the files
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(platform, "sync_file", sync)
        with pytest.raises(StorageError, match="could not be synced"):
            free(model, how)
        monkeypatch.undo()
        for write in (model.compact, model.clear, lambda: model.add(1)):
            with pytest.raises(StorageError, match="open it again"):
                write()
        assert names(model) == {"codes-0.bin", "vectors-0.bin"}
        model.check()
        documents = model.documents
    with StoreModel(tmp_path) as model:
        model.documents = documents
        model.check()
        model.compact()
        model.check()


@with_and_without_recoding
@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_in_doubt_keeps_the_files_of_both_generations(tmp_path, committed, how):
    """Whether it is there is known when the store is opened again."""
    with filled(tmp_path) as model:
        recode = naive_codes.recode(SETTINGS, 5, DIM) if how == "recode" else None
        prepared = model.store.begin_compaction(model.live(), None, recode)
        main = model.store.catalogue._main

        class Failing:
            """A connection whose COMMIT meets a failing disk."""

            def execute(self, statement, *rest):
                if statement == "COMMIT":
                    if committed:
                        main.execute(statement)
                    raise sqlite3.OperationalError("disk I/O error")
                return main.execute(statement, *rest)

            def __getattr__(self, name):
                return getattr(main, name)

        model.store.catalogue._main = Failing()
        with pytest.raises(StorageError, match="disk I/O error"):
            model.store.commit_compaction(prepared)
        model.store.catalogue._main = main
        assert names(model) == {f"{kind}-{gen}.bin" for kind in ("codes", "vectors") for gen in (0, 1)}
        with pytest.raises(StorageError, match="open it again"):
            model.compact(model.live())
        model.check()
        documents = model.documents
    with StoreModel(tmp_path) as model:
        model.documents = documents
        assert model.store.head.generation == int(committed)
        assert model.store.head.format_version == (2 if committed and how == "recode" else 1)
        assert names(model) == {f"{kind}-{int(committed)}.bin" for kind in ("codes", "vectors")}
        model.check()


# ---- interrupts


@pytest.mark.sampled(1)
@with_and_without_recoding
@pytest.mark.parametrize(
    ("where", "stride"),
    [
        ("memory", 37),
        ("disk", 89),
        pytest.param("memory", 1, marks=pytest.mark.slow),
        pytest.param("disk", 3, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_at_any_line_leaves_one_generation_or_the_other(tmp_path, where, stride, how, monkeypatch):
    monkeypatch.setattr(compaction, "_PIECE", 1000)
    generations, path = set(), None if where == "memory" else tmp_path / "store"

    def fresh() -> StoreModel:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        return filled(path)

    with fresh() as model:
        count = lines_of(lambda: free(model, how))
    for line in some_lines(count, stride):
        with fresh() as model:
            assert interrupted(lambda model=model: free(model, how), line)
            head = model.store.reread()
            generations.add(head.generation)
            assert head.format_version == (2 if head.generation and how == "recode" else 1)
            model.check()
            model.add(1)
            model.delete(1)
            free(model, how)
            model.check()
            assert model.store.head.generation == head.generation + 1
            if path is not None:
                assert names(model) == {f"{kind}-{model.store.head.generation}.bin" for kind in ("codes", "vectors")}
        if path is not None:
            with StoreModel(path) as again:
                again.documents = model.documents
                again.check()
    assert generations == {0, 1} and count > 100


def test_sweeping_does_not_take_what_is_not_ours(on_disk):
    others = ["vectors-0.bin.copy", "codes-x.bin", "notes.txt"]
    for name in others:
        (on_disk.store.folder / name).write_bytes(b"x")
    on_disk.compact()
    assert all((on_disk.store.folder / name).exists() for name in others)


def test_a_folder_that_lost_its_catalogue_after_a_compaction_is_damaged(tmp_path):
    with filled(tmp_path) as model:
        model.compact()
    for file in (tmp_path / "default").glob("meta.db*"):
        file.unlink()
    with pytest.raises(CorruptionError, match=r"no meta\.db"):
        open_store(tmp_path / "default", SETTINGS, None, False)
