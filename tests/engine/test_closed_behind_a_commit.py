"""A call whose commit stands answers, also where another thread closes the collection right behind that commit.

What it still does then must need nothing that is closed; what needs the files is done before, under the lock.
"""

from datetime import timedelta

import numpy as np
import pytest

import bqstore
from bqstore.engine.publisher import Publisher
from tests.engine.test_reembed import Toy

X = np.random.default_rng(5).standard_normal((64, 16)).astype(np.float32)
GONE = b"a text that nobody may find any more"
CALLS = {
    "add": lambda col: list(col.add(X[:2], ids=["a", "b"])),
    "add to documents in the place of others": lambda col: col.add(X[:2], ids=["d1", "d2"]).replaced,
    "update of texts": lambda col: col.update(["d1", "none"], texts=["other", "none"]),
    "update of vectors": lambda col: col.update(["d1"], vectors=X[9:10]),
    "update_metadata": lambda col: col.update_metadata(["d1"], {"n": -1}),
    "update_metadata by a filter": lambda col: col.update_metadata(metadata={"m": 1}, filter={"n": {"$gte": 60}}),
    "delete": lambda col: col.delete(["d1", "d2"]),
    "delete by a filter": lambda col: col.delete(filter={"n": {"$gte": 60}}),
    "expire": lambda col: col.expire(),
    "clear": lambda col: col.clear(),
    "compact": lambda col: col.compact(),
    "requantize": lambda col: col.requantize(encoding="two_bits", estimator="rabitq"),
    "tune": lambda col: col.tune(0.5),
    "reembed": lambda col: col.reembed(Toy("third", 8)),
    "check_model": lambda col: col.check_model("a model", remember=True),
    "set_text_index": lambda col: col.set_text_index(False),
    "flush": lambda col: col.flush(),
}


def worn(path, name: str) -> bqstore.Collection:
    """A collection with something to do for every call: documents that are deleted, or over."""
    col = bqstore.open(path, text_index=True, target_recall=0)
    col.add(X, [f"d{i}" for i in range(64)], [f"text {i}" for i in range(64)], [{"n": i} for i in range(64)])
    col.add(X[:1], ["deleted"], [GONE.decode()])
    if name in ("expire", "compact"):
        col.add(X[:1], ["over"], ["over"], expires_at=timedelta(microseconds=1))
    col.delete(["deleted", "d30"])
    return col


def contents(path) -> tuple:
    """What the next opening finds: documents, settings, and the names of the files."""
    with bqstore.open(path) as col:
        info = col.info()
        documents = sorted((r.id, r.text, str(r.metadata), r.vector.tobytes()) for r in col.scroll(with_vectors=True))
        assert col.verify().ok
        found = documents, info.quantization, info.search, info.embedding_model, info.text_index
    return *found, sorted(
        each.name for each in path.rglob("*") if each.name.startswith(("vectors", "codes", "reembed"))
    )


@pytest.mark.parametrize("name", CALLS)
def test_a_close_right_behind_a_commit_takes_no_answer_away(tmp_path, monkeypatch, name):
    with worn(tmp_path / "left alone", name) as col:
        expected = CALLS[name](col)
    real = Publisher.write

    def write(self, *given):
        out = real(self, *given)
        col.close()  # another thread has waited for the lock
        self._next_look = 0.0  # and took its time
        return out

    with worn(tmp_path / "closed", name) as col, monkeypatch.context() as patched:
        patched.setattr(Publisher, "write", write)
        assert CALLS[name](col) == expected
        with pytest.raises(bqstore.ClosedError):
            len(col)
    if name in ("compact", "clear"):
        files = [each for each in (tmp_path / "closed").rglob("*") if each.is_file()]
        assert not [each.name for each in files if GONE in each.read_bytes()]
    assert contents(tmp_path / "closed") == contents(tmp_path / "left alone")


def test_a_close_in_the_middle_of_a_call_of_several_commits_says_so(tmp_path, monkeypatch):
    """It was told that REEMBED could not be opened."""
    real = Publisher.write

    def write(self, *given):
        out = real(self, *given)
        col.close()
        return out

    with worn(tmp_path, "expire") as col, monkeypatch.context() as patched:
        patched.setattr(Publisher, "write", write)
        with pytest.raises(bqstore.ClosedError, match="open it again"):
            col.reembed(Toy("third", 8))
    with bqstore.open(tmp_path) as col:
        assert "over" not in col and col.info().embedding_model is None
        assert col.reembed(Toy("third", 8)).documents == len(col) == 63
