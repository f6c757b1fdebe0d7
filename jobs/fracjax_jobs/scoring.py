"""Turns files into accounts: reads them ahead, and scores their pictures in batches meanwhile."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeAlias

import numpy as np

from fracjax import interrupt
from fracjax.engine import Scorer, Scores, why_unfamiliar
from fracjax.image import ReadPolicy, Reason, Rejected
from fracjax_jobs.account import Account, Record
from fracjax_jobs.pool import Limits, Outcomes, read_all
from fracjax_jobs.read import Reading
from fracjax_jobs.state import Task
from fracjax_jobs.walk import Entry

SECONDS_AT_RISK = 2.0
"""Work that a sudden end may cost, beside the batch under way, the next, and files read ahead."""

Done: TypeAlias = tuple[Task, list[Record]]
"""A file, and a record for each of its frames, or one for all of it; of no study as yet."""

Read: TypeAlias = Callable[[Iterable[Entry]], Generator[tuple[Entry, Outcomes], None, None]]
"""Reads entries, and gives the outcomes of each in their order."""


def score_here(
    scorer: Scorer, tasks: Iterable[Task], policy: ReadPolicy, limits: Limits
) -> Generator[list[Done], None, None]:
    """Read files and score their pictures on this machine, as :func:`score_all` does."""

    def read(entries: Iterable[Entry]) -> Generator[tuple[Entry, Outcomes], None, None]:
        return read_all(entries, scorer.manifest.preprocess, policy, limits)

    return score_all(scorer, tasks, read)


def score_all(
    scorer: Scorer, tasks: Iterable[Task], read: Read
) -> Generator[list[Done], None, None]:
    """Read files and score their pictures; give what is done, some at a time, and all at last.

    Raises:
        SystemExit: A signal has come; what was read till then is scored and given before.
        JobError: What ``read`` raises.
    """
    reading: deque[Task] = deque()
    results = read(_entries(tasks, reading))
    with _Batches(scorer) as batches, closing(results):
        try:
            for _, outcomes in results:
                batches.take(reading.popleft(), outcomes)
                yield from batches.done()
                interrupt.check()
        except SystemExit:
            yield batches.settle()
            raise
        yield batches.settle()


def _entries(tasks: Iterable[Task], reading: deque[Task]) -> Iterator[Entry]:
    """Give the files of tasks to be read, and keep the tasks till their results come."""
    for task in tasks:
        reading.append(task)
        yield task.entry


@dataclass(frozen=True, slots=True)
class _Waiting:
    task: Task
    results: Sequence[Reading | Rejected]


class _Batches:
    """Pictures that wait for each other, and a batch that is scored.

    That is in a thread of its own while the next comes together, so that neither the device waits
    for files nor those who read them for the device. At its end, ``with`` waits for the batch.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._waiting: list[_Waiting] = []
        self._inputs = 0
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._under_way: tuple[list[_Waiting], Future[Scores]] | None = None
        self._done: list[Done] = []
        self._is_due = False
        self._given = time.monotonic()

    def __enter__(self) -> "_Batches":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def take(self, task: Task, results: Outcomes) -> None:
        """Take a file: one result for each of its frames, or one for all of it."""
        readings = sum(isinstance(result, Reading) for result in results)
        if readings:
            self._waiting.append(_Waiting(task, results))
            self._inputs += readings
        else:
            self._done.append((task, self._records(results, iter(()))))
        if self._inputs >= self._scorer.batch_size:
            self._score()
        elif self._under_way is not None and self._under_way[1].done():
            self._collect()

    def done(self) -> Iterator[list[Done]]:
        """Give what is done, if that is a batch, or would be at risk for long."""
        if self._is_due or time.monotonic() - self._given > SECONDS_AT_RISK:
            yield self._give()

    def settle(self) -> list[Done]:
        """Score the pictures that wait, and give all that is left."""
        if self._waiting:
            self._score()
        self._collect()
        return self._give()

    def _give(self) -> list[Done]:
        done, self._done, self._is_due = self._done, [], False
        self._given = time.monotonic()
        return done

    def _score(self) -> None:
        """Begin to score the pictures that wait, once those under way are done."""
        self._collect()
        batch, self._waiting, self._inputs = self._waiting, [], 0
        inputs = [
            result.input
            for waiting in batch
            for result in waiting.results
            if isinstance(result, Reading)
        ]
        self._under_way = batch, self._thread.submit(self._scorer.score, np.stack(inputs))

    def _collect(self) -> None:
        """Wait for the batch under way, if there is one."""
        if self._under_way is None:
            return
        batch, future = self._under_way
        scores = future.result()
        self._under_way = None
        each = zip(
            scores.likelihoods.tolist(),
            scores.distances.tolist(),
            scores.familiar.tolist(),
            strict=True,
        )
        self._done += [(waiting.task, self._records(waiting.results, each)) for waiting in batch]
        self._is_due = True

    def _records(
        self,
        results: Sequence[Reading | Rejected],
        scores: Iterator[tuple[float, float, bool]],
    ) -> list[Record]:
        records = []
        for index, result in enumerate(results, start=1):
            frame = index if len(results) > 1 else None
            if isinstance(result, Rejected):
                records.append(Record(_of_rejected(result, frame)))
            else:
                account = self._of_scored(result, *next(scores), frame)
                records.append(Record(account, None, result.thumbnail, result.digest))
        return records

    def _of_scored(
        self,
        reading: Reading,
        likelihood: float,
        distance: float,
        is_familiar: bool,
        frame: int | None,
    ) -> Account:
        threshold = self._scorer.manifest.gate.threshold
        return Account(
            frame=frame,
            reason=None if is_familiar else Reason.UNFAMILIAR,
            detail=None if is_familiar else why_unfamiliar(distance, threshold),
            header=reading.header,
            format=reading.format,
            decoder=reading.decoder,
            voi_source=reading.voi_source,
            polarity_source=reading.polarity_source,
            notes=reading.notes,
            likelihood=likelihood if is_familiar else None,
            distance=distance,
            scored_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


def _of_rejected(rejected: Rejected, frame: int | None) -> Account:
    return Account(
        frame=frame,
        frames=rejected.frames,
        reason=rejected.reason,
        detail=rejected.detail,
        header=rejected.header,
    )
