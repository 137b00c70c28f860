"""Settings as a head row holds them: they come from a file, so they are checked before they are used."""

from typing import Any

from ..config import DISTANCES, GROUPS, ORIGINALS, SearchParams
from ..errors import CorruptionError, InvalidInputError
from ..storage.text_index import TextIndex


def check_stored(settings: dict[str, Any], name: str) -> None:
    """Raise CorruptionError unless these are settings that a collection may have; ``name`` is the file's."""
    try:
        for group, kind in GROUPS.items():
            kind(**settings[group])
        if "untuned" in settings:
            SearchParams(**settings["untuned"])
        settings["quantization"]["query_encoding"]  # the others may be missing, and have defaults then
        TextIndex.of(settings)
        good = settings["distance"] in DISTANCES and settings["originals"] in ORIGINALS
        good &= isinstance(settings["embedding_model"], (str, type(None)))
        good &= settings.get("expires", True) is True
        good &= settings.get("missed_by_walks", 0) in range(1001)
        target = settings.get("target_recall", 0.0)
        good &= isinstance(target, (int, float)) and 0 <= target < 1
    except (KeyError, TypeError, ValueError, InvalidInputError, CorruptionError):
        good = False
    if not good:
        raise CorruptionError(f"the settings in {name} are not a collection's; restore the collection from a copy")
