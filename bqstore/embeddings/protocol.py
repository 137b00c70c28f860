"""The protocol of embedders: objects that turn texts into vectors."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors; equal texts give equal vectors.

    Attributes
    ----------
    model : str     the model's name. A collection that remembers it (``embedding_model=``) refuses vectors of other
                    models

    >>> class Lengths:
    ...     model = "lengths"
    ...
    ...     def embed(self, texts):
    ...         return np.array([[len(text), 1] for text in texts], np.float32)
    ...
    ...     def embed_query(self, text):
    ...         return self.embed([text])[0]
    >>> isinstance(Lengths(), Embedder)
    True
    """

    @property
    def model(self) -> str:
        """The name of the model."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, float32 (n, dim), in the order of ``texts``."""

    def embed_query(self, text: str) -> Vectors:
        """The vector of one query, float32 (dim,)."""
