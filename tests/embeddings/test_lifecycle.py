"""An embedder that is shared by threads, closed, copied or carried over a fork."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai import background, embedding_task
from bqstore.embeddings.openai.embedding_task import EmbeddingTask
from bqstore.errors import EmbeddingError
from tests.conftest import wait_until

from .conftest import KEY
from .fake_server import DIM, PATIENCE, vector_of


def test_a_forked_process_talks_over_its_own_connection(make, server, tmp_path):
    program = """
import os, sys
from bqstore.embeddings import OpenAIEmbedder
from bqstore.embeddings.openai.embedding_task import EmbeddingTask
embedder = OpenAIEmbedder(api_key="sk-x", dimensions=8, base_url=sys.argv[1], cache=sys.argv[2])
embedder.embed_query("before")
child = os.fork()
embedder.embed_query(f"after {child == 0}")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
embedder.embed_query("last")
"""
    subprocess.run([sys.executable, "-c", program, server.url, str(tmp_path / "cache")], check=True)
    assert sorted(server.texts) == ["after False", "after True", "before", "last"]


def test_memory_of_large_answers_is_given_back(make, monkeypatch):
    given_back = threading.Event()
    embedder = make(cache=False)
    monkeypatch.setattr(embedding_task, "give_memory_back", lambda: (background.give_memory_back(), given_back.set()))
    embedder.embed(["a few texts", "take none that counts"])
    assert not given_back.is_set()
    monkeypatch.setattr(embedding_task, "_LARGE", 2 * 4 * DIM)
    embedder.embed(["these", "two"])
    assert given_back.wait(PATIENCE)


def test_an_embedder_is_shared_by_threads(make, server):
    embedder = make()
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(embedder.embed_query, [f"text {i % 10}" for i in range(80)]))
    np.testing.assert_array_equal(vectors, [vector_of(f"text {i % 10}") for i in range(80)])


def test_a_call_leaves_nothing_for_the_garbage_collector(make):
    """Its texts and vectors were part of a cycle, and stayed in memory until the collector came."""

    def left():
        return [
            found for found in gc.get_objects() if type(found) is EmbeddingTask
        ]  # a proxy in an isinstance asks what it stands for

    embedder = make()
    embedder.embed_query("before")
    gc.collect()
    gc.disable()
    try:
        embedder.embed(["a", "b"])
        wait_until(lambda: not left())  # the loop's thread may hold it a moment longer
    finally:
        gc.enable()


def test_a_key_is_not_needed_to_close(server):
    embedder = OpenAIEmbedder(api_key=KEY, base_url=server.url, cache=False)
    embedder.close()
    embedder.close()


def test_an_embedder_does_not_travel(make):
    """Copies by pickle would carry the key along; in one process there need be none."""
    embedder = make()
    with pytest.raises(TypeError, match="its key would travel along"):
        pickle.dumps(embedder)
    assert copy.deepcopy(embedder) is copy.copy(embedder) is embedder


def test_a_client_that_was_given_is_not_used_after_a_fork(server, tmp_path):
    with openai.OpenAI(api_key=KEY, base_url=server.url) as client:
        embedder = OpenAIEmbedder("own", client=client, cache=tmp_path)
        embedder.embed_query("a")
        embedder._client._pid = -1  # not os.getpid itself: all of this process would begin anew, and leave its threads
        with pytest.raises(EmbeddingError, match="make client and embedder in this process"):
            embedder.embed_query("b")
    assert server.texts == ["a"]


def test_a_closed_embedder_says_so_and_sends_nothing(make, server):
    embedder = make()
    embedder.close()
    with pytest.raises(EmbeddingError, match="closed; make a new embedder"):
        embedder.embed_query("a")
    assert server.requests == [] and embedder.usage.retried == 0
