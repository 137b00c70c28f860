import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import ``manual`` as the script does, from beside it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert EXAMPLES.is_dir() and str(EXAMPLES) in sys.path
