"""`bqstore plan`."""

import json

import pytest

from bqstore import sizing


def test_plan_as_tables_and_as_json(run, monkeypatch):
    asked = ("plan", "--vectors", "50e6", "--dim", 1536, "--qps", 200, "--cores", 8)
    result = run(*asked)
    assert (result.exit_code, result.stderr) == (0, "") and max(map(len, result.stdout.splitlines())) <= 80
    assert "50,000,000 vectors" in result.stdout and "One machine is enough" in result.stdout
    assert "Measured:" in result.stdout and "reckoned" in result.stdout
    told = json.loads(run(*asked, "--json").stdout)
    assert told["machine"]["memory"] == told["smallest_machine"] == 64 * 10**9 and told["one_machine"] is True
    assert told["memory"]["codes"] == 50_000_000 * 200
    assert {*told["largest"]} == {str(n * 10**9) for n in (8, 24, 64)}
    monkeypatch.setenv("COLUMNS", "50")
    narrow = run(*asked).stdout.splitlines()
    assert all(len(line) <= 50 for line in narrow if not line.startswith(("50,000", "The same")))


def test_where_one_machine_ends(run):
    asked = ("plan", "--vectors", "50,000,000", "--dim", 1536, "--memory", "24GB", "--cores", 8)
    told = json.loads(run(*asked, "--json").stdout)
    assert told["one_machine"] is False and told["machine"]["fits"] is False
    assert told["largest"]["24000000000"] < 50_000_000 and told["cluster"]["nodes"] >= 3
    result = run(*asked)
    assert "no: while adding" in result.stdout and "Qdrant cluster" in result.stdout and "a search" not in result.stdout
    busy = json.loads(run("plan", "--vectors", 1000, "--dim", 8, "--qps", "1e9", "--cores", 2, "--json").stdout)
    assert busy["machine"]["fits"] is True and busy["one_machine"] is False


def test_without_a_machine_that_is_large_enough(run):
    told = json.loads(run("plan", "--vectors", "1e11", "--dim", 1536, "--json").stdout)
    assert told["smallest_machine"] is None and told["machine"]["memory"] == sizing.MACHINES[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vectors", "many"], "--vectors is 'many'; expected a whole number"),
        (["--vectors", "1.5"], "expected a whole number"),
        (["--vectors", "inf"], "expected a whole number"),
        (["--vectors", "10", "--memory", "24XB"], "--memory is '24XB'; expected a size"),
        (["--vectors", "10", "--encoding", "one"], "encoding"),
        (["--vectors", "10", "--qps", "inf"], "--qps is inf; expected a number"),
    ],
)
def test_what_cannot_be_planned(run, words, said):
    result = run("plan", "--dim", 8, *words)
    assert result.exit_code == 1 and said in result.stderr and result.stdout == ""


@pytest.mark.parametrize(("given", "bytes_"), [("24GB", 24e9), ("24 gb", 24e9), ("8G", 8e9), ("1GiB", 2**30), ("9", 9)])
def test_sizes(run, given, bytes_):
    told = json.loads(run("plan", "--vectors", 10, "--dim", 8, "--memory", given, "--json").stdout)
    assert told["machine"]["memory"] == bytes_
