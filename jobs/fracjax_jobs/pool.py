"""Worker processes that read ahead, and survive what a decoder does to them.

Each worker has a pipe of its own and a few files in hand: it decodes one, and meanwhile fetches the
bytes of the others, since a file server may take longer to open a file than a core to decode it.
Whatever ends a worker, it is known what it had, and no other waits for what it held.
"""

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import cv2

from fracjax import interrupt
from fracjax.configs import Preprocess
from fracjax.errors import JobError, UsageError
from fracjax.image import ReadPolicy, Reason, Rejected
from fracjax.privacy import forbid_core_dumps
from fracjax_jobs.read import Announced, Reading, fetch, fetch_ahead, read_entry
from fracjax_jobs.walk import Entry

Outcomes: TypeAlias = list[Reading | Rejected]

SECONDS_TO_START = 120.0
"""Within which a new process is at work, on the slowest of machines."""

SECONDS_TO_DIE = 5.0
"""For which a killed process is waited for: one that waits for a dead file server never ends."""

STARTS = 3
"""Processes that may die in a row before they are at work."""

IN_HAND = 8
"""Entries that a worker has: one that it decodes, and others that it fetches."""

READ_AHEAD = 16
"""Entries in flight for each worker: enough to hide a slow file, few enough to stay small."""

MOST_FETCHED = 2**25
"""Bytes that a worker fetches ahead; what is larger is read when its turn comes."""

SECONDS_BETWEEN_CHECKS = 0.5
"""After which a signal, or a worker that is late, is noticed."""

LONGEST_ABSENCE = 5.0
"""Seconds in which nobody looked at the workers, as while a batch is scored. After more, all of
the job may have been stopped (Ctrl-Z, a frozen machine), and that is no file's fault."""

_PR_SET_PDEATHSIG = 1  # prctl(2)
_M_ARENA_MAX = -8  # mallopt(3)
_STACK = 2**20  # bytes, of a thread that reads a file


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading may cost.

    Attributes:
        seconds_per_file: After which reading a file is given up.
        bytes_per_worker: Address space that a process may use beyond what it needs to start. On
            Linux only: elsewhere it is not enforced.
        workers: Processes that read; 0 is one for each core that this process may use.
    """

    seconds_per_file: float = 60.0
    bytes_per_worker: int = 2**32
    workers: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"{self.workers} workers cannot read; give 1 or more, or 0 for all")
        if not self.seconds_per_file > 0:  # of NaN, too
            raise UsageError("a file needs time to be read; give more than 0 seconds")
        if self.bytes_per_worker < 2**28:
            raise UsageError("a file needs memory to be read; give a worker 0.25 GiB or more")

    @property
    def processes(self) -> int:
        """Number of worker processes."""
        if self.workers:
            return self.workers
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1


@dataclass(eq=False, slots=True)
class _Task:
    """An entry to be read. A suspect has seen its process die."""

    entry: Entry
    outcomes: Outcomes | None = None
    is_suspect: bool = False
    announced: Announced | None = None

    def fail(self, reason: Reason, detail: str) -> None:
        """Give it up; its study is known if its header was read before."""
        known = (self.announced.header, self.announced.frames) if self.announced else ()
        self.outcomes = [Rejected(reason, detail, *known)]


def read_all(
    entries: Iterable[Entry],
    preprocess: Preprocess,
    policy: ReadPolicy,
    limits: Limits,
    *,
    keeps_display: bool = False,
) -> Generator[tuple[Entry, Outcomes], None, None]:
    """Read entries as :meth:`Readers.read` does, by processes that end with it."""
    with Readers(preprocess, policy, limits, keeps_display=keeps_display) as readers:
        yield from readers.read(entries)


def _take(entries: Iterator[Entry], count: int) -> Iterator[_Task]:
    for _, entry in zip(range(count), entries, strict=False):
        if entry.obstacle is None:
            yield _Task(entry)
        else:
            yield _Task(entry, [Rejected(entry.obstacle, entry.detail)])


class Readers:
    """Worker processes, and the tasks that wait for one. At its end, ``with`` ends them.

    A file at which a decoder crashes, hangs or takes too much memory costs itself, and no other.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        policy: ReadPolicy,
        limits: Limits,
        *,
        keeps_display: bool = False,
    ) -> None:
        """Make ready to read; processes start as there is something to do.

        Args:
            preprocess: What the network takes.
            policy: What counts as a radiograph.
            limits: What reading one file may cost.
            keeps_display: Whether whole pictures come along, too.
        """
        self._limits = limits
        memory, parent = limits.bytes_per_worker, os.getpid()
        self._settings = (preprocess, policy, keeps_display, memory, parent)
        self._ahead = limits.processes * (2 if keeps_display else READ_AHEAD)
        self._workers: list[_Worker] = []
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._failed_starts = 0
        self._looked = time.monotonic()

    def __enter__(self) -> "Readers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            worker.stop()

    def read(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, Outcomes], None, None]:
        """Read entries, and give the outcomes in their order.

        It may be called again once it has come to its end.

        Raises:
            JobError: The processes do not start.
            SystemExit: A signal has come.
        """
        window: deque[_Task] = deque()
        rest = iter(entries)
        self._looked = time.monotonic()
        while True:
            for task in _take(rest, self._ahead - len(window)):
                window.append(task)
                if task.outcomes is None:
                    self._waiting.append(task)
            if not window:
                return
            self._hand_out()
            while window[0].outcomes is None:
                self._work()
                interrupt.check()
            task = window.popleft()
            yield task.entry, task.outcomes or []

    def _work(self) -> None:
        """Wait until a worker has something to tell, or for a moment."""
        self._hand_out()
        wait([worker.pipe for worker in self._workers], SECONDS_BETWEEN_CHECKS)
        self._excuse_absence()
        for worker in list(self._workers):
            # What has arrived counts, however late it is looked at.
            if worker.pipe.poll():
                self._listen(worker)
            elif time.monotonic() > worker.deadline:
                self._give_up(worker)
        self._hand_out()

    def _excuse_absence(self) -> None:
        """Give the workers back the time in which all of the job was stopped."""
        now = time.monotonic()
        absence, self._looked = now - self._looked, now
        if absence > LONGEST_ABSENCE:
            for worker in self._workers:
                worker.deadline += absence

    def _hand_out(self) -> None:
        """Give tasks to the workers that have least in hand; but a suspect alone, before others."""
        in_hand = sum(len(worker.tasks) for worker in self._workers)
        queue, room = self._waiting, len(self._waiting)
        if self._suspects:
            queue, room = self._suspects, 1 - in_hand
        elif any(task.is_suspect for worker in self._workers for task in worker.tasks):
            room = 0
        # No more than a share of what is left, so that those which are starting have theirs.
        share = min(IN_HAND, -(-(in_hand + len(queue)) // self._limits.processes))
        free = [worker for worker in self._workers if worker.is_free]
        for _ in range(room):
            free = [worker for worker in free if len(worker.tasks) < share]
            if not free:
                break
            worker = min(free, key=lambda each: len(each.tasks))
            if worker.give(queue[0], self._limits.seconds_per_file):
                queue.popleft()
            else:
                free.remove(worker)
        starting = sum(1 for worker in self._workers if not worker.is_ready)
        if starting < len(queue) and len(self._workers) < self._limits.processes:
            self._start()

    def _start(self) -> None:
        try:
            self._workers.append(_Worker(self._settings))
        except OSError:
            raise _not_starting() from None

    def _listen(self, worker: "_Worker") -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):  # it died, perhaps in the middle of a message
            self._bury(worker)
            return
        if not worker.is_ready:
            worker.is_ready = True
            worker.deadline = float("inf")
            self._failed_starts = 0
        elif isinstance(message, Announced):
            worker.tasks[0].announced = message
        else:
            worker.finish(message, self._limits.seconds_per_file)

    def _bury(self, worker: "_Worker") -> None:
        self._workers.remove(worker)
        worker.stop()
        if not worker.tasks:
            self._failed_starts += not worker.is_ready
            if self._failed_starts == STARTS:
                raise _not_starting()
            return
        first = worker.tasks.popleft()
        self._waiting.extendleft(reversed(worker.tasks))
        if first.is_suspect:  # and was alone
            first.fail(Reason.DECODER_CRASHED, "the decoding process died")
        else:  # it, one that was fetched, or what all workers needed together was too much
            first.is_suspect = True
            self._suspects.append(first)

    def _give_up(self, worker: "_Worker") -> None:
        if not worker.tasks:
            raise _not_starting()
        self._workers.remove(worker)
        worker.stop()
        late = worker.tasks.popleft()
        detail = f"not read in {self._limits.seconds_per_file:g} seconds"
        late.fail(Reason.DECODER_TIMEOUT, detail)
        self._waiting.extendleft(reversed(worker.tasks))


def _not_starting() -> JobError:
    return JobError(
        "the reading processes do not start; check that this user may run "
        f"{sys.executable}, that memory is left, and that a script which calls this does so "
        'below `if __name__ == "__main__":`'
    )


class _Worker:
    """The parent's end of one process.

    Attributes:
        pipe: Becomes readable when the process is ready, has outcomes, or dies.
        tasks: What it has in hand; it is at the first, and has none while it starts.
        is_ready: Whether it has started.
        deadline: When it is to be given up, on the monotonic clock.
    """

    def __init__(self, settings: tuple[Preprocess, ReadPolicy, bool, int, int]) -> None:
        context = SpawnContext()  # a fork would copy JAX's threads half-way
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *settings), daemon=True)
        resource_tracker.ensure_running()  # when it starts, it unblocks signals
        # A Ctrl-C goes to the whole terminal. The process inherits that it is none of its business.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that the process's end closes the pipe
        self.tasks: deque[_Task] = deque()
        self.is_ready = False
        self.deadline = time.monotonic() + SECONDS_TO_START

    @property
    def is_free(self) -> bool:
        """Whether it may be given a task."""
        return self.is_ready and self._process.is_alive()

    def give(self, task: _Task, seconds: float) -> bool:
        """Give it a task; tell whether it took it. If not it has died, as its pipe will tell."""
        # While it decodes it does not listen, so what it is sent must be small.
        entry = replace(task.entry, name="", detail="", file_set=None)
        try:
            self.pipe.send(entry)
        except OSError:
            return False
        if not self.tasks:
            self.deadline = time.monotonic() + seconds
        self.tasks.append(task)
        return True

    def finish(self, outcomes: Outcomes, seconds: float) -> None:
        """Take what it found of its first task; it is at the next."""
        self.tasks.popleft().outcomes = outcomes
        self.deadline = time.monotonic() + seconds if self.tasks else float("inf")

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join(SECONDS_TO_DIE)
        self.pipe.close()


def _work(
    pipe: Connection,
    preprocess: Preprocess,
    policy: ReadPolicy,
    keeps_display: bool,
    memory: int,
    parent: int,
) -> None:
    """Read one entry after another, in a process of its own."""
    _confine(memory, parent)
    pipe.send([])
    in_hand: deque[tuple[Entry, Future[bytes | None] | None]] = deque()
    threads = ThreadPoolExecutor(IN_HAND - 1, "fetching")
    while True:
        while not in_hand or pipe.poll():
            try:
                entry = pipe.recv()
            except EOFError:  # the parent is gone
                return
            fetched = sum(other.size for other, future in in_hand if future is not None)
            # Members of archives are read by what is open of the archive, one after another.
            is_ahead = in_hand and not entry.member and fetched + entry.size <= MOST_FETCHED
            try:
                in_hand.append((entry, threads.submit(fetch_ahead, entry) if is_ahead else None))
            except RuntimeError:  # no more threads on this machine
                in_hand.append((entry, None))
        entry, future = in_hand.popleft()
        pipe.send(
            read_entry(
                entry,
                preprocess,
                policy,
                pipe.send,
                fetched=None if future is None else partial(_fetched, entry, future),
                keeps_display=keeps_display,
            )
        )


def _fetched(entry: Entry, future: "Future[bytes | None]") -> bytes:
    try:
        data = future.result()
    except MemoryError:  # of what was decoded meanwhile
        data = None
    return fetch(entry) if data is None else data


def _confine(memory: int, parent: int) -> None:
    """Bound what a decoder can do, and keep what a file holds from leaving by a side door."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the job
    cv2.setNumThreads(1)  # the processes are the parallelism
    os.umask(0o077)
    forbid_core_dumps()
    threading.stack_size(_STACK)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)  # else each thread takes address space that is not used
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # outlives no parent, however that ends
        if os.getppid() != parent:
            os._exit(1)
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        in_use += 2 * MOST_FETCHED + IN_HAND * 2 * _STACK  # reading takes a copy
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = in_use + memory if most == resource.RLIM_INFINITY else min(most, in_use + memory)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Decoders' libraries quote what they read. What fails up to here has been heard.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
