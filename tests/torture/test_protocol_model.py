"""Every interleaving of the protocol's steps, with a kill before each, keeps its promises; and each rule is needed."""

import pytest

from .protocol_model import RULES, ViolatedError, explore, programs


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", programs(), ids=["adds", "compaction", "snapshots", "three writers"])
def test_no_interleaving_breaks_a_promise(what):
    assert explore(what) > 1000


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule):
    with pytest.raises(ViolatedError):
        for what in programs():
            explore(what, broken=rule)
