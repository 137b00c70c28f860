"""Ctrl-C at a chosen place of a call, where Python looks for signals: real ones, as a tracer also raises elsewhere."""

import contextlib
import ctypes
import dis
import signal
import sys
from collections.abc import Callable
from typing import Any

_PARTS = ("/bqstore/collection.py", "/bqstore/engine/", "/bqstore/storage/", "/contextlib.py")
_LOOKS = {number for name, number in dis.opmap.items() if name.startswith("CALL") or "JUMP_BACKWARD" in name}
_arrive = ctypes.pythonapi.PyErr_SetInterrupt
_arrive.argtypes, _arrive.restype = [ctypes.c_int], None


class CtrlC:
    """Calls something; an interrupt comes at the first of the places, and the next so many places after the one before.

    Attributes
    ----------
    came : int              interrupts that have come
    places : list of int    those between which Python looks for signals, of a call without interrupts
    """

    def __init__(self, *places: int) -> None:
        self._left = list(places)
        self._passed = 0
        self._last: tuple[int, int, bool] = (0, 0, False)
        self.came = 0
        self.places: list[int] = []

    def __call__(self, action: Callable[[], object]) -> BaseException | None:
        """The exception that the action has raised; of its traceback this keeps nothing."""
        before, handler = sys.gettrace(), signal.signal(signal.SIGINT, self._interrupt)
        unraisable, sys.unraisablehook = sys.unraisablehook, id  # pytest's is Python code, and would be interrupted
        error: BaseException | None = None
        try:
            try:
                sys.settrace(self._trace)
                action()
            finally:
                sys.settrace(before)
            for _ in range(2):  # one that has arrived is answered in a loop, at the latest
                pass
        except BaseException as caught:
            error = caught
        try:  # one that has arrived while the exception was on its way
            sys.settrace(before)
            for _ in range(2):
                pass
        except KeyboardInterrupt as caught:
            error = caught
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = unraisable
        try:
            return error
        finally:
            del error  # which has this frame in its traceback

    def _trace(self, frame: Any, _event: str, _: object) -> Any:
        if frame.f_code.co_name == "__del__" or not any(part in frame.f_code.co_filename for part in _PARTS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: Any, event: str, _: object) -> Any:
        if event != "opcode":
            return self._step
        self._passed += 1
        place, where, looks = self._last
        if looks or where != id(frame):
            self.places.append(place)
        self._last = self._passed, id(frame), frame.f_code.co_code[frame.f_lasti] in _LOOKS
        if self._left and self._passed == self._left[0]:
            del self._left[0]
            self._left[:1] = [self._passed + each for each in self._left[:1]]
            sys.settrace(None)  # it would be answered in the next call of this function
            (_,) = map(_arrive, (0,))  # by an iterator: no look for signals from here to the end of this function
        return self._step

    def _interrupt(self, *_: object) -> None:
        self.came += 1
        if self._left:
            sys.settrace(self._trace)
        raise KeyboardInterrupt


def places_of(action: Callable[[], object]) -> list[int]:
    """Where an interrupt can come in an action."""
    run = CtrlC()
    error = run(action)
    with contextlib.suppress(ValueError):
        run.places.remove(0)
    if error is not None:
        raise error
    return run.places
