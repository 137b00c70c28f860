"""Ollama: one text whose vector is not finite makes 500 of the whole request."""

from typing import Any

from .common import error, lists

NAME = "Ollama"
BASE_URL = "http://localhost:11434/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if any("\x7f" in text for text in request["input"]):
        return error(500, "failed to encode response: json: unsupported value: NaN", type="api_error")
    return lists(request)
