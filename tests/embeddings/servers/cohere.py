"""Cohere's compatibility API: 96 texts a request."""

from typing import Any

from .common import lists, refuse_more_than

NAME = "Cohere"
BASE_URL = "https://api.cohere.ai/compatibility/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    n = len(request["input"])
    said = f"invalid request: total number of texts must be at most 96 - received {n}"
    return refuse_more_than(96, request, (400, {"id": "x", "message": said})) or lists(request)
