"""Training that is killed, told to end, or out of room: what it leaves, and how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fracjax import bundle, train
from fracjax.checkpoint import Checkpoints
from fracjax.errors import TrainingError
from fracjax.record.journal import METRICS_NAME

SETTINGS = {
    "name": "durable",
    "model.name": "small_cnn",
    "model.dropout": "0.2",
    "augment.mixup": "0.2",
    "data.select": "0.35",
    "optimizer.epochs": "4",
    "optimizer.batch_size": "4",
    "optimizer.accumulate": "2",
    "optimizer.learning_rate": "1e-3",
    "optimizer.average": "0.5",
    "optimizer.frozen_stages": "0",
    "optimizer.monitor": "loss",
    "seed": "1",
}


@pytest.fixture(scope="module")
def start(data_dir, compilation_cache):
    """Start the command in a process of its own, in a working directory; more arguments follow."""

    def start(workdir, *more, limit=None):
        command = [sys.executable, "-m", "fracjax", "train", "--workdir", str(workdir)]
        command += ["--data-dir", str(data_dir), "--image-size", "32", "--save-every", "1"]
        for name, value in SETTINGS.items():
            command += ["--set", f"{name}={value}"]
        if limit is not None:
            command = ["prlimit", f"--fsize={limit}", *command]
        return subprocess.Popen(
            [*command, *more],
            env=os.environ | compilation_cache,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The working directory of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(workdir))
    return workdir


def left_by(workdir):
    weights = (workdir / "bundle" / bundle.WEIGHTS_NAME).read_bytes()
    return weights, (workdir / METRICS_NAME).read_bytes()


def wait_for(process, path, text=""):
    """Wait until a file has come, with a text in it; ``False`` if the process ended before."""
    while process.poll() is None:
        if path.exists() and (path.is_dir() or text in path.read_text(errors="replace")):
            return True
        time.sleep(0.005)
    return False


def test_a_run_killed_again_and_again_leaves_the_same_bits(start, undisturbed, tmp_path):
    """The kills fall into the loop: after a line of the record, and while checkpoints are saved."""
    workdir = tmp_path / "run"
    moments = [(workdir / METRICS_NAME, '"step": 2,'), (workdir / "checkpoints/4", "")]
    kills = 0
    for path, text in moments:
        process = start(workdir)
        if wait_for(process, path, text):
            process.kill()
            kills += 1
        process.communicate()
    assert kills == len(moments)
    finish(start(workdir))
    assert left_by(workdir) == left_by(undisturbed)


@pytest.fixture(scope="module")
def ended(start, tmp_path_factory):
    """The working directory of a run that was told to end, and what it said."""
    workdir = tmp_path_factory.mktemp("ended") / "run"
    process = start(workdir, "--save-every", "1000")
    assert wait_for(process, workdir / METRICS_NAME, '"step": 2,')
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    return workdir, errors


@pytest.fixture
def workdir(ended, tmp_path):
    """A copy of that directory."""
    return Path(shutil.copytree(ended[0], tmp_path / "run"))


def checkpoints_of(workdir):
    """Its checkpoints, the oldest first."""
    found = (path for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name))


def test_a_run_that_is_told_to_end_saves_first(start, undisturbed, ended, workdir):
    _, errors = ended
    assert f"saved at step {checkpoints_of(workdir)[-1].name} of 8" in errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    finish(start(workdir))
    assert left_by(workdir) == left_by(undisturbed)


def test_a_disk_without_room_leaves_the_last_checkpoint(start, workdir):
    """A limit on the size of files stands for the disk: beyond it, writing fails as there."""
    kept = checkpoints_of(workdir)
    process = start(workdir, limit=1_000_000)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    said = [line for line in errors.splitlines() if line.startswith("fracjax: ")]
    assert len(said) == 1
    assert "cannot be written (File too large)" in said[0]
    assert "is kept. Make room" in said[0]
    assert "Traceback" not in errors
    assert checkpoints_of(workdir) == kept


def test_a_damaged_checkpoint_is_told_with_the_way_out(start, undisturbed, workdir):
    newest = checkpoints_of(workdir)[-1]
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    process = start(workdir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert f"remove {newest}, " in " ".join(errors.splitlines()[-1:])
    assert "Traceback" not in errors
    shutil.rmtree(newest)
    finish(start(workdir))
    assert left_by(workdir) == left_by(undisturbed)


def test_a_damaged_checkpoint_that_was_the_best_cannot_be_made_again(tmp_path):
    state = {"kernel": np.zeros(3, np.float32)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, state, best=1)
        for path in (tmp_path / "checkpoints/1").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:10])
        with pytest.raises(TrainingError, match=r"step 1 cannot be read.*another --workdir"):
            checkpoints.load(1, state)
        assert checkpoints.load(4, state)["kernel"].shape == (3,)


def test_images_on_the_device_give_the_same_bits(start, undisturbed, tmp_path):
    finish(start(tmp_path / "run", "--resident"))
    assert left_by(tmp_path / "run") == left_by(undisturbed)


def test_the_best_epoch_is_the_model(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / METRICS_NAME).read_text().splitlines()]
    losses = {row["step"]: row["selection/loss"] for row in rows if "selection/loss" in row}
    assert len(losses) == 4
    best = min(losses, key=losses.__getitem__)
    kept = {int(path.name) for path in (undisturbed / "checkpoints").iterdir()}
    assert kept == {best, 7, 8}


def test_a_finished_run_has_a_report(undisturbed):
    page = (undisturbed / "report.html").read_text()
    assert "Research use only" in page
    assert "<svg" in page
    claim = json.loads((undisturbed / train.CLAIM_NAME).read_text())
    assert claim["config"]["model"]["name"] == "small_cnn"
