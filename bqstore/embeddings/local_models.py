"""Local models by name, as "library:model". A library is imported only when one of its models is named."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..arguments import shown
from ..errors import EmbeddingError, InvalidInputError

Embed = Callable[[list[str]], Any]


class LocalModel:
    """A local model with the methods that `CachedEmbedder` needs; its calls are serialized."""

    def __init__(self, library: str, model: str, passages: Embed, questions: Embed) -> None:
        self.model, self.settings = model, {"library": library}
        self._passages, self._questions = passages, questions
        self._one_at_a_time = threading.Lock()  # not all libraries are thread-safe

    def embed(self, texts: Sequence[str]) -> Any:
        """Vectors of passages, (n, dim)."""
        with self._one_at_a_time:
            return self._passages(list(texts))

    def embed_query(self, text: str) -> Any:
        """The vector of a query, (dim,)."""
        with self._one_at_a_time:
            return self._questions([text])[0]


def load_local_model(name: str) -> LocalModel:
    """Load the model named by ``library:name``. Raises as `CachedEmbedder`."""
    library, _, model = name.partition(":")
    library = library.replace("_", "-")  # the name of the module is accepted, too
    if library not in _LIBRARIES or not model:
        raise InvalidInputError(
            f"embedder is {shown(name)}; expected an object, or the name of a local model as 'library:model', such as "
            f"'model2vec:minishlab/potion-base-8M'; known libraries: {', '.join(_LIBRARIES)}"
        )
    module, package, load = _LIBRARIES[library]
    try:
        with _root_logger_kept():
            found = import_module(module)
    except ImportError as error:
        raise ImportError(f"{library} is not installed: pip install {package}", name=module) from error
    try:
        passages, questions = load(found, model)
    except Exception as error:  # no such file, no network, out of memory ...
        raise EmbeddingError(f"{library} cannot load {model}: {error}") from error
    return LocalModel(library, model, passages, questions)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Undo changes to the root logger by the import of a library: wordllama sets it to INFO."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _sentence_transformers(library: Any, model: str) -> tuple[Embed, Embed]:
    loaded = library.SentenceTransformer(model)
    # newer releases have these methods, which add the model's prompts for passages and queries
    passages, questions = (getattr(loaded, name, loaded.encode) for name in ("encode_document", "encode_query"))
    options = {"show_progress_bar": False, "convert_to_numpy": True}
    return partial(passages, **options), partial(questions, **options)


def _fastembed(library: Any, model: str) -> tuple[Embed, Embed]:
    loaded = library.TextEmbedding(model_name=model)
    return lambda texts: list(loaded.passage_embed(texts)), lambda texts: list(loaded.query_embed(texts))


def _model2vec(library: Any, model: str) -> tuple[Embed, Embed]:
    encode = library.StaticModel.from_pretrained(model).encode
    return encode, encode


def _wordllama(library: Any, model: str) -> tuple[Embed, Embed]:
    inside = Path(library.__file__).parent  # by default it misses the tokenizer in its package, and downloads it
    try:
        loaded = library.WordLlama.load(model, cache_dir=inside, disable_download=True)
    except FileNotFoundError:  # the model is not in the package
        loaded = library.WordLlama.load(model)

    def embed(texts: list[str]) -> Any:
        return loaded.embed(texts, norm=True)

    return embed, embed


def _llama_cpp(library: Any, model: str) -> tuple[Embed, Embed]:
    embed = library.Llama(model_path=model, embedding=True, verbose=False).embed
    return embed, embed


# by library name: the module, the package to install, and the function that loads a model
_LIBRARIES: dict[str, tuple[str, str, Callable[[Any, str], tuple[Embed, Embed]]]] = {
    "sentence-transformers": ("sentence_transformers", "sentence-transformers", _sentence_transformers),
    "fastembed": ("fastembed", "fastembed", _fastembed),
    "model2vec": ("model2vec", "model2vec", _model2vec),
    "wordllama": ("wordllama", "wordllama", _wordllama),
    "llama-cpp": ("llama_cpp", "llama-cpp-python", _llama_cpp),
}
