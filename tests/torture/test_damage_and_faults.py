"""All of what the other tests take samples of: damage at every byte, a fault at every system call, fifty kills."""

import pytest

from ..storage.damage import cut, damage_all, flip
from ..storage.faults import check_fault, fault_points, kill_while_writing, needs_strace
from ..storage.known_collection import leave_log, make_store

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("name", ["vectors-0.bin", "codes-0.bin", "meta.db"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_damage_at_every_byte(tmp_path, name, damage):
    truth = make_store(tmp_path / "store")
    size = (tmp_path / "store/default" / name).stat().st_size
    damage_all(tmp_path, name, damage, list(range(size)), [truth], tmp_path / "store")


@pytest.mark.parametrize("damage", [cut, flip])
def test_damage_of_the_log_at_every_third_byte(tmp_path, damage):
    states = leave_log(tmp_path / "store", make_store(tmp_path / "store"))
    size = (tmp_path / "store/default/meta.db-wal").stat().st_size
    damage_all(tmp_path, "meta.db-wal", damage, list(range(0, size, 3)), states, tmp_path / "store")


@pytest.mark.parametrize("seed", range(50))
def test_kill(tmp_path, seed):
    assert kill_while_writing(tmp_path, 1000 + seed) >= 1


@needs_strace
def test_a_fault_at_every_call_to_the_system(tmp_path):
    points = fault_points(tmp_path, "store")
    for fault in points:
        check_fault(tmp_path / "one", "store", fault)
    print(f"{len(points)} faults")
