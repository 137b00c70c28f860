"""LM Studio: lists; errors are plain strings."""

from typing import Any

from .common import lists

NAME = "LM Studio"
BASE_URL = "http://localhost:1234/v1"
SETTINGS: dict[str, Any] = {"on_too_long": "truncate"}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if max(map(len, request["input"])) > 100:
        return 400, {"error": "Trying to keep the first 300 tokens when context overflows. The context length is 100."}
    return lists(request)
