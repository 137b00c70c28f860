"""Records the paths from which folders were ingested: another folder of the same name would replace their documents.

Ids contain a folder's name but not its path, so that a folder can move, also to another machine. So the paths are
stored with the collection (`bqstore.open_key_values`).
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import bqstore

from .passages import Passage, Source, root_of

_SPACE = "places of folders"

Changed = Callable[[Iterable[Passage]], Iterable[Passage]]


class Origins:
    """The paths of folders and single files in this run and in earlier ones."""

    def __init__(self, path: str, collection: str, files: Sequence[Source], moved: bool) -> None:
        self._path, self._collection, self._moved = path, collection, moved
        self._now: dict[str, set[Path]] = {}
        for each in files:
            self._now.setdefault(root_of(each.name), set()).add(each.place)
        self._before = self._kept()

    def check(self, stored: Collection[str], found: Iterable[Passage], changed: Changed) -> None:
        """Refuse a folder that was read from another path; ``stored`` are the folders that have documents.

        If the old path no longer exists and at least half of the passages are unchanged, the folder has moved, and is
        accepted. Raises InvalidInputError.
        """
        if self._moved:
            return
        other = {root: new for root in self._now if root in stored and (new := self._new(root))}
        still = {root: next(filter(os.path.exists, self._before[root]), None) for root in other}
        counts = {root: [0, 0] for root in other if still[root] is None}  # number of passages, and of changed ones
        if counts:
            for each in changed(_counted(found, counts)):
                if (count := counts.get(root_of(each.source))) is not None:
                    count[1] += 1
        for root, new in other.items():
            if root in counts and 2 * counts[root][1] <= counts[root][0]:
                continue
            raise bqstore.InvalidInputError(
                f"the collection has {root} from {still[root] or min(self._before[root])}; {min(new)} would take its "
                "place, as ids hold the name alone. If they are two, ingest the folder above both, or give this one a "
                "--collection of its own; if it has moved, or is to be replaced, give --moved"
            )

    def keep(self) -> None:
        """Store the folders' paths; called before their documents are stored."""
        entries = {
            root: json.dumps(sorted(map(str, places))).encode()
            for root, places in self._now.items()
            if self._moved or root not in self._before or self._new(root)
        }
        if entries:
            with bqstore.open_key_values(self._path, self._collection) as pairs:
                pairs.put(entries, _SPACE)

    def is_whole(self, root: str) -> bool:
        """Whether this run reads a folder from all of its earlier paths that still exist."""
        now = self._now[root]
        return all(_is_gone(place) or _is_among(place, now) for place in self._before.get(root, ()))

    def _new(self, root: str) -> list[Path]:
        """Paths of a folder in this run that were not among its earlier ones."""
        before = self._before.get(root)
        return [] if before is None else [place for place in self._now[root] if not _is_among(place, before)]

    def _kept(self) -> dict[str, set[Path]]:
        if self._moved:  # earlier paths are ignored
            return {}
        roots = list(self._now)
        try:
            with bqstore.open_key_values(self._path, self._collection, read_only=True) as pairs:
                found = pairs.get(roots, _SPACE)
        except bqstore.NotFoundError:
            return {}
        try:
            return {root: set(map(Path, json.loads(data))) for root, data in zip(roots, found, strict=True) if data}
        except (ValueError, TypeError):
            raise bqstore.CorruptionError(
                f"where {', '.join(roots)} was read before cannot be made out; if it is the same, give --moved"
            ) from None


def _counted(found: Iterable[Passage], counts: dict[str, list[int]]) -> Iterator[Passage]:
    for each in found:
        if (count := counts.get(root_of(each.source))) is not None:
            count[0] += 1
        yield each


def _is_gone(place: Path) -> bool:
    """Whether a path does not exist; False if that cannot be determined."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no valid path on this system
        return True
    except OSError:
        return False
    return False


def _is_among(place: Path, others: Iterable[Path]) -> bool:
    """Whether a path is the same folder or file as one of these, perhaps by another mount."""
    for other in others:
        try:
            if place == other or place.samefile(other):
                return True
        except (OSError, ValueError):  # missing, unreadable, or invalid on this system
            continue
    return False
