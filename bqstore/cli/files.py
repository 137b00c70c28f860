"""Files that the command reads and writes, checked before anything is measured."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import bqstore


def read_queries(path: Path) -> np.ndarray[Any, Any]:
    """Read queries from a .npy file, without unpickling: numbers (n, dim). Raises InvalidInputError, OSError.

    `Collection.recall` checks the dimension and the values, which depend on the collection.
    """
    expected = "expected one numpy array (n, dim) of numbers, as written by numpy.save"
    array = _array(path, expected)
    if array.ndim != 2 or not len(array) or array.dtype.kind not in "fiu":
        shape = f"an array of shape {array.shape} and type {array.dtype}"
        raise bqstore.InvalidInputError(f"{path} holds {shape}; {expected}")
    return array


def read_vectors(path: Path) -> np.ndarray[Any, Any]:
    """Vectors of a .npy file, float32 (n, dim). Raises InvalidInputError, OSError."""
    return np.asarray(read_queries(path), np.float32)


def _array(path: Path, expected: str) -> np.ndarray[Any, Any]:
    """The array of a .npy file."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise bqstore.InvalidInputError(f"there is no file {path}; {expected}") from None
    except IsADirectoryError:
        raise bqstore.InvalidInputError(f"{path} is a folder; {expected}") from None
    except (ValueError, EOFError, MemoryError):  # no array, a truncated one, one of objects, an impossible size
        raise bqstore.InvalidInputError(f"{path} cannot be read; {expected}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise bqstore.InvalidInputError(f"{path} is an archive of arrays; {expected}")
    return array


def check_report_path(path: Path | None, option: str = "--report") -> None:
    """Raise InvalidInputError if the page could not be made or written; with None, only if it could not be made."""
    if find_spec("plotly") is None:
        raise bqstore.InvalidInputError(f"{option} needs plotly: pip install plotly")
    if path is None:
        return
    if path.is_dir():
        raise bqstore.InvalidInputError(f"{path} is a folder; {option} takes the name of a file")
    if not path.absolute().parent.is_dir():
        raise bqstore.InvalidInputError(f"there is no folder {path.absolute().parent} to write the page to")


def read_vector(path: Path) -> np.ndarray[Any, Any]:
    """One vector of a .npy file, (dim,) or (1, dim). Raises InvalidInputError, OSError."""
    array = _array(path, "expected one vector (dim,) of numbers, as written by numpy.save")
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "fiu":
        shape = f"an array of shape {array.shape} and type {array.dtype}"
        raise bqstore.InvalidInputError(f"{path} holds {shape}; expected one vector (dim,) of numbers")
    return array
