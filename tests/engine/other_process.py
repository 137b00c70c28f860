"""Another process with the same store open, told what to do line by line."""

import ast
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import bqstore

ROOT = Path(bqstore.__file__).parents[1]

LOOP = """
import sys, time, os, ast
import numpy as np
import bqstore
for line in sys.stdin:
    source = ast.literal_eval(line)
    try:
        try:
            out = eval(source)
        except SyntaxError:
            exec(source)
            out = None
        try:
            ast.literal_eval(repr(out))
        except (ValueError, SyntaxError):
            out = None  # a result of some class
        print(repr((True, out)), flush=True)
    except BaseException as error:
        print(repr((False, f"{type(error).__name__}: {error}")), flush=True)
"""


class Other:
    """The process: call it with an expression or a statement; ``col`` is its collection."""

    def __init__(self, process):
        self.process = process

    def __call__(self, source):
        self.send(source)
        return self.answer()

    def send(self, source):
        self.process.stdin.write(repr(source) + "\n")
        self.process.stdin.flush()

    def answer(self):
        good, out = ast.literal_eval(self.process.stdout.readline())
        if not good:
            raise AssertionError(out)
        return out


@contextmanager
def other_process(path, opening=""):
    """Another process; with a path, it has that store open."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", LOOP]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        other = Other(process)
        try:
            if path is not None:
                other(f"col = bqstore.open({str(path)!r}, {opening})")
            yield other
        finally:
            process.kill()
