"""Leaves have no machine code of their own, can be called from Python, and are plain functions where numba differs."""

import importlib
import pkgutil
from types import FunctionType

import numba
import numpy as np
import pytest

import bqstore.kernels
from bqstore.index import warm_up
from bqstore.kernels import bits, jit, leaf_compiler
from tests.kernels.given import INTERPRETED

compiled = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")


def twice(value):
    return value + value


@compiled
def test_a_leaf_gives_kernels_and_python_the_same():
    leaf = jit.leaf(twice)

    @numba.njit
    def root(value):
        return leaf(value) + 1

    assert [root(3), root(2.5), leaf(3), leaf(2.5), twice(3)] == [7, 6.0, 6, 5.0, 6]


@compiled
def test_leaves_have_no_code_of_their_own():
    """Else they take as long to compile as everything else; the newest numba must be one that we know."""
    assert leaf_compiler.compile_leaf is not leaf_compiler._unknown
    warm_up()
    libraries = {type(r.library).__name__ for r in bits.distance_to.overloads.values()}
    assert libraries <= {"_LeafLibrary"}


@compiled
def test_leaves_are_plain_functions_where_numba_is_another(monkeypatch):
    monkeypatch.setattr(jit, "compile_leaf", leaf_compiler._unknown)
    leaf = jit.float_leaf(twice)
    assert type(leaf) is type(numba.njit(twice)) and leaf(np.float32(1.5)) == 3


def test_kernels_of_two_processes_took_each_others_loops():
    """Symbols have names, types, and a number that each process begins anew: so no two functions may share a name."""
    found = {}
    for each in pkgutil.iter_modules(bqstore.kernels.__path__):
        if each.name.startswith("compile"):  # what compiles, and no kernels
            continue
        module = importlib.import_module(f"bqstore.kernels.{each.name}")
        for value in vars(module).values():
            function = getattr(value, "py_func", value)
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                found[id(function)] = module.__name__, function.__qualname__
    assert len(found) > 100 and len(set(found.values())) == len(found)
