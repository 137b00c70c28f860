"""docs/own-documents.md: its files are written, its commands run, and what they print is what it shows."""

import re
import shlex
import sys

import pytest

import bqstore
from tests.pages import ROOT

from .given import MODULE

PAGE = (ROOT / "docs" / "own-documents.md").read_text(encoding="utf-8")
_SCORE = re.compile(r"(?m)^(\d+\.) [\d.]+(?=  )")  # the stand-in's are others than a model's


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Kernels in numba's cache, so that no command says that it waits for them."""
    bqstore.warm_up()


def test_the_commands_of_the_page_print_what_it_shows(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BQSTORE_EMBEDDER", "words_of_a_page:Words")
    monkeypatch.delitem(sys.modules, "words_of_a_page", raising=False)
    (tmp_path / "words_of_a_page.py").write_text(MODULE)
    (tmp_path / "notes").mkdir()
    (files,) = re.findall(r"^```text\n(notes/.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for name, text in re.findall(r"^(notes/\S+) +(.*?)(?=^notes|\Z)", files, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(re.sub(r"(?m)^ +", "", text))

    ran = 0
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for command, shown in re.findall(r"^\$ bqstore (.*)\n((?:(?!\$).*\n)*)", block, re.MULTILINE):
            result = run(*shlex.split(command))
            assert (result.exit_code, result.stderr) == (0, ""), command
            assert _SCORE.sub(r"\1", result.stdout) == _SCORE.sub(r"\1", shown), command
            ran += 1
    assert ran == 5
