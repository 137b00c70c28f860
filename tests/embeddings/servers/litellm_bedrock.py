"""Bedrock through litellm's proxy: ``encoding_format`` is refused altogether."""

from typing import Any

from .common import error, lists

NAME = "Bedrock (litellm)"
BASE_URL = "http://localhost:4000/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if "encoding_format" in request:
        named = {"encoding_format": request["encoding_format"]}
        said = f"litellm.UnsupportedParamsError: bedrock does not support parameters: {named}, for model=own."
        return error(400, said, code="400")
    return lists(request)
