import sys
from pathlib import Path

import pytest

import bqstore

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session", autouse=True)
def examples_on_the_path():
    """Import ``manual`` as the demo does, from beside it."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="session")
def passages(examples_on_the_path):
    """The whole manual, cut once: it takes seconds."""
    from manual.corpus import passages

    return passages()


@pytest.fixture(scope="session", autouse=True)
def kernels_are_compiled():
    """Else the first example says on stderr that it compiles, where nothing should be said."""
    bqstore.warm_up()
