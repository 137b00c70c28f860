"""Equal texts in several threads are requested once, and no claim outlives its call."""

import threading

import numpy as np
import pytest

from bqstore.embeddings.in_flight import TABLE, Claim, InFlight
from bqstore.embeddings.openai.embedding_task import EmbeddingTask
from bqstore.errors import EmbeddingError

from .fake_server import PATIENCE


def test_equal_texts_in_two_threads_are_asked_for_once(make, server):
    embedder, results = make(cache=False), []
    server.hold, server.served_before_hold = threading.Event(), 0
    first = threading.Thread(target=lambda: results.append(embedder.embed(["a", "b"])))
    first.start()
    server.wait_until_under_way(1)
    second = threading.Thread(target=lambda: results.append(make(cache=False).embed(["b", "c"])))
    second.start()
    server.wait_until_under_way(2)
    server.hold.set()
    first.join()
    second.join()
    assert server.twice == [] and sorted(server.texts) == ["a", "b", "c"] and len(results) == 2


def test_ctrl_c_while_claiming_leaves_nothing_claimed():
    def interrupted():
        yield b"a"
        yield b"b"
        raise KeyboardInterrupt

    table = InFlight()
    claim = Claim(table)
    with pytest.raises(KeyboardInterrupt):
        claim.take(interrupted())
    assert set(table.claims) == {b"a", b"b"}
    claim.release()
    assert table.claims == {}


def test_work_that_nobody_closed_leaves_nothing_claimed(make):
    embedder = make()
    task = EmbeddingTask(embedder._requester, None, embedder._key_of, ["a", "b"], range(2), embedder._call())
    keys = set(task._keys)
    assert keys <= set(TABLE.claims)
    del task
    assert not keys & set(TABLE.claims)


@pytest.mark.parametrize("other", ["error", "split_mean"])
def test_a_text_cut_for_one_is_not_another_ones_answer(make, server, monkeypatch, other):
    waits, await_vector = threading.Event(), Claim.await_vector
    monkeypatch.setattr(Claim, "await_vector", lambda *given: waits.set() or await_vector(*given))
    text = "word " * 60
    server.max_chars, server.hold = 100, threading.Event()
    got = []
    first = threading.Thread(target=lambda: got.append(make(on_too_long="truncate", cache=False).embed([text])))
    first.start()
    server.wait_until_under_way(1)  # its second request is held

    def ask():
        try:
            got.append(make(on_too_long=other, cache=False).embed([text]))
        except EmbeddingError as error:
            got.append(str(error))

    second = threading.Thread(target=ask)
    second.start()
    assert waits.wait(PATIENCE)
    server.hold.set()
    first.join()
    second.join()
    if other == "error":
        assert "text 0 is longer" in got[1]
    else:
        assert not np.allclose(got[0], got[1])
