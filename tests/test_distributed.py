"""Two processes that train together with ``fracjax train --distributed``."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from fracjax import record
from fracjax.record.journal import METRICS_NAME

SETTINGS = [
    *("name=together", "model.name=small_cnn", "data.select=0.35", "seed=1", "loss.weights=mura"),
    *("optimizer.epochs=3", "optimizer.batch_size=8", "optimizer.learning_rate=1e-3"),
    *("optimizer.frozen_stages=0", "optimizer.average=0.5"),
]


@pytest.fixture(scope="module")
def start(data_dir, compilation_cache):
    """Start the command with some virtual devices; more arguments follow."""

    def start(workdir, devices, *more):
        command = [sys.executable, "-m", "fracjax", "train", "--workdir", str(workdir)]
        command += ["--data-dir", str(data_dir), "--image-size", "32"]
        for setting in SETTINGS:
            command += ["--set", setting]
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        return subprocess.Popen(
            [*command, *more],
            env=os.environ | compilation_cache | flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def start_two(start):
    """Start two processes of two devices each."""

    def start_two(workdir, *more):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
        together = ("--distributed", "--coordinator", coordinator, "--processes", "2")
        return [start(workdir, 2, *more, *together, "--process", str(i)) for i in range(2)]

    return start_two


def test_two_processes_that_are_told_to_end_go_on_to_the_figures_of_one(start, start_two, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    process = start(alone, 4)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors

    processes = start_two(together, "--save-every", "1000")
    metrics = together / METRICS_NAME
    while not (metrics.exists() and metrics.read_text()):
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGTERM)  # the second is told, and both save
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, said
    assert "the same command goes on" in said[0][1]

    processes = start_two(together, "--save-every", "1000")
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    # One speaks and writes for both.
    assert "resuming at step" in said[0][1]
    assert "bundle: together-" in said[0][0]
    assert "together-" not in "".join(said[1])
    assert "resuming" not in said[1][1]
    assert len(list((together / "tensorboard").iterdir())) == 2  # one a start
    rows = [record.read(workdir) for workdir in (alone, together)]
    assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
    for one, other in zip(*rows, strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4)


def test_processes_that_nothing_tells_who_they_are_are_refused(start, tmp_path):
    for more, word in (
        (("--distributed",), "do not come together"),
        (("--processes", "2"), "need --distributed"),
    ):
        process = start(tmp_path / "run", 1, *more)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert word in errors.splitlines()[-1]
        assert "Traceback" not in errors
