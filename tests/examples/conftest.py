import sys
from pathlib import Path

import pytest

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
