"""An embedding model that needs no network, no key and no GPU: latent semantic analysis, as of ``--embedder lsa``.

It knows which words of the manual occur together, and nothing else about language: a real model finds what is meant,
this one finds what is written. It is here so that the demo runs anywhere.
"""

from pathlib import Path

from bqstore.cli.lsa import Lsa

DIM = 512


class OfflineEmbedder(Lsa):
    """`Lsa` in a file of its own; a `bqstore.Embedder`."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)
        self.model = f"offline-lsa-{self.dim}"

    @classmethod
    def fit(cls, texts: list[str], dim: int = DIM) -> "OfflineEmbedder":
        """Fit to ``texts``; the same texts give the same embedder."""
        return super().fit(texts, dim)

    def save(self, path: Path) -> None:
        """Write the embedder to a file of plain arrays: unlike a pickle, loading it runs no code."""
        unfinished = path.with_name(f"unfinished-{path.name}")
        unfinished.write_bytes(self.to_bytes())
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "OfflineEmbedder":
        """Read an embedder from a file. Raises FileNotFoundError if there is none."""
        return cls.from_bytes(path.read_bytes())
