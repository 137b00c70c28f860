"""Every public call has an example in its docstring, and all examples run."""

import doctest
import inspect

import pytest

import bqstore

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EMBEDDING = {"CachedEmbedder", "Embedder", "OpenAIEmbedder"}  # their examples need a model; tests/embeddings runs those
CALLS = {name: getattr(bqstore, name) for name in bqstore.__all__ if callable(getattr(bqstore, name))}
METHODS = {
    name: method
    for name, method in inspect.getmembers(bqstore.Collection, inspect.isfunction)
    if not name.startswith("_")
}


def examples(documented: object) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(documented) or "")


def run(name: str, *parts: list[doctest.Example]) -> None:
    """Run examples one after the other, in one namespace of their own."""
    said: list[str] = []
    test = doctest.DocTest([example for part in parts for example in part], {}, name, None, None, None)
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_methods_of_a_collection_are_all_here():
    assert {"add", "search", "recall", "tune", "requantize", "close"} <= METHODS.keys()


@pytest.mark.parametrize("name", sorted(CALLS.keys() - EMBEDDING))
def test_a_public_call_has_an_example_that_runs(name):
    assert examples(CALLS[name]), f"bqstore.{name} has no example"
    run(name, examples(CALLS[name]))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_has_an_example_that_goes_on_with_the_collection_of_the_class(name):
    assert examples(METHODS[name]), f"Collection.{name} has no example"
    run(name, examples(bqstore.Collection), examples(METHODS[name]))


@pytest.mark.parametrize("name", sorted(n for n in vars(bqstore.KeyValues) if not n.startswith("_")))
def test_a_method_of_keys_and_values_has_an_example(name):
    method = getattr(bqstore.KeyValues, name)
    assert examples(method), f"KeyValues.{name} has no example"
    run(name, examples(bqstore.KeyValues), examples(method))


def test_the_example_of_the_package_runs():
    run("bqstore", examples(bqstore))


@pytest.mark.parametrize("name", sorted({name for name in CALLS if not name.endswith("Error")} | METHODS.keys()))
def test_signatures_are_short(name):
    """`ArrayLike`, not the six lines of the union that it stands for."""
    shown = str(inspect.signature(CALLS.get(name) or METHODS[name]))
    assert "_array_like" not in shown and "numpy._typing" not in shown and "ndarray[" not in shown
