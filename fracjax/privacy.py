"""What a process holds of patients stays in it, however it ends."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # prctl(2)


def forbid_core_dumps() -> None:
    """Let no crash of this process write its memory, so pixels and paths, to a disk.

    Processes that it starts inherit the limit alone, and call this for themselves.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # The limit does not bind a program that core dumps are handed to (core(5)); this does.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
