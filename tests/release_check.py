"""What a release needs: the wheel and the sdist are whole, and each extra works alone in a fresh environment.

    make release-check                                            all of it: some ten minutes
    python tests/release_check.py --only artifacts                build and look inside, nothing more
    python tests/release_check.py --only langchain --only editable
    python tests/release_check.py --python python3.13             environments of another Python

Builds both files, then makes one environment after another (the wheel alone, the wheel with each extra, the editable
install of all), runs small programs in it from a folder that is not the sources', and removes it. An extra that is
there must work; one that is not must be named by the error. Needs nothing but Python and a package index.
"""

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "bqstore": ROOT / "bqstore",
    "langchain_bqstore": ROOT / "integrations" / "langchain_bqstore",
    "llama_index.vector_stores.bqstore": ROOT / "integrations" / "llama_index" / "vector_stores" / "bqstore",
}
CORE_REQUIRES = {"numpy", "numba"}
FRAMEWORKS = ("langchain_core", "llama_index.core", "openai")

DEMO = ("langchain_core", "llama_index.core", "sklearn", "rich")
ALL = (*DEMO, "openai", "typer", "plotly", "qdrant_client")
BENCH = ("pytest", "pytest_benchmark")
TOOLS = (*BENCH, "hypothesis", "importlinter", "langchain_tests", "mypy", "pytest_asyncio", "ruff")
# what each extra brings; a framework that is not in the list must be missing
EXTRAS: dict[str, tuple[str, ...]] = {
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index.core",),
    "openai": ("openai",),
    "cli": ("typer", "rich", "plotly"),
    "qdrant": ("qdrant_client",),
    "demo": DEMO,
    "bench": ("langchain_core", *BENCH),
    "test": (*ALL, *TOOLS),
    "all": ALL,
}


class CheckFailed(Exception):
    """Something that a release must not have; the message says what."""


# ---- the story


def main() -> int:
    """Build, look, install, try, report; the exit status."""
    options = parse_arguments()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="bqstore-release-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary).resolve()
        begin("artifacts", options.only)
        built = Outcome("artifacts")
        outcomes.append(built)
        wheel = built.attempt(lambda: build(options.python, folder))
        if wheel is not None:
            for name in options.only:
                if name != "artifacts":
                    begin(name, options.only)
                    outcomes.append(try_environment(name, wheel, options.python, folder))
    print(f"\n{'check':<12}{'packages':>9}{'install':>9}{'programs':>10}  result")
    for outcome in outcomes:
        print(outcome.line())
    failed = [outcome.name for outcome in outcomes if outcome.failures]
    print(f"\nFAILED: {', '.join(failed)}" if failed else f"\nall {len(outcomes)} passed")
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    """The command line; ``only`` becomes the checks to run, in order, the artifacts first."""
    names = ["artifacts", "core", *EXTRAS, "editable"]
    parser = argparse.ArgumentParser(description="Build a release and try it in fresh environments.")
    parser.add_argument("--only", action="append", choices=names, help="this check and no other; may be repeated")
    parser.add_argument("--python", default=sys.executable, help="make environments with this interpreter")
    options = parser.parse_args()
    chosen = {"artifacts", *(options.only or names)}
    options.only = [name for name in names if name in chosen]
    return options


@dataclass
class Outcome:
    """How one check went."""

    name: str
    packages: int = 0
    install_seconds: float = 0.0
    program_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def attempt(self, action: Callable[[], T]) -> T | None:
        """Do it; what it returns, or None after noting why it failed."""
        try:
            return action()
        except (CheckFailed, subprocess.SubprocessError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            self.failures.append(str(error).strip().splitlines()[0])
            print("    FAILED  " + str(error).replace("\n", "\n    "), flush=True)
            return None

    def line(self) -> str:
        """The row of the table."""
        packages = f"{self.packages or '':>9}"
        seconds = [f"{spent:.0f} s" if spent else "" for spent in (self.install_seconds, self.program_seconds)]
        return f"{self.name:<12}{packages}{seconds[0]:>9}{seconds[1]:>10}  {'; '.join(self.failures) or 'ok'}"


def begin(name: str, names: list[str]) -> None:
    """Say which check starts."""
    print(f"\n[{names.index(name) + 1}/{len(names)}] {name}", flush=True)


def step(what: str, command: list[object], cwd: Path, extra_env: dict[str, str] | None = None) -> str:
    """Run a command and say how long it took; its output, or CheckFailed with the end of it."""
    print(f"    {what:<28}", end="", flush=True)
    start = time.perf_counter()
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**clean_environ(), **(extra_env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=1800,
        check=False,
    )
    print(f"{time.perf_counter() - start:6.1f} s", flush=True)
    if done.returncode:
        tail = done.stdout.strip().splitlines()[-30:] or [f"exit status {done.returncode}, no output"]
        raise CheckFailed("\n".join([f"{what}: {tail[-1]}", f"$ {shlex.join(words)}", *tail]))
    return done.stdout


def clean_environ() -> dict[str, str]:
    """The environment without what would let a program see more than its own installation, or spend money."""
    hidden = re.compile("PYTHON.*|VIRTUAL_ENV|OPENAI_.*|NUMBA_.*|BQSTORE_.*")
    kept = {name: value for name, value in os.environ.items() if not hidden.fullmatch(name)}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}


# ---- the two files


def build(python: str, folder: Path) -> Path:
    """Make the wheel and the sdist, and a wheel from the sdist, and look inside; the wheel."""
    pip = [make_environment(python, folder / "build"), "-m", "pip", "--quiet"]
    step("install build", [*pip, "install", "build"], folder)
    dist, again = folder / "dist", folder / "again"
    step("build wheel and sdist", [pip[0], "-m", "build", "--wheel", "--sdist", "--outdir", dist, ROOT], folder)
    wheel, sdist = only_one(dist, "*.whl"), only_one(dist, "*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    step("build wheel from sdist", [*pip, "wheel", "--no-deps", "--wheel-dir", again, sdist], folder)
    second = only_one(again, "*.whl")
    check_wheel(second)
    differ = {entry[0] for entry in contents(wheel) ^ contents(second)}
    require(not differ, f"the sdist makes another wheel than the sources: {listed(differ)}")
    shutil.rmtree(folder / "build")
    print(f"    {wheel.name}, {wheel.stat().st_size >> 10} KiB; {sdist.name}, {sdist.stat().st_size >> 10} KiB")
    return wheel


def check_wheel(wheel: Path) -> None:
    """All of the three packages, and nothing else; the metadata that an installer and a reader need."""
    require(wheel.name.endswith("-py3-none-any.whl"), f"{wheel.name} is not for every platform")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = next((name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA")), "")
        require(bool(info), f"{wheel.name} has no METADATA")
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode("utf-8"))
    present = {name for name in names if not name.startswith(f"{info}/")}
    expected = set()
    for package, source in PACKAGES.items():
        home = package.replace(".", "/")
        files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        expected |= {f"{home}/{path.relative_to(source).as_posix()}" for path in files}
        require(f"{home}/__init__.py" in present, f"the wheel lacks {home}/__init__.py")
        require(f"{home}/py.typed" in present, f"the wheel lacks {home}/py.typed")
    require("bqstore/storage/FORMAT.md" in present, "the wheel lacks bqstore/storage/FORMAT.md")
    require(f"{info}/licenses/LICENSE" in names, "the wheel lacks the LICENSE")
    require(present >= expected, f"the wheel lacks {listed(expected - present)}")
    # __init__.py above llama_index.vector_stores.bqstore, which would hide llama-index-core, is among these
    require(present <= expected, f"the wheel has more than the three packages: {listed(present - expected)}")
    odd = {name for name in present if not name.endswith((".py", "/py.typed", ".md"))}
    require(not odd, f"the wheel holds files of no known kind: {listed(odd)}")
    tests = {name for name in present if re.search(r"(^|/)(tests?|test_[^/]*|conftest\.py)(/|$)", name)}
    require(not tests, f"the wheel holds tests: {listed(tests)}")
    check_metadata(metadata)


def check_metadata(metadata: Message) -> None:
    """What installers and package indexes read."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "bqstore" / "_version.py").read_text("utf-8"))
    require(version is not None and metadata["Version"] == version[1], f"the version is {metadata['Version']}")
    require(metadata["License-Expression"] == "Apache-2.0", f"the license is {metadata['License-Expression']}")
    require(metadata["Requires-Python"] == ">=3.10", f"Requires-Python is {metadata['Requires-Python']}")
    require(bool(str(metadata.get_payload()).strip()), "there is no long description: the README is empty")
    requirements = metadata.get_all("Requires-Dist", [])
    core = {re.split(r"[^\w.-]", line)[0] for line in requirements if "extra ==" not in line}
    require(core == CORE_REQUIRES, f"the core requires {listed(core)}; expected {listed(CORE_REQUIRES)}")
    extras = set(metadata.get_all("Provides-Extra", []))
    require(extras == set(EXTRAS), f"the extras are {listed(extras)}; expected {listed(set(EXTRAS))}")


def check_sdist(sdist: Path) -> None:
    """The sources, with which the project can be built and tested; nothing that was made from them."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    for needed in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "tests/release_check.py"):
        require(needed in names, f"the sdist lacks {needed}")
    made = {
        name for name in names if re.search(r"(^|/)(__pycache__|\.[^/]*(cache|venv)|bqstore-demo)/|\.nb[ci]$", name)
    }
    require(not made, f"the sdist holds what was made by a run: {listed(made)}")


def contents(wheel: Path) -> set[tuple[str, int]]:
    """Names and checksums of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {(entry.filename, entry.CRC) for entry in archive.infolist()}


def only_one(folder: Path, pattern: str) -> Path:
    """The one file of the folder that matches."""
    found = list(folder.glob(pattern))
    require(len(found) == 1, f"expected one {pattern}, found {len(found)}")
    return found[0]


def require(condition: bool, message: str) -> None:
    """Raise CheckFailed with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def listed(names: set[str]) -> str:
    """Names in order, the first ten of them."""
    ordered = sorted(names)
    return ", ".join(ordered[:10]) + (f" and {len(ordered) - 10} more" if len(ordered) > 10 else "")


# ---- the environments


def make_environment(python: str, folder: Path) -> Path:
    """A fresh virtual environment; its interpreter."""
    step("make environment", [python, "-m", "venv", folder], folder.parent)
    return folder / "bin" / "python"


def try_environment(name: str, wheel: Path, python: str, folder: Path) -> Outcome:
    """Install into a fresh environment and run every program there; the environment is gone afterwards."""
    outcome, environment, elsewhere = Outcome(name), folder / f"env-{name}", folder / f"elsewhere-{name}"
    elsewhere.mkdir()
    editable = name == "editable"
    what: list[object] = ["-e", f"{ROOT}[all]"] if editable else [f"{wheel}[{name}]" if name in EXTRAS else wheel]
    start = time.perf_counter()

    def install() -> Path:
        inside = make_environment(python, environment)
        step("pip install", [inside, "-m", "pip", "install", "--quiet", *what], elsewhere)
        step("pip check", [inside, "-m", "pip", "check"], elsewhere)
        found = step("pip list", [inside, "-m", "pip", "list", "--format=freeze"], elsewhere)
        outcome.packages = len(found.splitlines())
        return inside

    inside = outcome.attempt(install)
    outcome.install_seconds = time.perf_counter() - start
    if inside is not None:
        start = time.perf_counter()
        origin = ROOT if editable else environment
        # the editable install runs from the sources: what numba compiles must not be left among them
        extra_env = {"NUMBA_CACHE_DIR": str(folder / "numba")} if editable else {}
        for program in programs_for(EXTRAS["all"] if editable else EXTRAS.get(name, ())):
            arguments = [inside, "-I", Path(__file__).resolve(), "--program", program, origin, elsewhere / program]
            if program == "demo":
                arguments = [inside, ROOT / "examples" / "ask_the_manual.py", "--limit", 300]
            outcome.attempt(lambda p=program, a=arguments: step(p, a, elsewhere, extra_env))
        outcome.program_seconds = time.perf_counter() - start
    shutil.rmtree(environment, ignore_errors=True)
    shutil.rmtree(elsewhere, ignore_errors=True)
    return outcome


def programs_for(brought: tuple[str, ...]) -> list[str]:
    """What must work where these modules are installed: names of PROGRAMS, or ``demo``."""
    programs = ["core", *(f"import {module}" for module in brought)]
    programs += [f"use {framework}" if framework in brought else f"miss {framework}" for framework in FRAMEWORKS]
    if "langchain_core" in brought and "llama_index.core" in brought:
        programs.append("both frameworks")
    if brought == DEMO:
        programs.append("demo")
    return programs


# ---- the programs: run in the new environment, where this file's first half is of no use


def run_program(name: str, origin: Path, folder: Path) -> None:
    """Run one program, in a process of its own; ``origin`` is where the packages must come from."""
    folder = folder.with_name(folder.name.replace(" ", "-"))
    if name.startswith("import "):
        importlib.import_module(name.removeprefix("import "))
        return
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None, f"{package} is not installed"
        home = Path(spec.origin).resolve()
        assert home.is_relative_to(origin), f"{package} comes from {home}, not from {origin}"
    PROGRAMS[name](folder)


def core(folder: Path) -> None:
    """A store on disk: written, searched by its bits and by its originals, read by a second handle, opened again."""
    from importlib.metadata import version

    import numpy as np

    import bqstore

    assert bqstore.__version__ == version("bqstore")
    vectors = np.random.default_rng(7).standard_normal((500, 200)).astype(np.float32)
    ids = [f"document {i}" for i in range(500)]
    with bqstore.open(folder, hnsw={"full_scan_threshold": 0}) as store:
        store.add(vectors, ids, [f"text {i}" for i in range(500)], [{"even": i % 2 == 0} for i in range(500)])
        assert [hit.id for hit in store.search(vectors[3], k=1)] == ["document 3"]
        with bqstore.open(folder, read_only=True) as reader:
            assert len(reader) == 500
        before = store.search(vectors[4], k=5, filter={"even": True})
        assert before[0].id == "document 4" and abs(before[0].score - 1) < 1e-5
    with bqstore.open(folder) as store:
        assert store.search(vectors[4], k=5, filter={"even": True}) == before
        assert store.search(vectors[5], k=1, exact=True)[0].text == "text 5"
        assert store.delete(["document 3"]) == 1 and "document 3" not in store
        report = store.verify()
        assert report.ok and report.documents == 499, report.problems


def use_langchain(folder: Path) -> None:
    """Texts in, documents out, before and after opening again."""
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from langchain_bqstore import BQVectorStore

    texts = [f"passage {i}" for i in range(50)]
    model = DeterministicFakeEmbedding(size=96)
    with BQVectorStore(model, path=folder, oversampling=2.0) as store:
        ids = store.add_texts(texts, [{"number": i} for i in range(50)])
        assert store.similarity_search("passage 8", k=1)[0].page_content == "passage 8"
    with BQVectorStore(model, path=folder) as store:
        found = store.as_retriever(search_kwargs={"k": 3, "filter": {"number": [8, 9]}}).invoke("passage 9")
        assert [document.page_content for document in found] == ["passage 9", "passage 8"]
        assert store.get_by_ids(ids[:1])[0].metadata == {"number": 0}


def use_llama_index(folder: Path) -> None:
    """Documents through an index into the store; nodes out of a retriever, before and after opening again."""
    from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex

    from llama_index.vector_stores.bqstore import BQVectorStore

    model = MockEmbedding(embed_dim=96)
    documents = [Document(text=f"passage {i}", doc_id=f"d{i}", metadata={"number": i}) for i in range(9)]
    with BQVectorStore(path=folder, oversampling=2.0) as store:
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=model)
        index.delete_ref_doc("d3")
    with BQVectorStore(path=folder) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=model)
        found = index.as_retriever(similarity_top_k=20).retrieve("anything")
        assert {node.text for node in found} == {f"passage {i}" for i in range(9) if i != 3}
        assert all(abs(node.score - 1) < 1e-5 for node in found)


def use_openai(folder: Path) -> None:
    """Texts embedded by a server on this machine, found again in a store."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "embeddings"))
    from fake_server import serve

    import bqstore

    texts = ["one", "two", "three"]
    with serve() as server, bqstore.open(folder) as store:
        embedder = bqstore.OpenAIEmbedder(
            api_key="no-real-key", model="own", base_url=server.url, cache=folder / "cache"
        )
        store.add(embedder.embed(texts), texts=texts)
        assert store.search(embedder.embed_query("two"), k=1)[0].text == "two"
        embedder.close()


def both_frameworks(folder: Path) -> None:
    """One folder, written through LangChain and read through LlamaIndex in one process."""
    import llama_index.core
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from llama_index.core.vector_stores import VectorStoreQuery

    import langchain_bqstore
    import llama_index.vector_stores.bqstore as llama_bqstore

    assert llama_index.core.__file__ is not None
    model = DeterministicFakeEmbedding(size=96)
    with langchain_bqstore.BQVectorStore(model, path=folder) as lang:
        lang.add_texts(["cats", "dogs"], [{"n": 1}, {"n": 2}], ids=["c", "d"])
        score = lang.similarity_search_with_score("dogs", k=1)[0][1]
        with llama_bqstore.BQVectorStore(path=folder, read_only=True) as llama:
            query = VectorStoreQuery(query_embedding=model.embed_query("dogs"), similarity_top_k=1)
            found = llama.query(query)
    assert found.ids == ["d"] and found.similarities == [score]
    assert found.nodes[0].metadata == {"n": 2} and found.nodes[0].get_content() == "dogs"


def miss_langchain(folder: Path) -> None:
    """Without langchain-core."""
    names_the_extra("langchain", "langchain_core", lambda: importlib.import_module("langchain_bqstore"))


def miss_llama_index(folder: Path) -> None:
    """Without llama-index-core."""
    module = "llama_index.vector_stores.bqstore"
    names_the_extra("llama-index", "llama_index.core", lambda: importlib.import_module(module))


def miss_openai(folder: Path) -> None:
    """Without openai, and without a key: the package comes first."""
    import bqstore

    names_the_extra("openai", "openai", bqstore.OpenAIEmbedder)


def names_the_extra(extra: str, module: str, action: Callable[[], object]) -> None:
    """Assert that the module is missing, and that the action fails with an ImportError that says what to install."""
    assert importlib.util.find_spec(module) is None, f"{module} is there, though no extra that was asked for has it"
    for _ in range(2):  # the second import finds what the first has left in sys.modules
        try:
            action()
        except ImportError as error:
            assert f"bqstore[{extra}]" in str(error), f"the error does not name the extra: {error}"
        else:
            raise AssertionError(f"no ImportError without {module}")


PROGRAMS: dict[str, Callable[[Path], None]] = {
    "core": core,
    "use langchain_core": use_langchain,
    "use llama_index.core": use_llama_index,
    "use openai": use_openai,
    "both frameworks": both_frameworks,
    "miss langchain_core": miss_langchain,
    "miss llama_index.core": miss_llama_index,
    "miss openai": miss_openai,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--program"]:
        run_program(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(main())
