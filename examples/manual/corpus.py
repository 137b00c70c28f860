"""The Python manual as passages: as `bqstore demo` has them."""

from bqstore.cli.manual import MAX_CHARS, MIN_CHARS, MIN_TAIL, Passage, passages, split, spread

__all__ = ["MAX_CHARS", "MIN_CHARS", "MIN_TAIL", "Passage", "passages", "split", "spread"]
