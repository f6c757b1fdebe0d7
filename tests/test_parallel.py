"""The same curve on any number of devices, in either way to run a step, and in two processes."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from fracjax import parallel
from fracjax.errors import UsageError


def flags(devices):
    return f"--xla_force_host_platform_device_count={devices}"


@pytest.fixture(scope="module")
def curve(run_python):
    """The losses of one way to run the steps; of two, also of changing to the other half-way."""

    def measure(kinds, devices):
        done = run_python("tests/learning_curve.py", kinds, XLA_FLAGS=flags(devices))
        assert done.returncode == 0, done.stderr
        count, *curves = json.loads(done.stdout.splitlines()[-1])
        assert count == devices
        return curves

    return measure


@pytest.fixture(scope="module")
def alone(curve):
    """The curve of one device under jit."""
    (losses,) = curve("jit", 1)
    assert len(set(losses)) == len(losses)
    return losses


def test_four_devices_learn_as_one_does(curve, alone):
    """With augmentation, mixing, dropout, batch norm, and a batch in two parts.

    They begin under pmap, and half-way change to jit beside going on as they were.
    """
    losses, changed = curve("pmap,jit", 4)
    np.testing.assert_allclose(losses, alone, rtol=1e-4)
    np.testing.assert_allclose(changed, alone, rtol=1e-4)


def test_two_processes_learn_as_one_does(alone, compilation_cache, tmp_path):
    """Each has four devices and half of each batch; both save to and load from one folder.

    They begin under jit, and half-way change to pmap beside going on as they were.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | compilation_cache | {"XLA_FLAGS": flags(4)}
    command = [sys.executable, "tests/learning_curve.py", "jit,pmap", str(port)]
    told = [(tmp_path / f"{i}.out", tmp_path / f"{i}.err") for i in range(2)]
    processes = []
    for process, (output, errors) in enumerate(told):
        with output.open("w") as stdout, errors.open("w") as stderr:
            arguments = [*command, str(process), str(tmp_path / "checkpoints")]
            processes.append(
                subprocess.Popen(arguments, env=environment, stdout=stdout, stderr=stderr)
            )
    deadline = time.monotonic() + 400
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if any(process.poll() for process in processes):
            break  # the other one waits for it
        time.sleep(0.1)
    for process in processes:
        process.kill()
    said = "\n".join(errors.read_text() for _, errors in told)
    assert [process.wait() for process in processes] == [0, 0], said
    for output, _ in told:
        count, losses, changed = json.loads(output.read_text().splitlines()[-1])
        assert count == 8
        np.testing.assert_allclose(losses, alone, rtol=1e-4)
        np.testing.assert_allclose(changed, alone, rtol=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "even", "unit"),
    [(7, 1, 2, False, 2), (16, 4, 8, False, 32), (8, 1, 8, True, 16)],
)
def test_a_batch_that_does_not_divide_is_refused(batch_size, accumulate, devices, even, unit):
    with pytest.raises(UsageError, match=f"multiple of {unit} as optimizer.batch_size"):
        parallel.check_batch_size(batch_size, accumulate, devices, even=even)
    parallel.check_batch_size(2 * unit, accumulate, devices, even=even)
