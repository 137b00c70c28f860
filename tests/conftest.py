"""Shared by all tests: where the real embeddings are, and data that has some structure."""

import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# set by `make test-all`
HANGS = 600  # seconds to wait for what is under way: only a hang takes so long
QUICK = 2  # tests of a file that `make quick` runs
FULL = "BQSTORE_FULL" in os.environ

# a kernel that is not compiled yet is waited for; tests of what happens meanwhile say so themselves
os.environ.setdefault("BQSTORE_COMPILE", "foreground")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job, for every child
    signal.signal(signal.SIGINT, signal.default_int_handler)


def often(most: int) -> int:
    """How often to try: in `make test` a fifth of what `make test-all` does."""
    return most if FULL else max(1, most // 5)


def wait_until(so: Callable[[], object]) -> None:
    """Wait until something is so that another thread or process brings about; a hang fails."""
    end = time.monotonic() + HANGS
    while not so():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.001)


def end_if_it_hangs() -> None:
    """In a fork, at first: it would outlive a test that waits for it, with all the files and pipes that it has."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(HANGS)


@contextmanager
def child(*arguments: Any, **keywords: Any) -> Iterator["subprocess.Popen[str]"]:
    """`subprocess.Popen` as a context that kills the process when the test fails: many would go on for ever."""
    with subprocess.Popen(*arguments, **keywords) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="one case of some tests of every file, no long ones")
    parser.addoption("--one", action="store_true", help="one representative case of each test of the kernels")
    parser.addoption("--kernels-apart", action="store_true", help="without the tests of kernels that other runs take")


def leave_out_places(cases: list[pytest.Item]) -> None:
    """Of cases of a test that differ only in where ``path`` leads, in memory or on disk, mark one as slow.

    The first such pair is run on disk, the next in memory, and so on.
    """
    pairs: dict[str, dict[str, pytest.Item]] = {}
    for item in cases:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if given.get("path") in ("memory", "disk") and not item.get_closest_marker("slow"):
            others = {name: value for name, value in given.items() if name != "path"}
            pairs.setdefault(repr(others), {})[given["path"]] = item
    both = [pair for pair in pairs.values() if len(pair) == 2]
    for at, pair in enumerate(both):
        pair["disk" if at % 2 else "memory"].add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: the garbage collector need not go through all of them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what `sampled` and `one_place` leave out; with ``--quick`` keep one case of a few tests a file."""
    cases: dict[object, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault((item.path, getattr(item, "originalname", item.name)), []).append(item)
    for group in cases.values():
        mark = group[0].get_closest_marker("sampled")
        if mark is not None and len(group) > mark.args[0]:
            kept = {round(i * (len(group) - 1) / max(1, mark.args[0] - 1)) for i in range(mark.args[0])}
            for at, item in enumerate(group):
                if at not in kept:
                    item.add_marker(pytest.mark.slow)
        if group[0].get_closest_marker("one_place"):
            leave_out_places(group)
    if config.getoption("--one"):
        some = [[item for item in group if item.get_closest_marker("representative")] for group in cases.values()]
        items[:] = [group[len(group) // 2] for group in some if group]
    if config.getoption("--quick"):
        firsts: dict[Path, list[pytest.Item]] = {}
        for group in cases.values():
            quick = [item for item in group if not any(map(item.get_closest_marker, ("slow", "torture", "long")))]
            if quick and len(firsts.setdefault(quick[0].path, [])) < QUICK:
                firsts[quick[0].path].append(quick[0])
        items[:] = [item for some in firsts.values() for item in some]


_NEAR = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = Path(os.environ.get("BQSTORE_DATA", _NEAR))


@pytest.fixture(scope="session")
def embeddings():
    """Load a set of real embeddings: (base, queries), float32, unit rows."""

    def load(name: str):
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{path} is not there; set BQSTORE_DATA to a folder of real embeddings to run this")
        with np.load(path) as arrays:
            out = [arrays[part].astype(np.float32) for part in ("base", "queries")]
        return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in out]

    return load


def clustered(n: int, dim: int, seed: int = 0, clusters: int = 20) -> np.ndarray:
    """float32 (n, dim): points around a few centres, so that neighbours mean something."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    return (centres[rng.integers(0, clusters, n)] + 0.7 * rng.standard_normal((n, dim))).astype(np.float32)


def exact_scores(base: np.ndarray, queries: np.ndarray, distance: str) -> np.ndarray:
    """float64 (m, n): larger is nearer, computed the slow and obvious way."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if distance == "euclid":
        return -np.sqrt(((queries[:, None, :] - base[None, :, :]) ** 2).sum(axis=2))
    scores = queries @ base.T
    if distance == "cosine":
        scores /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(base, axis=1)[None, :]
    return scores
