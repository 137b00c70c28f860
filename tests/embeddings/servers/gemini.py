"""Gemini: 100 texts a request; an index of 0 is left out."""

from typing import Any

from .common import lists

NAME = "Gemini"
BASE_URL = "https://generativelanguage.googleapis.com/v1beta/openai"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if len(request["input"]) > 100:
        said = "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"
        return 400, [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}]
    status, body = lists(request)
    for item in body["data"]:
        if item["index"] == 0:
            del item["index"]
    return status, body
