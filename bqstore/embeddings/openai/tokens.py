"""Counting tokens with tiktoken, where it is installed and its tables lie on this disk. It never waits for a download.

tiktoken fetches a table that it does not find. So the table is looked for first, where tiktoken would look and with
the checksum it would ask for, and tiktoken is called only when it will find it. What was found out is remembered.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

Counter = Callable[[str], int]

_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_MODELS = ("text-embedding-3-", "text-embedding-ada-002")  # all of OpenAI's that embed: cl100k_base


def counter_for(model: str) -> Counter | None:
    """What counts a model's tokens exactly; None if nothing here can."""
    return _load() if model.startswith(_MODELS) else None


def table_path() -> Path | None:
    """Where tiktoken keeps the table; None if it has been told to keep none."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    name = hashlib.sha1(_URL.encode(), usedforsecurity=False).hexdigest()  # tiktoken's naming
    return Path(folder) / name if folder else None


@cache
def _load() -> Counter | None:
    path = table_path()
    try:
        if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
            return None
        import tiktoken

        encoding = tiktoken.get_encoding("cl100k_base")
    except Exception:  # no table, no tiktoken, or one that does not fit: the estimate by bytes does
        return None

    def count(text: str) -> int:
        return len(encoding.encode_ordinary(text))

    return count


def forget() -> None:
    """Look again: the tables may have come since."""
    _load.cache_clear()
