"""Check a release: the wheel and the sdist are complete, and each extra works alone in a fresh environment.

    make release-check                                            everything: some half an hour
    python tests/release_check.py --only artifacts                build and look inside, nothing more
    python tests/release_check.py --only langchain --only editable
    python tests/release_check.py --python python3.13             environments of another Python

It builds both files, then makes one environment after another (the wheel alone, the wheel with each extra, the editable
install of all) and runs the programs of `release_programs.py` there, from a folder outside the sources. An extra that
is installed must work; one that is not must be named by the error. At the end (``--only importers``) old and new
versions of other libraries write their folders, which are imported and compared. It needs nothing but Python and a
package index.
"""

import argparse
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
from email.message import Message
from email.parser import Parser
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "bqstore": ROOT / "bqstore",
    "langchain_bqstore": ROOT / "integrations" / "langchain_bqstore",
    "llama_index/vector_stores/bqstore": ROOT / "integrations" / "llama_index" / "vector_stores" / "bqstore",
}
FRAMEWORKS = ("langchain_core", "llama_index.core", "openai")

DEMO = ("langchain_core", "llama_index.core", "sklearn", "rich")
TESTED = (*DEMO, "openai", "typer", "plotly", "qdrant_client")
ALL = (*TESTED, "mcp")
PEERS = ("langchain_core", "chromadb", "faiss", "lancedb", "qdrant_client", "sqlite_vec")
BENCH = ("pytest", "pytest_benchmark")
TOOLS = (*BENCH, "hypothesis", "importlinter", "langchain_tests", "mypy", "pytest_asyncio", "ruff")
# what each extra installs; a framework that is not in the list must be missing
EXTRAS: dict[str, tuple[str, ...]] = {
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index.core",),
    "openai": ("openai",),
    "cli": ("typer", "rich", "plotly"),
    "qdrant": ("qdrant_client",),
    "mcp": ("typer", "rich", "plotly", "mcp"),
    "demo": DEMO,
    "peers": PEERS,
    "docs": ("mkdocs", "material", "mkdocstrings", "griffe", "ruff"),
    "bench": ("langchain_core", *BENCH),
    "test": (*TESTED, *TOOLS),
    "all": ALL,
}

# of each library whose folders are imported the oldest version and the newest; the old ones need Python 3.11 or older
OLD = "numpy<2 setuptools<80"
OTHERS = {
    "chroma": (*(f"chromadb=={each} {OLD}" for each in ("0.4.3", "0.4.24", "0.5.0", "0.5.23")), "chromadb"),
    "faiss": (
        f"langchain==0.0.100 faiss-cpu==1.7.3 {OLD}",
        f"langchain==0.0.354 faiss-cpu==1.7.4 {OLD}",
        "langchain-community faiss-cpu",
    ),
    "lancedb": ("lancedb==0.14.0 pyarrow<18 numpy<2", "lancedb"),
    "langchain-memory": ("langchain-core==0.2.27", "langchain-core"),
    "llama-index": (f"llama-index==0.6.20 langchain==0.0.200 {OLD}", "llama-index-core==0.10.0", "llama-index-core"),
    "qdrant": ("qdrant-client==1.1.7 numpy<2", "qdrant-client==1.7.0 numpy<2", "qdrant-client"),
    "sqlite-vec": ("sqlite-vec==0.1.0 apsw", "sqlite-vec apsw"),
}


class CheckFailed(Exception):
    """What is wrong with the release."""


def main() -> int:
    """Build, look inside, install, run the programs; return the exit status."""
    names = ["artifacts", "core", *EXTRAS, "editable", "importers"]
    parser = argparse.ArgumentParser(description="Build a release and try it in fresh environments.")
    parser.add_argument("--only", action="append", choices=names, help="this check and no other; may be repeated")
    parser.add_argument("--python", default=sys.executable, help="make environments with this interpreter")
    options = parser.parse_args()
    failures: list[str] = []

    def attempt(check: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except (CheckFailed, subprocess.SubprocessError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            failures.append(f"{check}: {str(error).strip().splitlines()[0]}")
            print("    FAILED  " + str(error).replace("\n", "\n    "), flush=True)
            return None

    with tempfile.TemporaryDirectory(prefix="bqstore-release-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary).resolve()
        print("\n[artifacts]", flush=True)
        wheel = attempt("artifacts", lambda: build(options.python, folder))
        for name in names[1:] if wheel is not None else ():
            if options.only is None or name in options.only:
                print(f"\n[{name}]", flush=True)
                checks = importers if name == "importers" else partial(checks_of, name)
                for run in checks(wheel, options.python, folder):
                    attempt(name, run)
    print("\n" + ("\n".join(["FAILED", *failures]) if failures else "all passed"))
    return 1 if failures else 0


def step(what: str, command: list[object], cwd: Path, extra_env: dict[str, str] | None = None) -> str:
    """Run a command, print how long it took, return its last line; CheckFailed has its last ones if it fails."""
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
        check=False,
    )
    print(f"{time.perf_counter() - start:6.1f} s", flush=True)
    tail = done.stdout.strip().splitlines()[-30:] or [f"exit status {done.returncode}, no output"]
    if done.returncode:
        raise CheckFailed("\n".join([f"{what}: {tail[-1]}", f"$ {shlex.join(words)}", *tail]))
    return tail[-1]


def clean_environ() -> dict[str, str]:
    """The environment without what would show a program more than its own installation, or let it spend money."""
    hidden = re.compile("PYTHON.*|VIRTUAL_ENV|OPENAI_.*|NUMBA_.*|BQSTORE_.*")
    kept = {name: value for name, value in os.environ.items() if not hidden.fullmatch(name)}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}


# ---- the two files


def build(python: str, folder: Path) -> Path:
    """Make the wheel and the sdist, and a wheel from the sdist; check them and return the wheel."""
    pip = [make_environment(python, folder / "build"), "-m", "pip", "--quiet"]
    step("install build", [*pip, "install", "build"], folder)
    dist, again = folder / "dist", folder / "again"
    step("build wheel and sdist", [pip[0], "-m", "build", "--wheel", "--sdist", "--outdir", dist, ROOT], folder)
    (wheel,), (sdist,) = dist.glob("*-py3-none-any.whl"), dist.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    step("build wheel from sdist", [*pip, "wheel", "--no-deps", "--wheel-dir", again, sdist], folder)
    (second,) = again.glob("*.whl")
    differ = {entry[0] for entry in contents(wheel) ^ contents(second)}
    require(not differ, f"the sdist makes another wheel than the sources: {listed(differ)}")
    shutil.rmtree(folder / "build")
    print(f"    {wheel.name}, {wheel.stat().st_size >> 10} KiB; {sdist.name}, {sdist.stat().st_size >> 10} KiB")
    return wheel


def check_wheel(wheel: Path) -> None:
    """The files of the three packages, the license, the metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode("utf-8"))
    present = {name for name in names if not name.startswith(f"{info}/")}
    expected = {
        f"{home}/{path.relative_to(source).as_posix()}"
        for home, source in PACKAGES.items()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    require(present >= expected, f"the wheel lacks {listed(expected - present)}")
    # an __init__.py above llama_index/vector_stores/bqstore would hide llama-index-core
    require(present <= expected, f"the wheel has more than the three packages: {listed(present - expected)}")
    require(f"{info}/licenses/LICENSE" in names, "the wheel lacks the LICENSE")
    check_metadata(metadata)


def check_metadata(metadata: Message) -> None:
    """The metadata that installers and package indexes read."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "bqstore" / "_version.py").read_text("utf-8"))
    require(version is not None and metadata["Version"] == version[1], f"the version is {metadata['Version']}")
    require(bool(str(metadata.get_payload()).strip()), "there is no long description: the README is empty")
    requirements = metadata.get_all("Requires-Dist", [])
    core = {re.split(r"[^\w.-]", line)[0] for line in requirements if "extra ==" not in line}
    require(core == {"numpy", "numba"}, f"the core requires {listed(core)}; expected numpy and numba")
    extras = set(metadata.get_all("Provides-Extra", []))
    require(extras == set(EXTRAS), f"the extras are {listed(extras)}; expected {listed(set(EXTRAS))}")


def check_sdist(sdist: Path) -> None:
    """The sources that are needed to build and test the project; nothing that a run has made."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    for needed in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "tests/release_check.py"):
        require(needed in names, f"the sdist lacks {needed}")
    made = {
        name for name in names if re.search(r"(^|/)(__pycache__|\.[^/]*(cache|venv)|bqstore-demo)/|\.nb[ci]$", name)
    }
    require(not made, f"the sdist holds what a run has made: {listed(made)}")


def contents(wheel: Path) -> set[tuple[str, int]]:
    """Names and checksums of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {(entry.filename, entry.CRC) for entry in archive.infolist()}


def require(condition: bool, message: str) -> None:
    """Raise CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def listed(names: set[str]) -> str:
    """The first ten names, in order."""
    ordered = sorted(names)
    return ", ".join(ordered[:10]) + (f" and {len(ordered) - 10} more" if len(ordered) > 10 else "")


# ---- the environments


def make_environment(python: str, folder: Path) -> Path:
    """Make a virtual environment and return its interpreter."""
    step("make environment", [python, "-m", "venv", folder], folder.parent)
    return folder / "bin" / "python"


def checks_of(name: str, wheel: Path, python: str, folder: Path) -> list[Callable[[], object]]:
    """The steps of one environment: install, run each program, remove."""
    environment, elsewhere = folder / f"env-{name}", folder / f"elsewhere-{name}"
    elsewhere.mkdir()
    inside = environment / "bin" / "python"
    editable = name == "editable"
    what: list[object] = ["-e", f"{ROOT}[all]"] if editable else [f"{wheel}[{name}]" if name in EXTRAS else wheel]
    modules = ALL if editable else EXTRAS.get(name, ())
    # the editable install runs from the sources: what numba compiles must not be left among them
    extra_env = {"NUMBA_CACHE_DIR": str(folder / "numba")} if editable else {}

    def install() -> None:
        make_environment(python, environment)
        step("pip install", [inside, "-m", "pip", "install", "--quiet", *what], elsewhere)
        step("pip check", [inside, "-m", "pip", "check"], elsewhere)
        for module in modules:
            step(f"import {module}", [inside, "-I", "-c", f"import {module}"], elsewhere)

    def program(program_name: str) -> Callable[[], object]:
        file = Path(__file__).with_name("release_programs.py")
        arguments = (program_name, ROOT if editable else environment, elsewhere / program_name)
        return lambda: step(program_name, [inside, "-I", file, *arguments], elsewhere, extra_env)

    def demo() -> None:
        step("demo", [inside, ROOT / "examples" / "ask_the_manual.py", "--limit", 300], elsewhere)

    def remove() -> None:
        shutil.rmtree(environment, ignore_errors=True)

    programs = ["core", *(f"{'use' if each in modules else 'miss'}-{each}" for each in FRAMEWORKS)]
    return [install, *map(program, programs), *([demo] if name == "demo" else []), remove]


def importers(wheel: Path, python: str, folder: Path) -> list[Callable[[], object]]:
    """The steps for folders of other libraries: each version writes its own, and the wheel imports them.

    Old versions that this Python has no packages for are named and left out; the newest must install.
    """
    reader, here = folder / "env-reader", Path(__file__).with_name("importers")

    def install() -> None:
        make_environment(python, reader)
        what = [f"{wheel}[cli]", "lancedb", "pyarrow", "faiss-cpu"]
        step("pip install", [reader / "bin" / "python", "-m", "pip", "install", "--quiet", *what], folder)

    def moved(kind: str, packages: str) -> Callable[[], object]:
        def run() -> None:
            environment, written = folder / "env-writer", folder / "written"
            print(f"    {kind}: {packages}", flush=True)
            try:
                inside = make_environment(python, environment)
                try:
                    step("pip install", [inside, "-m", "pip", "install", "--quiet", *packages.split()], folder)
                except CheckFailed as error:
                    if "==" not in packages:
                        raise
                    print(f"    skipped, not to be had on this Python: {str(error).splitlines()[0]}", flush=True)
                    return
                step("write", [inside, "-I", here / "writers.py", kind, written], folder)
                said = step("import", [reader / "bin" / "python", "-I", here / "reading.py", written], folder)
                print(f"    {said}", flush=True)
            finally:
                shutil.rmtree(environment, ignore_errors=True)
                shutil.rmtree(written, ignore_errors=True)

        return run

    def remove() -> None:
        shutil.rmtree(reader, ignore_errors=True)

    return [install, *(moved(kind, packages) for kind, versions in OTHERS.items() for packages in versions), remove]


if __name__ == "__main__":
    sys.exit(main())
