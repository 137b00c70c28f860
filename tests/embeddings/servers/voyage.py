"""Voyage: ``encoding_format`` is base64 or left out; ``total_tokens`` alone; ``input_type`` is query or document."""

from typing import Any

from .common import lists

NAME = "Voyage"
BASE_URL = "https://api.voyageai.com/v1"
SETTINGS: dict[str, Any] = {"extra_body": {"input_type": "document"}, "query_body": {"input_type": "query"}}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if request.get("encoding_format") not in (None, "base64"):
        return 400, {"detail": "Value 'float' supplied for argument 'encoding_format' is not valid"}
    if request.get("input_type") not in ("document", "query"):
        return 400, {"detail": "Value provided for argument 'input_type' is invalid."}
    if len(request["input"]) > 128:
        return 400, {"detail": f"The batch size limit is 128. Your batch size is {len(request['input'])}."}
    return lists(request, total_tokens=len(request["input"]))
