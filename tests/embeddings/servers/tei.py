"""Text Embeddings Inference: 32 texts a request, refused with 413."""

from typing import Any

NAME = "TEI"
BASE_URL = "http://localhost:8080/v1"
SETTINGS: dict[str, Any] = {"on_too_long": "truncate"}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    n = len(request["input"])
    if n > 32:
        return 413, {"message": f"batch size {n} > maximum allowed batch size 32", "code": 413, "type": "Validation"}
    if max(map(len, request["input"])) > 100:
        return 413, {
            "message": "`inputs` must have less than 100 tokens. Given: 300",
            "code": 413,
            "type": "Validation",
        }
    return None
