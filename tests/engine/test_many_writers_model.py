"""Two engines on one folder, as in two processes, against a dictionary: whatever one does the other sees at once."""

import math
import shutil
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import bqstore
from bqstore import clock, opening
from tests.conftest import often
from tests.engine.given import settle_early

DIM = 6
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
IDS = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=5, unique=True)
WHO = st.integers(0, 1)


class TwoWriters(RuleBasedStateMachine):
    """Each rule is done by one of the two, and everything is compared through the other."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.step, self.known = 0, {}
        self.now, self.ends = 0, {}  # seconds, and when documents are over
        clock.now = lambda: 10**6 * self.now
        self.cols = [self.opened(), self.opened()]

    def opened(self):
        return bqstore.open(self.folder, hnsw={"full_scan_threshold": 0})

    def vectors(self, n):
        self.step += 1
        return np.random.default_rng(self.step).standard_normal((n, DIM), dtype=np.float32)

    def forget(self):
        self.ends = {id_: end for id_, end in self.ends.items() if id_ in self.known}

    @rule(who=WHO, ids=IDS)
    def add(self, who, ids):
        vectors = self.vectors(len(ids))
        self.cols[who].add(vectors, ids, [f"{self.step} {id_}" for id_ in ids], [{"step": self.step}] * len(ids))
        self.known.update((id_, (vectors[i], f"{self.step} {id_}", self.step)) for i, id_ in enumerate(ids))
        for id_ in ids:
            self.ends.pop(id_, None)

    @rule(who=WHO, ids=IDS, seconds=st.integers(1, 9))
    def end_after(self, who, ids, seconds):
        there = [id_ for id_ in ids if id_ in self.known]
        assert self.cols[who].update_metadata(ids, expires_at=seconds) == len(there)
        self.ends.update((id_, self.now + seconds) for id_ in there)

    @rule(who=WHO, seconds=st.integers(1, 9))
    def pass_time(self, who, seconds):
        self.now += seconds
        for id_ in [id_ for id_ in self.known if self.ends.get(id_, math.inf) <= self.now]:
            del self.known[id_]
        self.forget()
        if seconds % 2:
            self.cols[who].expire()
            self.cols[who].expire()

    @rule(who=WHO, ids=IDS)
    def delete(self, who, ids):
        assert self.cols[who].delete(ids) == sum(self.known.pop(id_, None) is not None for id_ in ids)
        self.forget()

    @rule(who=WHO)
    def delete_by_filter(self, who):
        doomed = [id_ for id_, (*_, step) in self.known.items() if step % 2]
        odd = {"step": [step for step in range(self.step + 1) if step % 2]}
        assert self.cols[who].delete(filter=odd) == len(doomed)
        for id_ in doomed:
            del self.known[id_]
        self.forget()

    @rule(who=WHO, ids=IDS)
    def update(self, who, ids):
        self.step += 1
        there = [id_ for id_ in ids if id_ in self.known]
        assert self.cols[who].update_metadata(ids, {"step": self.step}) == len(there)
        for id_ in there:
            self.known[id_] = (*self.known[id_][:2], self.step)

    @rule(who=WHO, what=st.sampled_from(["compact", "flush", "clear", "requantize", "reopen"]))
    def keep_up(self, who, what):
        col = self.cols[who]
        if what == "clear":
            col.clear()
            self.known.clear()
            self.forget()
        elif what == "requantize":
            self.step += 1
            col.requantize(encoding=["one_bit", "two_bits", "four_bits"][self.step % 3], estimator="rabitq")
        elif what == "reopen":
            col.close()
            self.cols[who] = self.opened()
        else:
            getattr(col, what)()

    @invariant()
    def both_see_it(self):
        for col in getattr(self, "cols", ()):
            assert len(col) == len(self.known)
            records = {record.id: record for record in col.get(list("abcdefghijkl"), with_vectors=True)}
            assert records.keys() == self.known.keys()
            for id_, (vector, text, step) in self.known.items():
                record = records[id_]
                end = {bqstore.EXPIRES_AT_KEY: EPOCH + timedelta(seconds=self.ends[id_])} if id_ in self.ends else {}
                assert (record.text, record.metadata) == (text, {"step": step, **end})
                assert record.vector.tolist() == vector.tolist()
            if not self.known:
                continue
            wanted = next(iter(self.known))
            assert col.search(self.known[wanted][0], k=12)[0].id == wanted
            step = self.known[wanted][2]
            same = {id_ for id_, (*_, other) in self.known.items() if other == step}
            assert {hit.id for hit in col.search(self.known[wanted][0], k=12, filter={"step": step})} == same

    def teardown(self):
        for col in getattr(self, "cols", ()):
            assert col.verify().ok
            col.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("enough", [5, 2048])
@pytest.mark.long
def test_two_writers_are_as_one(monkeypatch, enough):
    monkeypatch.setattr(opening, "joined", lambda folder: None)
    monkeypatch.setattr(opening, "shared", lambda core: core)
    monkeypatch.setattr(clock, "now", clock.now)  # which the machine sets, and this puts back
    settle_early(monkeypatch, enough)
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        TwoWriters,
        settings=settings(max_examples=often(100), stateful_step_count=25, deadline=None, suppress_health_check=checks),
    )
