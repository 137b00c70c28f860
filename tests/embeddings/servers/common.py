"""What several of them have in common."""

from typing import Any

from ..fake_server import vector_of


def lists(request: dict[str, Any], dim: int = 8, **usage: float) -> tuple[int, Any]:
    """Vectors as lists, whatever was asked for."""
    texts = request["input"]
    data = [{"object": "embedding", "index": i, "embedding": vector_of(t, dim).tolist()} for i, t in enumerate(texts)]
    counted = usage or {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return 200, {"object": "list", "data": data, "model": request["model"], "usage": counted}


def error(status: int, message: str, **more: Any) -> tuple[int, Any]:
    """A refusal in OpenAI's form."""
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


def refuse_more_than(most: int, request: dict[str, Any], refusal: tuple[int, Any]) -> tuple[int, Any] | None:
    """The refusal, if there are more texts than that."""
    return refusal if len(request["input"]) > most else None
