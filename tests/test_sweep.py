"""The sweep: what it searches, how it goes on, what it never opens, and its leaderboard."""

import csv
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fracjax import bundle, claim, configs, metrics, record, sweep, train
from fracjax.errors import DivergedError, FracjaxError, TrainingError, UsageError
from fracjax.sweep import board, search

SETTINGS = (
    "name=swept",
    "seed=1",
    "data.select=0.35",
    "preprocess.image_size=32",
    "model.name=small_cnn",
    "optimizer.epochs=2",
    "optimizer.batch_size=4",
    "optimizer.frozen_stages=0",
    "optimizer.average=0",
    *(f"augment.{name}=0" for name in ("rotation", "scale", "shift", "flip", "contrast", "gamma")),
)
CONFIG = configs.recipe("fracatlas_resnet50", SETTINGS)
AXES = sweep.parse(["optimizer.learning_rate=1e-4,2e-4", "optimizer.patience=5..9"])
IDLE = "optimizer.patience=0,5,6"  # changes nothing in two epochs, and compiles nothing anew
TRIALS = 3

RUN = """
import sys
from pathlib import Path
from fracjax import configs, interrupt, metrics, sweep, train

interrupt.install()
train.RECORD_EVERY, metrics.intervals.BOOTSTRAP_SAMPLES = 1, 100
data_dir, workdir, trials, *texts = sys.argv[1:]
settings = [text[2:] for text in texts if text.startswith("s:")]
sweep.run(
    configs.recipe("fracatlas_resnet50", settings),
    sweep.parse([text[2:] for text in texts if text.startswith("a:")]),
    Path(workdir),
    data_dir=Path(data_dir),
    trials=int(trials),
)
"""


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Report each step, and draw few bootstrap samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "RECORD_EVERY", 1)
        patch.setattr(metrics.intervals, "BOOTSTRAP_SAMPLES", 100)
        patch.setattr(search.gc, "collect", lambda: None)  # slow in a process of many tests
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A sweep that nothing disturbed: its directory, its leaderboard, and what it reported."""
    workdir = tmp_path_factory.mktemp("sweeps") / "new/undisturbed"
    reports = []
    found = sweep.run(
        CONFIG, AXES, workdir, data_dir=data_dir, trials=TRIALS, report=reports.append
    )
    return workdir, found, reports


@pytest.fixture
def quick_sweep(data_dir, tmp_path):
    """Sweep in a directory of the test's own."""

    def run(axes, trials=2, config=CONFIG, **more):
        texts = [axes] if isinstance(axes, str) else axes
        return sweep.run(
            config, sweep.parse(texts), tmp_path, data_dir=data_dir, trials=trials, **more
        )

    return run


def rows_of(workdir):
    with (workdir / search.BOARD_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


# The search space


REALS = st.floats(1e-9, 1e9)


@settings(deadline=None)
@given(REALS, REALS, st.sampled_from(["", ":log", ":linear"]))
def test_a_range_is_read_as_it_is_written(one, another, scale):
    low, high = sorted((one, another))
    text = f"optimizer.weight_decay={low!r}..{high!r}{scale}"
    if low == high:
        with pytest.raises(UsageError, match="no range"):
            sweep.parse([text])
        return
    (axis,) = sweep.parse([text])
    assert (axis.low, axis.high, axis.whole) == (low, high, False)
    assert axis.log == (scale == ":log" or (scale == "" and low * 10 <= high))


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(-9, 9), st.integers(1, 9))
def test_what_is_drawn_lies_in_the_range_and_is_taken_by_the_configuration(seed, low, width):
    axes = sweep.parse(
        [
            f"optimizer.weight_decay={abs(low)}..{abs(low) + width}",
            f"optimizer.epochs={10 + low}..{10 + low + width}",
            "preprocess.image_size=224,288",
        ]
    )
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    drawn = [axis.draw(trial) for axis in axes]
    config = configs.override(CONFIG, drawn)
    assert abs(low) <= config.optimizer.weight_decay <= abs(low) + width
    assert 10 + low <= config.optimizer.epochs <= 10 + low + width
    assert config.preprocess.image_size in (224, 288)
    assert drawn == [axis.draw(trial) for axis in axes]
    assert config.optimizer.weight_decay == trial.params["optimizer.weight_decay"]


def test_the_kind_of_a_field_decides_what_a_range_holds():
    clip, epochs = sweep.parse(["optimizer.epochs=4..16", "optimizer.clip_norm=1..16"])
    assert (clip.whole, clip.log, clip.size) == (False, True, math.inf)
    assert (epochs.whole, epochs.log, epochs.size) == (True, False, 13)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer.learning_rate", "names no field"),
        ("learning_rate=1e-5..1e-3", "names no field"),
        ("optimizer.pace=1,2", "names no field"),
        ("data.select=0.1,0.2", "names no field"),
        ("seed=0,1,2", "names no field"),
        ("optimizer.monitor=loss,auroc_study", "names no field"),
        ("preprocess.channel_mean=0..1", "names no field"),
        ("model.name=resnet18,resnet19", "'resnet19' does not fit"),
        ("model.name=resnet18..resnet50", "has no range"),
        ("model.name=resnet18", "--set for one"),
        ("model.dropout=0.1,0.10", "that differ"),
        ("optimizer.epochs=4,", "'' does not fit"),
        ("optimizer.epochs=4..8.5", "'8.5' does not fit"),
        ("optimizer.epochs=8..4", "smaller end first"),
        ("optimizer.learning_rate=1e-5..inf", "no range"),
        ("optimizer.learning_rate=0..1e-3:log", "begin above 0"),
        ("optimizer.learning_rate=1e-5..1e-3:cubic", "does not fit"),
    ],
)
def test_a_search_that_means_nothing_is_refused(text, said):
    with pytest.raises(UsageError) as refused:
        sweep.parse([text])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_field_is_searched_once():
    with pytest.raises(UsageError, match="searched twice"):
        sweep.parse(["model.dropout=0..0.5", "model.dropout=0.1,0.2"])
    with pytest.raises(UsageError, match="nothing to search"):
        sweep.parse([])


def test_weights_are_given_by_architecture_or_for_all(tmp_path):
    weights = sweep.parse_weights(["resnet18=a=b.safetensors", f"{tmp_path}/c=d"])
    assert {name: str(path) for name, path in weights.items()} == {
        "resnet18": "a=b.safetensors",
        "": f"{tmp_path}/c=d",
    }
    with pytest.raises(UsageError, match="two --weights"):
        sweep.parse_weights(["one", "another"])


# A sweep that nothing disturbs


def test_a_sweep_finishes_each_trial_once(finished):
    workdir, found, reports = finished
    assert sorted(entry.trial for entry in found.entries) == list(range(TRIALS))
    assert {entry.state for entry in found.entries} == {"finished"}
    assert len({entry.settings for entry in found.entries}) == TRIALS
    ends = [report for report in reports if report.run.step == report.run.steps]
    assert [(end.trial, end.trials) for end in ends] == [(i + 1, TRIALS) for i in range(TRIALS)]
    assert [end.best is None for end in ends] == [True] + [False] * (TRIALS - 1)
    for entry in found.entries:
        assert entry.parameters > 0
        assert entry.epochs == 2
        claim = json.loads((workdir / "trials" / f"{entry.trial:04d}/config.json").read_text())
        assert claim["config"] == json.loads(
            json.dumps(asdict(configs.override(CONFIG, entry.settings)))
        )


def test_the_leaderboard_is_sorted_and_agrees_with_what_each_trial_recorded(finished):
    workdir, found, _ = finished
    values = [entry.monitored for entry in found.entries]
    assert values == sorted(values, reverse=True)
    rows = rows_of(workdir)
    assert [int(row["rank"]) for row in rows] == list(range(1, TRIALS + 1))
    for row, entry in zip(rows, found.entries, strict=True):
        recorded = record.read(workdir / "trials" / row["trial"])
        best = max(line.get("selection/auroc_study", -1) for line in recorded)
        assert float(row["monitored"]) == float(row["auroc_study"]) == best == entry.monitored
        line = next(line for line in recorded if line.get("selection/auroc_study") == best)
        for suffix in ("_low", "_high", "_n"):
            assert float(row[f"auroc_study{suffix}"]) == line[f"selection/auroc_study{suffix}"]
        assert float(row["best_epoch"]) == line["epoch"]
        assert row["target"] == "fracture"
        assert "Research use only" in row["notice"]
        assert [f"{field}={row[field]}" for field in found.fields] == list(entry.settings)


def test_the_study_is_optunas_and_agrees(finished):
    workdir, found, _ = finished
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{workdir}/sweep.db")
    assert study.best_trial.number == found.best.trial
    assert study.best_value == pytest.approx(found.best.monitored)


def test_the_same_sweep_again_trains_nothing(finished, data_dir, monkeypatch):
    workdir, found, _ = finished
    monkeypatch.setattr(train, "learn", pytest.fail)
    assert sweep.run(CONFIG, AXES[::-1], workdir, data_dir=data_dir, trials=TRIALS) == found


def test_another_sweep_in_its_directory_is_refused(finished, data_dir):
    workdir, _, _ = finished
    axes = sweep.parse(["optimizer.learning_rate=1e-4,2e-4", "optimizer.patience=5..8"])
    with pytest.raises(UsageError, match=r"5\.\.9:linear there, 5\.\.8:linear here"):
        sweep.run(CONFIG, axes, workdir, data_dir=data_dir, trials=TRIALS)
    longer = replace(CONFIG, optimizer=replace(CONFIG.optimizer, epochs=3))
    with pytest.raises(UsageError, match="epochs: 2 there, 3 here"):
        sweep.run(longer, AXES, workdir, data_dir=data_dir, trials=TRIALS)


def test_the_table_says_what_its_figures_are(finished):
    _, found, _ = finished
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(board.table(found))
    text = " ".join(console.export_text().split())
    assert "Research use only" in text
    assert "too high" in text
    assert f"of the {TRIALS - 1} other finished trials" in text
    assert f"{found.best.value:.3f} ({found.best.low:.3f} to {found.best.high:.3f})" in text


def test_the_command_makes_a_model_of_the_best_trial_without_training_again(
    finished, data_dir, compilation_cache
):
    workdir, found, _ = finished
    directory = workdir / "trials" / f"{found.best.trial:04d}"
    before = (directory / "metrics.jsonl").read_bytes()
    name, *arguments = shlex.split(found.command)
    assert name == "fracjax"
    done = subprocess.run(
        [sys.executable, "-m", "fracjax", *arguments],
        env=os.environ | compilation_cache,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (directory / "metrics.jsonl").read_bytes() == before
    manifest = bundle.load(directory).manifest
    assert manifest.training == configs.override(CONFIG, found.best.settings)
    assert manifest.figures["auroc_study"].n > 0
    assert json.loads((directory / "config.json").read_text())["valid_images"]


# What a sweep never opens


def test_no_validation_image_is_opened(quick_sweep, monkeypatch):
    load, opened = train.data.load, []

    def watched(name, splits, data_dir):
        opened.extend(splits)
        return load(name, splits, data_dir)

    monkeypatch.setattr(train.data, "load", watched)
    assert quick_sweep(IDLE, trials=1).best is not None
    assert set(opened) == set(CONFIG.data.train)


def test_a_sweep_needs_images_to_choose_by(quick_sweep, tmp_path):
    config = replace(CONFIG, data=replace(CONFIG.data, select=0.0))
    with pytest.raises(UsageError, match=r"--set data\.select"):
        quick_sweep("model.dropout=0.1,0.2", config=config)
    assert not list(tmp_path.iterdir())


def test_weights_that_know_the_selection_images_fail_the_trial(
    quick_sweep, tiny_bundle, monkeypatch
):
    """The bundle names no split that it learned from; its manifest is made to."""
    read = bundle.load(tiny_bundle)
    provenance = replace(read.manifest.provenance, learned=("frac_atlas:fold_2",))
    knowing = replace(read, manifest=replace(read.manifest, provenance=provenance))
    monkeypatch.setattr(bundle, "load", lambda _: knowing)
    config = replace(CONFIG, model=knowing.manifest.model)
    found = quick_sweep(
        "optimizer.momentum=0.8,0.9", trials=1, config=config, weights={"": tiny_bundle}
    )
    assert found.best is None
    assert "was trained on frac_atlas:fold_2" in found.entries[0].reason


# Trials that do not finish


def test_a_refused_combination_is_a_failed_trial(quick_sweep, tmp_path):
    found = quick_sweep("optimizer.accumulate=1,3", trials=9)
    assert [entry.state for entry in found.entries] == ["finished", "failed"]
    assert "optimizer.accumulate=3 is not usable" in found.entries[1].reason
    row = rows_of(tmp_path)[1]
    assert (row["rank"], row["auroc_study"], row["parameters"]) == ("", "", "")
    assert row["reason"] == found.entries[1].reason


def test_a_loss_that_diverges_is_a_failed_trial(quick_sweep):
    found = quick_sweep("optimizer.learning_rate=1e37,1e38", trials=1)
    assert [entry.state for entry in found.entries] == ["failed"]
    assert "no longer" in found.entries[0].reason
    assert found.best is None
    assert found.command == ""


def test_memory_that_runs_out_is_a_failed_trial(quick_sweep, monkeypatch):
    learn = train.learn

    def greedy(task, *arguments):
        if task.config.optimizer.patience > 0:
            jnp.zeros(1 << 50).block_until_ready()
        return learn(task, *arguments)

    monkeypatch.setattr(train, "learn", greedy)
    found = quick_sweep("optimizer.patience=0,5")
    assert [entry.state for entry in found.entries] == ["finished", "failed"]
    assert "out of memory" in found.entries[1].reason


def test_a_full_disk_ends_the_sweep_and_not_the_trial(quick_sweep, monkeypatch, tmp_path):
    def fail(*_):
        raise TrainingError("the checkpoint of step 1 cannot be written (No space left on device)")

    learn = train.learn
    monkeypatch.setattr(train, "learn", fail)
    with pytest.raises(TrainingError, match="cannot be written"):
        quick_sweep(IDLE, trials=1)
    monkeypatch.setattr(train, "learn", learn)
    found = quick_sweep(IDLE, trials=1)
    assert [(entry.trial, entry.state) for entry in found.entries] == [(0, "finished")]


class Killed(BaseException):
    """Stands for the end of a process that nothing can hold back."""


@pytest.mark.parametrize(
    "end", [SystemExit(143), KeyboardInterrupt(), TrainingError("no room"), OSError("no room")]
)
def test_a_trial_that_ends_in_good_order_goes_on_however_often(end, quick_sweep, monkeypatch):
    def ended(*_):
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(train, "learn", ended)
        for _ in range(search.MOST_STARTS + 1):
            with pytest.raises(type(end)):
                quick_sweep("model.dropout=0.1,0.5", trials=1)

    def diverged(*_):
        raise DivergedError("reached", "train otherwise")

    monkeypatch.setattr(train, "learn", diverged)
    found = quick_sweep("model.dropout=0.1,0.5", trials=1)
    assert found.entries[0].reason == "reached"


def test_a_trial_that_kills_its_process_again_and_again_is_given_up(quick_sweep, monkeypatch):
    def killed(*_):
        raise Killed

    monkeypatch.setattr(train, "learn", killed)
    for _ in range(search.MOST_STARTS):
        with pytest.raises(Killed):
            quick_sweep("model.dropout=0.1,0.5", trials=1)
    found = quick_sweep("model.dropout=0.1,0.5", trials=1)
    assert [(entry.trial, entry.state) for entry in found.entries] == [(0, "failed")]
    assert "memory" in found.entries[0].reason


@pytest.fixture
def make_up(monkeypatch):
    """Let each trial record the figures of its epochs that are given for it, and train nothing."""

    def make_up(trials, planned=None):
        figures = iter(trials)

        def learn(task, workdir, execution, report):
            values = next(figures)
            for step, value in enumerate(values, start=1):
                if math.isnan(value):
                    raise DivergedError("the loss is no number", "train otherwise")
                with (workdir / "metrics.jsonl").open("a") as file:
                    line = {"step": step, "epoch": step, "selection/auroc_study": value}
                    file.write(json.dumps(line) + "\n")
                steps, monitor = planned or len(values), task.config.optimizer.monitor
                report(train.Progress(step, steps, step, 0.5, 1.0, 0.0, None, monitor, value))

        monkeypatch.setattr(train, "learn", learn)

    return make_up


@pytest.mark.parametrize("epochs", [3, 4, 9])
def test_a_trial_below_the_median_is_pruned_however_long_it_is(epochs, quick_sweep, make_up):
    """The figures are made up; the pruner is the real one."""
    good = [[value] * 4 for value in (0.90, 0.91, 0.92, 0.93, 0.94)]
    make_up([*good, [0.2] * epochs, [0.95] * 7])
    found = quick_sweep("model.dropout=0..0.5", trials=7)
    assert [entry.trial for entry in found.entries] == [6, 4, 3, 2, 1, 0, 5]
    assert [entry.state for entry in found.entries] == ["finished"] * 6 + ["pruned"]
    first = math.ceil(search.FIRST_PART * epochs)
    assert found.entries[-1].epochs == first
    assert found.entries[-1].reason == (
        f"after epoch {first} it was below the median of the finished trials"
    )


@pytest.mark.parametrize(("epochs", "planned"), [(1, 1), (3, 3), (250, 250), (2, 7)])
def test_an_epoch_stands_for_the_places_up_to_the_next(
    epochs, planned, quick_sweep, make_up, tmp_path
):
    """Also after the last one, where patience ended a trial; of more epochs than places all count.

    So each finished trial is among those whose median prunes others.
    """
    values = np.random.default_rng(epochs).permutation(epochs) / epochs
    make_up([values.tolist()], planned)
    quick_sweep("model.dropout=0..0.5", trials=1)
    (trial,) = optuna.load_study(
        study_name="sweep", storage=f"sqlite:///{tmp_path / search.STUDY_NAME}"
    ).trials
    assert trial.value == values.max()
    ends = np.arange(1, epochs + 1) * search.PLACES // planned
    assert trial.intermediate_values == {
        place: values[np.searchsorted(ends, ends[ends <= place][-1])]
        for place in range(ends[0], search.PLACES + 1)
    }


def test_what_did_not_finish_is_never_the_best(quick_sweep, make_up):
    make_up([[0.99, math.nan], [0.7, 0.8], [0.6, 0.6]])
    told = []
    found = quick_sweep("model.dropout=0..0.5", trials=3, report=told.append)
    assert [standing.best for standing in told] == [None, None, None, 0.8, 0.8]
    assert found.best.trial == 1
    assert found.entries[-1].reason == "the loss is no number"


# A sweep that goes on


def start(data_dir, workdir, environment, axes=AXES):
    texts = [f"s:{setting}" for setting in SETTINGS]
    texts += [f"a:{axis.field}={axis}" for axis in axes]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(data_dir), str(workdir), str(TRIALS), *texts],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, folder, pattern):
    while process.poll() is None:
        if list(folder.glob(pattern)):
            return True
        time.sleep(0.005)
    return False


def test_a_sweep_that_was_ended_goes_on_as_if_it_had_not_been(
    finished, data_dir, tmp_path, compilation_cache
):
    """It is killed when the second trial has a checkpoint, and told to end in the third."""
    workdir, _, _ = finished
    for number, moment in (
        (signal.SIGKILL, "0001/checkpoints/2"),
        (signal.SIGTERM, "0002/metrics.jsonl"),
    ):
        process = start(data_dir, tmp_path, compilation_cache)
        assert wait_for(process, tmp_path / "trials", moment), process.communicate()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        assert len(rows_of(tmp_path)) < TRIALS
    process = start(data_dir, tmp_path, compilation_cache)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for name in (search.BOARD_NAME, search.CLAIM_NAME):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()
    assert len(list((tmp_path / "trials").iterdir())) == TRIALS


def test_a_trial_that_was_ended_between_two_draws_is_drawn_as_it_would_have_been(
    data_dir, tmp_path, monkeypatch
):
    axes = sweep.parse(["optimizer.learning_rate=1e-5..1e-2", "model.dropout=0..0.5"])
    started = search._Search(
        CONFIG, tuple(axes), tmp_path, data_dir, 1, {}, configs.Execution(), "fracture"
    )
    whole = started.settings(started.next(search._open(tmp_path / "whole.sqlite")))
    kind = type(axes[0])
    draw = kind.draw

    def ended_at_the_second(axis, trial):
        if trial.params:
            raise SystemExit(143)
        return draw(axis, trial)

    study = search._open(tmp_path / "ended.sqlite")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(kind, "draw", ended_at_the_second)
        started.next(study)
    assert len(study.trials[0].params) == 1
    assert started.settings(started.next(study)) == whole


def test_two_sweeps_do_not_share_a_directory(quick_sweep, tmp_path):
    with claim.alone(tmp_path), pytest.raises(UsageError, match="another process is at work"):
        quick_sweep("model.dropout=0.1,0.2")


def test_a_damaged_study_is_told_of_in_one_line(quick_sweep, tmp_path):
    (tmp_path / search.STUDY_NAME).write_text("no database" * 1000)
    with pytest.raises(FracjaxError) as refused:
        quick_sweep("model.dropout=0.1,0.2")
    assert str(refused.value) == (
        f"{tmp_path / search.STUDY_NAME} is damaged; give another --workdir"
    )


def test_only_the_best_trials_keep_their_checkpoints(quick_sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CHECKPOINTS_KEPT", 1)
    found = quick_sweep(IDLE, trials=2)
    more = quick_sweep(IDLE, trials=99)
    assert {entry.trial for entry in found.entries} < {entry.trial for entry in more.entries}
    assert len(more.entries) == 3  # as many as there are
    kept = {path.parent.name for path in (tmp_path / "trials").glob("*/checkpoints")}
    assert kept == {f"{more.best.trial:04d}"}
