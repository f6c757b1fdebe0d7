"""Turns what was read into accounts, scoring pictures in batches on the way."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

import numpy as np

from fracjax.engine import Scorer, Scores, why_unfamiliar
from fracjax.image import Reason, Rejected
from fracjax_jobs.account import Account, Record
from fracjax_jobs.read import Reading
from fracjax_jobs.state import State, Task
from fracjax_jobs.studies import GroupBy, study_group

SECONDS_AT_RISK = 2.0
"""Work that a sudden end may cost, at most, beside the batch under way and the next."""

_NOT_OPENED = frozenset({Reason.NOT_A_FILE, Reason.UNREADABLE, Reason.EMPTY})
"""Nothing is known of what such a file holds; it may as well be furniture."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    task: Task
    results: Sequence[Reading | Rejected]


class Ledger:
    """Takes files as they are read, and enters each into the state once its pictures are scored.

    One batch is scored in a thread of its own while the next comes together, so that neither the
    device waits for files nor those who read them for the device. At its end, ``with`` waits for
    the batch under way.
    """

    def __init__(self, scorer: Scorer, group_by: GroupBy, state: State) -> None:
        self._scorer = scorer
        self._group_by = group_by
        self._state = state
        self._waiting: list[_Waiting] = []
        self._inputs = 0
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._under_way: tuple[list[_Waiting], Future[Scores]] | None = None
        self._committed = time.monotonic()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def take(self, task: Task, results: Sequence[Reading | Rejected]) -> None:
        """Take a file: one result for each of its frames, or one for all of it."""
        readings = sum(isinstance(result, Reading) for result in results)
        if not readings:
            self._enter(task, results, iter(()))
        else:
            self._waiting.append(_Waiting(task, results))
            self._inputs += readings
        if self._inputs >= self._scorer.batch_size:
            self._score()
        elif self._under_way is not None and self._under_way[1].done():
            self._collect()
        elif time.monotonic() - self._committed > SECONDS_AT_RISK:
            self._commit()

    def settle(self) -> None:
        """Score the pictures that wait, and commit all that was taken."""
        if self._waiting:
            self._score()
        self._collect()

    def _score(self) -> None:
        """Begin to score the pictures that wait, once those under way are entered."""
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
        """Enter the batch under way, if there is one, and commit all that was entered."""
        if self._under_way is not None:
            batch, future = self._under_way
            scores = future.result()
            self._under_way = None
            each = zip(
                scores.likelihoods.tolist(),
                scores.distances.tolist(),
                scores.familiar.tolist(),
                strict=True,
            )
            for waiting in batch:
                self._enter(waiting.task, waiting.results, each)
        self._commit()

    def _commit(self) -> None:
        self._state.commit()
        self._committed = time.monotonic()

    def _enter(
        self,
        task: Task,
        results: Sequence[Reading | Rejected],
        scores: Iterator[tuple[float, float, bool]],
    ) -> None:
        name = task.entry.name
        folder = self._state.folder_of(name)
        records = []
        for index, result in enumerate(results, start=1):
            frame = index if len(results) > 1 else None
            if isinstance(result, Rejected):
                account = _of_rejected(result, frame)
            else:
                account = self._of_scored(result, *next(scores), frame)
            group = None
            if isinstance(result, Reading) or _may_be_image(result):
                study = study_group(name, folder, result.header, self._group_by)
                group = study or f"file:{task.number}"
            record = Record(account, group)
            if isinstance(result, Reading):
                # What has no study is one with its copies.
                group = study or f"picture:{result.digest.hex()}"
                record = Record(account, group, result.thumbnail, result.digest)
            records.append(record)
        self._state.record(task.number, records)

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


def _may_be_image(rejected: Rejected) -> bool:
    """Whether a study lacks this file; that of the file alone, where no header names another."""
    if rejected.header is not None:
        return rejected.reason.concerns_study
    return rejected.reason.is_failure and rejected.reason not in _NOT_OPENED


def _of_rejected(rejected: Rejected, frame: int | None) -> Account:
    return Account(
        frame=frame,
        frames=rejected.frames,
        reason=rejected.reason,
        detail=rejected.detail,
        header=rejected.header,
    )
