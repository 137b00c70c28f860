"""Mark the cases that stand for all others, so that nobody who writes a test has to remember it.

Tests of what kernels compute run interpreted and with bounds checks, which is compiled, too: `make test` runs them in
these two ways (``--kernels-apart`` leaves them out of its main run), `make test-all` also without the checks.

``representative`` : every value of every parameter once, for kernels that run interpreted or with bounds checks.
``slow`` : what `make test` does without.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.covering import cases_of, covering, mark_slow

# of how kernels are compiled, in processes of their own, and of what answers before
NO_KERNELS = ("test_background.py", "test_compiling.py", "test_leaf_compiler.py", "test_plain.py")

ONCE = (*NO_KERNELS, "test_api.py")  # of what users' kernels are, which those with bounds checks are not


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    apart = config.getoption("--kernels-apart") and collection_path.name.startswith("test_")
    return True if apart and collection_path.name not in ONCE else None


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for cases in cases_of(items, Path(__file__).parent):
        if cases[0].path.name not in NO_KERNELS:
            for case in covering(cases, 1):
                case.add_marker("representative")
    in_python = [item for item in items if item.path.name in NO_KERNELS]
    mark_slow(in_python, Path(__file__).parent, 12)  # these run once: no interpreted run sees their other branches
    mark_slow([item for item in items if item.path.name not in NO_KERNELS], Path(__file__).parent)
