"""A file that kills, stops or fills the process that reads it costs itself, and no other file."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import lethal
import pytest
from bombs import BOMBS
from exports import SCORED, dicom, plain, put

from fracjax.errors import JobError, UsageError
from fracjax.image import Reason, Rejected
from fracjax_jobs import pool
from fracjax_jobs.inventory import Inventory
from fracjax_jobs.pool import Limits
from fracjax_jobs.read import fetch_ahead
from fracjax_jobs.walk import Entry

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows how")


def outcome(outcomes):
    """The outcome of the last frame: scored, or the reason why not."""
    last = outcomes[-1]
    return str(last.reason) if isinstance(last, Rejected) else SCORED


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Good files, as entries."""
    root = tmp_path_factory.mktemp("export")
    for number in range(24):
        put(root, f"IM{number:02d}", dicom(number))
    with Inventory(root) as inventory:
        inventory.scan()
        return list(inventory)


LETHAL = {
    "crash": (lethal.Crash(), "decoder_crashed", "the decoding process died"),
    "exit": (lethal.Exit(3), "decoder_crashed", "the decoding process died"),
    "exit as if all were well": (lethal.Exit(0), "decoder_crashed", "the decoding process died"),
    "hang": (lethal.Hang(), "decoder_timeout", "not read in 3 seconds"),
    "hog": (lethal.Hog(), "too_large", "not enough memory to read the file"),
    "defect": (lethal.Defect(), "corrupt", "the reader failed (RuntimeError)"),
    "inspect": (lethal.Inspect(), "corrupt", "the reader failed (Confined)"),
    "chatter": (lethal.Chatter(), "unreadable", "gone since it was found"),
}


@on_linux
def test_it_costs_one_file_and_results_keep_their_order(export, capfd):
    entries = list(export)
    for place, (name, (path, _, _)) in enumerate(LETHAL.items()):
        entries.insert(3 * place, lethal.entry(path, name))
    obstacle = Entry(Path("folder"), (), "folder", obstacle=Reason.UNREADABLE, detail="closed")
    entries.insert(1, obstacle)
    results = list(lethal.read(*entries, workers=2, seconds_per_file=3.0))
    assert [entry for entry, _ in results] == entries
    found = {entry.name: outcomes for entry, outcomes in results}
    for name, (_, reason, detail) in LETHAL.items():
        (rejected,) = found.pop(name)
        assert (str(rejected.reason), rejected.detail) == (reason, detail)
    assert found.pop("folder")[0].detail == "closed"
    assert {outcome(outcomes) for outcomes in found.values()} == {SCORED}
    assert capfd.readouterr() == ("", "")


def wake(process):
    with suppress(ProcessLookupError):  # given up meanwhile
        os.kill(process, signal.SIGCONT)


@on_linux
@pytest.mark.parametrize(
    ("longest_absence", "reason"), [(1.0, "unreadable"), (99.0, "decoder_timeout")]
)
def test_a_job_that_was_stopped_meanwhile_costs_no_file(monkeypatch, longest_absence, reason):
    """As by Ctrl-Z, or in a machine that was frozen: processes and parent alike."""
    monkeypatch.setattr(pool, "LONGEST_ABSENCE", longest_absence)
    files = [lethal.entry("/nowhere", "first"), lethal.entry(lethal.Slow(), "slow")]
    results = lethal.read(*files, seconds_per_file=2.0)
    next(results)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(3)
    threading.Timer(1.0, wake, (worker.pid,)).start()
    ((_, (rejected,)),) = results
    assert rejected.reason == reason


@pytest.mark.parametrize("workers", [1, 2])
def test_many_that_kill_their_processes_cost_no_other_file(export, workers):
    """More than a process has in hand, one behind the other, and good files behind them."""
    lethals = [lethal.entry(lethal.Crash(), str(n)) for n in range(pool.IN_HAND + 1)]
    results = list(lethal.read(*lethals, *export, *lethals[:1], *export, workers=workers))
    found = [outcome(outcomes) for _, outcomes in results]
    crashed, good = ["decoder_crashed"], [SCORED] * len(export)
    assert found == crashed * len(lethals) + good + crashed + good


def test_files_that_are_slow_to_open_are_opened_together(tmp_path):
    """By one process, which would wait for ever if it opened one after another."""
    count = pool.IN_HAND
    files = [lethal.entry(lethal.Together(tmp_path, str(n), count)) for n in range(count)]
    for _, (rejected,) in lethal.read(*files):
        assert rejected.reason == Reason.UNREADABLE


def test_large_files_are_not_fetched_ahead(tmp_path):
    """Of two that wait for each other, none is read."""
    size = pool.MOST_FETCHED + 1
    files = [
        replace(lethal.entry(lethal.Together(tmp_path, str(n), 2)), size=size) for n in range(2)
    ]
    (_, (first,)), (_, (second,)) = lethal.read(*files, seconds_per_file=1.0)
    assert first.reason == Reason.DECODER_TIMEOUT
    assert second.reason == Reason.UNREADABLE  # by then, the first has left its mark


def test_what_could_not_be_fetched_ahead_is_fetched_at_its_turn(tmp_path):
    """For want of memory, which another file had; or since it has grown and may be too large."""
    path = put(tmp_path, "IM0", plain(1))
    entry = replace(lethal.entry(path), size=path.stat().st_size)
    assert fetch_ahead(entry) == path.read_bytes()
    assert fetch_ahead(replace(entry, size=entry.size - 1)) is None
    for outcome in (None, MemoryError()):
        future = Future()
        if outcome is None:
            future.set_result(None)
        else:
            future.set_exception(outcome)
        assert pool._fetched(entry, future) == path.read_bytes()


def test_a_file_whose_process_dies_is_read_once_more_alone(export):
    path = lethal.CrashOnce(export[0].path)
    results = list(lethal.read(*export[:5], lethal.entry(path), *export[5:], workers=2))
    assert [outcome(outcomes) for _, outcomes in results] == [SCORED] * (len(export) + 1)


def test_workers_that_are_killed_from_outside_cost_no_file(export):
    results = lethal.read(*export * 10, workers=2)
    found = []
    for number, (_, outcomes) in enumerate(results):
        found.append(outcome(outcomes))
        if number in (50, 150):
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()  # so that the next file may be given to a dead one
    assert found == [SCORED] * len(export) * 10


@on_linux
def test_a_bomb_costs_one_file_and_bounded_memory(tmp_path):
    for name, (data, _) in BOMBS.items():
        put(tmp_path, name, data)
    found, peak = {}, 0
    with Inventory(tmp_path) as inventory:
        inventory.scan()
        for entry, outcomes in lethal.read(*inventory, bytes_per_worker=2**31):
            found[entry.path.name] = outcome(outcomes)
            (worker,) = multiprocessing.active_children()
            peak = max(peak, peak_memory(worker.pid))
    assert found == {name: expected for name, (_, expected) in BOMBS.items()}
    assert peak < 2**30


def peak_memory(pid):
    """The most memory that a process has had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


# Processes that do not start


@pytest.mark.parametrize("work", [lethal.never_starts, lethal.dies_at_start])
def test_workers_that_do_not_start_are_one_line(export, monkeypatch, work):
    monkeypatch.setattr(pool, "_work", work)
    monkeypatch.setattr(pool, "SECONDS_TO_START", 3.0)
    with pytest.raises(JobError, match="the reading processes do not start"):
        list(lethal.read(*export))
    assert not multiprocessing.active_children()


def test_the_study_of_an_image_that_kills_its_process_is_known(export, monkeypatch):
    monkeypatch.setattr(pool, "_work", lethal.dies_at_pixels)
    ((_, (rejected,)),) = lethal.read(export[0])
    assert rejected.reason == Reason.DECODER_CRASHED
    assert (rejected.header.study_instance_uid, rejected.frames) == ("1.2.3", 2)


@pytest.mark.parametrize(
    "limits",
    [
        {"workers": -1},
        {"seconds_per_file": 0},
        {"seconds_per_file": math.nan},
        {"bytes_per_worker": 1000},
    ],
)
def test_limits_that_cannot_hold_are_refused(limits):
    with pytest.raises(UsageError):
        Limits(**limits)


# Signals


@pytest.fixture
def reading():
    """A process of its own that waits for a worker which hangs; and that worker's process ID."""
    command = [sys.executable, lethal.__file__]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"reading\n"
    yield process, *busy_children(process.pid)
    process.kill()
    process.communicate()


def busy_children(pid):
    """Wait for the child of a process that uses a processor, and give its process ID."""
    for _ in range(300):
        time.sleep(0.1)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        busy = [int(child) for child in children if processor_seconds(child) > 3]
        if busy:
            return busy
    raise AssertionError("no worker came to work")


def processor_seconds(pid):
    """How long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_running(pid):
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@on_linux
def test_a_signal_is_noticed_while_a_file_is_waited_for(reading):
    process, worker = reading
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert not is_running(worker)


@on_linux
def test_workers_do_not_outlive_a_parent_that_is_killed(reading):
    process, worker = reading
    assert is_running(worker)
    process.kill()
    process.wait()
    for _ in range(50):
        if not is_running(worker):
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there")
