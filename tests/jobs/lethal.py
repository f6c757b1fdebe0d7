"""Paths that do to a reading process what a defect of a decoder would do, and processes that fail.

An entry with such a path is read like any other: the worker asks it for its name.
"""

import os
import signal
import sys
import time
from pathlib import Path

from fracjax.configs import Preprocess
from fracjax.image import Header, ReadPolicy
from fracjax_jobs.pool import Limits, read_all
from fracjax_jobs.read import Announced
from fracjax_jobs.walk import Entry

SETTINGS = (Preprocess(image_size=64), ReadPolicy())
"""How the entries are read."""


def entry(path, name="lethal"):
    """An entry that is read by looking at ``path``."""
    return Entry(path, (), name)


def read(*entries, **limits):
    """Read entries in worker processes; gives the generator."""
    defaults = {"workers": 1, "seconds_per_file": 20.0}
    return read_all(entries, *SETTINGS, Limits(**defaults | limits))


class Crash(os.PathLike):
    """Ends the process that looks at it by a segmentation fault."""

    def __fspath__(self):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)


class Exit(os.PathLike):
    """Ends the process that looks at it as a library that calls ``exit`` does."""

    def __init__(self, code):
        self.code = code

    def __fspath__(self):
        os._exit(self.code)


class CrashOnce(os.PathLike):
    """Ends the process that looks at it, but only for the first time; then it is a file."""

    def __init__(self, path):
        self.path = Path(path)

    def __fspath__(self):
        mark = self.path.with_suffix(".mark")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return str(self.path)


class Hang(os.PathLike):
    """Keeps the process that looks at it busy for ever."""

    def __fspath__(self):
        while True:
            pass


class Slow(os.PathLike):
    """Takes a second."""

    def __fspath__(self):
        time.sleep(1)
        return "/nowhere"


class Hog(os.PathLike):
    """Asks for much more memory than any picture needs, and uses it."""

    def __fspath__(self):
        return str(len(bytearray(2**34)))


class Together(os.PathLike):
    """Opens once so many others are being opened, and then is gone."""

    def __init__(self, folder, name, count):
        self.mark = Path(folder) / name
        self.count = count

    def __fspath__(self):
        self.mark.touch()
        while len(list(self.mark.parent.iterdir())) < self.count:
            time.sleep(0.01)
        return "/nowhere"


class Defect(os.PathLike):
    """Raises what no reader is meant to raise, with a message that quotes the header."""

    def __fspath__(self):
        raise RuntimeError("SMITHERS^WAYLON")


class Chatter(os.PathLike):
    """Writes what it reads to both streams, as the C code of a decoder may."""

    def __fspath__(self):
        os.write(1, b"SMITHERS^WAYLON")
        os.write(2, b"SMITHERS^WAYLON")
        return "/nowhere"


class Inspect(os.PathLike):
    """Raises an error whose kind tells what a process is bound by."""

    def __fspath__(self):
        import resource

        bound = resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and os.umask(0o077) == 0o077
        loaded = {"jax", "tensorflow", "pyarrow"} & set(sys.modules)
        raise type("Confined" if bound and not loaded else "Free", (Exception,), {})


def never_starts(*_):
    """A worker that does not come to work."""
    time.sleep(60)


def dies_at_start(*_):
    """A worker that dies before it comes to work."""
    os._exit(1)


def dies_at_pixels(pipe, *_):
    """A worker that dies at each entry, once it has read the header."""
    pipe.send([])
    pipe.recv()
    pipe.send(Announced(Header(study_instance_uid="1.2.3"), frames=2))
    os._exit(1)


def main():
    """Read one lethal entry, as a process that a test ends from outside."""
    from fracjax import interrupt

    interrupt.install()
    os.write(1, b"reading\n")
    with interrupt.deferred():
        list(read(entry(Hang()), seconds_per_file=60.0))


if __name__ == "__main__":
    main()
