"""The training run, read from top to bottom."""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from fracjax import bundle, data, finish, interrupt, parallel, step
from fracjax.checkpoint import Checkpoints
from fracjax.claim import alone, check_claim, write_claim
from fracjax.configs import Config, Execution
from fracjax.errors import DivergedError
from fracjax.record import REPORT_NAME, NoRecord, Record, write_report
from fracjax.selection import NOTHING_SELECTED, Judge
from fracjax.task import Task, prepare, training_network

RECORD_EVERY = 10
"""Steps between two lines of the record: each look at the loss waits for the device."""

CLAIM_NAME = "config.json"
"""In a working directory: which run it belongs to."""

BROKEN_NAME = "broken_batch.json"
"""In a working directory: the studies of the batch that led to what is no number."""

PREEMPTED = 128 + 15
"""The exit code of a process that was told to end by SIGTERM, as a shell gives it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for whoever shows it.

    Attributes:
        step: Steps that are done.
        steps: Steps of the whole run, if nothing stops it before.
        epoch: Passes over the training images that are done.
        loss: Mean over the steps since the last report.
        images_per_second: Of the same steps.
        seconds_left: At that rate.
        memory: Most bytes of a device's memory that were in use; ``None`` where it does not tell.
        monitor: The name of the figure of the selection images that chooses.
        monitored: At the end of an epoch with selection images, that figure; of a loss its
            negative, so that the larger is the better.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    images_per_second: float
    seconds_left: float
    memory: int | None
    monitor: str
    monitored: float | None


def fit(
    config: Config,
    workdir: Path,
    *,
    data_dir: Path,
    initial_weights: Path | None = None,
    note: str = "",
    execution: Execution = Execution(),  # noqa: B008 - frozen
    report: Callable[[Progress], None] = lambda _: None,
    stage: finish.Stage = lambda *_: None,
) -> bundle.Manifest:
    """Train as ``config`` says and write the bundle ``workdir/bundle``.

    A run that was interrupted goes on from its newest checkpoint, and ends as if it had not been.
    The model is the state after the last step; or after the best epoch, if ``config.data.select``
    keeps images for choosing. The validation splits choose nothing, so their figures are fair. At
    the end the gate is fitted, which takes three more passes over the training images.

    Args:
        config: The recipe.
        workdir: Checkpoints, the record, predictions on the validation images, and the bundle.
        data_dir: Where :func:`fracjax.data.prepare` put the data set.
        initial_weights: What to begin with: a file of weights, another bundle, or ``None`` for
            random weights.
        note: What a reader of the model card should know of the images.
        execution: How to compute it.
        report: Called every few steps.
        stage: Called now and then after the last step.

    Returns:
        The manifest of the bundle, with the measured figures.

    Raises:
        DataError: The data set is missing or too small, or its splits share a group.
        UsageError: ``workdir`` holds a run of another configuration or other images, or one that
            is at work; random weights would be frozen; or batches do not divide over the devices.
        DivergedError: The loss is no longer a number.
        TrainingError: No checkpoint can be written.
        WeightsError: ``initial_weights`` does not fit the network.
        BundleError: As a bundle, it is damaged or does not fit the network.
    """
    task = prepare(config, data_dir, initial_weights)
    check_claim(workdir / CLAIM_NAME, task.claim)
    with alone(workdir) if parallel.is_first() else contextlib.nullcontext():
        if (workdir / "bundle").exists():
            logger.info("%s is finished; its bundle stands", workdir)
            manifest = bundle.load(workdir / "bundle").manifest
            if parallel.is_first() and not (workdir / REPORT_NAME).exists():
                write_report(workdir, manifest)
            return manifest
        variables = learn(task, workdir, execution, report)
        manifest = finish.write_bundle(
            config,
            variables,
            workdir,
            begin=task.begin,
            learned=task.learned,
            tuned_on=task.selecting,
            valid=task.valid,
            note=note,
            stage=stage,
        )
        if parallel.is_first():
            write_report(workdir, manifest)
        return manifest


def learn(
    task: Task,
    workdir: Path,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    report: Callable[[Progress], None] = lambda _: None,
) -> bundle.Arrays:
    """Take all steps of a run, or those that an interrupted one lacks.

    Args:
        task: What to learn.
        workdir: Checkpoints and the record go here, and those of an interrupted run are here.
        execution: How to compute it.
        report: Called every few steps.

    Returns:
        The variables of the model, by name.

    Raises:
        UsageError: ``workdir`` holds another run, or batches do not divide over the devices.
        DivergedError: The loss is no longer a number.
        TrainingError: No checkpoint can be written.
        SystemExit: A signal has come; the state is saved.
    """
    parallel.check_alike(task.claim)
    check_claim(workdir / CLAIM_NAME, task.claim)
    config, optimizing = task.config, task.config.optimizer
    parallel.check_batch_size(
        optimizing.batch_size,
        optimizing.accumulate,
        jax.device_count(),
        even=config.augment.mixup > 0,
    )

    # ---- State and step, on every device.
    devices = parallel.create(execution.parallel)
    network = training_network(config, devices.axis_name)
    optimizer = step.create_optimizer(optimizing, network, task.steps)
    state = step.begin(
        network,
        optimizer,
        network.init(config.seed) | task.begin.variables,
        keeps_average=optimizing.average > 0,
    )
    take_step = devices.compile(
        functools.partial(step.train_step, network, optimizer, config, axis_name=devices.axis_name)
    )

    # ---- Batches. Batch i is a function of the seed, so the step is the whole position.
    order = data.shuffled(len(task.learned), epochs=optimizing.epochs, seed=config.seed)
    resident = {}
    if execution.resident:
        samples = data.indices(order)
        resident = devices.replicate(data.resident(task.learned, task.weights, config.preprocess))
    else:
        samples = data.samples(order, task.learned, task.weights, config.preprocess)
    batches = data.batches(
        samples,
        batch_size=optimizing.batch_size,
        parts=optimizing.accumulate,
        process=jax.process_index(),
        processes=jax.process_count(),
    )

    # ---- The loop.
    workdir.mkdir(parents=True, exist_ok=True)
    if parallel.is_first():
        write_claim(workdir / CLAIM_NAME, task.claim)
    judge = Judge(task) if len(task.selecting) else None
    selection = NOTHING_SELECTED
    with Checkpoints(workdir / "checkpoints") as checkpoints, _held_back():
        whole = devices.collect(devices.replicate(state))
        if checkpoints.newest is not None:
            whole, selection = checkpoints.load(checkpoints.newest, (whole, selection))
            logger.info("resuming at step %d of %d", int(whole.step), task.steps)
        done = int(whole.step)
        state = devices.replicate(whole)
        del whole

        with _record(workdir, done) as record:
            clock = _Clock(optimizing.batch_size)
            for batch in data.prefetched(batches[done : task.steps]):
                if 0 < optimizing.patience <= selection.stale:
                    break
                state = take_step(state, devices.share(batch), resident)
                done += 1
                clock.tick()
                ends_epoch = done % task.epoch_steps == 0
                must_end = _must_end(done)
                records = ends_epoch or done % RECORD_EVERY == 0
                saves = ends_epoch or must_end or done % execution.save_every == 0
                if records or saves:
                    totals = devices.fetch(state.totals)
                    clock.stop()
                    _check_finite(totals, task, order, workdir, checkpoints.newest)
                if records:
                    values, speed, monitored = _values(task, done, totals), clock.read(), None
                    record.write(done, values, speed=speed)
                    state = state._replace(totals=devices.replicate(step.no_totals()))
                    if ends_epoch and judge is not None:
                        figures, monitored = judge(_model(devices, state))
                        record.write(done, {"epoch": values["epoch"]} | figures)
                        selection = selection.after(monitored, done)
                    report(_progress(task, done, values, speed, monitored))
                if saves:
                    record.sync()
                    best = int(selection.step) if judge else None
                    checkpoints.save(done, (devices.collect(state), selection), best=best)
                if records or saves:
                    clock.start()
                if must_end:
                    logger.info(
                        "saved at step %d of %d; the same command goes on", done, task.steps
                    )
                    interrupt.check()
                    raise SystemExit(PREEMPTED)
        interrupt.check()  # of a signal that came after the last look
        if judge is not None and int(selection.step) != done:
            logger.info("step %d of %d is the best", selection.step, done)
            whole, _ = checkpoints.load(int(selection.step), (devices.collect(state), selection))
            return _model(parallel.Jit(), whole)
    return _model(devices, state)


def _model(devices: parallel.Parallel, state: step.TrainState) -> bundle.Arrays:
    """Give the variables that are the model: their average, where one is kept."""
    variables: Any = devices.fetch(state.average or state.variables)
    return dict(variables)


class _Clock:
    """Counts steps and the seconds that they take, without what is done between them."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps, self._seconds = 0, 0.0
        self.start()

    def start(self) -> None:
        self._begin = time.perf_counter()

    def tick(self) -> None:
        self._steps += 1

    def stop(self) -> None:
        """Stop counting: something else than a step begins."""
        self._seconds += time.perf_counter() - self._begin

    def read(self) -> dict[str, float]:
        """Give images a second since the last reading, and the most memory of a device, bytes."""
        speed = {"images_per_second": self._steps * self._batch_size / self._seconds}
        self._steps, self._seconds = 0, 0.0
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return speed if memory is None else speed | {"memory": memory}


def _record(workdir: Path, done: int) -> Record | NoRecord:
    return Record(workdir, done) if parallel.is_first() else NoRecord()


def _held_back() -> AbstractContextManager[None]:
    """Let a signal wait for the end of a step. Among several processes, JAX itself does so."""
    return interrupt.deferred() if jax.process_count() == 1 else contextlib.nullcontext()


def _must_end(done: int) -> bool:
    """Tell whether the run has to end after this step; all processes tell alike."""
    if jax.process_count() == 1:
        return interrupt.is_pending()
    return bool(multihost_utils.reached_preemption_sync_point(done))


def _values(task: Task, done: int, totals: step.Totals) -> dict[str, float]:
    schedule = step.learning_rate(task.config.optimizer, task.steps)
    count = int(totals.steps)
    return {
        "epoch": done / task.epoch_steps,
        "learning_rate": float(schedule(done - 1)),
        "loss": float(totals.loss) / count,
        "gradient_norm": float(totals.gradient_norm) / count,
    }


def _progress(
    task: Task,
    done: int,
    values: Mapping[str, float],
    speed: Mapping[str, float],
    monitored: float | None,
) -> Progress:
    rate, memory = speed["images_per_second"], speed.get("memory")
    return Progress(
        step=done,
        steps=task.steps,
        epoch=values["epoch"],
        loss=values["loss"],
        images_per_second=rate,
        seconds_left=(task.steps - done) * task.config.optimizer.batch_size / rate,
        memory=None if memory is None else int(memory),
        monitor=task.config.optimizer.monitor,
        monitored=monitored,
    )


def _check_finite(
    totals: step.Totals, task: Task, order: Any, workdir: Path, newest: int | None
) -> None:
    """Make sure that no loss or gradient since the last look was infinite or no number."""
    broken = int(totals.broken)
    if broken == step.NEVER:
        return
    batches = data.batches(data.indices(order), batch_size=task.config.optimizer.batch_size)
    studies = sorted(
        {data.study_key(task.learned.facts[i].study_id) for i in batches[broken]["index"].flat}
    )
    if parallel.is_first():
        text = json.dumps({"step": broken + 1, "studies": studies}, indent=2) + "\n"
        (workdir / BROKEN_NAME).write_text(text, encoding="utf-8")
    stands = (
        "there is no checkpoint" if newest is None else f"the checkpoint of step {newest} stands"
    )
    raise DivergedError(
        f"loss or gradient is no longer a number at step {broken + 1}",
        f"{stands}. The keys of the batch's {len(studies)} studies are in {BROKEN_NAME} "
        f"({studies[0]}, ...). Train in another --workdir with a lower optimizer.learning_rate",
    )
