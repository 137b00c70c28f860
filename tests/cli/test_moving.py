"""`bqstore import` and `bqstore export`."""

import json

import numpy as np

import bqstore
from bqstore.cli import moving


def test_what_is_exported_is_imported_without_loss(run, store, tmp_path):
    file = tmp_path / "all.jsonl"
    result = run("export", store, file)
    assert (result.exit_code, result.stderr) == (0, "") and "300 documents are in" in result.stdout
    result = run("import", file, tmp_path / "again")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "JSON lines: 300 documents of 32 dimensions, cosine" in result.stdout
    assert "300 added, 0 were there already; 300 read back and found the same" in result.stdout
    assert "100.0% of the true nearest neighbors" in result.stdout
    with bqstore.open(store, read_only=True) as old, bqstore.open(tmp_path / "again") as new:
        before, after = ({each.id: each for each in col.scroll(with_vectors=True)} for col in (old, new))
    assert before == after and all((before[id_].vector == after[id_].vector).all() for id_ in before)
    told = json.loads(run("import", file, tmp_path / "again", "--json").stdout)
    assert (told["added"], told["unchanged"], told["ok"]) == (0, 300, True)


def test_a_dry_run_says_what_would_come_and_writes_nothing(run, store, tmp_path):
    run("export", store, tmp_path / "all.npz")
    result = run("import", tmp_path / "all.npz", tmp_path / "again", "--dry-run")
    assert result.exit_code == 0 and "300 documents of 32" in result.stdout and "Nothing was written" in result.stdout
    assert not (tmp_path / "again").exists()


def test_what_is_left_out_is_told(run, tmp_path):
    rows = [{"id": "a", "vector": [1, 0]}, {"id": "b", "vector": [0, 0]}, {"id": "c", "vector": [0, float("nan")]}]
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    result = run("import", file, tmp_path / "new")
    assert (result.exit_code == 0 and "1 added" in result.stdout) or "2 added" in result.stdout
    assert "c was left out" in result.stdout


def test_errors_are_one_line(run, store, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"?")
    for words, said in (
        (("import", tmp_path / "none", tmp_path / "new"), "there is nothing at"),
        (("import", tmp_path / "x.bin", tmp_path / "new"), "not recognized"),
        (("export", store, tmp_path / "all.csv"), "expected one of .jsonl"),
    ):
        result = run(*words)
        assert result.exit_code == 1 and said in result.stderr and "Traceback" not in result.stderr
        assert not (tmp_path / "new").exists()


def test_what_is_not_taken_of_a_source_is_told(run, tmp_path):
    vectors = np.eye(9)
    vectors[2:] = np.nan
    np.savez(tmp_path / "all.npz", vectors=vectors, axis=np.arange(5))
    result = run("import", tmp_path / "all.npz", tmp_path / "new", "--distance", "euclid")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "9 documents of 9 dimensions, euclid" in result.stdout
    assert "'axis' of shape (5,) is left out" in result.stdout
    assert "all.npz:6 was left out: " in result.stdout and "all.npz:7" not in result.stdout
    assert "and 2 more were left out" in result.stdout
    result = run("export", tmp_path / "new", tmp_path / "all.jsonl")
    assert (result.exit_code, result.stdout.split("; ")[1]) == (0, "import with --distance euclid\n")


def test_a_source_that_changes_meanwhile_is_told_and_ends_with_1(run, tmp_path, monkeypatch):
    file = tmp_path / "all.jsonl"
    rows = [{"id": f"d{i}", "text": "one", "vector": [1, i]} for i in range(7)]
    file.write_text("\n".join(map(json.dumps, rows)))

    class Changing(moving.Progress):
        def __call__(self, done):
            file.write_text("\n".join(json.dumps({**row, "text": "two"}) for row in rows))

    monkeypatch.setattr(moving, "Progress", Changing)
    result = run("import", file, tmp_path / "new")
    assert result.exit_code == 1 and "7 added" in result.stdout
    assert "7 documents differ from the source: d0, d1, d2, d3, d4; was it written to meanwhile?" in result.stdout


def test_import_of_what_another_command_takes_names_it(run, store, tmp_path):
    result = run("import", store, tmp_path / "again")
    assert result.exit_code == 1 and "is a store of bqstore: `bqstore copy`" in result.stderr
    (tmp_path / "rows.csv").write_text("text\nno vector\n")
    result = run("import", tmp_path / "rows.csv", tmp_path / "again")
    assert result.exit_code == 1 and "(--kind)" in result.stderr and "`bqstore ingest`" in result.stderr
    assert not (tmp_path / "again").exists()
