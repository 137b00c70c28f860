"""llama.cpp's server: a text that is too long for its batch makes 500."""

from typing import Any

NAME = "llama.cpp"
BASE_URL = "http://localhost:8080/v1"
SETTINGS: dict[str, Any] = {"on_too_long": "truncate"}


def answer(request: dict[str, Any]) -> tuple[int, Any] | None:
    """Status and body of an answer."""
    longest = max(map(len, request["input"]))
    if longest > 100:
        said = f"input ({longest} tokens) is too large to process. increase the physical batch size"
        return 500, {"error": {"code": 500, "message": said, "type": "server_error"}}
    return None
