"""Who holds a lock, according to its file: for error messages only, so nothing here may fail or be trusted.

A process id alone is not enough: ids are reused, and two containers may use the same. So a process is recognized by a
random number of its own, and shown with its host and the time at which it began.
"""

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import Any, Final

from . import platform

_BYTES: Final = 512  # of the file; short enough for one write
_own: dict[str, Any] = {}


def _this_process() -> dict[str, Any]:
    """What is written of this process; made once, and anew in a fork."""
    if _own.get("pid") != os.getpid():
        began = platform.started(os.getpid())
        _own.update(
            pid=os.getpid(),
            host=socket.gethostname()[:100],
            token=secrets.token_hex(8),
            ticks=began and began[0],
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )
        _own["lines"] = {
            whole: json.dumps({**{k: v for k, v in _own.items() if k != "lines"}, "whole": whole})
            .ljust(_BYTES)
            .encode()
            for whole in (False, True)
        }
    return _own


def write(fd: int, whole: bool) -> None:
    """Say in a locked file that this process holds it; ``whole``: for as long as the collection is open."""
    with suppress(OSError):  # a full disk must not keep anybody from the lock
        platform.write_at(fd, _this_process()["lines"][whole], 0)


def _read(fd: int) -> dict[str, Any]:
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(platform.read_at(fd, _BYTES, 0))
        if isinstance(found, dict):
            return found
        if isinstance(found, int):  # what earlier versions wrote
            return {"pid": found, "earlier": True}
    return {}


def described(fd: int) -> str:
    """The holder in words: "process 12 (since 2026-11-29 10:00:00)"."""
    found, own = _read(fd), _this_process()
    pid = found.get("pid")
    if pid is None:
        return "another process"
    name, facts = f"process {pid}", []
    if found.get("token") == own["token"]:
        name = "this process"
    elif found.get("host", own["host"]) != own["host"]:
        name = f"process {pid} on host {found['host']}"
    else:
        now = platform.started(pid)
        if now is not None and now[0] == found.get("ticks") and now[1] == "T":
            facts.append("which is stopped: continue or end it")
    if "since" in found:
        facts.insert(0, f"since {found['since']}")
    if found.get("earlier"):
        facts.append("an earlier bqstore, which keeps the lock as long as it is open")
    if found.get("whole"):
        facts.append("which has it open with exclusive=True")
    return f"{name} ({', '.join(facts)})" if facts else name
