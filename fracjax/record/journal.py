"""The figures of a run as they come in: ``metrics.jsonl`` and TensorBoard event files.

A run that was killed and went on leaves the same ``metrics.jsonl``, to the byte, as one that was
never killed. So the file holds nothing but what follows from the state of the run; what depends on
the machine and the hour (rates, seconds, memory) goes to TensorBoard alone.
"""

import itertools
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from fracjax.errors import DataError
from fracjax.figure import Figure

METRICS_NAME = "metrics.jsonl"
"""In a working directory: the figures of the run, one JSON object a line."""

TENSORBOARD_NAME = "tensorboard"
"""In a working directory: the folder of event files."""

SELECTION = "selection/"
"""What the names of figures of the selection images begin with."""

LOW, HIGH, CASES = "_low", "_high", "_n"
"""What follows the name of a figure for the ends of its 95 % interval, and for its cases."""

SPEED = "speed/"
"""What the names of rates, seconds and memory begin with in TensorBoard."""

logger = logging.getLogger(__name__)


class Record:
    """The record of a run, open from a step on; a context manager.

    All lines of a step are written, and synced, before the checkpoint of that step is saved. Then
    the checkpoint that a run resumes from says which lines are right: those up to its step.
    Of several processes that train together, one keeps the record.

    Args:
        workdir: The working directory; it is created if it is missing.
        step: Steps that are done: 0, or the step of the checkpoint that the run resumes from.
            Every line of a later step is cut off, and so is a line that was torn.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        folder = workdir.absolute() / TENSORBOARD_NAME
        folder.mkdir(parents=True, exist_ok=True)
        self._done = self._last = step
        is_missing = not (workdir / METRICS_NAME).exists()
        self._lines = (workdir / METRICS_NAME).open("a+b")
        self._lines.seek(0)
        kept = _bytes_up_to(self._lines, step)
        self._lines.truncate(kept)
        if step > 0 and is_missing:
            logger.warning("%s is lost up to step %d; it goes on from there", METRICS_NAME, step)

        # TensorBoard reads the files of a folder in the order of their names.
        names = (folder / f"events.out.tfevents.{number:06d}" for number in itertools.count())
        self._events = RecordWriter(str(next(name for name in names if not name.exists())))
        self._add_event(file_version="brain.Event:2")
        # Whatever an earlier file says of this step and later ones, TensorBoard drops.
        self._add_event(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        speed: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Add a line.

        Args:
            step: Steps that are done; not less than in the line before. Several lines may share a
                step.
            values: What follows from the state of the run, by name. A line with figures of the
                selection images has an ``epoch`` beside them. JSON has no word for a number that
                is not finite: it becomes ``null``.
            speed: What does not follow from it, for TensorBoard alone: ``images_per_second``.

        Raises:
            ValueError: The step was recorded before the run resumed, or lies before the last one.
        """
        if step <= self._done or step < self._last:
            raise ValueError(f"step {step} is recorded already; the record stands at {self._last}")
        self._last = step
        # A float is written in the fewest digits that give it back; one type, so one form.
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._lines.write(json.dumps({"step": int(step)} | finite).encode() + b"\n")
        self._lines.flush()
        tagged = numbers | {SPEED + name: float(value) for name, value in speed.items()}
        summary = [Summary.Value(tag=tag, simple_value=value) for tag, value in tagged.items()]
        self._add_event(step=step, summary=Summary(value=summary))

    def sync(self) -> None:
        """Bring all lines to the disk. Call it before a checkpoint is saved."""
        os.fsync(self._lines.fileno())
        self._events.flush()

    def close(self) -> None:
        """Sync, and close the files."""
        self.sync()
        self._lines.close()
        self._events.close()

    def _add_event(self, **fields: Any) -> None:
        self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())


class NoRecord(AbstractContextManager["NoRecord"]):
    """What all other processes keep: nothing."""

    def __exit__(self, *_: object) -> None:
        """Close nothing."""

    def write(self, *_: Any, **__: Any) -> None:
        """Write nothing."""

    def sync(self) -> None:
        """Sync nothing."""


def selection_values(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Give figures of the selection images as values of a line, with their intervals and cases.

    >>> selection_values({"auroc_study": Figure(0.8, 0.7, 0.9, n=50, positives=9, groups=40)})
    ... # doctest: +NORMALIZE_WHITESPACE
    {'selection/auroc_study': 0.8, 'selection/auroc_study_low': 0.7,
     'selection/auroc_study_high': 0.9, 'selection/auroc_study_n': 50}
    """
    values: dict[str, float] = {}
    for name, figure in figures.items():
        key = SELECTION + name
        values |= {
            key: figure.value,
            key + LOW: figure.low,
            key + HIGH: figure.high,
            key + CASES: figure.n,
        }
    return values


def read(workdir: Path) -> list[dict[str, float]]:
    """Read the lines of a run, of one that is still running too.

    Args:
        workdir: Its working directory.

    Returns:
        One dictionary a line, with its ``step``; what was not finite is NaN.

    Raises:
        DataError: A line is damaged.
        OSError: There is no such file.
    """
    rows = []
    with (workdir / METRICS_NAME).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break  # it is being written
            row = _parse(line)
            if row is None:
                raise DataError(
                    f"{METRICS_NAME} is damaged at line {number}; remove that line, or train anew "
                    "in another --workdir"
                )
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows


def _bytes_up_to(lines: Iterable[bytes], step: int) -> int:
    """Count the bytes of the whole lines up to a step."""
    kept = 0
    for line in lines:
        row = _parse(line) if line.endswith(b"\n") else None
        if row is None or row["step"] > step:
            if row is None and line.endswith(b"\n"):
                logger.warning("%s is damaged; it goes on after the lines before", METRICS_NAME)
            break
        kept += len(line)
    return kept


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read a line; ``None`` if it is none of ours."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
