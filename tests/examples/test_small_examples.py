"""The examples that can be copied: each runs as it stands, without a key or a network, and runs again."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bqstore

from ..conftest import FULL
from ..embeddings.fake_server import serve
from ..pages import HUNG, reader_at
from .conftest import EXAMPLES

SHORT = ("core.py", "langchain_rag.py", "llama_index_query.py")  # to be read at a glance
PRINTED = {
    "core.py": "0.26 bits: Bits are small and quick\n0.00 floats: Floats are exact but large\n",
    "langchain_rag.py": "Answer from this: Floats are exact but large\nQuestion: what is exact\n",
    "llama_index_query.py": "Floats are exact but large\n",
    "multi_tenant.py": "ada ['ada/plan', 'ada/notes']\nbob ['bob/plan']\n",
    "hybrid.py": "by meaning: ['noise']\nby words:   ['code']\nby both:    code ",
    "own_recall.py": "the fastest that finds 98%: ",
}
NEEDED = {  # what else an example needs, and what it prints
    "from_chroma.py": (("chromadb",), "3 of 3 documents were read back and are the same: True\n1.00 a: one\n"),
    "langgraph_agent.py": (("langgraph",), "tool: Floats are exact but large\nai: Floats are, says the note.\n"),
}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Kernels in numba's cache, so that no example waits for them, and none says so."""
    bqstore.warm_up()


def run_in_a_process(example: Path, folder: Path) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)  # the folder changes
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_the_same_each_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run, and a second on what the first has stored: in this process, or in `make test-all` in two others."""
    monkeypatch.setattr(sys, "argv", [name])
    if FULL:
        printed = run_in_a_process(EXAMPLES / name, tmp_path) + run_in_a_process(EXAMPLES / name, tmp_path)
    else:
        with reader_at(tmp_path) as said:
            for _ in range(2):
                runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        printed = said.getvalue()
    first, second = printed[: len(printed) // 2], printed[len(printed) // 2 :]
    assert first == second or name == "own_recall.py"  # which measures times
    assert PRINTED[name] in first
    assert name != "llama_index_query.py" or first.endswith("from ['floats']\n")


def printed_by(name: str, folder: Path, **environment: str) -> str:
    """What an example prints that is run in this process."""
    with reader_at(folder, **environment) as said:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return said.getvalue()


@pytest.mark.long
@pytest.mark.parametrize("name", NEEDED)
def test_an_example_that_needs_more_runs_where_that_is(name: str, tmp_path: Path) -> None:
    modules, expected = NEEDED[name]
    for module in modules:
        pytest.importorskip(module, reason=f"{module}, which {name} needs, is not installed")
    assert expected in run_in_a_process(EXAMPLES / name, tmp_path)
    assert expected in run_in_a_process(EXAMPLES / name, tmp_path)


def test_without_chromadb_the_move_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chromadb", None)
    monkeypatch.setattr(sys, "argv", ["from_chroma.py"])
    with pytest.raises(SystemExit) as stopped:
        printed_by("from_chroma.py", tmp_path)
    assert str(stopped.value).startswith("skipped: ") and "pip install chromadb" in str(stopped.value)


def test_own_vectors_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((60, 8)))
    monkeypatch.setattr(sys, "argv", ["own_recall.py", str(tmp_path / "v.npy")])
    assert printed_by("own_recall.py", tmp_path).startswith("Your searches find 100.0%")


def test_streaming_ingest_sends_each_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit, match="skipped: set OPENAI_API_KEY"):
        printed_by("streaming_ingest.py", tmp_path)
    with serve() as server:
        environment = {"OPENAI_API_KEY": "sk-of-a-test", "OPENAI_BASE_URL": server.url}
        expected = "3 texts in the collection; {} came from the cache, which costs nothing\nCats purr.\n"
        assert printed_by("streaming_ingest.py", tmp_path, **environment) == expected.format(0)
        assert printed_by("streaming_ingest.py", tmp_path, **environment) == expected.format(3)
        assert sorted(server.texts) == ["Bits are small.", "Cats purr.", "Floats are exact."]
        monkeypatch.setattr(sys, "stdin", io.StringIO("one line\n\nanother\n"))
        assert printed_by("streaming_ingest.py", tmp_path, **environment).startswith("5 texts in the collection")


def test_the_service_stores_searches_and_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="fastapi, which fastapi_service.py needs, is not installed")
    from fastapi.testclient import TestClient

    monkeypatch.chdir(tmp_path)
    app = runpy.run_path(str(EXAMPLES / "fastapi_service.py"))["app"]
    with TestClient(app) as client, TestClient(app) as other:
        for id_, text, lang in (("a", "bits are small", "en"), ("b", "Bits sind klein", "de")):
            assert client.put(f"/documents/{id_}", json={"text": text, "metadata": {"lang": lang}}).json() == {
                "id": id_
            }
        assert [hit["id"] for hit in other.get("/search", params={"q": "bits are small"}).json()] == ["a", "b"]
        assert [hit["id"] for hit in other.get("/search", params={"q": "bits", "lang": "de"}).json()] == ["b"]
        assert client.get("/search", params={"q": "bits", "k": 0}).status_code == 422
        assert client.delete("/documents/a").json() == {"deleted": 1}


def test_the_cells_of_the_notebook_can_be_run_again(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    names: dict[str, object] = {}
    with reader_at(tmp_path) as said:
        for code in [*sources[:3], *sources[1:3], *sources, *sources]:
            exec(code, names)
    assert said.getvalue().count("3 documents\n") == 4
    assert said.getvalue().startswith("3 documents\n0.33 cats: Cats are quick\n")


def test_every_example_is_run_and_short() -> None:
    files = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]
    copied = {path.name: path for path in files if path.name != "ask_the_manual.py"}
    others = {"streaming_ingest.py", "fastapi_service.py", "notebook.ipynb"}
    assert copied.keys() == PRINTED.keys() | NEEDED.keys() | others
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in copied.values():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert path.suffix == ".ipynb" or lines < (30 if path.name in SHORT else 100), path
        assert f"[{path.name}]({path.name})" in text
