"""The versions of llama-index-core that brought what tests ask of LlamaIndex itself; below them these are skipped."""

import re
from importlib.metadata import version

import pytest

VERSION = tuple(int(part) for part in re.findall(r"\d+", version("llama-index-core"))[:3])
STOPWORDS = (0, 14, 14)  # are taken from the package: before, the first text that was split asked the net for them
FILTERS = (0, 14, 24)  # NOT, no condition, text_match_insensitive, and what has no such key, as other stores mean them
SEPARATORS = (0, 14, 15)  # of the metadata of text nodes are kept in their JSON
INDEX_NODES = (0, 14, 23)  # keep the node they point at in their JSON


def since(first: tuple[int, int, int], what: str) -> pytest.MarkDecorator:
    """Skip a test below a version of llama-index-core."""
    return pytest.mark.skipif(first > VERSION, reason=reason(first, what))


def reason(first: tuple[int, int, int], what: str) -> str:
    """Why a test is skipped."""
    return f"LlamaIndex itself: {what} since llama-index-core {'.'.join(map(str, first))}"
