"""A kill and an error at every system call while snapshots are written and generations are compacted."""

import pytest

from ..storage.faults import check_fault, fault_points, needs_strace

pytestmark = pytest.mark.torture


@needs_strace
@pytest.mark.parametrize("part", range(8))
def test_a_fault_at_every_call_of_snapshots_and_compactions(tmp_path, part):
    points = fault_points(tmp_path, "generations")[part::8]
    for fault in points:
        check_fault(tmp_path / "one", "generations", fault)
    print(f"{len(points)} faults")
