"""LocalAI: models of its own under the names of OpenAI's."""

from typing import Any

from .common import lists

NAME = "LocalAI"
BASE_URL = "http://localhost:8080/v1"
SETTINGS: dict[str, Any] = {"model": "text-embedding-ada-002"}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    return lists(request, dim=6)
