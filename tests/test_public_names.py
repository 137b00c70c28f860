"""What may be imported, and by whom."""

import ast
import errno
import subprocess
import sys
from pathlib import Path

import pytest

import bqstore

ROOT = Path(__file__).resolve().parents[1]


def test_all_names_load_and_nothing_else_is_public():
    for name in bqstore.__all__:
        assert getattr(bqstore, name) is not None
    assert dir(bqstore) == sorted(bqstore.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bqstore.nothing


def test_a_name_that_no_descriptor_was_left_for_was_an_error_of_the_system(monkeypatch):
    """`bqstore.repair`, say, first used by a process that has all the files that it may have."""
    real = bqstore.import_module

    def refused(name, package):
        if name == ".clock":
            raise OSError(errno.EMFILE, "Too many open files", "clock.py")
        return real(name, package)

    monkeypatch.delitem(vars(bqstore), "EXPIRES_AT_KEY", raising=False)
    with monkeypatch.context() as patched:
        patched.setattr(bqstore, "import_module", refused)
        with pytest.raises(bqstore.StorageError, match=r"cannot load bqstore\.EXPIRES_AT_KEY: Too many open") as caught:
            _ = bqstore.EXPIRES_AT_KEY
        assert caught.value.errno == errno.EMFILE
    assert bqstore.EXPIRES_AT_KEY


def test_every_error_is_exported_and_has_the_one_base():
    from bqstore import errors

    names = {n for n, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names <= set(bqstore.__all__)
    assert all(issubclass(getattr(bqstore, name), bqstore.BqstoreError) for name in names)


@pytest.mark.parametrize("package", ["langchain_bqstore", "llama_index"])
def test_adapters_see_public_names_only(package):
    files = list((ROOT / "integrations" / package).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
                if node.module == "bqstore":
                    assert {a.name for a in node.names} <= set(bqstore.__all__), file
            assert not [m for m in modules if m.startswith("bqstore.")], f"{file} reaches into the core"


@pytest.mark.parametrize("module", ["bqstore", "bqstore.storage", "bqstore.embeddings", "bqstore.config"])
def test_parts_import_without_numba(module):
    code = f"import sys, {module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
