"""What each vector store fails of LlamaIndex's contract and of LangChain's standard suite, as `docs/conformance.md`.

    python -m tests.conformance [--into ENVIRONMENT]

makes an environment, installs the other stores there, runs both suites on all of them, and writes the page.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"
FRAMEWORKS = ["llama-index-core>=0.14,<0.15", "langchain-core>=1.0,<2", "langchain-tests>=1.0,<2", "numpy", "numba"]
OTHERS = [
    *("chromadb", "qdrant-client", "lancedb", "pandas", "faiss-cpu", "langchain-community"),
    *("langchain-chroma", "langchain-qdrant"),
    *(f"llama-index-vector-stores-{name}" for name in ("chroma", "qdrant", "lancedb")),
]
SUITES = {
    "llama_index_stores": (
        "LlamaIndex's contract",
        {"Bqstore": "bqstore", "Simple": "Simple", "Chroma": "Chroma", "Qdrant": "Qdrant", "LanceDB": "LanceDB"},
    ),
    "langchain_stores": (
        "LangChain's standard suite",
        {each: each.replace("Bq", "bq") for each in ("Bqstore", "InMemory", "Chroma", "Qdrant", "FAISS", "LanceDB")},
    ),
}
NAMED = [
    *("llama-index-core", "langchain-core", "langchain-tests", "chromadb", "qdrant-client", "lancedb", "faiss-cpu"),
    *("llama-index-vector-stores-chroma", "llama-index-vector-stores-qdrant", "llama-index-vector-stores-lancedb"),
    *("langchain-chroma", "langchain-qdrant", "langchain-community"),
]
BEFORE = """# What other stores do, by the same tests

Written by `python -m tests.conformance`: each store in its newest release, in an environment of its own, without a
server (Qdrant in its local mode). A test that a store fails shows why; `-` is passed. That a store lacks what it never
promised is no fault of it, but whoever changes stores should know.

"""
SUITE_OF_LLAMA_INDEX = """LlamaIndex has no suite that all stores run. This one is
`llama_index.vector_stores.bqstore.testing.VectorStoreTests`, a pytest class for any store: subclass it, define
`make_store`, and see its docstring. What is right is what LlamaIndex's own `SimpleVectorStore` does, as far as it goes;
it keeps no nodes, which is why it fails what asks for them.
"""
SUITE_OF_LANGCHAIN = "The `VectorStoreIntegrationTests` of langchain-tests, unchanged.\n"

Outcomes = dict[str, dict[str, str]]  # test -> store -> why it failed, "" if it passed


def install(folder: Path) -> Path:
    """The interpreter of an environment with everything in it."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "pytest>=8", "pytest-asyncio", *FRAMEWORKS, *OTHERS], check=True)
    return python


def run(python: Path, suite: str) -> Outcomes:
    """Run a suite on all stores."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")])}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=default", f"--junitxml={report}"]
        command = [python, "-m", "pytest", "-q", "--tb=line", *options, f"tests/conformance/{suite}.py"]
        subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=subprocess.DEVNULL)
        cases = ET.parse(report).getroot().iter("testcase")
        found: Outcomes = {}
        for case in cases:
            store = str(case.get("classname")).rpartition(".Test")[2]
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            skipped = case.find("skipped")
            is_out = skipped is not None and skipped.get("type") == "pytest.skip"
            why = "" if bad is None else _short(str(bad.get("message")))
            found.setdefault(str(case.get("name")), {})[SUITES[suite][1][store]] = "left out" if is_out else why
        return found


def _short(message: str) -> str:
    """The kind of an error for a cell of the table: whether the store refused, or answered otherwise."""
    first = message.strip().splitlines()[0] if message.strip() else "failed"
    kind = first.split(":")[0].rpartition(".")[2].split(" ")[0]
    if kind == "AssertionError" or first.startswith(("assert", "Failed")):
        said = first.removeprefix("AssertionError: ")
        return said if said in ("no nodes", "no embedding", "no similarities") else "wrong answer"
    return f"`{kind}`"


def table(outcomes: Outcomes, stores: list[str]) -> str:
    """The failures of each store, a row for each test that some store fails."""
    total = len(outcomes)
    passed = [sum(each.get(store) == "" for each in outcomes.values()) for store in stores]
    lines = [
        f"| {total} tests | {' | '.join(stores)} |",
        f"|---|{'---|' * len(stores)}",
        f"| **passed** | {' | '.join(f'**{count}**' for count in passed)} |",
    ]
    for name, each in outcomes.items():
        if any(each.get(store) != "" for store in stores):
            words = name.removeprefix("test_").replace("_", " ").replace("[", " (").replace("]", ")")
            lines.append(f"| {words} | {' | '.join(each.get(store, 'not run') or '-' for store in stores)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, help="folder of the environment, kept; else a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        python = install(given.into or Path(temporary) / "environment")
        parts = [BEFORE]
        for suite, words in (("llama_index_stores", SUITE_OF_LLAMA_INDEX), ("langchain_stores", SUITE_OF_LANGCHAIN)):
            title, stores = SUITES[suite]
            parts.append(f"## {title}\n\n{words}\n{table(run(python, suite), list(stores.values()))}\n")
        asked = f"from importlib.metadata import version; print(', '.join(n + ' ' + version(n) for n in {NAMED!r}))"
        versions = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout
    parts.append(f"## Versions\n\n{versions.strip()}.\n")
    PAGE.write_text("".join(parts), "utf-8")


if __name__ == "__main__":
    main()
