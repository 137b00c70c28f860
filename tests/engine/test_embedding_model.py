"""Vectors of two models, of equal dimensions or not, never meet in one collection."""

import numpy as np
import pytest

import bqstore
from bqstore.errors import InvalidInputError, ReadOnlyError, SettingsConflictError


def test_a_model_is_remembered_and_another_is_refused(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.check_model("one")  # a search proves nothing
        assert col.info().embedding_model is None
        col.check_model("one", 4, remember=True)
        assert col.info().embedding_model == "one"
        col.add(np.eye(4))
        for remember in (False, True):
            with pytest.raises(SettingsConflictError, match=r"embedding_model='one' \(4 dimensions\).*'two' \(4 dim"):
                col.check_model("two", 4, remember=remember)
        with pytest.raises(SettingsConflictError, match=r"'one' \(4 dimensions\).*'one' \(1,536 dimensions\)"):
            col.check_model("one", 1536)
        col.check_model("one", 4, remember=True)
    with bqstore.open(tmp_path) as col:
        assert col.info().embedding_model == "one"
    with pytest.raises(SettingsConflictError, match=r"embedding_model='two' contradicts.*embedding_model='one'"):
        bqstore.open(tmp_path, embedding_model="two")


def test_a_reader_checks_and_remembers_nothing(tmp_path):
    with bqstore.open(tmp_path) as writer, bqstore.open(tmp_path, read_only=True) as reader:
        writer.add(np.eye(4))
        reader.check_model("one", 4)
        with pytest.raises(ReadOnlyError):
            reader.check_model("one", 4, remember=True)
        writer.check_model("one", remember=True)
        with pytest.raises(SettingsConflictError, match=r"'one' \(4 dimensions\).*'two'"):
            reader.check_model("two")


def test_a_collection_of_unknown_origin_is_told_by_its_dimension():
    with bqstore.open() as col:
        col.add(np.eye(4))
        with pytest.raises(SettingsConflictError, match=r"an unknown model \(4 dimensions\).*'one' \(5 dimensions\)"):
            col.check_model("one", 5)


@pytest.mark.parametrize("model", ["", "x" * 1025, 7, None, "\ud800"])
def test_what_is_no_name(model):
    with bqstore.open() as col, pytest.raises(InvalidInputError, match="model"):
        col.check_model(model, remember=True)


def test_a_model_survives_what_rewrites_settings(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.check_model("one", remember=True)
        col.add(np.random.default_rng(0).standard_normal((300, 8)), ids=map(str, range(300)))
        col.delete(["3"])
        col.compact()
        col.requantize(encoding="two_bits")
        col.clear()
        assert col.info().embedding_model == "one"
