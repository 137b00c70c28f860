"""Codes of several forms: the headers of their files, and the first write of a generation."""

import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest

from bqstore.errors import RESTORE, CorruptionError, FormatVersionError, StorageError
from bqstore.storage import Coding, coding_of, head, open_store, row_table
from bqstore.storage import format as fmt
from bqstore.storage.files import DiskFile
from bqstore.storage.format import CODE_FORMS, Layout, check_header, header_bytes, header_length, sum64
from bqstore.storage.verify import problems_of

from . import naive_codes
from .crash import SETTINGS
from .damage import bytes_of
from .depth import depths
from .interrupts import interrupted, lines_of, some_lines
from .store_model import DIM, StoreModel

FORMS = sorted(CODE_FORMS.values())
TRAINED = [form for form in FORMS if form != 1]


def filled(path: Path | None, form: int, originals: str = "float32") -> StoreModel:
    """A store whose codes are of a form, with a few commits behind it."""
    model = StoreModel(path, originals=originals)
    model.form = form
    model.add(6)
    model.upsert(2)
    model.delete(1)
    return model


@pytest.fixture(params=["disk", "memory"])
def where(request, tmp_path):
    return tmp_path / "store" if request.param == "disk" else None


# ---- sizes and headers


def test_the_size_of_a_code():
    for dim in (1, 2, 31, 32, 33, 42, 43, 63, 64, 65, 127, 128, 129, 1536, 16384):
        words = {form: Layout("codes", dim, form).payload_bytes / 8 for form in FORMS}
        assert all(Layout("codes", dim, form).record_bytes == 16 + 8 * words[form] for form in FORMS)
        bits = {1: dim, 2: dim + (dim + 1) // 2, 3: 2 * dim}
        for form in (1, 2, 3):
            assert 64 * (words[form] - 1) < bits[form] <= 64 * words[form]
        assert [words[form] for form in (4, 5, 6)] == [planes * words[1] + 1 for planes in (1, 2, 4)]
    assert [Layout("codes", 1536, form).payload_bytes for form in FORMS] == [192, 288, 384, 200, 392, 776]


@pytest.mark.parametrize("form", TRAINED)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 5000])
def test_parameters_come_back_bit_for_bit(tmp_path, form, count):
    words = np.random.default_rng(count).integers(0, 2**32, count, np.uint32)  # NaN, too: they are opaque
    layout = Layout("codes", 70, form)
    file = DiskFile.create(tmp_path / "codes-3.bin", layout, 3, 9, words.view(np.float32))
    length = 64 + -(-4 * count // 64) * 64
    assert file.header_length == length == (tmp_path / "codes-3.bin").stat().st_size
    records = fmt.code_records(layout, np.arange(50), np.full((50, layout.payload_bytes // 8), 7, np.uint64))
    view = file.view(0)
    for at in (0, 30):
        file.write(at, records[at : at + 30])
    file.trim(50)
    assert (tmp_path / "codes-3.bin").stat().st_size == length + 50 * layout.record_bytes
    for again in (file, DiskFile.open(tmp_path / "codes-3.bin", layout, 3, 9, 50, True)):
        parameters = again.parameters
        assert parameters.dtype == np.float32 and parameters.shape == (count,) and parameters.flags.c_contiguous
        assert parameters.view(np.uint32).tolist() == words.tolist() and not parameters.flags.writeable
        assert (again.read(0, 50) == records).all() and (again.view(50)[:50] == records).all() and len(view) == 0
        assert again.view(50).__array_interface__["data"][0] % 64 == 0
        again.check_header()
        again.check_size(50)
        again.prefetch(np.array([0, 49], np.int32))
    with pytest.raises(CorruptionError, match="51 committed records"):
        DiskFile.open(tmp_path / "codes-3.bin", layout, 3, 9, 51, True)


LAYOUT = Layout("codes", 12, 4)
PARAMETERS = np.random.default_rng(0).standard_normal(21).astype(np.float32)
WHOLE = header_bytes(LAYOUT, 3, 2**61, PARAMETERS)


def resealed(data: bytes, at: int, kind: str, value: int) -> bytes:
    """A header with another number in it, which agrees with its checksum."""
    out = bytearray(data)
    struct.pack_into(kind, out, at, value)
    out[56:64] = sum64(np.frombuffer(bytes(out[:56]), np.uint32).reshape(1, -1), 0).tobytes()
    return bytes(out)


def test_every_byte_of_a_header_with_parameters_counts():
    def refused(data: bytes, layout: Layout = LAYOUT, generation: int = 3, store_id: int = 2**61) -> None:
        with pytest.raises((CorruptionError, FormatVersionError)):
            check_header("file", data, layout, generation, store_id)

    assert len(WHOLE) == 192 == header_length("file", WHOLE[:64], LAYOUT)
    assert check_header("file", WHOLE, LAYOUT, 3, 2**61).tobytes() == PARAMETERS.tobytes()
    for bit in range(8 * len(WHOLE)):
        data = bytearray(WHOLE)
        data[bit // 8] ^= 1 << bit % 8
        refused(bytes(data))
    with pytest.raises(CorruptionError, match="the parameters in file do not match their checksum"):
        check_header("file", WHOLE[:70] + b"\x99" + WHOLE[71:], LAYOUT, 3, 2**61)
    for place in range(len(WHOLE)):
        refused(WHOLE[:place])
    refused(WHOLE + bytes(64))
    for other in (Layout("codes", 13, 4), Layout("codes", 12, 5), Layout("codes", 12, 1), Layout("vectors", 12, 0)):
        refused(WHOLE, other)
    refused(WHOLE, generation=4)
    refused(WHOLE, store_id=1)


def test_a_header_that_agrees_with_its_checksum_is_not_believed_either(tmp_path):
    """A length is not read, nor a block of parameters allocated, that the file cannot hold."""
    for at, kind, value in (
        (8, "<I", 1),  # version
        (12, "<I", 64),  # length
        (12, "<I", 256),
        (12, "<I", 2**32 - 64),
        (28, "<I", 0),  # count
        (28, "<I", 17),  # of the same length, but zeros are expected behind it
        (28, "<I", 2**32 - 1),
        (48, "<Q", 0),  # digest
    ):
        with pytest.raises(CorruptionError):
            check_header("file", resealed(WHOLE, at, kind, value), LAYOUT, 3, 2**61)
    path = tmp_path / "codes-3.bin"
    path.write_bytes(resealed(resealed(WHOLE, 12, "<I", 2**32 - 2**20), 28, "<I", (2**32 - 2**20) // 4 - 16))
    with pytest.raises(CorruptionError, match="192 bytes, less than its header"):
        DiskFile.open(path, LAYOUT, 3, 2**61, 0, True)
    for form in (0, 1):  # of what has none: of a vectors file, of signs
        layout = Layout("codes" if form else "vectors", 12, form)
        data = header_bytes(layout, 3, 2**61)
        with pytest.raises(CorruptionError):
            check_header("file", resealed(resealed(data, 12, "<I", 128), 28, "<I", 1) + bytes(64), layout, 3, 2**61)
        with pytest.raises(CorruptionError):
            check_header("file", resealed(data, 8, "<I", 2), layout, 3, 2**61)
    with pytest.raises(CorruptionError):
        check_header("file", resealed(WHOLE, 8, "<I", 3), LAYOUT, 3, 2**61)  # 3 is of the head row alone
    with pytest.raises(FormatVersionError, match="file is in format 8; this bqstore reads formats up to 7"):
        header_length("file", resealed(WHOLE, 8, "<I", 8)[:64], LAYOUT)


@pytest.mark.sampled(2)
@depths("stride", 5, 1)
@pytest.mark.parametrize("form", [2, 6])
@pytest.mark.parametrize("originals", ["float32", "none"])
def test_damage_of_a_header_or_its_parameters_refuses_the_store_and_changes_nothing(tmp_path, form, originals, stride):
    with filled(tmp_path, form, originals) as model:
        documents = model.documents
    file = tmp_path / "default/codes-0.bin"
    data = file.read_bytes()
    length = 64 + -(-4 * (2 * DIM if form == 2 else 2 + DIM) // 64) * 64
    for place in range(0, length + 40, stride):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        for damaged in (data[:place], bytes(flipped)):
            file.write_bytes(damaged)
            before = bytes_of(tmp_path)
            for read_only in (True, False):
                newer = 8 <= place < 12 and len(damaged) == len(data)
                with pytest.raises((CorruptionError, FormatVersionError) if newer else CorruptionError):
                    store = open_store(tmp_path / "default", SETTINGS, None, read_only)
                    try:
                        store.read_codes(0, store.head.n_slots)  # as every opening of a collection does
                    finally:
                        store.close()
            assert bytes_of(tmp_path) == before
    file.write_bytes(data)
    with StoreModel(tmp_path) as model:
        model.documents = documents
        model.check()


def test_parameters_that_are_damaged_while_open_are_reported(tmp_path):
    with filled(tmp_path, 4) as model:
        for kind, place, what in (
            ("codes", 70, "block of parameters"),
            ("codes", 20, "header"),
            ("vectors", 20, "header"),
        ):
            file = tmp_path / f"default/{kind}-0.bin"
            data = file.read_bytes()
            for damaged in (data[:place] + b"\xff" + data[place + 1 :], data[:place]):
                file.write_bytes(damaged)
                problems = problems_of(model.store)[0]
                assert problems[0] == f"{file.name}: the {what} of {file.name} is damaged; {RESTORE}"
                assert len(problems) == (1 if len(damaged) == len(data) else 2)
                file.write_bytes(data)
        model.check()


def test_only_signs_are_compared_with_their_vectors(tmp_path):
    """Others are computed in floating point; the last bit of a correction may differ between machines."""
    for form in FORMS:
        with filled(tmp_path / f"{form}", form) as model:
            file = model.store.codes
            records = file.read(3, 1)
            records[0, 4] ^= 1
            file.write(3, fmt.seal(records))
            expected = ["codes-0.bin: record 3 is not the code of its vector"] if form == 1 else []
            assert problems_of(model.store)[0] == expected
            records[0, 4] ^= 1  # and not sealed again
            file.write(3, records)
            assert problems_of(model.store)[0] == ["codes-0.bin: record 3 does not match its checksum"]


# ---- the first write of a generation


@pytest.mark.parametrize("originals", ["float32", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_the_first_write_settles_what_codes_are(where, form, originals):
    with filled(where, form, originals) as model:
        model.check()
        stored, documents = model.store.head.settings, model.documents
        assert coding_of(stored) == stored["coding"]
        assert CODE_FORMS[stored["coding"]["encoding"], stored["coding"]["estimator"]] == form
        assert stored["choice"] == {"seed": 0, "trials": [[form, 0.5]]} and stored["hnsw"] == SETTINGS["hnsw"]
        parameters = model.store.parameters
        assert parameters.tobytes() == naive_codes.trained(form, DIM, 0).tobytes()
        assert (parameters.dtype, parameters.flags.writeable) == (np.float32, False) and parameters.flags.c_contiguous
        assert model.store.codes.layout.form == form
    if where is None:
        return
    for read_only in (True, False):
        with StoreModel(where, read_only=read_only, originals=originals) as model:
            model.documents = documents
            model.check()
            assert model.store.head.settings == stored and model.store.parameters.tobytes() == parameters.tobytes()
            if not read_only:
                model.add(2)
                model.check()


def test_a_reader_follows_the_first_write(tmp_path):
    with StoreModel(tmp_path) as model, StoreModel(tmp_path, read_only=True) as reader:
        model.form = 6
        assert reader.store.parameters.shape == (0,)
        for _ in range(2):
            model.add(3)
            reader.store.reread()
            reader.documents = model.documents
            reader.check()
            assert reader.store.parameters.tobytes() == model.store.parameters.tobytes() != b""
            model.clear()
            reader.store.reread()
            assert (
                reader.store.parameters.shape == (0,) and coding_of(reader.store.head.settings)["estimator"] == "sign"
            )


def test_settings_without_a_coding_mean_one_bit_by_sign(where):
    assert coding_of({}) == {"encoding": "one_bit", "estimator": "sign", "rotate": False}
    coding_of({})["rotate"] = True
    assert coding_of({})["rotate"] is False  # nobody's to change
    with StoreModel(where) as model:
        model.add(2)
        assert "coding" not in model.store.head.settings and model.store.codes.layout.form == 1
        model.check()


def test_a_coding_that_comes_too_late_changes_nothing(where):
    with StoreModel(where) as model:
        model.add(3)
        model.delete(1)
        before = where and bytes_of(where)
        late = naive_codes.coding(model.store.head.settings, 4, DIM)
        rows = head.Rows(["x"], [None], ["{}"], [None], [None])
        vectors = np.ones((1, DIM), np.float32)
        with pytest.raises(StorageError, match="codes already"):
            model.store.append(rows, vectors, naive_codes.encode(4, late.parameters, vectors), late)
        assert where is None or bytes_of(where) == before
        model.check()
        model.add(1)
        model.check()


def test_codes_that_do_not_fit_their_coding_are_refused(where):
    rows = head.Rows(["x"], [None], ["{}"], [None], [None])
    vectors, no_rows = np.ones((1, DIM), np.float32), head.Rows([], [], [], [], [])
    with StoreModel(where) as model:
        settings, store = model.store.head.settings, model.store
        four, one = naive_codes.coding(settings, 4, DIM), naive_codes.coding(settings, 1, DIM)
        codes = {form: naive_codes.encode(form, naive_codes.trained(form, DIM), vectors) for form in FORMS}
        wrong = [
            (rows, vectors, codes[1], four),  # codes of another form
            (rows, vectors, codes[4].view(np.int64), four),
            (rows, vectors, codes[4], Coding(four.settings, four.parameters.astype(float))),
            (rows, vectors, codes[4], Coding(four.settings, four.parameters.reshape(1, -1))),
            (rows, vectors, codes[1], Coding(one.settings, four.parameters)),  # which have none
            (no_rows, vectors[:0], codes[4][:0], four),
        ]
        for arguments in wrong:
            with pytest.raises(AssertionError):
                store.append(*arguments)
        unknown = {"encoding": "four_bits", "estimator": "sign", "rotate": False}
        for coding in (unknown, {**unknown, "encoding": ["two_bits"]}, {"encoding": "two_bits"}, "two_bits", 7, None):
            with pytest.raises(CorruptionError, match="not known to this format"):
                store.append(rows, vectors, codes[4], Coding({**settings, "coding": coding}, four.parameters))
        with pytest.raises(ValueError, match="JSON"):
            store.append(rows, vectors, codes[4], Coding({**four.settings, "choice": float("nan")}, four.parameters))
        for change in (four.settings, {**settings, "coding": unknown}):
            with pytest.raises(AssertionError):
                store.put_settings(change, None)
        assert store.head.settings == settings and store.head.seq == 0
        model.check()
        model.form = 4
        model.add(2)
        with pytest.raises(AssertionError):
            store.put_settings(settings, DIM)
        store.put_settings({**store.head.settings, "embedding_model": "m", "search": {"x": (1, 2)}}, DIM)
        model.add(1)  # as read back, a tuple is a list: the head row would differ from what the store knows
        model.check()


def test_parameters_are_copied_from_the_caller(where):
    with StoreModel(where) as model:
        given = naive_codes.coding(model.store.head.settings, 4, DIM)
        kept, vectors = given.parameters.tobytes(), np.ones((1, DIM), np.float32)
        rows = head.Rows(["x"], ["text 0"], ["{}"], [None], [None])
        model.store.append(rows, vectors, naive_codes.encode(4, given.parameters, vectors), given)
        given.parameters[:] = 7
        given.settings["coding"]["encoding"] = "two_bits"
        assert model.store.parameters.tobytes() == kept
        model.documents = {"x": (vectors[0], "text 0")}
        model.check()
        model.add(1)
        model.check()


def test_settings_of_a_new_store_are_as_they_are_read_back(where):
    """In memory the head row was compared with what had been given, and a tuple in it stopped every write."""
    settings = {**SETTINGS, "search": {"x": (1, 2)}}
    store = open_store(where, settings, None, False)
    store.start_writing()
    assert store.head.settings == {**SETTINGS, "search": {"x": [1, 2]}}
    rows = head.Rows(["x"], [None], ["{}"], [None], [None])
    store.append(rows, np.ones((1, DIM), np.float32), np.array([[2**DIM - 1]], np.uint64))
    assert problems_of(store) == ([], 1, 1)
    store.close()


@pytest.mark.parametrize("form", [1, 5])
def test_clear_forgets_the_coding(where, form):
    with filled(where, form) as model:
        model.clear()
        settings = model.store.head.settings
        assert settings == SETTINGS and model.store.parameters.shape == (0,)
        model.check()
        model.form = 3
        model.add(4)
        model.check()
        model.clear()
        model.form = None
        model.add(4)
        assert model.store.codes.layout.form == 1
        model.check()


# ---- files of another form, left by a first write that did not come to its commit


@pytest.mark.sampled(18)
@pytest.mark.parametrize("place", ["memory", "disk", "reopened"])
@pytest.mark.parametrize("after", FORMS)
@pytest.mark.parametrize("before", [1, 2, 6])
def test_files_of_a_first_write_without_its_commit_are_replaced(tmp_path, before, after, place, monkeypatch):
    where = None if place == "memory" else tmp_path
    model = StoreModel(where)
    try:
        with monkeypatch.context() as patch:

            def fail(*_):
                raise sqlite3.OperationalError("disk I/O error")

            patch.setattr(row_table, "insert_rows", fail)
            model.form = before
            with pytest.raises(StorageError, match="disk I/O error"):
                model.add(5)
        assert where is None or (where / "default/codes-0.bin").stat().st_size > 64
        assert model.store.parameters.shape == (0,) and "coding" not in model.store.head.settings
        model.check()
        if place == "reopened":
            model.store.close()
            model = StoreModel(where)
            model.check()
        model.form = after
        model.add(3)
        model.check()
        documents = model.documents
    finally:
        model.store.close()
    if where is not None:
        with StoreModel(where) as again:
            again.documents = documents
            again.check()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        ("memory", 17),
        ("disk", 31),
        pytest.param("memory", 1, marks=pytest.mark.slow),
        pytest.param("disk", 3, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_at_any_line_of_a_first_write_leaves_all_of_it_or_nothing(tmp_path, kind, stride):
    """And the next one, of another form, must not write into the files that it has left open."""
    outcomes, path = set(), None if kind == "memory" else tmp_path / "store"

    def fresh() -> StoreModel:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        model = StoreModel(path)
        model.form = 4
        return model

    with fresh() as model:
        count = lines_of(lambda: model.add(3))
    for line in some_lines(count, stride):
        with fresh() as model:
            assert interrupted(lambda model=model: model.add(3), line)
            n = model.store.reread().n_slots
            outcomes.add(n)
            model.documents = model._stored()
            model.check()
            model.form = 6
            model.add(2)
            assert model.store.codes.layout.form == (4 if n else 6) and model.store.head.n_slots == n + 2
            model.check()
            documents = model.documents
        if path is not None:
            with StoreModel(path) as again:
                again.documents = documents
                again.check()
    assert outcomes == {0, 3} and count > 100


def test_an_interrupt_before_the_files_were_let_go_of_does_not_mix_forms(where):
    """Ctrl-C in the middle of cleaning up after Ctrl-C: codes of another form are open still."""
    with StoreModel(where) as model:
        settings = naive_codes.settings_for(SETTINGS, 6)
        model.store.flat.create(
            head.Head(model.store.head.store_id, dim=DIM, settings=settings), naive_codes.trained(6, DIM)
        )
        model.add(3)
        assert model.store.codes.layout.form == 1
        model.check()
