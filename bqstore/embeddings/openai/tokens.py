"""Counts tokens with tiktoken, if it is installed and its tables are on this disk. It never downloads.

tiktoken downloads a missing table. So this module first checks for the table, at the path and with the checksum that
tiktoken uses, and calls tiktoken only if it will find it. The result is cached.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

Counter = Callable[[str], int]

_LONGEST, _PIECE = 100_000, 10_000  # characters

_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_MODELS = ("text-embedding-3-", "text-embedding-ada-002")  # all embedding models of OpenAI: cl100k_base


def counter_for(model: str) -> Counter | None:
    """A function that counts a model's tokens exactly; None if there is none on this machine."""
    return load_counter() if model.startswith(_MODELS) else None


def table_path() -> Path | None:
    """The path of tiktoken's table; None if tiktoken is configured not to cache it."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    name = hashlib.sha1(_URL.encode(), usedforsecurity=False).hexdigest()  # tiktoken's naming
    return Path(folder) / name if folder else None


@cache
def load_counter() -> Counter | None:
    """The counter of cl100k_base; None if it cannot be loaded."""
    path = table_path()
    try:
        if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
            return None
        import tiktoken

        encoding = tiktoken.get_encoding("cl100k_base")
    except Exception:  # no table, no tiktoken, or an unknown version: bytes are counted instead
        return None

    def count(text: str) -> int:
        if len(text) > _LONGEST:  # in pieces: tiktoken overflows its stack on a million spaces followed by a letter
            return sum(count(text[at : at + _PIECE]) for at in range(0, len(text), _PIECE))
        try:
            return len(encoding.encode_ordinary(text))
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # not derived from Exception
                raise
        return len(text.encode())  # an upper bound

    return count
