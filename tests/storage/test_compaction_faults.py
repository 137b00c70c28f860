"""Snapshots, compactions and recodings under faults of the system: nothing acknowledged is lost, nothing half there."""

import random
from itertools import islice

from . import crash
from .depth import depths
from .faults import SEEDS, check_fault, fault_points, needs_strace


def test_the_run_has_every_kind_of_operation():
    seed, steps = SEEDS["generations"]
    kinds = [kind for kind, _ in islice(crash.with_generations(crash.operations(seed)), steps)]
    assert kinds.count("snapshot") >= 2 and kinds.count("recode") >= 2 and {"compact", "delete"} <= set(kinds)


@needs_strace
@depths("count", 4, 40)
def test_a_fault_at_any_call_of_a_snapshot_a_compaction_or_a_recoding_loses_nothing(tmp_path, count):
    points = fault_points(tmp_path, "generations")
    for fault in random.Random(1).sample(points, count):
        check_fault(tmp_path / "one", "generations", fault)
