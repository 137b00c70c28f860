"""Parses the results of a batch, line by line."""

import json
from typing import Any

from ..openai.responses import CODE, decode, normalized
from ..text_rows import TextRows
from .job import Rows


def take(vectors: TextRows, rows: Rows, answer: dict[str, Any], shortened: bool) -> str:
    """Store the vectors of a line from its answer, except for rows of -1; returns why they cannot be used, or "".

    ``shortened`` : the server shortened the vectors, perhaps without scaling them to unit length
    """
    found, missing = decode(answer.get("data"), len(rows)) or (None, [])
    if found is None or missing:
        return f"the answer is not {len(rows)} finite vectors of one dimension"
    if found.shape[1] != (vectors.dim or found.shape[1]):
        return f"the answer has {found.shape[1]} dimensions instead of {vectors.dim}"
    restored = normalized(found) if shortened else found
    if restored is None:
        return "the answer has a vector without a direction, such as zeros"
    vectors.put(rows[rows >= 0].tolist(), restored[rows >= 0])
    return ""


def parse(result_line: bytes) -> tuple[str, dict[str, Any], str]:
    """The name of a result line's request, its answer, and the reason if there is none, otherwise ""."""
    try:
        result = json.loads(result_line)
        name, response = str(result["custom_id"]), result.get("response") or {}
        status, body = int(response.get("status_code") or 0), response.get("body") or {}
        error = result.get("error") or body.get("error") or {}
        if status == 200 and not error:
            return name, body if isinstance(body, dict) else {}, ""
        return name, {}, (f"HTTP {status}, " if status else "") + code_word(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", {}, "unreadable"


def code_word(given: object) -> str:
    """The server's code, or "unknown" for anything that does not look like one, as it could quote a text."""
    return given if isinstance(given, str) and CODE.fullmatch(given) else "unknown"
