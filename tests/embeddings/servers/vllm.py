"""vLLM: base64; a text that is too long is refused with all of its request."""

from typing import Any

NAME = "vLLM"
BASE_URL = "http://localhost:8000/v1"
SETTINGS: dict[str, Any] = {"on_too_long": "truncate"}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    longest = max(map(len, request["input"]))
    if longest > 100:
        said = (
            f"This model's maximum context length is 100 tokens. However, you requested {longest} tokens in the input."
        )
        return 400, {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400}
    return None
