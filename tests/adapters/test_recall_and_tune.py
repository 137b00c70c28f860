"""`recall` and `tune` of both adapters: the collection's, with or without arguments."""

import numpy as np
import pytest
from llama_index.core.schema import TextNode

import bqstore
from langchain_bqstore import BQVectorStore as LangChainStore
from llama_index.vector_stores.bqstore import BQVectorStore as LlamaIndexStore
from tests.adapters.langchain_texts import Spelled
from tests.conftest import clustered

DIM = 16


@pytest.fixture(params=["langchain", "llama_index"])
def store(request, tmp_path):
    """500 documents in a folder, in either framework's store."""
    vectors = clustered(500, DIM)
    if request.param == "langchain":
        made = LangChainStore(Spelled(), path=tmp_path, encoding="one_bit")
        made.add_texts([" ".join(map(str, vector)) for vector in vectors.tolist()])
    else:
        made = LlamaIndexStore(tmp_path, encoding="one_bit")
        made.add([TextNode(text=f"{i}", embedding=vector) for i, vector in enumerate(vectors.tolist())])
    with made:
        yield made


def test_without_arguments(store):
    report = store.recall()
    assert isinstance(report, bqstore.RecallReport)
    assert (report.documents, report.dim, report.k, report.held_out) == (500, DIM, 10, True)
    assert report.recall == 1 and report.current.way == "exact" and report.verdict.endswith(".")
    params = store.tune()
    assert isinstance(params, bqstore.SearchParams) and params.oversampling > 1


def test_arguments_are_the_collections(store):
    queries = clustered(30, DIM, seed=1)
    report = store.recall(queries=queries, k=3, settings=[{"oversampling": 2}])
    assert (report.queries, report.k, report.held_out) == (30, 3, False)
    assert report.points[1].oversampling == 2
    assert store.tune(0.5, 3).oversampling < store.tune(target_recall=0.97, k=3).oversampling
    with pytest.raises(bqstore.TargetNotReachedError, match="30; give more"):
        store.tune(0.99, queries=queries)
    with pytest.raises(bqstore.UnknownKeywordError, match="did you mean 'sample'"):
        store.recall(samples=10)
    with pytest.raises(bqstore.UnknownKeywordError):
        store.tune(target=0.9)
    with pytest.raises(bqstore.InvalidInputError, match="dimensions"):
        store.recall(queries=np.zeros((2, DIM + 1)))
