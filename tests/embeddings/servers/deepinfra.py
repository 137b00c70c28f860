"""DeepInfra: lists alone, 1,024 texts a request."""

from typing import Any

from .common import lists, refuse_more_than

NAME = "DeepInfra"
BASE_URL = "https://api.deepinfra.com/v1/openai"
SETTINGS: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if request.get("encoding_format") not in (None, "float"):
        return 422, {"detail": [{"loc": ["body", "encoding_format"], "msg": "unexpected value; permitted: 'float'"}]}
    too_many = (422, {"detail": [{"loc": ["body", "input"], "msg": "ensure this value has at most 1024 items"}]})
    return refuse_more_than(1_024, request, too_many) or lists(request)
