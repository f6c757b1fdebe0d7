"""The line that shows where a command stands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

from fracjax import interrupt, parallel

if TYPE_CHECKING:
    from fracjax.sweep import Standing
    from fracjax.train import Progress


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show on stderr what a command is at, how much of it is done, and of how much."""
    console = Console(stderr=True)
    with console.status("") as status:

        def show(what: str, done: int, of: int) -> None:
            interrupt.check()
            status.update(f"{what}: {done} of {of}")

        yield show


class TrainingLine:
    """Where a run stands: one line that changes on a terminal, else a line each time."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console, self._status = console, status
        self._stage = ""

    def step(self, now: "Progress") -> None:
        """Show how far the steps are."""
        line = describe(now)
        self._status.update(line)
        if not self._console.is_terminal or now.monitored is not None:
            self._console.print(line, soft_wrap=True, highlight=False)

    def stage(self, what: str, done: int, of: int) -> None:
        """Show what follows the last step, and how much of it is done."""
        interrupt.check()
        self._status.update(f"{what}: {done} of {of} images")
        if not self._console.is_terminal and what != self._stage:
            self._console.print(f"{what}: {of} images", soft_wrap=True, highlight=False)
        self._stage = what


@contextmanager
def training() -> Iterator[TrainingLine]:
    """Show a run on stderr. Of several processes, the first one alone shows anything."""
    console = Console(stderr=True, quiet=not parallel.is_first())
    with console.status("reading the data and compiling") as status:
        yield TrainingLine(console, status)


@contextmanager
def sweep() -> Iterator[Callable[["Standing"], None]]:
    """Show a sweep on stderr: one line that changes on a terminal, else one an epoch."""
    console = Console(stderr=True)
    with console.status("reading the data and compiling") as status:

        def show(now: "Standing") -> None:
            best = "" if now.best is None else f"best {_figure(now.run, now.best)}, "
            line = f"trial {now.trial}/{now.trials}, {best}{describe(now.run)}"
            status.update(line)
            if not console.is_terminal and now.run.monitored is not None:
                console.print(line, soft_wrap=True, highlight=False)

        yield show


def describe(now: "Progress") -> str:
    """Say where a run stands.

    >>> from fracjax.train import Progress
    >>> describe(Progress(120, 480, 1.5, 0.4321, 812.3, 75.0, 3 << 30, "loss", None))
    'step 120/480, epoch 1.50, loss 0.4321, 812.3 images/s, 0:01:15 left, 3.0 GiB of device memory'
    >>> describe(Progress(240, 480, 2.0, 0.4321, 812.3, 60.0, None, "loss", -0.51)).split(", ")[-1]
    'selection loss 0.5100'
    """
    words = [
        f"step {now.step}/{now.steps}",
        f"epoch {now.epoch:.2f}",
        f"loss {now.loss:.4f}",
        f"{now.images_per_second:.1f} images/s",
        f"{timedelta(seconds=round(now.seconds_left))} left",
    ]
    if now.memory is not None:
        words.append(f"{now.memory / 2**30:.1f} GiB of device memory")
    if now.monitored is not None:
        words.append(f"selection {_figure(now, now.monitored)}")
    return ", ".join(words)


def _figure(now: "Progress", value: float) -> str:
    """Name a monitored figure, with its own sign."""
    return f"{now.monitor} {-value if now.monitor == 'loss' else value:.4f}"
