"""Which embedder is in use: OpenAI's, or the offline one, fitted once and kept."""

import os
from dataclasses import dataclass
from pathlib import Path

from bqstore import Embedder, OpenAIEmbedder
from manual.offline import OfflineEmbedder


@dataclass(frozen=True)
class Choice:
    """The embedder that this run can use, before any of it is loaded."""

    name: str  # also names the collection: vectors of two models never meet in one
    described: str

    @property
    def is_openai(self) -> bool:
        """Whether OpenAI's models are in use."""
        return self.name == "openai"


def choose() -> Choice:
    """OpenAI's model if there is a key for it, the offline one otherwise."""
    if os.environ.get("OPENAI_API_KEY", "").strip():
        return Choice("openai", "OpenAI's text-embedding-3-small, since OPENAI_API_KEY is set")
    return Choice(
        "offline",
        "offline: latent semantic analysis with scikit-learn, which matches words, not meaning. "
        "Set OPENAI_API_KEY to use OpenAI's model",
    )


def load(choice: Choice, folder: Path) -> Embedder | None:
    """The embedder of an earlier run, ready at once; None if there was none. OpenAI's is always there."""
    if choice.is_openai:
        return OpenAIEmbedder()
    try:
        return OfflineEmbedder.load(folder / "offline-model")
    except (OSError, ValueError):  # none yet, or one that a broken disk or a cut copy left behind
        return None


def fit(texts: list[str], folder: Path) -> Embedder:
    """A new offline embedder, learnt from ``texts`` and kept in ``folder``."""
    embedder = OfflineEmbedder.fit(texts)
    embedder.save(folder / "offline-model")
    return embedder
