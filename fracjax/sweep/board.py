"""The leaderboard of a sweep: the trials, their figures and what became of them."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fracjax import files, record
from fracjax.configs import Target
from fracjax.notice import NOTICE
from fracjax.record.curves import best_epoch
from fracjax.record.journal import CASES, HIGH, LOW, METRICS_NAME, SELECTION
from fracjax.text import printable

State = Literal["finished", "pruned", "failed"]

ORDER: tuple[State, ...] = ("finished", "pruned", "failed")
"""From the top of the leaderboard to its end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a trial.

    Attributes:
        trial: Its number, which its directory is named by.
        state: ``finished`` ones have a rank; ``pruned`` ones were stopped as worse than others.
        settings: ``field=value`` of each axis.
        parameters: Of the network; ``None`` if it came to none.
        epochs: Passes over the training images that were recorded.
        best_epoch: The epoch that counts; NaN if none ended.
        monitored: The figure that trials are compared by, at that epoch; NaN likewise.
        value: A figure that has an interval, at that epoch: the monitored one, or the area under
            the ROC curve of studies where the loss is monitored. NaN likewise.
        low: Lower end of its 95 % interval.
        high: Upper end.
        cases: Studies or images that it was measured on.
        reason: Why the trial did not finish.
    """

    trial: int
    state: State
    settings: tuple[str, ...]
    parameters: int | None
    epochs: float
    best_epoch: float
    monitored: float
    value: float
    low: float
    high: float
    cases: float
    reason: str


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard.

    Attributes:
        entries: Best first.
        monitor: The figure of the selection images that trials are compared by.
        target: What a positive label means.
        fields: What was searched.
        command: What makes a model of the best trial; empty if none finished.
    """

    entries: tuple[Entry, ...]
    monitor: str
    target: Target
    fields: tuple[str, ...]
    command: str

    @property
    def best(self) -> Entry | None:
        """The best finished trial."""
        first = self.entries[0] if self.entries else None
        return first if first is not None and first.state == "finished" else None

    @property
    def note(self) -> str:
        """What a reader has to know of the figures."""
        words = [
            f"{NOTICE} Figures of the selection images, for {self.target}. They chose the best "
            "epoch of each trial and the best trial, so that of the best is too high by an amount "
            "that nobody knows."
        ]
        others = [entry for entry in self.entries[1:] if entry.state == "finished"]
        if self.best is not None and others:
            low, high = self.best.low, self.best.high
            alike = sum(entry.high >= low and entry.low <= high for entry in others)
            words.append(
                f"The intervals of {alike} of the {len(others)} other finished trials overlap that "
                "of the best."
            )
        words.append(
            "Report the figures of the validation splits, which no trial opened: the command below "
            "measures them."
        )
        return " ".join(words)


def entry(
    trial: int,
    state: State,
    settings: tuple[str, ...],
    directory: Path,
    *,
    monitor: str,
    parameters: int | None,
    reason: str,
) -> Entry:
    """Read what a trial has recorded.

    Args:
        trial: Its number.
        state: What became of it.
        settings: ``field=value`` of each axis.
        directory: Its working directory, which need not exist.
        monitor: The figure that trials are compared by.
        parameters: Of its network.
        reason: Why it did not finish.
    """
    rows = record.read(directory) if (directory / METRICS_NAME).exists() else []
    best = best_epoch(rows, monitor)
    shown = SELECTION + shown_figure(monitor)
    at_best: dict[str, float] = {}
    if best is not None:
        at_best = next(row for row in rows if row["step"] == best.step and shown in row)
    value, low, high, cases = (
        at_best.get(shown + suffix, math.nan) for suffix in ("", LOW, HIGH, CASES)
    )
    return Entry(
        trial,
        state,
        settings,
        parameters,
        epochs=max((row["epoch"] for row in rows), default=0.0),
        best_epoch=math.nan if best is None else best.epoch,
        monitored=math.nan if best is None else best.value,
        value=value,
        low=low,
        high=high,
        cases=cases,
        reason=reason,
    )


def figure(directory: Path, monitor: str) -> float:
    """Give what the best epoch of a trial came to, the larger the better; NaN if none ended."""
    best = best_epoch(record.read(directory), monitor)
    if best is None:
        return math.nan
    return -best.value if monitor == "loss" else best.value


def shown_figure(monitor: str) -> str:
    """Name the figure that is shown with its interval, which a loss has none of."""
    return "auroc_study" if monitor == "loss" else monitor


def ranked(entries: Iterable[Entry], monitor: str) -> tuple[Entry, ...]:
    """Put entries in order: finished ones by their figure, then pruned and failed ones.

    Of equals, and of those that did not finish, the earlier trial stands first.
    """
    sign = 1 if monitor == "loss" else -1

    def place(entry: Entry) -> tuple[int, float, int]:
        value = sign * entry.monitored if entry.state == "finished" else 0.0
        return ORDER.index(entry.state), value, entry.trial

    return tuple(sorted(entries, key=place))


def write(path: Path, board: Board) -> None:
    """Write the leaderboard as CSV, whole or not at all. What there is not stays empty."""
    shown = shown_figure(board.monitor)
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(
        [
            *("rank", "trial", "state", "monitor", "monitored"),
            *(shown, shown + LOW, shown + HIGH, shown + CASES),
            *("best_epoch", "epochs", "parameters", *board.fields, "reason", "target", "notice"),
        ]
    )
    for place, found in enumerate(board.entries, start=1):
        figures = (found.monitored, found.value, found.low, found.high)
        rows.writerow(
            [
                *(place if found.state == "finished" else "", f"{found.trial:04d}", found.state),
                *(board.monitor, *("" if math.isnan(figure) else figure for figure in figures)),
                *(_count(found.cases), _count(found.best_epoch), f"{found.epochs:g}"),
                "" if found.parameters is None else found.parameters,
                *_values(found.settings),
                *(found.reason, board.target, NOTICE),
            ]
        )
    files.write_text(path, text.getvalue())


def table(board: Board) -> Table:
    """Draw the leaderboard for a terminal, with what a reader has to know below it."""
    trials_of: dict[str, list[str]] = {}
    for found in board.entries:
        if found.reason:
            trials_of.setdefault(found.reason, []).append(f"{found.trial:04d}")
    reasons = [f"{', '.join(trials)}: {reason}" for reason, trials in trials_of.items()]
    caption = Text("\n".join(map(printable, [*reasons, board.note])))
    drawn = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=caption,
        caption_justify="left",
    )  # eighty columns hold two axes
    loss = ("loss",) if board.monitor == "loss" else ()
    fixed = ("rank", "trial", *loss, f"{shown_figure(board.monitor)} (95 %)", "n", "epochs")
    for name in (*fixed, "params"):
        drawn.add_column(name, no_wrap=True)
    for field in board.fields:
        drawn.add_column(field.split(".")[1], overflow="fold")
    for place, found in enumerate(board.entries, start=1):
        figure = f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
        is_measured = not math.isnan(found.value)
        drawn.add_row(
            str(place) if found.state == "finished" else found.state,
            f"{found.trial:04d}",
            *([f"{found.monitored:.4f}" if is_measured else ""] if loss else []),
            figure if is_measured else "",
            *(_count(found.cases), f"{found.epochs:.3g}"),
            "" if found.parameters is None else f"{found.parameters / 1e6:.3g} M",
            *map(_short, _values(found.settings)),
        )
    return drawn


def _values(settings: Sequence[str]) -> list[str]:
    return [setting.partition("=")[2] for setting in settings]


def _count(number: float) -> str:
    return "" if math.isnan(number) else f"{number:g}"


def _short(value: str) -> str:
    """Shorten a number for the eye.

    >>> _short("0.000231740982"), _short("224"), _short("resnet18")
    ('0.0002317', '224', 'resnet18')
    """
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value
