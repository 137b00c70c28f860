"""Mistral: a limit of tokens in all texts of a request, told without a number."""

from typing import Any

from .common import lists

NAME = "Mistral"
BASE_URL = "https://api.mistral.ai/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if sum(map(len, request["input"])) > 400:
        said = "Too many tokens overall, split into more batches."
        return 400, {"object": "error", "message": said, "type": "invalid_request_error", "param": None, "code": "3210"}
    return lists(request)
