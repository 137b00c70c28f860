"""What is logged and warned of: nothing unasked, and never without saying what to do."""

import ast
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bqstore

from .pages import ROOT

WARNS = ("warn", "warning", "_warn")
# words of advice; or that nothing needs to be done
ADVICE = re.compile(
    r"make room|nothing to do|may be deleted|pass |look at|call |close\(\)|compact\(\)|drop\(\)|health\(\)|reembed\(|"
    r"does it|save\(|verify\(\)|warm_up\(\)|set NUMBA|chmod|upgrade it|allow_http=True says so|hint",
    re.IGNORECASE,
)
HAND_ON = tuple(f"bqstore/embeddings/disk_cache.py: {name}" for name in ("_warn", "_run"))  # the words of others


def warnings_in(path: Path) -> Iterator[tuple[str, str]]:
    """Each function that warns, and its source, in which the message is put together."""
    source = path.read_text("utf-8")
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for call in ast.walk(function):
                name = getattr(call.func, "attr", getattr(call.func, "id", "")) if isinstance(call, ast.Call) else ""
                if name in WARNS:
                    where = f"{path.relative_to(ROOT).as_posix()}: {function.name}"
                    yield where, ast.get_source_segment(source, function) or ""


def test_each_warning_says_what_to_do() -> None:
    found = [
        each
        for home in ("bqstore", "integrations")
        for path in (ROOT / home).rglob("*.py")
        for each in warnings_in(path)
    ]
    assert len(found) > 15
    assert [where for where, source in found if not ADVICE.search(source) and where not in HAND_ON] == []


def test_nothing_is_logged_where_the_root_logger_lets_everything_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # of the root logger
    with bqstore.open(tmp_path) as col:  # a new store, and documents replaced: both are told at INFO
        col.add([[1.0, 0.0], [0.0, 1.0]], ["a", "b"], metadatas=[{"n": 1}, {"n": 2}])
        col.add([[1.0, 1.0]], ["a"])
        col.search([1.0, 0.0], filter={"n": {"$gt": 1}})
        col.compact()
    assert [each.getMessage() for each in caplog.records if each.name.startswith("bqstore")] == []
    caplog.set_level(logging.INFO, "bqstore")
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 1.0]], ["a"])
    assert [each.getMessage() for each in caplog.records] == [
        "added 1 document, 1 of them in the place of others with their ids; 0 had the id of a later one in the same "
        "call"
    ]


def test_a_level_that_the_program_has_set_before_stays() -> None:
    program = (
        "import logging\n"
        "logging.getLogger('bqstore').setLevel(logging.DEBUG)\n"
        "import bqstore\n"
        "assert logging.getLogger('bqstore').level == logging.DEBUG\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
