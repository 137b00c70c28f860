"""OpenAI's own API: 2,048 texts a request, vectors in base64."""

from typing import Any

from .common import error, refuse_more_than

NAME = "OpenAI"
BASE_URL = "https://api.openai.com/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    said = "Invalid 'input': input array too long. Expected an array with maximum length 2048."
    return refuse_more_than(2_048, request, error(400, said, param="input"))
