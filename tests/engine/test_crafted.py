"""What is derived is not trusted, and neither is a folder from somewhere else: samples; `torture` has the whole."""

import random
import shutil

import pytest

import bqstore

from . import crafted


@pytest.fixture
def template(tmp_path, monkeypatch):
    monkeypatch.setattr("bqstore.engine.graph_builder.SMALLEST_GRAPH", 64)
    crafted.make(tmp_path / "template")
    return tmp_path / "template"


def crafted_snapshots(template, work, seeds):
    """The outcomes of snapshots with false contents."""
    shutil.copytree(template, work)
    (file,) = (work / "default").glob("snap-*.bin")
    data = file.read_bytes()
    with bqstore.open(work, read_only=True, threads=1) as col:
        truth = crafted.answers(col)
        assert col.info().columns.keys() >= {"i", "s", "t", "f", "big", "d"} and col.info().linked == crafted.N
    outcomes = {"right": 0, "wrong": 0}
    for seed in seeds:
        changed, what = crafted.craft_snapshot(data, random.Random(seed))
        file.write_bytes(changed)
        try:
            outcomes[crafted.check_snapshot(work, truth, what)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {what}: {type(error).__name__}: {error}") from error
    return outcomes


def test_snapshots_with_false_contents_gave_wrong_counts_and_foreign_errors(template, tmp_path):
    """22 and 60 of 1,500: ids that were no text, codes of no entry, marks, kinds, numbers that were none."""
    outcomes = crafted_snapshots(template, tmp_path / "work", range(60))
    assert outcomes["right"] > 45


def test_folders_that_somebody_crafted_raise_no_foreign_errors(template, tmp_path):
    outcomes = [crafted.check_folder(template, tmp_path / "work", random.Random(seed)) for seed in range(30)]
    assert outcomes.count("refused") > 15


@pytest.mark.parametrize("seed", [461])
def test_settings_without_the_encoding_of_queries_were_a_key_error(template, tmp_path, seed):
    assert crafted.check_folder(template, tmp_path / "work", random.Random(seed)) == "refused"


@pytest.mark.torture
@pytest.mark.parametrize("part", range(20))
def test_a_thousand_crafted_snapshots(template, tmp_path, part):
    print(crafted_snapshots(template, tmp_path / "work", range(1000 * part, 1000 * part + 1000)))


@pytest.mark.torture
@pytest.mark.parametrize("part", range(10))
def test_five_hundred_crafted_folders(template, tmp_path, part):
    for seed in range(500 * part, 500 * part + 500):
        try:
            crafted.check_folder(template, tmp_path / "work", random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {error}") from error


@pytest.mark.parametrize("seed", [44, 71])
def test_a_false_code_of_a_column_gave_a_wrong_count(template, tmp_path, seed):
    """32 documents were compared with their rows; of a small collection all are."""
    assert crafted_snapshots(template, tmp_path / "work", [seed])["wrong"] == 0
