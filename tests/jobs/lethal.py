"""Paths that do to a reading process what a defect of a decoder would do."""

import os
import signal
import time


class Crash(os.PathLike):
    """Ends the process that looks at it by a segmentation fault, without a core dump."""

    def __fspath__(self):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)


class Exit(os.PathLike):
    """Ends the process that looks at it as a library that calls ``exit`` does."""

    def __fspath__(self):
        os._exit(3)


class Hang(os.PathLike):
    """Keeps the process that looks at it busy for ever."""

    def __fspath__(self):
        while True:
            pass


class Defect(os.PathLike):
    """Raises what no reader is meant to raise, with a message that quotes the header."""

    def __fspath__(self):
        raise RuntimeError("SMITHERS^WAYLON")
