"""The search, read from top to bottom."""

import dataclasses
import gc
import hashlib
import json
import logging
import math
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from fracjax import bundle, configs, data, interrupt, train
from fracjax.claim import alone, check_claim, write_claim
from fracjax.configs import Config, Execution
from fracjax.errors import (
    BundleError,
    DataError,
    DivergedError,
    FracjaxError,
    UsageError,
    WeightsError,
)
from fracjax.models import Network
from fracjax.sweep import board
from fracjax.sweep.board import Board, Entry
from fracjax.sweep.space import Axis
from fracjax.task import prepare

CLAIM_NAME = "sweep.json"
"""In a working directory: which sweep it belongs to."""

STUDY_NAME = "sweep.db"
"""In a working directory: Optuna's study, in SQLite."""

BOARD_NAME = "leaderboard.csv"
"""In a working directory: the leaderboard, written anew after each trial."""

TRIALS_NAME = "trials"
"""In a working directory: the working directories of the trials, by number."""

CHECKPOINTS_KEPT = 3
"""Finished trials, from the best, that keep their checkpoints, so that they can become a model."""

FIRST_TRIALS = 5
"""Trials that finish before any is pruned: a median of fewer says little."""

FIRST_PART = 0.25
"""Part of a run before which no trial is pruned: the learning rate has hardly stopped rising."""

PLACES = 100
"""Parts of a run after which Optuna knows the figure of an epoch: of the first that ended in it, or
of the last before. So trials are compared after the same part of their schedules, also where they
differ in ``optimizer.epochs``, or where ``optimizer.patience`` ended some."""

MOST_STARTS = 3
"""Starts of a trial from the same step before it is given up. Where a host's memory runs out the
process is killed, and a sweep that is started again would die of the same trial for ever."""

OUT_OF_ROOM = (
    "out of memory; search a smaller optimizer.batch_size or preprocess.image_size, smaller "
    "networks, or a larger optimizer.accumulate"
)

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""In the message of JAX's error, on every kind of device."""

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials that count. A repeated draw is put aside as failed, and the sampler ignores it."""

REFUSALS = (UsageError, DataError, WeightsError, BundleError)
"""What is the fault of one trial's settings. A checkpoint that cannot be written is not."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a sweep stands, for whoever shows it.

    Attributes:
        trial: The trial at work, counted from 1.
        trials: How many there will be.
        best: The monitored figure of the best finished trial, the larger the better as in
            :class:`fracjax.train.Progress`; ``None`` before there is one.
        run: Where that trial stands.
    """

    trial: int
    trials: int
    best: float | None
    run: train.Progress


def run(
    config: Config,
    axes: Sequence[Axis],
    workdir: Path,
    *,
    data_dir: Path,
    trials: int,
    weights: Mapping[str, Path] = MappingProxyType({}),
    execution: Execution = Execution(),  # noqa: B008 - frozen
    report: Callable[[Standing], None] = lambda _: None,
) -> Board:
    """Train with many settings and rank them by the images that ``config.data.select`` holds out.

    The validation splits are not opened. A sweep that was interrupted goes on: the trial at work
    from its own checkpoint, and each further trial is the one that would have come. The sampler is
    a tree-structured Parzen estimator (Bergstra et al. 2011), seeded for each draw by
    ``config.seed``, the trial's number and the place of the axis.

    Args:
        config: What all trials share.
        axes: What they differ in, as :func:`fracjax.sweep.parse` gives it.
        workdir: The study, the leaderboard and the trials.
        data_dir: Where :func:`fracjax.data.prepare` put the data set.
        trials: How many to finish, pruned and failed ones included; fewer if the space has fewer
            points. It may be raised when a sweep goes on.
        weights: What to begin with, by architecture; under ``""`` for all others.
        execution: How to compute it.
        report: Called every few steps of each trial.

    Returns:
        The leaderboard, which is in ``workdir/leaderboard.csv``, too.

    Raises:
        UsageError: No images are held out to choose by; ``workdir`` holds another sweep, or one
            that is at work.
        DataError: The data set is missing.
        BundleError: A bundle to begin with is missing or damaged.
        TrainingError: A checkpoint cannot be written.
        OSError: A file to begin with cannot be read.
        SystemExit: A signal has come; the state is saved.
    """
    if config.data.select == 0:
        raise UsageError(
            "a sweep needs images to choose by; give --set data.select=0.15, or another part of "
            "the training groups"
        )
    axes = sorted(axes, key=lambda axis: axis.field)
    images = data.load(config.data.name, config.data.train, data_dir)
    claim = {
        "config": dataclasses.asdict(config),
        "search": {axis.field: str(axis) for axis in axes},
        "initial_weights": {name: _sha256(path) for name, path in weights.items()},
        "train_images": images.sha256,
    }
    search = _Search(
        config, tuple(axes), workdir, data_dir, trials, weights, execution, images.facts[0].target
    )
    claim = json.loads(json.dumps(claim))  # as it is read again
    with alone(workdir):
        check_claim(workdir / CLAIM_NAME, claim)
        write_claim(workdir / CLAIM_NAME, claim)
        study = _open(workdir / STUDY_NAME)
        while (trial := search.next(study)) is not None:
            with alone(search.directory(trial.number)):
                search.train(study, trial, report)
            gc.collect()  # the next trial needs the memory of this one's arrays and programs
            search.conclude(study)
            interrupt.check()
        return search.conclude(study)


@dataclass(frozen=True, slots=True)
class _Search:
    """What stays the same from trial to trial; all that changes is in the study and on disk."""

    config: Config
    axes: tuple[Axis, ...]
    workdir: Path
    data_dir: Path
    trials: int
    weights: Mapping[str, Path]
    execution: Execution
    target: configs.Target

    def next(self, study: optuna.Study) -> Trial | None:
        """Take up the trial that was interrupted, or draw the next one that was not tried yet."""
        most = min(self.trials, math.prod(axis.size for axis in self.axes))
        while True:
            known = study.get_trials(deepcopy=False)
            running = [trial for trial in known if trial.state == TrialState.RUNNING]
            tried = {self.settings(trial) for trial in known if trial.state in DONE}
            if not running and len(tried) >= most:
                return None
            number = running[0].number if running else len(known)
            repeats = number > 0 and known[number - 1].state == TrialState.FAIL
            # Optuna has no public way to take up a trial again.
            trial = Trial(study, running[0]._trial_id) if running else study.ask()
            for place, axis in enumerate(self.axes):
                study.sampler = _sampler(self.config.seed, number, place, at_random=repeats)
                axis.draw(trial)
            if self.settings(trial) not in tried:
                return trial
            study.tell(trial, state=TrialState.FAIL)

    def train(self, study: optuna.Study, trial: Trial, report: Callable[[Standing], None]) -> None:
        """Train a trial to its end, or until it is pruned or fails, and tell the study."""
        directory, settings = self.directory(trial.number), self.settings(trial)
        logger.info("trial %04d: %s", trial.number, " ".join(settings))
        done = [known for known in study.get_trials(deepcopy=False) if known.state in DONE]
        finished = (known.value for known in done if known.state == TrialState.COMPLETE)
        best = max((value for value in finished if value is not None), default=None)
        told = dict(study.trials[trial.number].intermediate_values)  # before it was interrupted

        def tell(value: float, places: range) -> None:
            for place in places:
                if place not in told:
                    told[place] = value
                    trial.report(value, place)

        def show(now: train.Progress) -> None:
            report(Standing(len(done) + 1, self.trials, best, now))
            if now.monitored is None:
                return
            place = PLACES * now.step // now.steps
            if told:
                tell(told[max(told)], range(max(told) + 1, place))
            tell(now.monitored, range(place, place + 1))
            if trial.should_prune():
                raise optuna.TrialPruned(
                    f"after epoch {now.epoch:g} it was below the median of the finished trials"
                )

        newest = _newest_checkpoint(directory)
        starts = [*trial.user_attrs.get("starts", []), newest]
        trial.set_user_attr("starts", starts)
        try:
            if starts.count(newest) > MOST_STARTS:
                raise UsageError(
                    f"the process ended {MOST_STARTS} times before the trial got beyond step "
                    f"{newest}, as it does where memory runs out"
                )
            config = configs.override(self.config, settings)
            task = prepare(config, self.data_dir, self.weights_of(config), opens_valid=False)
            trial.set_user_attr("parameters", _parameters(config))
            train.learn(task, directory, self.execution, show)
        except optuna.TrialPruned as pruned:
            _end(study, trial, "pruned", str(pruned))
        except DivergedError as error:
            _end(study, trial, "failed", error.what)
        except REFUSALS as error:
            _end(study, trial, "failed", str(error))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and OUT_OF_MEMORY not in str(error):
                raise
            _end(study, trial, "failed", OUT_OF_ROOM)
        except (SystemExit, KeyboardInterrupt, FracjaxError, OSError):
            trial.set_user_attr("starts", starts[:-1])  # it ended in good order, and goes on so
            raise
        else:
            tell(told[max(told)], range(max(told) + 1, PLACES + 1))
            study.tell(trial, board.figure(directory, self.config.optimizer.monitor))

    def conclude(self, study: optuna.Study) -> Board:
        """Write the leaderboard, and remove the checkpoints that are no longer needed."""
        done = [trial for trial in study.get_trials(deepcopy=False) if trial.state in DONE]
        monitor = self.config.optimizer.monitor
        entries = board.ranked((self.entry(trial) for trial in done), monitor)
        for place, entry in enumerate(entries):
            if entry.state != "finished" or place >= CHECKPOINTS_KEPT:
                shutil.rmtree(self.directory(entry.trial) / "checkpoints", ignore_errors=True)
        fields = tuple(axis.field for axis in self.axes)
        found = Board(entries, monitor, self.target, fields, "")
        if found.best is not None:
            found = dataclasses.replace(found, command=self.command(found.best))
        board.write(self.workdir / BOARD_NAME, found)
        return found

    def entry(self, trial: FrozenTrial) -> Entry:
        has_finished = trial.state == TrialState.COMPLETE
        return board.entry(
            trial.number,
            "finished" if has_finished else trial.user_attrs["state"],
            self.settings(trial),
            self.directory(trial.number),
            monitor=self.config.optimizer.monitor,
            parameters=trial.user_attrs.get("parameters"),
            reason="" if has_finished else trial.user_attrs["reason"],
        )

    def command(self, entry: Entry) -> str:
        """Give the command that makes a model of a trial, from its own checkpoint."""
        config = configs.override(self.config, entry.settings)
        weights = self.weights_of(config)
        name = config.name if config.name in configs.RECIPES else next(iter(configs.RECIPES))
        words = ["fracjax", "train", "--config", name]
        for setting in _settings(config, configs.RECIPES[name]()):
            words += ["--set", setting]
        words += ["--data-dir", str(self.data_dir)]
        words += [] if weights is None else ["--weights", str(weights)]
        return shlex.join([*words, "--workdir", str(self.directory(entry.trial))])

    def settings(self, trial: Trial | FrozenTrial) -> tuple[str, ...]:
        return tuple(axis.draw(trial) for axis in self.axes)

    def directory(self, number: int) -> Path:
        return self.workdir / TRIALS_NAME / f"{number:04d}"

    def weights_of(self, config: Config) -> Path | None:
        return self.weights.get(config.model.name, self.weights.get(""))


def _open(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=FIRST_TRIALS,
        n_warmup_steps=round(FIRST_PART * PLACES),
        n_min_trials=FIRST_TRIALS,
    )
    try:
        return optuna.create_study(
            storage=f"sqlite:///{path.absolute()}",
            study_name=path.stem,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    except SQLAlchemyError:
        raise UsageError(f"{path} is damaged; give another --workdir") from None


def _sampler(seed: int, number: int, place: int, *, at_random: bool) -> optuna.samplers.BaseSampler:
    """Make the sampler of one draw, so that it does not depend on which others a process made.

    Args:
        seed: Of the sweep.
        number: Of the trial.
        place: Of the axis.
        at_random: Whether the draw before this one was a repetition, which a sampler that learns
            may make again and again.
    """
    own = int(np.random.SeedSequence((seed, number, place)).generate_state(1)[0])
    if at_random:
        return optuna.samplers.RandomSampler(seed=own)
    return optuna.samplers.TPESampler(seed=own)


def _newest_checkpoint(directory: Path) -> int:
    steps = (path.name for path in (directory / "checkpoints").glob("*") if path.name.isdigit())
    return max(map(int, steps), default=0)


def _end(study: optuna.Study, trial: Trial, state: board.State, reason: str) -> None:
    """End a trial that has not finished.

    For Optuna all of them are pruned: what failed is ignored by its sampler, which would go on
    drawing learning rates that diverge.
    """
    logger.info("trial %04d %s: %s", trial.number, state, reason)
    trial.set_user_attr("state", state)
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.PRUNED)


def _parameters(config: Config) -> int:
    network = Network(config.model, outputs=1 + len(config.data.labels))
    return sum(math.prod(network.shapes[name]) for name in network.parameters)


def _settings(config: Any, base: Any, prefix: str = "") -> Iterator[str]:
    """Give the ``--set`` values that make one configuration of another."""
    for field in dataclasses.fields(config):
        value, before = getattr(config, field.name), getattr(base, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, before, f"{prefix}{field.name}.")
        elif value != before:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield f"{prefix}{field.name}={text}"


def _sha256(path: Path) -> str:
    if path.is_dir():
        return bundle.load(path).manifest.weights_sha256
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
