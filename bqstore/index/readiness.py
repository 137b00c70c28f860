"""Whether the kernels are compiled, and how to wait until they are."""

from collections.abc import Callable

from ..arguments import check_choice
from ..kernels import dispatch


def kernels_state() -> str:
    """How far the kernels are, as in `CollectionInfo`; it only looks."""
    return dispatch.state(dispatch.PARTS["all"])


def check_environment() -> None:
    """Raise InvalidInputError for an unknown BQSTORE_COMPILE."""
    dispatch.will_come()


def can_link() -> bool:
    """Whether nodes can be linked and the graph walked; if not, compiling is started, unless it is off."""
    return all(kernel.is_compiled() for kernel in dispatch.GRAPH)


def can_link_later() -> bool:
    """Whether nodes cannot be linked yet, but will be."""
    return not can_link() and dispatch.will_come()


def wait_for_kernels(stopped: Callable[[], bool] = lambda: False, *, showing: bool = True) -> bool:
    """Wait until nodes can be linked; False if `stopped`, or if compiling is off."""
    return dispatch.wait_for(dispatch.GRAPH, stopped, showing=showing)


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
