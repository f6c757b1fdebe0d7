"""Worker processes that read ahead, and survive what a decoder does to them."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeAlias

import cv2
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from fracjax.configs import Preprocess
from fracjax.errors import JobError
from fracjax.image import Reason, Rejected
from fracjax_jobs.read import Reading, read_entry
from fracjax_jobs.walk import Entry

Pending: TypeAlias = "ProcessFuture[Reading | Rejected] | Rejected"
"""A reading under way, or a rejection known beforehand."""

SECONDS_TO_START = 120.0
"""Within which a new process is at work, on the slowest of machines."""

READ_AHEAD = 8
"""Entries in flight for each worker: enough to hide a slow file, few enough to stay small."""


def default_workers() -> int:
    """One process for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_all(
    entries: Iterable[Entry], preprocess: Preprocess, *, workers: int, seconds_per_file: float
) -> Generator[tuple[Entry, Reading | Rejected], None, None]:
    """Read entries in worker processes, and give the results in the order of the entries.

    A decoder that crashes or hangs costs its one file.
    """
    window: deque[tuple[Entry, Pending]] = deque()
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads half-way
    pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker)
    try:
        for entry in entries:
            if entry.obstacle is not None:
                window.append((entry, Rejected(entry.obstacle, entry.detail)))
            else:
                future = pool.schedule(
                    read_entry, args=(entry, preprocess), timeout=seconds_per_file
                )
                window.append((entry, future))
            if len(window) == READ_AHEAD * workers:
                yield _result(*window.popleft(), seconds_per_file)
        while window:
            yield _result(*window.popleft(), seconds_per_file)
    finally:
        pool.stop()
        pool.join()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the job
    cv2.setNumThreads(1)  # the processes are the parallelism


def _result(
    entry: Entry, future: Pending, seconds_per_file: float
) -> tuple[Entry, Reading | Rejected]:
    if isinstance(future, Rejected):
        return entry, future
    try:
        return entry, future.result(SECONDS_TO_START + READ_AHEAD * seconds_per_file)
    except FutureTimeoutError:
        if not future.done():  # its own time does not run before a process takes it up
            raise JobError(
                "the reading processes do not start; check that this user may run "
                f"{sys.executable}, and that memory is left"
            ) from None
        return entry, Rejected(Reason.DECODER_TIMEOUT, f"not read in {seconds_per_file:g} seconds")
    except ProcessExpired:
        return entry, Rejected(Reason.DECODER_CRASHED, "the decoding process died")
    except Exception as error:  # noqa: BLE001 - one file never stops the job; the kind is kept
        return entry, Rejected(Reason.CORRUPT, f"the reader failed ({type(error).__name__})")
