"""Ctrl-C and SIGTERM end a command in good order, and neither is lost.

Python raises what a signal handler raises wherever the program stands. Should that be a callback
that must not raise (JAX has one in the garbage collector), it is printed and ignored, and the
command would go on. So the signal is remembered, and raised again at the next :func:`check`.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received: list[int] = []
_deferred: list[None] = []


def install() -> None:
    """Turn SIGINT and SIGTERM into ``SystemExit``, which lets a command clean up behind itself."""
    signal.signal(signal.SIGINT, _receive)
    signal.signal(signal.SIGTERM, _receive)
    sys.unraisablehook = _report


@contextmanager
def deferred() -> Iterator[None]:
    """Let the first signal wait for a :func:`check`, so that work in hand can be finished.

    A second signal ends the command wherever it stands.
    """
    _deferred.append(None)
    try:
        yield
    finally:
        _deferred.pop()


def is_pending() -> bool:
    """Tell whether a signal has come."""
    return bool(_received)


def check() -> None:
    """End the command if a signal has come.

    Raises:
        SystemExit: With 128 and the signal's number, as a shell gives it.
    """
    if _received:
        sys.exit(128 + _received[0])


def _report(unraisable: "sys.UnraisableHookArgs") -> None:
    """Tell of what was raised where nothing must be, but not of a signal: that is remembered."""
    if not (_received and isinstance(unraisable.exc_value, SystemExit)):
        sys.__unraisablehook__(unraisable)


def _receive(number: int, _: FrameType | None) -> None:
    _received.append(number)
    if not _deferred or len(_received) > 1:
        check()
