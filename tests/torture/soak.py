"""Random lives of a store, compared with a dictionary after every step: `make soak MINUTES=60`.

    python -m tests.torture.soak --minutes 60 --seed 1

Two processes have the folder open and do what this one tells them, one step at a time: add, replace, delete, filter,
search, compact, requantize, reembed, back up, close and open again. Now and then one is killed in the middle of a
step, or the disk refuses a write or a sync. A step that was answered has happened, one that was not has happened or
has not, and nothing else. Memory, descriptors, threads and files must not grow.
"""

import argparse
import gc
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import bqstore
from bqstore.storage import files
from tests.engine.test_reembed import Toy

ROOT = Path(__file__).parents[2]
MODELS = {"small": 16, "wide": 40, "other": 16}
State = dict[str, tuple[str, int]]  # text, n by id


# ---- the processes that have the folder open


def disk_that_refuses(error: int, calls: int, name: str) -> None:
    """The next writes, or syncs, but a few fail once."""
    real, left = getattr(files.DiskFile, name), [calls]

    def refuse(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            setattr(files.DiskFile, name, real)
            raise OSError(error, os.strerror(error))
        return real(*arguments)

    setattr(files.DiskFile, name, refuse)


class Worker:
    """Does a step and returns what there is to compare."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.col = bqstore.open(path, hnsw={"full_scan_threshold": 0})
        self.real = {name: getattr(files.DiskFile, name) for name in ("_pwrite", "sync")}

    def model(self) -> Toy:
        name = self.col.info().embedding_model or "small"
        return Toy(name, MODELS[name])

    def model_name(self) -> Any:
        return self.model().model

    def add(self, given: list[list[Any]]) -> Any:
        ids, texts, numbers = zip(*given, strict=True)
        self.col.add(self.model().embed(list(texts)), list(ids), list(texts), [{"n": n} for n in numbers])

    def delete(self, ids: list[str]) -> Any:
        return self.col.delete(ids)

    def delete_filter(self, n: int) -> Any:
        return self.col.delete(filter={"n": n})

    def update(self, ids: list[str], n: int) -> Any:
        return self.col.update_metadata(ids, {"n": n})

    def clear(self) -> Any:
        self.col.clear()

    def compact(self) -> Any:
        self.col.compact()

    def flush(self) -> Any:
        self.col.flush()

    def requantize(self, encoding: str, estimator: str) -> Any:
        self.col.requantize(encoding=encoding, estimator=estimator)

    def reembed(self, name: str) -> Any:
        self.col.reembed(Toy(name, MODELS[name]), batch=50)

    def backup(self, to: str) -> Any:
        return self.col.backup(to, incremental=True).documents

    def reopen(self) -> Any:
        self.col.close()
        gc.collect()  # what a caught error refers to
        fds, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208
        self.col = bqstore.open(self.path, hnsw={"full_scan_threshold": 0})
        return {"fds": fds, "threads": threads, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

    def fault(self, error: int, calls: int, name: str) -> Any:
        warnings.simplefilter("ignore", RuntimeWarning)  # of what was added, and could not be given better codes
        disk_that_refuses(error, calls, name)

    def heal(self) -> Any:
        for name, real in self.real.items():
            setattr(files.DiskFile, name, real)
        try:
            self.col.close()
        finally:
            warnings.simplefilter("error", RuntimeWarning)
            self.col = bqstore.open(self.path, hnsw={"full_scan_threshold": 0})

    def verify(self) -> Any:
        return self.col.verify().problems

    def dump(self) -> Any:
        """All documents; their vectors are compared here."""
        model, found = self.model(), list(self.col.scroll(batch=200))
        records = self.col.get([record.id for record in found], with_vectors=True)
        if records:
            np.testing.assert_array_equal(np.stack([r.vector for r in records]), model.embed([r.text for r in records]))
        return {record.id: [record.text, record.metadata["n"]] for record in found}

    def search(self, text: str, n: int | None) -> Any:
        query = self.model().embed_query(text)
        hits = self.col.search(query, 5, filter=None if n is None else {"n": n}, oversampling=20)
        return [hit.id for hit in hits]


def work(path: Path) -> None:
    """Read steps from stdin, one JSON array a line, and answer each with one line."""
    worker = Worker(path)
    print('"ready"', flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = [True, getattr(worker, name)(*arguments)]
        except bqstore.BqstoreError as error:
            answer = [False, [each.__name__ for each in type(error).__mro__], str(error)]
        print(json.dumps(answer), flush=True)
    worker.col.close()


class Process:
    """One of them, as this process sees it."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.torture.soak", "--work", str(path)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert json.loads(self.line()) == "ready"

    def line(self) -> str:
        return self.process.stdout.readline() or "null"

    def send(self, *step: Any) -> None:
        self.process.stdin.write(json.dumps(step) + "\n")
        self.process.stdin.flush()

    def ask(self, *step: Any) -> Any:
        """The answer to a step that must not fail."""
        self.send(*step)
        answer = json.loads(self.line())
        assert answer and answer[0], f"{step} was answered by {answer}"
        return answer[1]

    def end(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.stdout.close()
        assert self.process.wait(300) == (-9 if kill else 0)


# ---- the one that knows what must be there


class Life:
    """A store, the processes that use it, and what it must hold."""

    def __init__(self, folder: Path, seed: int, largest: int = 3000) -> None:
        self.rng, self.folder, self.largest = random.Random(seed), folder, largest
        self.path, self.copy = folder / "store", folder / "copy"
        self.model, self.state, self.copied = "small", State(), -1
        self.texts, self.did, self.usage = 0, Counter[str](), []
        bqstore.open(self.path, embedding_model=None, dim=None).close()
        self.processes = [Process(self.path), Process(self.path)]

    def choose(self) -> tuple[list[Any], State, str]:
        """A step, and the documents and the model after it."""
        rng, after, model = self.rng, dict(self.state), self.model
        ids = sorted(self.state)
        some = rng.sample(ids, min(len(ids), rng.randint(1, 30)))
        n = rng.randrange(8)
        kinds = {"add": 30, "delete": 12, "update": 8, "delete_filter": 3, "flush": 3, "compact": 4, "requantize": 2}
        kinds |= {"reembed": 1.5, "backup": 5, "clear": 0.5}
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        if kind == "add" or not ids:
            fresh = [f"d{self.texts + i}" for i in range(rng.choice((1, 5, 40, 200)))]
            given = [[id_, f"text {id_} {rng.random()}", rng.randrange(8)] for id_ in [*fresh, *some[:3]]]
            self.texts += len(fresh)
            after |= {id_: (text, number) for id_, text, number in given}
            if len(after) <= self.largest:
                return ["add", given], after, model
            kind, after = "delete_filter", dict(self.state)
        if kind == "delete":
            return ["delete", some], {id_: doc for id_, doc in after.items() if id_ not in some}, model
        if kind == "delete_filter":
            return ["delete_filter", n], {id_: doc for id_, doc in after.items() if doc[1] != n}, model
        if kind == "update":
            return ["update", some, n], after | {id_: (after[id_][0], n) for id_ in some}, model
        if kind == "clear":
            return ["clear"], {}, model
        if kind == "requantize":
            return (
                ["requantize", *rng.choice([("one_bit", "sign"), ("two_bits", "rabitq"), ("auto", "auto")])],
                after,
                model,
            )
        if kind == "reembed":
            model = rng.choice(sorted(MODELS))
            return ["reembed", model], after, model
        return [kind, str(self.copy)] if kind == "backup" else [kind], after, model

    def step(self) -> None:
        """One step of one process, and what the other sees of it."""
        at = self.rng.randrange(2)
        actor, other = self.processes[at], self.processes[1 - at]
        step, after, model = self.choose()
        fate = self.rng.choices(["done", "killed", "fault"], [30, 2, 2])[0]
        self.did[step[0]] += 1
        self.did[fate] += 1
        if fate == "fault":
            error, name = self.rng.choice([(28, "_pwrite"), (5, "_pwrite"), (28, "sync"), (5, "sync")])
            actor.ask("fault", error, self.rng.randint(1, 6), name)
        actor.send(*step)
        if fate == "killed":
            time.sleep(self.rng.random() * self.rng.choice((0.01, 0.1, 0.6)))
            actor.end(kill=True)
            self.processes[at] = Process(self.path)
            self.settle(other, step, after, model)
        else:
            answer = json.loads(actor.line())
            assert answer and (answer[0] or (fate == "fault" and "StorageError" in answer[1])), f"{step}: {answer}"
            if answer[0]:
                self.state, self.model = after, model
            if fate == "fault":
                actor.ask("heal")
                self.settle(other, step, after, model) if not answer[0] else None
            if step[0] == "backup" and answer[0]:
                assert answer[1] == len(self.state)
                self.copied = self.did.total()
        self.look(other)

    def settle(self, process: Process, step: list[Any], after: State, model: str) -> None:
        """After a step without an answer: it has happened as a whole, or not at all."""
        found = {id_: tuple(doc) for id_, doc in process.ask("dump").items()}
        assert found in (self.state, after), f"{step} was half done"
        if found == after and (step[0] != "reembed" or process.ask("model_name") == model):
            self.state, self.model = after, model

    def look(self, process: Process) -> None:
        """Ask something that is cheap, and now and then everything."""
        rng = self.rng
        if self.state:
            id_ = rng.choice(sorted(self.state))
            text, n = self.state[id_]
            assert process.ask("search", text, rng.choice((None, n)))[0] == id_
        if rng.random() < 0.05:
            assert {id_: tuple(doc) for id_, doc in process.ask("dump").items()} == self.state
            assert process.ask("verify") == []
        if rng.random() < 0.1:
            self.usage.append(process.ask("reopen"))

    def end(self) -> dict[str, Any]:
        """Compare everything once more; what was done, and what it took."""
        for process in self.processes:
            assert {id_: tuple(doc) for id_, doc in process.ask("dump").items()} == self.state
            assert process.ask("verify") == []
            process.ask("compact")
            self.usage.append(process.ask("reopen"))
            process.end()
        names = sorted(file.name for file in (self.path / "default").iterdir())
        assert len(names) <= 12, f"files were left: {names}"
        if self.copied >= 0:
            with bqstore.open(self.copy, read_only=True) as copy:
                assert copy.verify().ok
        used = {key: [each[key] for each in self.usage] for key in ("fds", "threads", "rss")}
        early, late = (slice(0, max(1, len(self.usage) // 3)), slice(-max(1, len(self.usage) // 3), None))
        for key, slack in (("fds", 3), ("threads", 3), ("rss", 150_000)):
            grown = statistics.median(used[key][late]) - statistics.median(used[key][early])
            assert grown <= slack, f"{key} grew by {grown}: {used[key]}"
        return {"steps": dict(self.did), "documents": len(self.state), "most": {k: max(v) for k, v in used.items()}}


def live(
    folder: Path, seed: int, steps: int | None = None, seconds: float = 0.0, largest: int = 3000
) -> dict[str, Any]:
    """One life, of so many steps or seconds."""
    life, begun, done = Life(folder, seed, largest), time.monotonic(), 0
    try:
        while done < steps if steps is not None else time.monotonic() - begun < seconds:
            life.step()
            done += 1
        return life.end()
    finally:
        for process in life.processes:
            process.process.kill()
            process.process.wait()
            for pipe in (process.process.stdin, process.process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Random lives of a store, compared with a dictionary.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work)
        return
    bqstore.warm_up()  # the compiler takes 200 MB of the process in which it runs
    end, seed = time.monotonic() + 60 * given.minutes, given.seed
    while (left := end - time.monotonic()) > 0:
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        print(f"seed {seed} in {folder}", flush=True)
        print(json.dumps(live(folder, seed, seconds=min(left, 600))), flush=True)
        shutil.rmtree(folder)  # one that has failed stays, to be looked at
        seed += 1


if __name__ == "__main__":
    main()
