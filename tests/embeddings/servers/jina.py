"""Jina: 512 texts a request, refused with 422; ``task`` tells questions from passages."""

from typing import Any

from .common import lists

NAME = "Jina"
BASE_URL = "https://api.jina.ai/v1"
SETTINGS: dict[str, Any] = {"extra_body": {"task": "retrieval.passage"}, "query_body": {"task": "retrieval.query"}}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    if request.get("task") not in ("retrieval.passage", "retrieval.query"):
        return 422, {"detail": "[NotInTask] task: field required"}
    n = len(request["input"])
    if n > 512:
        return 422, {"detail": f"[ListTooLong] input: List should have at most 512 items after validation, not {n}"}
    return lists(request)
