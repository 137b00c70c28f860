"""Recoding: a compaction that makes the codes anew, of any form, in the same commit as the settings that say so."""

import numpy as np
import pytest

from bqstore.errors import StorageError
from bqstore.storage import Recode, Rows, compaction
from bqstore.storage.format import Layout, vectors_of
from bqstore.storage.verify import problems_of

from . import naive_codes
from .crash import SETTINGS
from .damage import bytes_of
from .known_collection import documents
from .store_model import DIM, StoreModel
from .test_compaction import filled, names

FORMS = range(1, 7)


@pytest.fixture(params=["disk", "memory"])
def model(request, tmp_path):
    with filled(tmp_path / "store" if request.param == "disk" else None) as model:
        yield model


def folder_bytes(model: StoreModel) -> dict[str, bytes] | None:
    return None if model.store.folder is None else bytes_of(model.store.folder)


# ---- what it leaves


def test_from_any_form_to_any_form(model):
    path = [(one, other) for one in FORMS for other in FORMS]
    for step, form in enumerate([form for pair in path for form in pair], 1):
        before, rids = model.store.head, model.store.read_codes(0, model.store.head.n_slots)[0]
        live = model.live()
        head = model.recode(form, seed=step)
        assert (head.generation, head.seq, head.n_slots, head.next_rid) == (step, before.seq + 1, 20, before.next_rid)
        assert head.settings == model.store.head.settings != before.settings
        assert head.settings["choice"]["seed"] == step and head.settings["search"] == before.settings["search"]
        assert (model.store.read_codes(0, 20)[0] == rids[live]).all() and model.store.dead_since(-1) == []
        assert model.store.codes.layout == Layout("codes", DIM, form)
        assert model.store.parameters.tobytes() == naive_codes.trained(form, DIM, step).tobytes()
        if step % 9 == 0:
            model.check()
    model.check()
    if model.store.folder is not None:
        assert names(model) == {f"{kind}-{step}.bin" for kind in ("codes", "vectors")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [None, 5])
def test_the_next_opening_finds_the_new_codes(tmp_path, form, part):
    with filled(tmp_path) as model:
        model.recode(form, part=part)
        model.add(2)
        model.delete(3)
        documents = model.documents
        record = sum(file.layout.record_bytes for file in model.store.flat.both())
        headers = sum(file.header_length for file in model.store.flat.both())
    assert sum(file.stat().st_size for file in (tmp_path / "default").glob("*-1.bin")) == headers + 22 * record
    for read_only in (True, False):
        with StoreModel(tmp_path, read_only=read_only) as model:
            model.documents = documents
            model.check()


@pytest.mark.parametrize("form", FORMS)
def test_a_compaction_without_recoding_keeps_form_and_parameters(model, form):
    model.recode(form)
    parameters, settings = model.store.parameters.tobytes(), model.store.head.settings
    model.delete(5)
    for _ in range(2):
        model.compact()
        assert (model.store.parameters.tobytes(), model.store.head.settings) == (parameters, settings)
        assert model.store.codes.layout.form == form and model.store.head.n_slots == 15
        model.check()


def test_codes_are_made_of_the_live_vectors_piece_by_piece(model, monkeypatch):
    monkeypatch.setattr(compaction, "_PIECE", 700)
    live = model.live()
    kept = vectors_of(model.store.vectors.layout, model.store.vectors.read(0, 29))[live]
    given, told, plan = [], [], naive_codes.recode(model.store.head.settings, 6, DIM)

    def encode(vectors):
        assert vectors.dtype == np.float32 and vectors.flags.c_contiguous and vectors.shape[1] == DIM
        given.append(vectors.copy())
        codes = plan.encode(vectors)
        vectors[:] = np.nan  # its own: what is copied stays
        return codes

    model.compact(live, lambda *said: told.append(said), Recode(plan.settings, plan.parameters, encode))
    assert np.array_equal(np.concatenate(given), kept) and len(given) == len(told) > 3
    assert told == [(done, 20) for done in np.cumsum([len(vectors) for vectors in given]).tolist()]
    model.check()


@pytest.mark.parametrize("originals", ["float16", "int8"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_codes_are_made_of_the_stored_vectors(tmp_path, originals, where):
    """Not of the vectors as they came, which are gone."""
    path = tmp_path if where == "disk" else None
    with StoreModel(path, originals=originals) as model:
        store, vectors = model.store, np.array([d.vector for d in documents(9).values()])
        ids, none = [str(i) for i in range(9)], [None] * 9
        coding = naive_codes.coding(SETTINGS | {"originals": originals}, 4, DIM)
        rows = Rows(ids, none, ["{}"] * 9, none, none)
        store.append(rows, vectors, naive_codes.encode(4, coding.parameters, vectors), coding)
        kept = vectors_of(store.vectors.layout, store.vectors.read(0, 9))
        assert not np.array_equal(kept, vectors)
        plan = naive_codes.recode(store.head.settings, 6, DIM, 5)
        model.compact(np.arange(9), None, plan)
        assert (store.read_codes(0, 9)[1] == plan.encode(kept)).all() and problems_of(store) == ([], 9, 9)
        assert np.array_equal(vectors_of(store.vectors.layout, store.vectors.read(0, 9)), kept)


@pytest.mark.parametrize("form", [1, 4])
@pytest.mark.parametrize("originals", ["float32", "none"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_recoding_without_live_documents_changes_only_settings(tmp_path, originals, form, where):
    with filled(tmp_path if where == "disk" else None, originals) as model:
        model.form = 6
        for _ in range(2):
            model.delete(len(model.documents))
            settings = {**model.store.head.settings, "embedding_model": f"of {form}"}
            head = model.compact(model.live(), None, naive_codes.recode(settings, form, DIM))
            assert head.settings == {**SETTINGS, "originals": originals, "embedding_model": f"of {form}"}
            assert model.store.codes is None and model.store.parameters.shape == (0,)
            model.check()
            model.add(3)
            assert model.store.codes.layout.form == 6
            model.check()
        model.delete(3)
        assert model.compact().format_version == 1 and "coding" not in model.store.head.settings
        model.check()


def test_snapshots_of_the_old_codes_are_gone(tmp_path):
    with filled(tmp_path) as model:
        head = model.store.head
        model.store.write_snapshot(head.n_slots, head.seq, {}, {})
        assert model.store.read_snapshot()[0] is not None
        model.recode(4)
        assert model.store.read_snapshot() == (None, None) and not list(model.store.folder.glob("snap-*"))
        model.store.write_snapshot(5, model.store.head.seq, {}, {})
        assert model.store.read_snapshot()[0].n == 5
        model.check()


# ---- readers


def test_a_reader_goes_on_with_the_codes_it_has_and_then_follows(tmp_path):
    with filled(tmp_path) as model:
        model.recode(3)
        with StoreModel(tmp_path, read_only=True) as reader:
            codes, parameters = reader.store.codes, reader.store.parameters
            before, view, kept = codes.read(0, 20), codes.view(20), parameters.tobytes()
            with reader.store.consistent():
                old = reader.store.reread()
                model.recode(6)
                assert reader.store.reread() == old
                assert reader.store.codes is codes and reader.store.parameters is parameters
            assert (codes.read(0, 20) == before).all() and (view[:20] == before).all()
            assert parameters.tobytes() == kept
            assert reader.store.reread() == model.store.head
            assert reader.store.parameters.tobytes() == model.store.parameters.tobytes() != kept
            reader.check()


def test_searches_go_on_between_the_copying_and_the_commit(model):
    codes, settings = model.store.codes, model.store.head.settings
    prepared = model.store.begin_compaction(model.live(), None, naive_codes.recode(settings, 4, DIM))
    assert model.store.codes is codes and model.store.head.settings == settings
    assert model.store.parameters.shape == (0,)
    model.check()
    model.store.discard_compaction(prepared)
    model.check()
    prepared = model.store.begin_compaction(model.live(), None, naive_codes.recode(settings, 4, DIM))
    assert model.store.commit_compaction(prepared).format_version == 2
    assert (codes.read(0, 29)[:, 0] != 0).all()
    model.check()


def test_the_next_writer_removes_a_compaction_that_was_not_committed(tmp_path):
    with filled(tmp_path) as model:
        documents = model.documents
        model.store.begin_compaction(model.live(), None, naive_codes.recode(SETTINGS, 4, DIM))
    assert (tmp_path / "default/codes-1.bin").exists()
    with StoreModel(tmp_path, read_only=True) as reader:
        reader.documents = documents
        reader.check()
    with StoreModel(tmp_path) as model:
        assert names(model) == {"codes-0.bin", "vectors-0.bin"}
        model.check()
        model.recode(2)  # of the same number, and another form
        model.documents = documents
        model.check()


# ---- what is refused


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_recoding_without_originals_is_refused(tmp_path, where):
    with filled(tmp_path if where == "disk" else None, "none") as model:
        before = folder_bytes(model)
        with pytest.raises(StorageError, match="keeps no originals to make new codes from; nothing was changed"):
            model.recode(4)
        assert folder_bytes(model) == before and model.store.head.generation == 0
        model.check()
        model.compact()
        model.check()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("source", ["encode", "progress"])
@pytest.mark.parametrize("piece", [0, 2])
def test_an_exception_on_the_way_leaves_everything_as_it_was(model, error, source, piece, monkeypatch):
    monkeypatch.setattr(compaction, "_PIECE", 700)
    before, head, calls = folder_bytes(model), model.store.head, []
    plan = naive_codes.recode(head.settings, 4, DIM)

    def called(of: str) -> None:
        if of == source:
            calls.append(of)
            if len(calls) > piece:
                raise error("enough")

    def encode(vectors):
        called("encode")
        return plan.encode(vectors)

    with pytest.raises(error, match="enough"):
        model.compact(model.live(), lambda *_: called("progress"), Recode(plan.settings, plan.parameters, encode))
    assert folder_bytes(model) == before and model.store.head is head and model.store.sound
    model.check()
    model.add(2)
    model.recode(4)
    model.check()


def test_malformed_codes_are_not_stored(model):
    before, plan = folder_bytes(model), naive_codes.recode(model.store.head.settings, 4, DIM)
    for encode in (
        lambda vectors: plan.encode(vectors)[1:],
        lambda vectors: plan.encode(vectors)[:, 1:],
        lambda vectors: plan.encode(vectors).view(np.int64),
        lambda vectors: plan.encode(vectors).ravel(),
        lambda vectors: None,
    ):
        with pytest.raises((AssertionError, AttributeError)):
            model.compact(model.live(), None, Recode(plan.settings, plan.parameters, encode))
    for settings, parameters in (
        (plan.settings, plan.parameters.astype(float)),
        (naive_codes.settings_for(SETTINGS, 1), plan.parameters),
    ):
        with pytest.raises(AssertionError):
            model.compact(model.live(), None, Recode(settings, parameters, plan.encode))
    with pytest.raises(ValueError, match="JSON"):
        settings = {**plan.settings, "choice": float("inf")}
        model.compact(model.live(), None, Recode(settings, plan.parameters, plan.encode))
    assert folder_bytes(model) == before
    model.check()
    columns = Recode(plan.settings, plan.parameters, lambda vectors: np.asfortranarray(plan.encode(vectors)))
    model.compact(model.live(), None, columns)
    model.check()
