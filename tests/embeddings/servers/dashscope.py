"""DashScope: 10 texts a request."""

from typing import Any

from .common import error, lists, refuse_more_than

NAME = "DashScope"
BASE_URL = "https://dashscope.aliyuncs.com/compatible-mode/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    said = "<400> InternalError.Algo.InvalidParameter: batch size is invalid, it should not be larger than 10."
    return refuse_more_than(10, request, error(400, said, code="InvalidParameter")) or lists(request)
