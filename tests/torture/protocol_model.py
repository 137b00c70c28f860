"""The protocol of lock, follow, append, commit, bump, release and snapshot as a small machine: every interleaving.

Two writers and a reader, each with a short program; the machine takes one step of one of them at a time, in every
order, and kills any of them before any step. Somebody may remove LOCK once. What a step does is what `Publisher.write`,
`Store.append`, `Publisher.current` and `Store.write_snapshot` do at that point, with everything else left out: a record
is the pair of its writer and a number.

`broken` names one rule that the machine leaves out, to show that the checks would see it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

RULES = ("follow", "order", "lock", "second lock", "bump", "duty", "newest generation")
Record = tuple[int, int]


@dataclass(frozen=True)
class Disk:
    """What all processes see.

    head : commit, generation, records committed; records : of the generation, committed or not; number : in SEQ
    """

    seq: int = 0
    generation: int = 0
    n: int = 0
    records: tuple[Record, ...] = ()
    number: int = 0
    holder: int | None = None  # of LOCK
    held_long: int | None = None  # of a LOCK that was removed
    sqlite: int | None = None  # whose transaction holds SQLite's own lock
    removed: bool = False
    saving: int | None = None  # who has the duty to keep a snapshot
    snapshot: tuple[int, int] | None = None  # generation and commit of the newest


@dataclass(frozen=True)
class Process:
    """One process: what it does next, and what it knows."""

    program: tuple[str, ...]
    at: int = 0  # step of the present operation
    seq: int = 0
    generation: int = 0
    n: int = 0
    seen: int = 0
    alive: bool = True
    made: int = 0
    must_see: int = 0  # a search began when this commit had been acknowledged


@dataclass(frozen=True)
class World:
    """A state of everything; ``acknowledged`` are (commit, record) that a caller was told are stored."""

    disk: Disk
    processes: tuple[Process, ...]
    acknowledged: frozenset[tuple[int, Record]] = frozenset()


class ViolatedError(Exception):
    """A promise that was not kept."""


def explore(programs: tuple[tuple[str, ...], ...], broken: str | None = None, kills: int = 1) -> int:
    """Try every interleaving; returns the number of states. Raises ViolatedError."""
    assert broken in (None, *RULES)
    start = World(Disk(), tuple(Process(program) for program in programs))
    known, todo = {(start, kills)}, [(start, kills)]
    while todo:
        world, left = todo.pop()
        nexts = [(after, left) for i in range(len(programs)) for after in steps(world, i, broken)]
        if left:
            nexts += [(killed(world, i), left - 1) for i, each in enumerate(world.processes) if each.alive]
        if not world.disk.removed:
            disk = replace(world.disk, removed=True, holder=None, held_long=world.disk.holder)
            nexts.append((replace(world, disk=disk), left))
        for state in nexts:
            if state not in known:
                check(state[0])
                known.add(state)
                todo.append(state)
    return len(known)


def check(world: World) -> None:
    """Everything acknowledged is committed, and is what was written."""
    disk = world.disk
    committed = disk.records[: disk.n]
    for _, record in world.acknowledged:
        if record not in committed:
            raise ViolatedError(f"{record} was acknowledged and is not there: {disk}")
    if len(committed) < disk.n:
        raise ViolatedError(f"a commit is there before its record: {disk}")
    if len(set(committed)) < len(committed):
        raise ViolatedError(f"a record is there twice: {disk}")


def killed(world: World, i: int) -> World:
    """The kernel takes back what a process held; SQLite rolls back what it had not committed."""
    disk, processes = world.disk, list(world.processes)
    processes[i] = replace(processes[i], alive=False)
    free = {name: None for name in ("holder", "held_long", "sqlite", "saving") if getattr(disk, name) == i}
    return replace(world, disk=replace(disk, **free), processes=tuple(processes))


def steps(world: World, i: int, broken: str | None) -> Iterator[World]:
    """What may come next in a process: nothing where it waits, or has ended."""
    me, disk = world.processes[i], world.disk
    if not me.alive or not me.program:
        return
    kind = me.program[0]
    made = {"search": search, "snapshot": snapshot}.get(kind, write)(world, i, me, disk, broken)
    for new_disk, then, done in made:
        new_me = replace(then, program=then.program[1:], at=0) if done else then
        processes = tuple(new_me if j == i else each for j, each in enumerate(world.processes))
        acknowledged = world.acknowledged
        if done and kind == "add" and new_me.made > 0:
            acknowledged |= {(new_me.seq, (i, len(new_me.program)))}
        yield World(new_disk, processes, acknowledged)


Made = Iterator[tuple[Disk, Process, bool]]


def write(world: World, i: int, me: Process, disk: Disk, broken: str | None) -> Made:
    """An add, or a compaction: steps 0 to 6."""
    adds = me.program[0] == "add"
    me_next = replace(me, at=me.at + 1)
    if me.at == 0:  # the lock of the folder
        if disk.holder is None:
            yield replace(disk, holder=i), replace(me_next, made=0), False
        elif broken == "lock":
            yield disk, replace(me_next, made=0), False
    elif me.at == 1:  # SQLite's own lock, and a look at what others have committed
        if disk.sqlite is None or broken in ("lock", "second lock"):
            taken = disk if broken in ("lock", "second lock") else replace(disk, sqlite=i)
            if broken != "follow":
                me_next = replace(me_next, seq=disk.seq, generation=disk.generation, n=disk.n)
            yield taken, me_next, False
    elif me.at == 2:  # a record behind the committed ones, synced; a compaction makes files of its own
        if broken == "order":
            yield replace(disk, seq=me.seq + 1, n=me.n + adds), me_next, False
        else:
            yield written(i, me, disk, adds), me_next, False
    elif me.at == 3:  # the commit
        if broken == "order":
            yield written(i, me, disk, adds), replace(me_next, made=1, seq=me.seq + 1, n=me.n + adds), False
        elif (disk.seq, disk.generation) != (me.seq, me.generation) and broken not in ("follow", "lock", "second lock"):
            yield replace(disk, sqlite=None), replace(me_next, made=-1), False  # "has moved on": not acknowledged
        else:
            new = replace(disk, sqlite=None, seq=me.seq + 1, n=me.n + adds, generation=me.generation + (not adds))
            yield new, replace(me_next, made=1, seq=new.seq, n=new.n, generation=new.generation), False
    elif me.at == 4:  # the number
        yield (disk if broken == "bump" or me.made < 0 else replace(disk, number=me.seq)), me_next, False
    else:  # the lock is given back, and the call returns
        free = {name: None for name in ("holder", "held_long") if getattr(disk, name) == i}
        yield replace(disk, **free), me, True


def written(i: int, me: Process, disk: Disk, adds: bool) -> Disk:
    if not adds:
        return disk
    return replace(disk, records=(*disk.records[: me.n], (i, len(me.program) - 1), *disk.records[me.n + 1 :]))


def search(world: World, i: int, me: Process, disk: Disk, broken: str | None) -> Made:
    """A search, whose first step is the memory read, and which never goes back."""
    acknowledged = max((seq for seq, _ in world.acknowledged), default=0)
    if me.at == 0:
        look = disk.number != me.seen
        yield disk, replace(me, at=1 if look else 2, must_see=acknowledged, seen=disk.number), False
    elif me.at == 1:
        if disk.seq < me.seq:
            raise ViolatedError(f"a reader went back from commit {me.seq} to {disk.seq}")
        yield disk, replace(me, at=2, seq=disk.seq, n=disk.n, generation=disk.generation), False
    else:
        if me.seq < me.must_see:
            raise ViolatedError(f"a search stood at commit {me.seq}, and {me.must_see} had been acknowledged before")
        yield disk, me, True


def snapshot(world: World, i: int, me: Process, disk: Disk, broken: str | None) -> Made:
    """A process keeps what it has linked: of the commit that it stands at, which may be an old one."""
    if me.at == 0:
        yield disk, replace(me, at=1, seq=disk.seq, generation=disk.generation), False
    elif me.at == 1:
        if disk.saving is None or broken == "duty":
            yield replace(disk, saving=i), replace(me, at=2), False
        else:
            yield disk, me, True  # another one is at it
    elif me.at == 2:
        if disk.generation != me.generation and broken != "newest generation":
            yield replace(disk, saving=None), me, True  # of no use any more
        else:
            yield disk, replace(me, at=3), False
    else:  # it gets its name; older ones, and those of other generations, are removed
        mine, kept = (me.generation, me.seq), disk.snapshot
        if kept is not None and kept[0] > mine[0]:
            raise ViolatedError(f"a snapshot of {mine} has removed the newer one of {kept}")
        for other in world.processes:
            if other is not me and other.program[:1] == ("snapshot",) and other.at == 3 and other.alive:
                raise ViolatedError("two processes write snapshots, and sweep each other's")
        yield replace(disk, saving=None, snapshot=max(mine, kept or mine)), me, True


def programs() -> list[Any]:
    """What the processes do: two writers, and one that reads or keeps snapshots."""
    return [
        (("add", "add"), ("add",), ("search", "search")),
        (("add", "compact"), ("add",), ("search", "search")),
        (("compact", "add"), ("snapshot", "add"), ("snapshot",)),
        (("add",), ("add",), ("add",)),
    ]
