"""Whether the kernels are compiled, and how to wait until they are."""

from collections.abc import Callable

from ..arguments import check_choice
from ..kernels import dispatch

COMPILED, COMPILING, NUMPY = "compiled", "compiling", "numpy"


def kernels_state() -> str:
    """ "compiled": the graph's kernels are there; "compiling": they are on their way; "numpy": compiling is off."""
    if all(kernel.is_compiled() for kernel in dispatch.GRAPH):
        return COMPILED
    return COMPILING if dispatch.will_come() else NUMPY


def wait_for_kernels(stopped: Callable[[], bool] = lambda: False) -> bool:
    """Wait until nodes can be linked; False if `stopped`, or if compiling is off."""
    return dispatch.wait_for(dispatch.GRAPH, stopped)


def warm_up(only: str = "all") -> None:
    """Compile the kernels, or load them from the cache, so that no later call has to do without.

    Parameters
    ----------
    only : str      "core": what adding and searching a small collection needs, with filters; "graph": what collections
                    of 2,048 documents and more need besides; "all"

    Raises
    ------
    InvalidInputError   for another word

    >>> import bqstore
    >>> bqstore.warm_up()
    """
    dispatch.warm_up(check_choice("only", only, tuple(dispatch.PARTS)))
