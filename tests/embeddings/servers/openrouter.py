"""OpenRouter: errors of the provider come with status 200."""

from typing import Any

from .common import lists

NAME = "OpenRouter"
BASE_URL = "https://openrouter.ai/api/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if len(request["input"]) > 64:  # stands for the limit of a provider behind it
        return 200, {"error": {"code": 413, "message": "Provider returned error", "metadata": {"provider_name": "x"}}}
    return lists(request)
