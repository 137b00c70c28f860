"""The validated settings of an embedder, which never change."""

from dataclasses import dataclass, field
from typing import Any

from ...arguments import check_choice, check_int, check_real, shown
from ...config import MAX_DIM
from ...errors import EmbeddingError, InvalidInputError
from .packing import Limits
from .prices import price_of
from .tokens import Counter, counter_for

_MANY = 1_000_000


@dataclass
class Settings:
    """The parameters of `OpenAIEmbedder`; ``price`` defaults to the listed one.

    Raises InvalidInputError if a setting is out of range or of another type.
    """

    model: str
    dimensions: int | None
    max_concurrency: int
    max_retries: int
    timeout: float
    deadline: float | None
    on_too_long: str
    limits: Limits
    price: float | None
    counter: Counter | None = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise InvalidInputError("model is not the name of a model; expected a string")
        check_choice("on_too_long", self.on_too_long, ("error", "truncate", "split_mean"))
        self.dimensions = check_dimensions(self.dimensions)
        self.max_concurrency = check_int("max_concurrency", self.max_concurrency, 1, _MANY)
        self.max_retries = check_int("max_retries", self.max_retries, 0, _MANY)
        self.timeout = _seconds("timeout", self.timeout)
        self.deadline = None if self.deadline is None else _seconds("deadline", self.deadline)
        self.price, self.counter = price_of(self.model, self.price), counter_for(self.model)

    def is_too_long(self, tokens: int) -> bool:
        """Whether a text is longer than the model accepts; False if tokens cannot be counted."""
        return self.counter is not None and tokens > self.limits.max_input_tokens

    def too_long(self, index: int) -> EmbeddingError:
        """The error for a text that is too long, with its index."""
        return EmbeddingError(
            f"text {index} is longer than {self.model} takes ({self.limits.max_input_tokens:,} tokens for OpenAI's "
            'models); split it, or pass on_too_long="truncate" or "split_mean"'
        )

    @property
    def variant(self) -> str | None:
        """How a text that is too long is shortened, as `KeyMaker` takes it; None if it is an error."""
        return None if self.on_too_long == "error" else f"{self.on_too_long} {self.limits.max_input_tokens}"


def check_dimensions(dimensions: Any) -> int | None:
    """The requested dimension, or None. Raises InvalidInputError."""
    return None if dimensions is None else check_int("dimensions", dimensions, 1, MAX_DIM)


def _seconds(name: str, value: Any) -> float:
    if check_real(name, value, "a number of seconds") <= 0:
        raise InvalidInputError(f"{name} is {shown(value)}; expected more than 0 seconds")
    return float(value)
