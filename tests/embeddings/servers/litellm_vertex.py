"""Vertex through litellm's proxy: 250 texts a request; ``encoding_format`` is refused altogether."""

from typing import Any

from .common import error, lists, refuse_more_than

NAME = "Vertex (litellm)"
BASE_URL = "http://localhost:4000/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if "encoding_format" in request:
        named = {"encoding_format": request["encoding_format"]}
        said = f"litellm.UnsupportedParamsError: vertex_ai does not support parameters: {named}, for model=own."
        return error(400, said, code="400")
    n = len(request["input"])
    said = f"VertexAIException BadRequestError - 250 instance(s) is allowed per prediction. Actual: {n}"
    return refuse_more_than(250, request, error(400, said, code="400")) or lists(request)
