"""What anything that turns text into vectors must offer. It knows no model, no network and no store."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors: the same text gives the same vector.

    ``model`` names what made the vectors; stored with a collection (``embedding_model=``), it keeps two
    models from being mixed in one.
    """

    @property
    def model(self) -> str:
        """The name of the model."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of passages, float32 (n, dim), in the order of ``texts``."""

    def embed_query(self, text: str) -> npt.NDArray[np.float32]:
        """The vector of one question, float32 (dim,)."""
