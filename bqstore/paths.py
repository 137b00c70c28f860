"""Which folder a path means, and whether a collection that is opened there can be the one that was meant."""

from __future__ import annotations

import logging
import re
import stat
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from .arguments import nearest, shown, text_bytes
from .config import DISTANCES, ENCODINGS, ORIGINALS
from .errors import InvalidInputError
from .storage import folders
from .storage.files import storage_errors

LOG: Final = logging.getLogger("bqstore")
_VALUES: Final = {
    **dict.fromkeys((*DISTANCES, "l2", "ip", "euclidean"), "distance"),
    **dict.fromkeys(ENCODINGS, "encoding"),
    **dict.fromkeys(ORIGINALS[:-1], "originals"),
}
_EXPECTED: Final = "expected a folder's name, or None to keep everything in memory"


def absolute(given: object, name: str = "path", expected: str = _EXPECTED) -> Path:
    """A store's folder as an absolute path: the process may change its working directory."""
    if not isinstance(given, (str, PathLike)):
        raise InvalidInputError(f"{name} is {shown(given)}; {expected}")
    path = fspath(given)
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidInputError(f"{name} is {shown(path)}; {expected}")
    spelt = path.strip().lower()
    if spelt == ":memory:" or (spelt.startswith("file:") and ("mode=memory" in spelt or ":memory:" in spelt)):
        raise InvalidInputError(
            f"{name} is {shown(path)}, SQLite's name; leave {name} out to keep everything in memory"
        )
    if "://" in path:
        raise InvalidInputError(
            f"{name} is {shown(path)}; expected a folder: there are no remote stores but Qdrant's, "
            "qdrant://host:6333/name, which open() and copy() take"
        )
    text_bytes(path, name)  # SQLite takes names in UTF-8
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInputError(f"{name} is {shown(path)}; {error}: write it out") from None


def refuse_a_setting(collection: object, folder: Path | None) -> None:
    """Raise InvalidInputError where a setting's value stands in the place of a collection's name."""
    setting = _VALUES.get(collection.lower()) if isinstance(collection, str) else None
    if setting is not None and (folder is None or not (folder / "meta.db").exists()):
        raise InvalidInputError(
            f"collection is {collection!r}, which is a value of {setting}: write {setting}={collection!r}"
        )


def tell_of_another_mode(folder: Path, mode: int) -> None:
    """Log one WARNING where a collection's folder has not the permissions that are asked for."""
    with storage_errors(f"look at {folder}"):
        found = stat.S_IMODE(folder.stat().st_mode)
    if found != mode:
        LOG.warning(
            "mode=%#o is asked for, and %s has %#o: mode= is for folders that are made, and some file systems keep "
            "another one; chmod changes it, of the files in it, too",
            mode,
            folder,
            found,
        )


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def tell_of_a_new_one(path: Path, collection: str) -> None:
    """Log that a collection was made; at WARNING where its name is nearly that of another."""
    others = [name for name in folders.collections_in(path) if name != collection]
    # of a numbered row, one for each tenant say, each is meant
    meant = nearest(collection, [name for name in others if _unnumbered(name) != _unnumbered(collection)])
    if meant is not None:
        LOG.warning(
            "made a new collection %r in %s, where there is %r already; bqstore.drop() removes it if it is a slip of "
            "the pen",
            collection,
            path,
            meant,
        )
    elif others:
        LOG.info("made a new collection %r in %s, beside %d others", collection, path, len(others))
    else:
        LOG.info("made a new store in %s, with the collection %r", path, collection)
