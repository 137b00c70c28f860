"""What the command reads and writes: queries in, a page and JSON out. What is wrong with a file is told early."""

import json
import math
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import bqstore


def read_queries(path: Path) -> np.ndarray[Any, Any]:
    """The array of a .npy file, without ever unpickling: (n, dim) of real numbers. Raises InvalidInputError, OSError.

    Its dimensions and values are checked by `Collection.recall`, which knows what the collection holds.
    """
    expected = "expected one numpy array (n, dim) of numbers, as written by numpy.save"
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, MemoryError):  # no array, a cut one, one of objects, a size that cannot be
        raise bqstore.InvalidInputError(f"{path} cannot be read; {expected}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise bqstore.InvalidInputError(f"{path} is an archive of arrays; {expected}")
    if array.ndim != 2 or not len(array) or array.dtype.kind not in "fiu":
        shape = f"an array of shape {array.shape} and type {array.dtype}"
        raise bqstore.InvalidInputError(f"{path} holds {shape}; {expected}")
    return array


def check_target(path: Path | None) -> None:
    """Refuse a report that could not be made or written. Raises InvalidInputError."""
    if path is None:
        return
    if find_spec("plotly") is None:
        raise bqstore.InvalidInputError('--report needs plotly: pip install "bqstore[cli]"')
    if path.is_dir():
        raise bqstore.InvalidInputError(f"{path} is a folder; --report takes the name of a file")
    if not path.absolute().parent.is_dir():
        raise bqstore.InvalidInputError(f"there is no folder {path.absolute().parent} to write the report to")


def json_text(report: bqstore.RecallReport) -> str:
    """The report with the names of its fields; a number that JSON does not have, such as NaN, becomes null."""
    return json.dumps(_plain(asdict(report)), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
