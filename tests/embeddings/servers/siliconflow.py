"""SiliconFlow: 32 texts a request."""

from typing import Any

from .common import lists, refuse_more_than

NAME = "SiliconFlow"
BASE_URL = "https://api.siliconflow.cn/v1"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    n = len(request["input"])
    said = {"code": 20042, "message": f"input batch size {n} > maximum allowed batch size 32", "data": None}
    return refuse_more_than(32, request, (413, said)) or lists(request)
