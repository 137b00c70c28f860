"""Together: vectors as lists."""

from typing import Any

from .common import lists

NAME = "Together"
BASE_URL = "https://api.together.xyz/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    return lists(request)
