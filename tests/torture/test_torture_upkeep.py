"""A kill and an error at every call to the system while snapshots are written and generations are compacted."""

import pytest

from ..engine.test_durability import needs_strace
from ..storage.test_upkeep_faults import check_upkeep_fault, upkeep_faults

pytestmark = pytest.mark.torture


@needs_strace
@pytest.mark.parametrize("part", range(8))
def test_a_fault_at_every_call_of_snapshots_and_compactions(tmp_path, part):
    points = upkeep_faults(tmp_path)
    for fault in points[part::8]:
        check_upkeep_fault(tmp_path / "one", fault)
    print(f"{len(points[part::8])} faults")
