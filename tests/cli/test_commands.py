"""What the commands print, and what they ask of a collection."""

import importlib.metadata
import json
import platform
from dataclasses import asdict, replace

import numpy as np
import pytest

import bqstore
from bqstore.cli import tables
from tests.cli import given
from tests.conftest import clustered


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"bqstore {bqstore.__version__}\n")


@pytest.mark.parametrize("command", ["info", "recall", "tune"])
def test_help_of_each_command(run, command):
    assert command in run("--help").stdout
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--collection" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["recall"],
        ["nonsense"],
        ["recall", "somewhere", "-k", "0"],
        ["recall", "somewhere", "--nonsense"],
        ["recall", "somewhere", "--sample", "none"],
        ["tune", "somewhere"],
        ["tune", "somewhere", "--target", "1.5"],
        ["warm-up", "--nonsense"],
    ],
)
def test_a_wrong_command_line_is_2(run, words):
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


# ---- warm-up


@pytest.mark.parametrize("only", [[], ["--only", "core"], ["--only", "graph"]])
def test_warm_up_says_when_it_is_done(run, only):
    result = run("warm-up", *only)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Compiled for this processor, or found compiled, in ")


def test_warm_up_of_something_else_is_a_message(run):
    result = run("warm-up", "--only", "nonsense")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'nonsense'" in result.stderr and "'core', 'graph', 'all'" in result.stderr


# ---- info


def test_info(run, store):
    result = run("info", store)
    assert (result.exit_code, result.stderr) == (0, "")
    for words in (
        "Collection default",
        "300",
        "32",
        "cosine",
        "exact: every original vector is scored",
        "float32, 128 B each",
    ):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_info_printed_an_escape_where_health_begins_a_line(run, store, monkeypatch):
    info, found = bqstore.Collection.info, bqstore.RecallEstimate(0.5, 0.4, 0.6, 64)
    health = bqstore.Health(False, 0.95, found, 300, {}, ("too few are found: more bits help",), "scan")
    monkeypatch.setattr(bqstore.Collection, "info", lambda self: replace(info(self), recall=health))
    words = " ".join(run("info", store).stdout.split())
    assert "measured 0.500 [0.400, 0.600]; too few are found: more bits help" in words and "\\n" not in words


def versions_in(text):
    """The rows of the table of versions."""
    lines = text.partition("Versions")[2].splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line.strip())


def test_info_ends_with_what_a_report_of_a_problem_needs(run, store):
    found = versions_in(run("info", store).stdout)
    assert found["bqstore"].strip() == bqstore.__version__
    assert found["numpy"].strip() == np.__version__
    assert found["numba"].strip() == importlib.metadata.version("numba")
    assert found["Python"].split()[1] == platform.python_version()
    assert found["platform"].startswith(platform.system()) and "cores" in found["platform"]


def test_info_without_a_path_prints_the_versions_alone(run, monkeypatch):
    def missing(name):
        if name in ("langchain-core", "openai"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(tables, "version", missing)
    result = run("info")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Versions\n")
    found = versions_in(result.stdout)
    assert list(found) == ["bqstore", "numpy", "numba", "llvmlite", "llama-index-core", "Python", "platform"]


def test_info_of_an_empty_collection(run, tmp_path):
    bqstore.open(tmp_path, "none_yet").close()
    result = run("info", tmp_path, "--collection", "none_yet")
    assert result.exit_code == 0
    assert "set by the first vectors" in result.stdout


def test_info_says_why_it_is_encoded_so(run, store, monkeypatch):
    kept = bqstore.Quantization("two_bits", "scalar4bits", "rabitq", rotate=False)
    trials = (bqstore.Trial(given.SIGN, 192, 0.931, 0.66, 4.4), bqstore.Trial(kept, 392, 0.985, 0.81, 8.9))
    reason = "two bits find 98.5% of the nearest, one bit 93.1%"
    info, choice = bqstore.Collection.info, bqstore.Choice(reason, 4_000, 200, 10, 3.0, trials)
    monkeypatch.setattr(bqstore.Collection, "info", lambda self: replace(info(self), choice=choice, quantization=kept))
    lines = run("info", store).stdout.splitlines()
    assert reason in lines
    (row,) = [line for line in lines if "2 bits, RaBitQ" in line and "in use" in line]
    assert row.split() == ["2", "bits,", "RaBitQ", "in", "use", "392", "0.985", "0.810", "8.9"]


# ---- recall


def test_recall_prints_all_that_was_measured(run, store, asked):
    result = run("recall", store)
    assert (result.exit_code, result.stderr) == (0, "")
    ((call),) = asked
    assert call == {"queries": None, "k": 10, "sample": 200}
    report = given.report()
    words = " ".join(result.stdout.split())
    assert report.verdict in words
    assert f"{report.recall:.3f} (95% interval {report.low:.3f}-{report.high:.3f})" in words
    lines = result.stdout.splitlines()
    assert sum(line.lstrip().startswith("in use ") for line in lines) == 1
    assert max(map(len, lines)) <= 80
    intervals = [f"{p.low:.3f}-{p.high:.3f}" for p in report.points]
    assert all(interval in result.stdout for interval in intervals)
    for name in ("1 bit, sign (binary)", "1 bit, RaBitQ, rotated", "1.5 bits, sign", "4 bits, RaBitQ, rotated"):
        assert name in words
    assert "float32, no codes 123.5 MB" in words
    assert "18.4 times less" in words


def test_recall_hands_on_what_is_asked(run, store, asked, queries):
    assert run("recall", store, "-k", 3, "--sample", 50, "--queries", queries).exit_code == 0
    ((call),) = asked
    assert (call["k"], call["sample"]) == (3, 50)
    np.testing.assert_array_equal(call["queries"], clustered(7, 32, seed=1))


def test_json_is_the_report_and_nothing_else(run, store, asked, tmp_path):
    result = run("recall", store, "--json", "--report", tmp_path / "report.html")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(asdict(given.report())))
    assert "report.html" in result.stderr
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_report_without_other_encodings_has_no_table_of_them(run, store, monkeypatch):
    report = given.report(points=tuple(each for each in given.points() if each.stored))
    monkeypatch.setattr(bqstore.Collection, "recall", lambda self, *_, **__: report, raising=False)
    words = run("recall", store).stdout
    assert "Settings measured on the stored codes" in words and "Other encodings" not in words


def test_a_small_collection_is_said_to_be_searched_exactly(run, store, monkeypatch):
    exact = replace(given.points()[3], way="exact", recall=1.0, low=0.985, high=1.0)
    report = given.report(current=exact, points=(exact, *given.points()), recall=1.0)
    monkeypatch.setattr(bqstore.Collection, "recall", lambda self, *_, **__: report, raising=False)
    words = " ".join(run("recall", store).stdout.split())
    assert "searches exact: every original vector is scored memory" in words
    assert "The collection is small, so its searches are exact" in words
    assert "exact search in use - - 1.000" in words


def test_recall_for_real(run, tmp_path):
    with bqstore.open(tmp_path / "s", quantization={"encoding": "one_bit"}, hnsw={"full_scan_threshold": 0}) as col:
        col.add(clustered(600, 64))
    result = run("recall", tmp_path / "s", "--sample", "40", "-k", "5", "--json", "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["k"], report["queries"], report["documents"], report["held_out"]) == (5, 40, 600, True)
    assert report["low"] <= report["recall"] <= report["high"]
    assert report["current"] in report["points"]
    page = (tmp_path / "page.html").read_text("utf-8")
    assert f"{report['recall']:.3f}" in page
    again = run("recall", tmp_path / "s", "--sample", "40", "-k", "5")
    assert " ".join(report["verdict"].split()) in " ".join(again.stdout.split())


# ---- tune


def test_tune_says_what_it_keeps(run, store, queries, monkeypatch):
    asked = []

    def tune(self, target_recall, k, queries):
        asked.append((target_recall, k, np.shape(queries)))
        return bqstore.SearchParams(oversampling=3.5, hnsw_ef=96)

    monkeypatch.setattr(bqstore.Collection, "tune", tune, raising=False)
    result = run("tune", store, "--target", 0.95, "-k", 7, "--queries", queries)
    assert (result.exit_code, asked) == (0, [(0.95, 7, (7, 32))])
    words = " ".join(result.stdout.split())
    assert "recall@7 of 0.95" in words
    assert "oversampling 3.5" in words
    assert "hnsw_ef 96" in words
    assert "Stored as the defaults of collection 'default'" in words


def test_tune_that_reaches_nothing_is_an_error(run, store, monkeypatch):
    def tune(self, target_recall, k, queries):
        raise bqstore.TargetNotReachedError("no settings reach 0.999; the best find 0.98")

    monkeypatch.setattr(bqstore.Collection, "tune", tune, raising=False)
    result = run("tune", store, "--target", 0.999)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "bqstore: no settings reach 0.999; the best find 0.98\n"


def test_tune_for_real(run, tmp_path):
    with bqstore.open(tmp_path, quantization={"encoding": "one_bit"}, hnsw={"full_scan_threshold": 0}) as col:
        col.add(clustered(600, 64))
    result = run("tune", tmp_path, "--target", 0.8)
    assert result.exit_code == 0, result.stderr
    with bqstore.open(tmp_path, read_only=True) as col:
        kept = col.info().search
    assert f"oversampling {kept.oversampling:g} rescore True" in " ".join(result.stdout.split())
