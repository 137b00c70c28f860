"""Many processes in one folder, some of them killed: a worker that checks what it sees, and the run of all of them.

    python -m tests.torture.many_processes FOLDER SECONDS [PROCESSES] [upkeep | exclusive]

Documents come in groups of four that are added, changed and deleted together, and each change has the next step. So a
read is of one committed state if it finds none or four of a group, all at the same step, and none goes back if that
step never falls. Each group belongs to one worker, which writes into its journal what it is about to do, and when that
was acknowledged. Some groups are over after a moment: from then on nobody may find them, and before they must be there.
With "upkeep" the first worker also compacts, makes the codes anew, and clears everything. With
"exclusive" it has the folder to itself now and then, and nobody waits for the lock: refusals are counted.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

import bqstore
from bqstore import clock
from bqstore.storage.lock import WriterLock

GROUPS, EACH, DIM = 50, 4, 32
NEVER = 0  # when a group is over that is never over
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
WAITS: list[float] = []


def vector_of(group: int) -> Any:
    """The vectors of a group, float32 (4, 32)."""
    return np.random.default_rng(group).standard_normal((EACH, DIM), dtype=np.float32)


def ids_of(group: int) -> list[str]:
    """The ids of a group."""
    return [f"{group}-{i}" for i in range(EACH)]


class Worker:
    """One process: its groups, and the highest step it has seen of every group."""

    def __init__(self, folder: Path, number: int, processes: int, kind: str) -> None:
        self.folder, self.number, self.processes = folder, number, processes
        self.kind, self.is_first = kind, number == 0
        self.journal = os.open(folder / f"journal-{number}", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.random = random.Random(time.time_ns())
        self.seen: dict[int, int] = {}
        self.seq = 0
        self.counts = dict.fromkeys(("writes", "reads", "refused"), 0)
        self.wait = 0.2 if kind == "exclusive" else 60.0
        self.col = self.opened()

    def opened(self, exclusive: bool = False) -> bqstore.Collection:
        while True:
            try:
                opening: dict[str, Any] = {"lock_timeout": self.wait, "exclusive": exclusive}
                return bqstore.open(self.folder / "store", hnsw={"full_scan_threshold": 0}, **opening)
            except bqstore.LockedError:
                assert self.kind == "exclusive"
                self.counts["refused"] += 1

    def note(self, *what: Any) -> None:
        os.write(self.journal, (json.dumps([time.monotonic(), *what]) + "\n").encode())

    # ---- what is there

    def step_of(self, group: int) -> int:
        """The step of a group, -1 without one; fails unless it is of one committed state, and no older than before."""
        kind = self.random.choice(["search", "walk", "get", "scroll", "count"])
        where, began = {"group": group}, clock.now()
        if kind == "count":
            found = self.col.count(where)
            assert found in (0, EACH), (group, found)
            return self.seen.get(group, -1) if found else -1
        if kind == "search":
            hits = self.col.search(vector_of(group)[0], k=EACH + 1, filter=where)
            steps = self.steps([hit.metadata for hit in hits], began)
        elif kind == "walk":
            hits = self.col.search(vector_of(group)[0], k=50)
            self.one_state([hit.metadata for hit in hits])
            self.steps([hit.metadata for hit in hits], began)
            steps = [hit.metadata["step"] for hit in hits if hit.metadata["group"] == group]
            if 0 < len(steps) < EACH:  # only the nearest are found
                steps = (steps * EACH)[:EACH]
        elif kind == "get":
            steps = self.steps([record.metadata for record in self.col.get(ids_of(group))], began)
        else:  # reads group after group, each at its own moment
            steps = self.steps([record.metadata for record in self.col.scroll(where)], began)
        assert len(steps) in (0, EACH) and len(set(steps)) <= 1, (kind, group, steps)
        if not steps:
            return -1
        assert steps[0] >= self.seen.get(group, -1), f"group {group} went back from {self.seen[group]} to {steps[0]}"
        self.seen[group] = steps[0]
        return int(steps[0])

    def steps(self, found: list[dict[str, Any]], began: int) -> list[int]:
        """The steps of documents; fails if one was over before they were asked for."""
        late = [each for each in found if each["until"] != NEVER and each["until"] <= began]
        assert not late, f"{late} were found at {began}"
        return [each["step"] for each in found]

    def one_state(self, found: list[dict[str, int]]) -> None:
        """All documents of a group are at one step."""
        steps: dict[int, int] = {}
        for each in found:
            assert steps.setdefault(each["group"], each["step"]) == each["step"], found

    def committed(self) -> None:
        """The commit that this handle stands at never falls."""
        seq = self.col._engine.publisher.current().head.seq
        assert seq >= self.seq
        self.seq = seq

    # ---- what was acknowledged

    def known(self) -> dict[int, dict[int, int]]:
        """The steps that each of the worker's groups may be at, and when it is over there; -1: it may be absent.

        It is one step, or two after a kill.
        """
        out: dict[int, dict[int, int]] = {}
        since: dict[int, float] = {}
        begun: dict[int, float] = {}
        for line in os.pread(self.journal, os.fstat(self.journal).st_size, 0).splitlines():
            try:
                at, word, *what = json.loads(line)
            except ValueError:  # it was killed while writing
                continue
            if word == "will":
                group, step, until = what
                out[group], begun[group] = {**out.get(group, {-1: NEVER}), step: until}, at
            elif word == "done":
                group, step, until = what
                out[group], since[group] = {step: until}, begun.get(group, 0.0)
        for _, began in clears(self.folder):
            for group, steps in out.items():
                if since.get(group, 0) < began[1]:  # begun, and so perhaps committed, before the clear was over
                    steps[-1] = NEVER
        return out

    def check_own(self) -> None:
        """Everything that was acknowledged is there."""
        for group, steps in self.known().items():
            self.seen.pop(group, None)
            began = clock.now()
            found = set(self.steps([record.metadata for record in self.col.get(ids_of(group))], began)) or {-1}
            over = any(until != NEVER and until <= clock.now() for until in steps.values())
            assert found <= steps.keys() | ({-1} if over else set()) and len(found) == 1, (group, found, steps)

    # ---- work

    def write(self) -> None:
        """One write; a refused one has left no trace."""
        try:
            self.change()
        except bqstore.LockedError:
            assert self.kind == "exclusive"
            self.counts["refused"] += 1

    def change(self) -> None:
        if self.random.random() < 0.02:
            self.col.expire()  # groups of others, too
        group = self.number * GROUPS + self.random.randrange(GROUPS)
        there = [record.metadata for record in self.col.get(ids_of(group)[:1])]
        kind = self.random.choices(["add", "update", "delete"], [3, 4, 2])[0] if there else "add"
        step = max([*self.known().get(group, {}), *self.tops().get(group, [0])]) + 1
        until = self.random.choice([NEVER, clock.now() + self.random.randrange(3_000_000)])
        if kind == "update" and self.random.random() < 0.5:
            until = there[0]["until"]  # as it is
        if kind == "delete":
            step, until = -1, NEVER
        self.note("will", group, step, until)
        metadata = {"group": group, "step": step, "until": until}
        when = math.inf if until == NEVER else EPOCH + timedelta(microseconds=until)
        if kind == "add":
            self.col.add(vector_of(group), ids_of(group), ["text"] * EACH, [metadata] * EACH, expires_at=when)
        elif kind == "update":
            given = None if until == there[0]["until"] else when
            changed = self.col.update_metadata(ids_of(group), metadata, expires_at=given)
            assert changed in (0, EACH), (group, changed)
            if not changed:  # a clear came between, or its time
                step, until = -1, NEVER
        else:
            self.col.delete(filter={"group": group})
        self.note("done", group, step, until)
        self.counts["writes"] += 1

    def tops(self) -> dict[int, list[int]]:
        """Every step that the worker's groups have had."""
        out: dict[int, list[int]] = {}
        for line in os.pread(self.journal, os.fstat(self.journal).st_size, 0).splitlines():
            try:
                group, step = json.loads(line)[2:4]
            except ValueError:
                continue
            out.setdefault(group, [0]).append(step)
        return out

    def keep_up(self) -> None:
        if self.kind == "exclusive":
            self.col.close()
            self.col = self.opened(exclusive=True)
            for _ in range(50):
                self.change()  # never refused
            self.col.close()
            self.col = self.opened()
            return
        kind = self.random.choices(["compact", "requantize", "clear", "tune"], [4, 3, 1, 2])[0]
        if kind == "clear":
            mark = self.folder / f"clear-{time.monotonic_ns()}"
            mark.write_text(f"[{time.monotonic()}, 1e300]")
            began = time.monotonic()
            self.col.clear()
            mark.write_text(f"[{began}, {time.monotonic()}]")
        elif kind == "compact":
            self.col.compact()
        elif kind == "tune":
            self.col._engine.set_search_defaults(bqstore.SearchParams(oversampling=self.random.choice([3.0, 5.0])))
        else:
            self.col.requantize(encoding=self.random.choice(["one_bit", "two_bits"]), estimator="rabitq")

    def work(self, seconds: float) -> None:
        end, reported, upkept = time.monotonic() + seconds, 0.0, time.monotonic()
        while time.monotonic() < end:
            if self.random.random() < 0.3:
                self.write()
            else:
                self.step_of(self.random.randrange(GROUPS * self.processes))
                self.counts["reads"] += 1
            self.committed()
            now = time.monotonic()
            if self.is_first and self.kind != "plain" and now - upkept > 4:
                self.keep_up()
                upkept = now
            if now - reported > 2:
                reported = now
                self.report()
        self.check_own()
        self.report()
        self.col.close()

    def report(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        line = {**self.counts, "rss": pages * 4096, "waits": len(WAITS), "longest": max(WAITS, default=0.0)}
        line["total"] = sum(WAITS)
        (self.folder / f"report-{os.getpid()}").write_text(json.dumps(line))


def clears(folder: Path) -> Iterator[tuple[Path, tuple[float, float]]]:
    """When everything was cleared: the beginning, and the end, which is infinite if a kill came between."""
    for path in folder.glob("clear-*"):
        try:
            began, ended = json.loads(path.read_text())
        except ValueError:  # it is being written
            began, ended = 0.0, 1e300
        yield path, (began, ended)


def timed_waits() -> None:
    """Take the time of each wait for the commit lock."""
    wait = WriterLock.wait

    def timed(self: WriterLock, file: Any, timeout: float, whole: bool = False) -> None:
        began = time.perf_counter()
        wait(self, file, timeout, whole)
        if self._path.name == "LOCK":
            WAITS.append(time.perf_counter() - began)

    WriterLock.wait = timed  # type: ignore[method-assign]


def run(folder: Path, seconds: float, processes: int, kind: str, killed_every: float = 5.0) -> dict[str, Any]:
    """Let the workers work, kill one now and then, and check everything at the end. Returns the figures."""
    end, rng, kills, began = time.monotonic() + seconds, random.Random(1), 0, time.monotonic()
    bqstore.open(folder / "store").close()

    def start(number: int) -> subprocess.Popen[str]:
        left = max(1.0, end - time.monotonic())
        command = [sys.executable, "-m", __spec__.name, "worker", str(folder), str(number), str(processes)]
        command += [str(left), kind]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    workers = [start(number) for number in range(processes)]
    errors: list[str] = []
    next_kill = time.monotonic() + killed_every
    while any(worker.poll() is None for worker in workers) and not errors:
        time.sleep(0.1)
        for worker in workers:
            if worker.poll() not in (None, 0, -signal.SIGKILL) and worker.stderr is not None:
                errors.append(f"exit code {worker.returncode}: {worker.stderr.read()}")
        if time.monotonic() >= next_kill and time.monotonic() < end - killed_every:
            next_kill += killed_every
            number = rng.randrange(processes)
            if workers[number].poll() is None:
                workers[number].kill()
                workers[number].communicate()
                kills += 1
                workers[number] = start(number)
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert not errors, errors[0]
    with bqstore.open(folder / "store") as col:
        report = col.verify()
        assert report.ok, report.problems
        documents = col.count()
    reports = [json.loads(path.read_text()) for path in folder.glob("report-*") if path.stat().st_size]
    waits = sum(each["waits"] for each in reports)
    return {
        "seconds": round(time.monotonic() - began),
        "kills": kills,
        "documents": documents,
        "commits": sum(each["writes"] for each in reports),
        "reads": sum(each["reads"] for each in reports),
        "refused": sum(each["refused"] for each in reports),
        "longest wait, s": max(each["longest"] for each in reports),
        "mean wait, ms": 1e3 * sum(each["total"] for each in reports) / max(1, waits),
        "largest process, MB": max(each["rss"] for each in reports) / 1e6,
    }


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        timed_waits()
        _, _, where, number, processes, seconds, kind = sys.argv
        worker = Worker(Path(where), int(number), int(processes), kind)
        worker.check_own()
        worker.work(float(seconds))
    else:
        where, seconds, *more = sys.argv[1:]
        Path(where).mkdir(parents=True, exist_ok=True)
        processes, kind = (*more, *(["16", "plain"][len(more) :]))
        print(json.dumps(run(Path(where), float(seconds), int(processes), kind), indent=1))
