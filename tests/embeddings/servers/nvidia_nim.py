"""NVIDIA NIM: ``input_type`` is needed, and ``truncate`` said."""

from typing import Any

from .common import lists

NAME = "NVIDIA NIM"
BASE_URL = "https://integrate.api.nvidia.com/v1"
SETTINGS: dict[str, Any] = {
    "extra_body": {"input_type": "passage", "truncate": "NONE"},
    "query_body": {"input_type": "query"},
}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if request.get("input_type") not in ("passage", "query"):
        return 400, {"error": "'input_type' parameter is required for asymmetric models"}
    return lists(request)
