"""Check a release: what is uploaded is complete, and each extra works alone in a fresh environment.

    make release-check                                            everything: some three quarters of an hour
    make release                                                  build and look inside; the files go to dist/
    python tests/release_check.py --only artifacts --dist dist    the same
    python tests/release_check.py --only langchain --only editable
    python tests/release_check.py --python python3.13             environments of another Python

It builds wheels and sdists of bqstore and of the two distributions without code (`distributions/`), then makes one
environment after another (the wheel alone, the wheel with each extra, the editable install of all) and runs the
programs of `release_programs.py` there, from a folder outside the sources. An extra that is installed must work; one
that is not must be named by the error. pip and uv install and remove the three distributions in both orders (``--only
pip --only uv``). At the end (``--only importers``) old and new versions of other libraries write their folders, which
are imported and compared. It needs nothing but Python and a package index.
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
# the distributions that carry no code, and the extra of bqstore that each requires
THIN = {"langchain-bqstore": "langchain", "llama-index-vector-stores-bqstore": "llama-index"}
BUILDERS = ("build", "twine", "check-wheel-contents")
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
    names = ["artifacts", "core", *EXTRAS, "editable", "pip", "uv", "importers"]
    parser = argparse.ArgumentParser(description="Build a release and try it in fresh environments.")
    parser.add_argument("--only", action="append", choices=names, help="this check and no other; may be repeated")
    parser.add_argument("--python", default=sys.executable, help="make environments with this interpreter")
    parser.add_argument("--dist", type=Path, help="copy the built files into this folder")
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
        if wheel is not None and options.dist is not None:
            shutil.copytree(wheel.parent, options.dist, dirs_exist_ok=True)
            print(f"    copied to {options.dist}")
        for name in names[1:] if wheel is not None else ():
            if options.only is None or name in options.only:
                print(f"\n[{name}]", flush=True)
                apart = {"importers": importers, "pip": partial(three, "pip"), "uv": partial(three, "uv")}
                checks = apart.get(name) or partial(checks_of, name)
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
    """Make wheels and sdists, and a wheel from each sdist; check all of them and return the wheel of bqstore."""
    inside = make_environment(python, folder / "build")
    pip = [inside, "-m", "pip", "--quiet"]
    step("install build and checkers", [*pip, "install", *BUILDERS], folder)
    dist, again = folder / "dist", folder / "again"
    for source in (ROOT, *(ROOT / "distributions" / name for name in THIN)):
        name = "bqstore" if source == ROOT else source.name
        step(f"build {name}"[:28], [inside, "-m", "build", "--wheel", "--sdist", "--outdir", dist, source], folder)
        (wheel,), (sdist,) = (dist.glob(f"{name.replace('-', '_')}-*{end}") for end in ("-py3-none-any.whl", ".tar.gz"))
        (check_wheel if source == ROOT else check_thin_wheel)(wheel)
        if source == ROOT:
            check_sdist(sdist)
        step("build wheel from sdist", [*pip, "wheel", "--no-deps", "--wheel-dir", again, sdist], folder)
        differ = {entry[0] for entry in contents(wheel) ^ contents(again / wheel.name)}
        require(not differ, f"the sdist makes another wheel than the sources: {listed(differ)}")
        # the others are empty on purpose
        how = ["--config", ROOT / "pyproject.toml"] if source == ROOT else ["--no-config", "--ignore", "W007,W008"]
        step("check-wheel-contents", [inside.with_name("check-wheel-contents"), *how, wheel], folder)
        print(f"    {wheel.name}, {wheel.stat().st_size >> 10} KiB; {sdist.name}, {sdist.stat().st_size >> 10} KiB")
    step("twine check", [inside, "-m", "twine", "check", "--strict", *sorted(dist.iterdir())], folder)
    shutil.rmtree(folder / "build")
    return next(dist.glob("bqstore-*.whl"))


def check_wheel(wheel: Path) -> None:
    """The files of the three packages, the license, the metadata, and nothing else."""
    present, metadata = inside_of(wheel)
    expected = {
        f"{home}/{path.relative_to(source).as_posix()}"
        for home, source in PACKAGES.items()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    require(present >= expected, f"the wheel lacks {listed(expected - present)}")
    # an __init__.py above llama_index/vector_stores/bqstore would hide llama-index-core
    require(present <= expected, f"the wheel has more than the three packages: {listed(present - expected)}")
    check_metadata(metadata)
    core = {re.split(r"[^\w.-]", line)[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    require(core == {"numpy", "numba"}, f"the core requires {listed(core)}; expected numpy and numba")
    extras = set(metadata.get_all("Provides-Extra", []))
    require(extras == set(EXTRAS), f"the extras are {listed(extras)}; expected {listed(set(EXTRAS))}")


def check_thin_wheel(wheel: Path) -> None:
    """No file that another distribution could have, and bqstore of the same release, with its extra."""
    present, metadata = inside_of(wheel)
    require(not present, f"{wheel.name} has files of its own: {listed(present)}")
    check_metadata(metadata)
    required = metadata.get_all("Requires-Dist", [])
    expected = [f"bqstore[{THIN[metadata['Name']]}]>={metadata['Version']}"]
    require(required == expected, f"{wheel.name} requires {required}; expected {expected}")


def inside_of(wheel: Path) -> tuple[set[str], Message]:
    """What a wheel installs beside its own metadata, and this metadata; there must be a license."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode("utf-8"))
    require(f"{info}/licenses/LICENSE" in names, f"{wheel.name} lacks the LICENSE")
    return {name for name in names if not name.startswith(f"{info}/")}, metadata


def check_metadata(metadata: Message) -> None:
    """The metadata that installers and package indexes read."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "bqstore" / "_version.py").read_text("utf-8"))
    require(version is not None and metadata["Version"] == version[1], f"the version is {metadata['Version']}")
    described = str(metadata.get_payload())
    require(bool(described.strip()), "there is no long description: the README is empty")
    dead = set(re.findall(r"\]\((?!https://|#)([^)]*)\)", described))
    require(not dead, f"links of the long description lead nowhere on a package index: {listed(dead)}")


def check_sdist(sdist: Path) -> None:
    """The sources that are needed to build and test the project; nothing that a run has made."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    thin = [f"distributions/{name}/pyproject.toml" for name in THIN]
    for needed in (
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "mkdocs.yml",
        "tests/release_check.py",
        *thin,
    ):
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


def three(installer: str, wheel: Path, python: str, folder: Path) -> list[Callable[[], object]]:
    """The steps for pip or uv: the three distributions installed in both orders, used, removed one after another.

    What is left of a distribution that was removed before the other must work, and no file is in two of them.
    """
    environment, elsewhere = folder / f"env-three-{installer}", folder / f"elsewhere-three-{installer}"
    elsewhere.mkdir()
    inside, tools = environment / "bin" / "python", folder / f"tools-{installer}"
    uv = tools / "bin" / "uv"
    built = {file.name.split("-")[0].replace("_", "-"): file for file in wheel.parent.glob("*.whl")}
    # what was built here, whatever newer releases the package index has
    constraints = elsewhere / "constraints.txt"
    constraints.write_text("".join(f"{name}=={file.name.split('-')[1]}\n" for name, file in built.items()), "utf-8")
    ours = ["--find-links", wheel.parent, "-c", constraints]
    file = Path(__file__).with_name("release_programs.py")

    def make() -> None:
        if installer == "uv":
            step("pip install uv", [make_environment(python, tools), "-m", "pip", "install", "--quiet", "uv"], folder)
            step("uv venv", [uv, "venv", "--quiet", "--python", python, environment], folder)
        else:
            make_environment(python, environment)

    def command(what: str) -> list[object]:
        at: list[object] = ["--python", inside]
        return [uv, "pip", what, "--quiet", *at] if installer == "uv" else [inside, "-m", "pip", "--quiet", what]

    def install(*names: str) -> None:
        files = [built[name] for name in names]
        step(f"install {', '.join(names)}"[:28], [*command("install"), *ours, *files], elsewhere)
        step("check", [each for each in command("check") if each != "--quiet"], elsewhere)

    def remove(*names: str) -> None:
        sure = [] if installer == "uv" else ["--yes"]
        step(f"remove {', '.join(names)}"[:28], [*command("uninstall"), *sure, *names], elsewhere)

    def program(name: str, place: str = "") -> None:
        arguments = (name, environment, elsewhere / f"{name}{place}")
        said = step(name, [inside, "-I", file, *arguments], elsewhere)
        if name in {"share-no-file", "nothing-left"}:
            print(f"      {said}", flush=True)

    def both(place: str) -> None:
        for name in ("use-langchain_core", "use-llama_index.core", "share-no-file"):
            program(name, place)

    def thin_first() -> None:
        install(*THIN)  # bqstore and the frameworks come along
        both("-1")
        remove(*THIN)
        both("-2")  # the code is bqstore's
        remove("bqstore")
        program("nothing-left")

    def bqstore_first() -> None:
        install("bqstore")
        install(*THIN)
        both("-3")
        install(*reversed(THIN), "bqstore")  # again, over what is there
        both("-4")
        remove("bqstore", *THIN)
        program("nothing-left")

    def run() -> None:
        words = [uv, "run", "--quiet", "--no-project", "--python", python]
        step("uv run --with", [*words, "--with", f"{wheel}[langchain]", "python", "-I", file, *anywhere], elsewhere)

    def remove_all() -> None:
        shutil.rmtree(environment, ignore_errors=True)
        shutil.rmtree(tools, ignore_errors=True)

    anywhere = ("use-langchain_core", "/", elsewhere / "of-uv-run")
    return [make, thin_first, bqstore_first, *([run] if installer == "uv" else []), remove_all]


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
