"""What is released: the cut of the changelog, the one place of the version, what the wheels hold."""

import re
from pathlib import Path

import pytest

from tools import cut_changelog

from . import release_check
from .pages import ROOT

THIN = sorted((ROOT / "distributions").iterdir())
SOURCE = '"""The version."""\n\n__version__ = "0.1.0"\n'
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n"


def test_a_cut_gives_what_is_unreleased_a_version_and_a_date() -> None:
    changelog, source = cut_changelog.cut(CHANGELOG, SOURCE, "0.2.0", "2030-01-02")
    assert changelog == "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2030-01-02\n\n### Added\n\n- A thing.\n"
    assert source == SOURCE.replace("0.1.0", "0.2.0")


def test_the_first_release_has_the_version_that_stands_there() -> None:
    changelog, source = cut_changelog.cut(CHANGELOG, SOURCE, None, "2030-01-02")
    assert "## [0.1.0] - 2030-01-02" in changelog and source == SOURCE


def test_candidates_come_before_their_release() -> None:
    changelog, source = cut_changelog.cut(CHANGELOG, SOURCE, "0.2.0rc1", "2030-01-02")
    changelog = changelog.replace("[Unreleased]\n", "[Unreleased]\n\n- A mend.\n")
    changelog, source = cut_changelog.cut(changelog, source, "0.2.0", "2030-01-03")
    assert re.findall(r"## \[(.+)\]", changelog) == ["Unreleased", "0.2.0", "0.2.0rc1"]
    with pytest.raises(cut_changelog.RefusedError, match="does not come after"):
        cut_changelog.cut(
            changelog.replace("[Unreleased]\n", "[Unreleased]\n\n- x\n"), source, "0.2.0rc2", "2030-01-04"
        )


@pytest.mark.parametrize(
    ("changelog", "version", "said"),
    [
        (CHANGELOG, "0.0.9", "does not come after 0.1.0"),
        (CHANGELOG, "next", "is no version; give three numbers"),
        (CHANGELOG.replace("- A thing.", ""), "0.2.0", "there is nothing to release"),
        (CHANGELOG + "\n## [0.1.0] - 2029-01-01\n\n- Old.\n", None, "0.1.0 does not come after"),
        ("# Changelog\n", "0.2.0", "must have a line"),
    ],
)
def test_what_cannot_be_cut_is_refused(changelog: str, version: str | None, said: str) -> None:
    with pytest.raises(cut_changelog.RefusedError, match=re.escape(said)):
        cut_changelog.cut(changelog, SOURCE, version, "2030-01-02")


def test_nothing_is_written_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bqstore").mkdir()
    changelog, version = tmp_path / "CHANGELOG.md", tmp_path / "bqstore" / "_version.py"
    changelog.write_text(CHANGELOG, "utf-8")
    version.write_text(SOURCE, "utf-8")
    assert cut_changelog.main(["0.2.0"], tmp_path) == 0
    assert "+## [0.2.0]" in capsys.readouterr().out
    assert (changelog.read_text("utf-8"), version.read_text("utf-8")) == (CHANGELOG, SOURCE)
    assert cut_changelog.main(["0.2.0", "--write"], tmp_path) == 0
    assert "## [0.2.0]" in changelog.read_text("utf-8") and "0.2.0" in version.read_text("utf-8")
    assert cut_changelog.main(["0.2.0"], tmp_path) == 1
    assert "nothing cut" in capsys.readouterr().err


def test_the_changelog_can_be_cut_as_it_stands() -> None:
    files = [(ROOT / each).read_text("utf-8") for each in (cut_changelog.CHANGELOG, cut_changelog.VERSION)]
    cut_changelog.cut(files[0], files[1], "99.0.0", "2030-01-02")


def test_the_version_stands_in_one_place() -> None:
    for project in (ROOT, *THIN):
        written = (project / "pyproject.toml").read_text("utf-8")
        assert re.search(r'^dynamic = \["version"', written, re.MULTILINE), project
        assert re.search(r'^path = "(\.\./\.\./)?bqstore/_version.py"$', written, re.MULTILINE), project
        assert not re.search(r"^version = ", written, re.MULTILINE), project


def test_thin_distributions_are_those_that_the_release_check_installs() -> None:
    assert {each.name for each in THIN} == set(release_check.THIN)
    for each in THIN:
        assert (each / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes(), each


def test_llamahub_is_told_what_there_is_to_import() -> None:
    written = (ROOT / "distributions" / "llama-index-vector-stores-bqstore" / "pyproject.toml").read_text("utf-8")
    assert 'import_path = "llama_index.vector_stores.bqstore"' in written
    authors = written.partition("[tool.llamahub.class_authors]\n")[2].partition("\n\n")[0]
    source = (release_check.PACKAGES["llama_index/vector_stores/bqstore"] / "__init__.py").read_text("utf-8")
    public = re.findall(r'"(\w+)"', source.partition("__all__ = [")[2])
    listed = [line.split(" = ")[0] for line in authors.splitlines()]
    assert "BQVectorStore" in listed and set(listed) <= set(public)


@pytest.mark.parametrize("project", [ROOT, *THIN], ids=lambda path: path.name if path != ROOT else "bqstore")
def test_the_wheel_holds_the_packages_and_nothing_else(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="pip install hatchling hatch-fancy-pypi-readme")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="pip install hatchling hatch-fancy-pypi-readme")
    monkeypatch.chdir(project)  # as build frontends do
    (built,) = wheel.WheelBuilder(str(project)).build(directory=str(tmp_path), versions=["standard"])
    (release_check.check_wheel if project == ROOT else release_check.check_thin_wheel)(Path(built))
