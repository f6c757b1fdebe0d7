"""How a run tells what it does: a bar for a person, lines of JSON for a machine, or nothing."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from fracjax_jobs.score_dir import Progress

SECONDS_BETWEEN_LINES = 5.0

Report = Callable[[Progress], None]


@contextmanager
def bar() -> Iterator[Report]:
    """Show a bar with rate and time left on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), "files", TextColumn("{task.fields[pace]}"))
    with Bar("scoring", *columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None, pace="")
        began = time.monotonic()

        def report(progress: Progress) -> None:
            rate, left = _pace(progress, time.monotonic() - began)
            pace = "" if left is None else f"{rate:.1f}/s, {_clock(left)} left"
            shown.update(task, completed=progress.done, total=progress.found, pace=pace)

        yield report


@contextmanager
def json_lines() -> Iterator[Report]:
    """Write a line of JSON to stderr every few seconds."""
    began = last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if progress.done not in (progress.known, progress.found) and (
            now - last < SECONDS_BETWEEN_LINES
        ):
            return
        last = now
        rate, left = _pace(progress, now - began)
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
    sys.stderr.write(json.dumps({"time": now, "event": name, **facts}) + "\n")
    sys.stderr.flush()


def _pace(progress: Progress, seconds: float) -> tuple[float, float | None]:
    """Files a second, and the seconds left at this rate; ``None`` where that is not known yet."""
    rate = (progress.done - progress.known) / seconds if seconds > 0 else 0.0
    return rate, (progress.found - progress.done) / rate if rate > 0 else None


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
