"""Where the folders of a collection were read: another one of the same name would take the place of their files.

Ids hold a folder's name and not its place, so that a folder may move, and be read on another machine. So the places are
kept beside the documents (`bqstore.open_key_values`).
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
    """Where folders, and files that were named, are read now and were read before."""

    def __init__(self, path: str, collection: str, files: Sequence[Source], moved: bool) -> None:
        self._path, self._collection, self._moved = path, collection, moved
        self._now: dict[str, set[Path]] = {}
        for each in files:
            self._now.setdefault(root_of(each.name), set()).add(each.place)
        self._before = self._kept()

    def check(self, stored: Collection[str], found: Iterable[Passage], changed: Changed) -> None:
        """Refuse a folder that was read elsewhere; ``stored`` are the names of those that there are documents of.

        One that is no more where it was, and has half of its passages unchanged, is the same one, which has moved.
        Raises InvalidInputError.
        """
        if self._moved:
            return
        other = {root: new for root in self._now if root in stored and (new := self._new(root))}
        still = {root: next(filter(os.path.exists, self._before[root]), None) for root in other}
        counts = {root: [0, 0] for root in other if still[root] is None}  # passages; and those that have changed
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
        """Store where the folders are read now, before anything of them."""
        entries = {
            root: json.dumps(sorted(map(str, places))).encode()
            for root, places in self._now.items()
            if self._moved or root not in self._before or self._new(root)
        }
        if entries:
            with bqstore.open_key_values(self._path, self._collection) as pairs:
                pairs.put(entries, _SPACE)

    def is_whole(self, root: str) -> bool:
        """Whether a folder is read in all places that it was read in before and that are still there."""
        now = self._now[root]
        return all(_is_gone(place) or _is_among(place, now) for place in self._before.get(root, ()))

    def _new(self, root: str) -> list[Path]:
        """Places in which a folder is read now, and was not when it was read before."""
        before = self._before.get(root)
        return [] if before is None else [place for place in self._now[root] if not _is_among(place, before)]

    def _kept(self) -> dict[str, set[Path]]:
        if self._moved:  # nothing is asked of it
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
    """Whether there is nothing at a path; of one that may not be looked at, nobody knows."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # or no path here
        return True
    except OSError:
        return False
    return False


def _is_among(place: Path, others: Iterable[Path]) -> bool:
    """Whether a path leads to one of these, as another mount of the same folder does."""
    for other in others:
        try:
            if place == other or place.samefile(other):
                return True
        except (OSError, ValueError):  # it is no more, not to be read, or no path here
            continue
    return False
