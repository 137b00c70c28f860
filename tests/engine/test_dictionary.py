"""A collection is a dictionary that can be searched: whatever is done to both, they agree."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import bqstore
from tests.conftest import often

DIM = 5
IDS = [f"i{n}" for n in range(12)] + ["ü", "a\x00b", "'; --"]
ORIGINALS = ("float32", "float16", "int8", "none")

ids = st.sampled_from(IDS)
# whole numbers up to 127 with the largest always there: float16 and int8 keep them as they are
components = st.lists(st.integers(-126, 126), min_size=DIM - 1, max_size=DIM - 1).map(lambda c: [127.0, *map(float, c)])
scalars = st.sampled_from([0, 1, 2, 1.0, True, "x", "1", None])
metadata = st.dictionaries(st.sampled_from(["a", "b", "_bq_kept"]), scalars | st.lists(scalars, max_size=2), max_size=3)
texts = st.none() | st.text(max_size=5)
conditions = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), scalars | st.lists(scalars, max_size=3), min_size=1, max_size=2
)


def same(value: Any, other: Any) -> bool:
    """Equality of the filters' grammar: types never mix."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def matches(metadata: dict[str, Any], condition: dict[str, Any]) -> bool:
    """The filters' grammar, the slow and obvious way."""
    for key, wanted in condition.items():
        if key not in metadata:
            return False
        held = metadata[key] if isinstance(metadata[key], list) else [metadata[key]]
        operands = wanted if isinstance(wanted, list) else [wanted]
        if not any(same(value, operand) for value in held for operand in operands):
            return False
    return True


class DictionaryMachine(RuleBasedStateMachine):
    """The collection, a reader of the same folder, and the dictionary."""

    originals: ClassVar[str] = "float32"
    on_disk: ClassVar[bool] = True

    @initialize(distance=st.sampled_from(["cosine", "dot", "euclid"]))
    def begin(self, distance: str) -> None:
        self.distance = distance
        self.folder = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.col = self.open()
        self.reader: bqstore.Collection | None = None
        self.truth: dict[str, tuple[list[float], str | None, dict[str, Any]]] = {}

    def open(self, **keywords: Any) -> bqstore.Collection:
        made = {} if keywords else {"distance": self.distance, "originals": self.originals}
        return bqstore.open(self.folder, hnsw={"full_scan_threshold": 0}, **made, **keywords)

    def teardown(self) -> None:
        if hasattr(self, "col"):
            self.col.close()
            if self.reader is not None:
                self.reader.close()
            if self.folder is not None:
                shutil.rmtree(self.folder)

    @rule(batch=st.lists(st.tuples(st.none() | ids, components, texts, st.none() | metadata), max_size=6))
    def add(self, batch: list) -> None:
        names, vectors, given, metadatas = (list(part) for part in zip(*batch, strict=True)) if batch else ([],) * 4
        returned = self.col.add(vectors, names, given, metadatas)
        assert len(returned) == len(batch) and all(r == n or n is None for r, n in zip(returned, names, strict=True))
        for id_, (_, vector, text, data) in zip(returned, batch, strict=True):
            self.truth.pop(id_, None)  # a replaced document counts as new
            self.truth[id_] = (vector, text, data or {})

    @rule(names=st.lists(ids, max_size=4))
    def delete(self, names: list[str]) -> None:
        gone = self.truth.keys() & set(names)
        assert self.col.delete(names) == len(gone)
        for id_ in gone:
            del self.truth[id_]

    @rule(condition=conditions, names=st.none() | st.lists(ids, max_size=4))
    def delete_by_filter(self, condition: dict, names: list[str] | None) -> None:
        gone = [i for i, doc in self.truth.items() if matches(doc[2], condition) and (names is None or i in names)]
        assert self.col.delete(names, filter=condition) == len(gone)
        for id_ in gone:
            del self.truth[id_]

    @rule(names=st.lists(ids, min_size=1, max_size=4), data=metadata, replace=st.booleans())
    def update(self, names: list[str], data: dict, replace: bool) -> None:
        assert self.col.update_metadata(names, data, replace=replace) == len(self.truth.keys() & set(names))
        for id_ in self.truth.keys() & set(names):
            vector, text, before = self.truth[id_]
            kept = {k: v for k, v in before.items() if k.startswith("_bq_")} if replace else before
            self.truth[id_] = (vector, text, {**kept, **data})

    @rule(wrong=st.sampled_from(["dimension", "id", "metadata"]))
    def refuse(self, wrong: str) -> None:
        good = [[1.0] * DIM] * 2
        with pytest.raises(bqstore.InvalidInputError):
            if wrong == "id":
                self.col.add(good, ["i0", ""])
            elif wrong == "metadata":
                self.col.add(good, ["i0", "i1"], None, [{}, {"a": object()}])
            else:
                self.col.add(good, ["i0", "i1"], ["x"])

    @rule()
    def clear(self) -> None:
        self.col.clear()
        self.truth.clear()

    @rule()
    def reopen(self) -> None:
        if self.folder is not None:
            self.col.close()
            self.col = self.open(read_only=False)

    @rule()
    def read_along(self) -> None:
        if self.folder is not None:
            if self.reader is not None:
                self.reader.close()
            self.reader = self.open(read_only=True)

    @rule(query=components, k=st.integers(1, 8), condition=st.none() | conditions, exact=st.booleans())
    def search(self, query: list[float], k: int, condition: dict | None, exact: bool) -> None:
        expected = self.scores(query, condition)
        for col in filter(None, (self.col, self.reader)):
            none = self.originals == "none"
            hits = col.search(
                query, k, filter=condition, exact=exact and not none, oversampling=1000, with_vectors=not none
            )
            assert len(hits) == min(k, len(expected)) == len({hit.id for hit in hits})
            if not none:
                np.testing.assert_allclose(
                    [hit.score for hit in hits], sorted(expected.values(), reverse=True)[:k], rtol=1e-5, atol=2e-5
                )
            for hit in hits:
                vector, text, data = self.truth[hit.id]
                assert (hit.text, hit.metadata) == (text, data) and matches(data, condition or {})
                if not none:
                    assert hit.vector.tolist() == vector
                    assert hit.score == pytest.approx(expected[hit.id], rel=1e-5, abs=2e-5)
            found, values = col.search_ids([query, query], k, filter=condition, oversampling=1000)
            assert [i for i in found[1] if i is not None] == [h.id for h in hits] or not exact
            assert np.isnan(values[0]).sum() == k - len(hits)

    def scores(self, query: list[float], condition: dict | None) -> dict[str, float]:
        """Of the documents that match, the slow way."""
        out, q = {}, np.array(query)
        for id_, (vector, _, data) in self.truth.items():
            v = np.array(vector)
            if matches(data, condition or {}):
                cosine = v @ q / np.linalg.norm(v) / np.linalg.norm(q)
                out[id_] = {"cosine": cosine, "dot": v @ q, "euclid": -np.linalg.norm(v - q)}[self.distance]
        return out

    @rule(condition=conditions)
    def count(self, condition: dict) -> None:
        wanted = {id_ for id_, doc in self.truth.items() if matches(doc[2], condition)}
        for col in filter(None, (self.col, self.reader)):
            assert col.count(condition) == len(wanted)
            assert {r.id for r in col.scroll(condition)} == wanted

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "col"):
            return
        for col in filter(None, (self.col, self.reader)):
            assert len(col) == len(self.truth)
            assert {id_ for id_ in IDS if id_ in col} == self.truth.keys() & set(IDS)
            assert [(r.id, r.text, r.metadata) for r in col.scroll(batch=3)] == [
                (id_, text, data) for id_, (_, text, data) in self.truth.items()
            ]
            with_vectors = self.originals != "none"
            records = {r.id: r for r in col.get([*IDS, "unknown"], with_vectors)}
            assert records.keys() == self.truth.keys() & set(IDS)
            if with_vectors:
                assert all(r.vector.tolist() == self.truth[r.id][0] for r in records.values())

    @rule()
    def verify(self) -> None:
        assert self.col.verify().ok


@pytest.mark.sampled(2)
@pytest.mark.parametrize("originals", ORIGINALS)
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_a_collection_agrees_with_a_dictionary(originals, on_disk):
    machine = type("Machine", (DictionaryMachine,), {"originals": originals, "on_disk": on_disk})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=often(50 if on_disk else 80),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
