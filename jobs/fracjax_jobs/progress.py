"""How a run tells what it does: a bar for a person, lines of JSON for a machine, or nothing."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from fracjax_jobs.score_dir import Progress

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_FRAMES = 0.1
"""Of the bar; to list a file takes far less than to draw it."""

Report = Callable[[Progress], None]


@contextmanager
def bar() -> Iterator[Report]:
    """Show a bar with rate and time left on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), "files", TextColumn("{task.fields[pace]}"))
    with Bar(
        TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
    ) as shown:
        task = shown.add_task("listing", total=None, pace="")
        timer = _Timer(SECONDS_BETWEEN_FRAMES)

        def report(progress: Progress) -> None:
            if not timer.is_due(progress):
                return
            if progress.is_listing:
                shown.update(task, completed=progress.found)
                return
            rate, left = _pace(progress, timer.seconds)
            shown.update(
                task,
                description="scoring",
                completed=progress.done,
                total=progress.found,
                pace="" if left is None else f"{rate:.1f}/s, {_clock(left)} left",
            )

        yield report


@contextmanager
def json_lines() -> Iterator[Report]:
    """Write a line of JSON to stderr every few seconds."""
    timer = _Timer(SECONDS_BETWEEN_LINES)

    def report(progress: Progress) -> None:
        if not timer.is_due(progress):
            return
        if progress.is_listing:
            event("listing", files_found=progress.found)
            return
        rate, left = _pace(progress, timer.seconds)
        event(
            "progress",
            files_done=progress.done,
            files_known=progress.known,
            files_found=progress.found,
            files_per_second=round(rate, 2),
            seconds_left=None if left is None else round(left),
        )

    yield report


def event(name: str, **facts: Any) -> None:
    """Write one line of JSON to stderr; control characters in it are escaped."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with suppress(OSError):  # whoever reads along may go; the job goes on
        sys.stderr.write(json.dumps({"time": now, "event": name, **facts}) + "\n")
        sys.stderr.flush()


class _Timer:
    """Tells when it is time to report again, and for how long files have been scored.

    Attributes:
        seconds: Since the files are listed.
    """

    def __init__(self, interval: float) -> None:
        self.seconds = 0.0
        self._interval = interval
        self._last = time.monotonic()
        self._began: float | None = None

    def is_due(self, progress: Progress) -> bool:
        """Whether to report: now and then, and when scoring begins or ends."""
        now = time.monotonic()
        begins = self._began is None and not progress.is_listing
        if begins:
            self._began = now
        self.seconds = 0.0 if self._began is None else now - self._began
        ends = not progress.is_listing and progress.done == progress.found
        if not (begins or ends or now - self._last >= self._interval):
            return False
        self._last = now
        return True


def _pace(progress: Progress, seconds: float) -> tuple[float, float | None]:
    """Files a second, and the seconds left at this rate; ``None`` where that is not known yet."""
    rate = (progress.done - progress.known) / seconds if seconds > 0 else 0.0
    return rate, (progress.found - progress.done) / rate if rate > 0 else None


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
