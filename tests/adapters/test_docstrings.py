"""Every public method of the adapters has an example that runs, and a signature that can be read."""

import asyncio
import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import loads

import langchain_bqstore
import langchain_bqstore.documents
import langchain_bqstore.embeddings
import langchain_bqstore.key_values
import langchain_bqstore.keywords
import langchain_bqstore.records
import langchain_bqstore.retrievers
import langchain_bqstore.searching
import langchain_bqstore.stored
import langchain_bqstore.translator
import langchain_bqstore.vectorstores
import llama_index.vector_stores.bqstore.base
import llama_index.vector_stores.bqstore.embeddings
import llama_index.vector_stores.bqstore.filters
import llama_index.vector_stores.bqstore.nodes
import llama_index.vector_stores.bqstore.storage

CLASSES = [
    langchain_bqstore.BQVectorStore,
    langchain_bqstore.searching.Searching,
    langchain_bqstore.stored.Stored,
    langchain_bqstore.BQTranslator,
    langchain_bqstore.EmbedderEmbeddings,
    langchain_bqstore.BQByteStore,
    langchain_bqstore.BQRecordManager,
    llama_index.vector_stores.bqstore.BQVectorStore,
    llama_index.vector_stores.bqstore.EmbedderEmbedding,
    llama_index.vector_stores.bqstore.BQKVStore,
    llama_index.vector_stores.bqstore.BQDocumentStore,
    llama_index.vector_stores.bqstore.BQIndexStore,
]
MODULES = [
    langchain_bqstore.documents,
    langchain_bqstore.embeddings,
    langchain_bqstore.key_values,
    langchain_bqstore.records,
    langchain_bqstore.keywords,
    langchain_bqstore.retrievers,
    langchain_bqstore.searching,
    langchain_bqstore.stored,
    langchain_bqstore.translator,
    langchain_bqstore.vectorstores,
    llama_index.vector_stores.bqstore.base,
    llama_index.vector_stores.bqstore.embeddings,
    llama_index.vector_stores.bqstore.filters,
    llama_index.vector_stores.bqstore.nodes,
    llama_index.vector_stores.bqstore.storage,
]
EXAMPLES = {
    test.name: test for module in MODULES for test in doctest.DocTestFinder().find(module, globs={}) if test.examples
}


def public_methods(cls: type) -> dict[str, Any]:
    """What a class itself defines: neither what it inherits from its framework nor what pydantic adds."""
    kinds = (property, classmethod)
    return {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith(("_", "model_")) and (inspect.isfunction(value) or isinstance(value, kinds))
    }


class Beside:
    """A store whose methods are run by their async forms, where it has such."""

    def __init__(self, store: Any, called: list[str]) -> None:
        self.store, self.called = store, called

    def __getattr__(self, name: str) -> Any:
        twin = getattr(self.store, f"a{name}", None)
        if twin is None:
            return getattr(self.store, name)
        self.called.append(name)
        return lambda *given, **kwargs: asyncio.run(twin(*given, **kwargs))


MADE_ASYNC = {
    f"{cls.__module__}.{cls.__qualname__}.{name}": name
    for cls in CLASSES
    for name, value in public_methods(cls).items()
    if inspect.iscoroutinefunction(value) and hasattr(value, "__wrapped__")
}
METHODS = [(cls, name) for cls in CLASSES for name in public_methods(cls)]
METHOD_IDS = [f"{cls.__module__}.{cls.__qualname__}.{name}" for cls, name in METHODS]


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")  # LangChain's
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method's example goes on from that of its class."""
    if name.endswith(".loading") and "allowed_objects" not in inspect.signature(loads).parameters:
        pytest.skip("LangChain's loads has no allowed_objects in this version")
    monkeypatch.chdir(tmp_path)  # some write a folder
    test = EXAMPLES[name]
    of_class = EXAMPLES.get(name.rpartition(".")[0])
    module = next(module for module in MODULES if name.startswith(module.__name__))
    globs, called = dict(vars(module)), list[str]()
    examples = [*(of_class.examples if of_class else []), *test.examples]
    if name in MADE_ASYNC:  # its examples are the plain method's: they are run through the async one
        globs.update(Beside=Beside, called=called)
        examples.insert(len(of_class.examples), doctest.Example("store = Beside(store, called)\n", ""))
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(doctest.DocTest(examples, globs, name, test.filename, None, None), out=said.append, clear_globs=False)
    if "store" in globs:
        globs["store"].close()
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert name not in MADE_ASYNC or MADE_ASYNC[name].removeprefix("a") in called


@pytest.mark.parametrize("name", METHOD_IDS)
def test_every_public_method_has_an_example(name: str) -> None:
    assert name in EXAMPLES


@pytest.mark.parametrize(("cls", "name"), [(cls, None) for cls in CLASSES] + METHODS)
def test_the_signature_can_be_read(cls: type, name: str | None) -> None:
    described = cls if name is None else getattr(cls, name)
    if isinstance(described, property):
        described = described.fget
    shown = str(inspect.signature(described))
    for noise in ("typing.", "collections.", "numpy.", "langchain_core.", "llama_index.", "pydantic", " at 0x"):
        assert noise not in shown, shown
