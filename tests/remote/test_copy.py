"""Copies to and from a server: whole, resumed where they were killed, and compared at the end."""

import datetime as dt

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from typer.testing import CliRunner

import bqstore
from bqstore.cli import loaded
from tests.conftest import clustered

from .shim import running

N = 230


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    with bqstore.open(path, "notes", embedding_model="m", index_metadata=["n"]) as col:
        metadatas = [{"n": i, "when": dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), "l": []} for i in range(N)]
        col.add(3 * clustered(N, 8), [f"id {i}" for i in range(N)], [None, "text"] * (N // 2), metadatas)
    return path


def documents(col):
    return [(each.id, each.text, each.metadata) for each in col.scroll()]


def test_there_and_back(store, tmp_path):
    client = QdrantClient(":memory:")
    report = bqstore.copy(store, "notes", to=client, batch=50)
    assert report.ok and (report.documents, report.there, report.copied, report.resumed) == (N, N, N, 0)
    assert report.compared > 100 and report.recall == 1.0
    with bqstore.open(client, "notes") as far, bqstore.open(store, "notes") as near:
        assert far.info().embedding_model == "m"
        assert documents(far) == documents(near)
    back = bqstore.copy(client, "notes", "back", to=tmp_path / "other", batch=50)
    assert back.ok and back.copied == N
    with bqstore.open(store, "notes") as before, bqstore.open(tmp_path / "other", "back") as after:
        assert documents(before) == documents(after)
        for a, b in zip(before.scroll(with_vectors=True), after.scroll(with_vectors=True), strict=True):
            np.testing.assert_allclose(a.vector, b.vector, rtol=1e-5)
    again = bqstore.copy(store, "notes", to=client)
    assert again.ok and again.there == N


def test_what_was_interrupted_goes_on_behind_what_was_acknowledged(store, tmp_path):
    journal = tmp_path / "journal"
    with running() as (shim, address):

        def stop(done, total):
            assert total == N
            if done >= 100:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bqstore.copy(store, "notes", to=f"{address}/far", journal=journal, batch=50, progress=stop)
        assert journal.exists()
        with journal.open("a") as file:
            file.write('[150, "id')  # killed in the middle of a line
        before = [path for method, path, _ in shim.asked if (method, path) == ("PUT", "/points")]
        report = bqstore.copy(store, "notes", to=f"{address}/far", journal=journal, batch=50)
        after = [path for method, path, _ in shim.asked if (method, path) == ("PUT", "/points")]
        assert report.ok and (report.resumed, report.copied) == (100, N - 100)
        assert len(after) - len(before) == 3 and not journal.exists()
        back = {"to": tmp_path / "other", "journal": journal, "batch": 50}
        with pytest.raises(KeyboardInterrupt):
            bqstore.copy(f"{address}/far", "default", "back", progress=stop, **back)
        report = bqstore.copy(f"{address}/far", "default", "back", **back)
        assert report.ok and (report.resumed, report.copied) == (100, N - 100)
    with bqstore.open(store, "notes") as first, bqstore.open(tmp_path / "other", "back") as last:
        assert documents(first) == documents(last)


def test_a_journal_of_another_state_is_not_gone_on_with(store, tmp_path):
    journal = tmp_path / "journal"
    with running() as (_, address):

        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bqstore.copy(store, "notes", to=f"{address}/far", journal=journal, batch=50, progress=stop)
        with bqstore.open(store, "notes") as col:
            col.delete(["id 3"])
        report = bqstore.copy(store, "notes", to=f"{address}/far", journal=journal, batch=50)
        assert report.resumed == 0 and report.copied == N - 1
        assert not report.ok and not report.same_ids and report.there == N  # "id 3" is still there


def test_a_copy_that_differs_is_told_of(store):
    client = QdrantClient(":memory:")
    bqstore.copy(store, "notes", to=client)
    with bqstore.open(client, "notes") as col:
        real = type(col).get

    def other(self, ids, with_vectors=False):
        return [bqstore.Record(r.id, "changed", r.metadata, r.vector) for r in real(self, ids, with_vectors)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bqstore.RemoteCollection, "get", other)
        report = bqstore.copy(store, "notes", to=client)
    assert report.same_ids and report.differing and not report.ok


def test_between_folders_files_are_copied_as_before(store, tmp_path):
    assert bqstore.copy(store, "notes", to=tmp_path / "other") is None
    with bqstore.open(tmp_path / "other", "notes") as col:
        assert len(col) == N
    with pytest.raises(bqstore.InvalidInputError, match="journal is for copies to and from a server"):
        bqstore.copy(store, "notes", "x", journal=tmp_path / "j")


def test_vectors_that_are_not_kept_cannot_be_copied(tmp_path):
    with bqstore.open(tmp_path / "s", originals="none", encoding="one_bit") as col:
        col.add(np.eye(3))
    with pytest.raises(bqstore.InvalidInputError, match="keeps no originals"):
        bqstore.copy(tmp_path / "s", to=QdrantClient(":memory:"))


def test_the_command(store, tmp_path, monkeypatch):

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    with running() as (shim, address):
        run = CliRunner().invoke(loaded(), ["copy", str(store), f"{address}/far"])
        assert run.exit_code == 0, run.output
        assert f"{N} documents copied in" in run.output and "find 100.0% of the true nearest" in run.output
        back = CliRunner().invoke(loaded(), ["copy", f"{address}/far", str(tmp_path / "back"), "--json"])
        assert back.exit_code == 0 and f'"copied": {N}' in back.output
        assert bqstore.collections(tmp_path / "back") == ["far"]
        shim.client.upsert("far", [_stranger()])
        differs = CliRunner().invoke(loaded(), ["copy", str(store), f"{address}/far"])
        assert differs.exit_code == 1 and "The ids differ" in differs.output
    assert not list((tmp_path / "cache").rglob("*.jsonl"))


def _stranger():

    return models.PointStruct(id=1, vector={"vector": [1.0] * 8}, payload={})


def test_other_commands_on_a_server(store, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with running() as (_, address):
        bqstore.copy(store, "notes", to=f"{address}/far")
        runner, command = CliRunner(), loaded()
        told = runner.invoke(command, ["search", f"{address}/far", "--filter", '{"n": 7}', "--json"])
        assert told.exit_code == 0 and '"id 7"' in told.output, told.output
        told = runner.invoke(command, ["recall", f"{address}/far", "-k", "3", "--sample", "10", "--json"])
        assert told.exit_code == 0 and '"recall": 1.0' in told.output, told.output
        told = runner.invoke(command, ["export", f"{address}/far", str(tmp_path / "far.jsonl")])
        assert told.exit_code == 0 and f"{N} documents are in" in told.output, told.output
        told = runner.invoke(command, ["search", f"{address}/nowhere", "--filter", '{"n": 7}'])
        assert told.exit_code == 1 and "there is no collection 'nowhere'" in told.output
