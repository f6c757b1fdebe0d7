"""A run that ends early, whatever ends it, and the run after it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from exports import (
    CONTENTS,
    archive,
    check_conserved,
    command,
    content,
    dicom,
    plain,
    put,
    read_run,
    score,
    wait_for_state,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracjax import interrupt
from fracjax.errors import UsageError
from fracjax_jobs import previews
from fracjax_jobs import score_dir as job
from fracjax_jobs.identifiers import Identifiers
from fracjax_jobs.worklist import Paths, Presentation


class Night(Exception):
    """The run ends here."""


class CountingScorer:
    """Counts the pictures that a scorer is given."""

    def __init__(self, scorer):
        self._scorer = scorer
        self.scored = 0

    def __getattr__(self, name):
        return getattr(self._scorer, name)

    def score(self, inputs):
        self.scored += len(inputs)
        return self._scorer.score(inputs)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An export with everything in it, in an order in which duplicates and studies interleave."""
    root = tmp_path_factory.mktemp("resumed") / "export"
    for number, (kind, (data, _)) in enumerate(CONTENTS.items()):
        put(root, f"{number % 3}/{kind}", data)
    for number in range(12):
        put(root, f"{number % 4}/IM{number}", dicom(100 + number // 2, f"1.2.{number // 4}"))
    put(root, "z.zip", archive(("IM0", dicom(100, "1.2.0")), ("x.png", plain(50))))
    return root


@pytest.fixture(scope="module")
def whole(export, scorer, reading_here, tmp_path_factory):
    """What a run says that nothing has interrupted."""
    with reading_here():
        run = score(export, tmp_path_factory.mktemp("whole") / "w.parquet", scorer)
    check_conserved(run)
    return run


@given(ends=st.lists(st.integers(0, 35), max_size=4))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_however_often_it_ends_the_tables_come_out_the_same(
    ends, export, whole, scorer, reading_here, tmp_path_factory
):
    out = tmp_path_factory.mktemp("ends") / "w.parquet"
    for end in ends:
        calls = 0

        def report(progress, end=end):
            nonlocal calls
            calls += 1
            if calls > end:
                raise Night

        with reading_here():
            try:
                job.score_dir(export, out, scorer, report=report)
            except Night:
                continue
    with reading_here():
        assert content(score(export, out, scorer)) == content(whole)


def test_nothing_is_scored_twice_and_an_idle_run_changes_no_byte(
    export, scorer, reading_here, tmp_path
):
    counting = CountingScorer(scorer)
    out = tmp_path / "w.parquet"
    with reading_here():
        job.score_dir(export, out, counting)
        scored = counting.scored
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tables(out)}
        assert scored > 0
        summary = job.score_dir(export, out, counting)
    assert counting.scored == scored
    assert not summary.is_news
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tables(out)} == before


def test_an_interrupted_run_keeps_what_it_scored(export, scorer, reading_here, tmp_path):
    counting = CountingScorer(scorer)

    def report(progress):
        if progress.done >= 20 and not interrupt.is_pending():
            os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "w.parquet"
    with reading_here(), stoppable(), pytest.raises(SystemExit) as stop:
        job.score_dir(export, out, counting, report=report)
    assert stop.value.code == 128 + signal.SIGTERM
    assert not out.exists()
    first = counting.scored
    seen = []
    with reading_here():
        job.score_dir(export, out, counting, report=seen.append)
    assert next(progress.known for progress in seen if not progress.is_listing) >= 20
    whole = CountingScorer(scorer)
    with reading_here():
        job.score_dir(export, tmp_path / "whole.parquet", whole)
    assert 0 < first < counting.scored == whole.scored


def test_what_changed_came_or_went_is_all_that_is_read(scorer, reading_here, tmp_path):
    root, out = tmp_path / "export", tmp_path / "w.parquet"
    for number in range(6):
        put(root, f"IM{number}", dicom(number, f"1.2.{number}"))
    counting = CountingScorer(scorer)
    with reading_here():
        job.score_dir(root, out, counting)
        put(root, "IM1", dicom(11, "1.2.1"))
        put(root, "IM9", dicom(9, "1.2.9"))
        (root / "IM2").unlink()
        job.score_dir(root, out, counting)
        assert counting.scored == 6 + 2
        resumed = read_run(out)
        fresh = score(root, tmp_path / "fresh.parquet", scorer)
    check_conserved(resumed)
    scores = [(row["study_key"], row["likelihood"]) for row in resumed.worklist]
    assert scores == [(row["study_key"], row["likelihood"]) for row in fresh.worklist]


def test_a_copy_takes_the_place_of_an_original_that_went(scorer, reading_here, tmp_path):
    root, out = tmp_path / "export", tmp_path / "w.parquet"
    put(root, "a", dicom(1, "1.2.1"))
    put(root, "b", dicom(1, "1.2.1"))
    with reading_here():
        assert score(root, out, scorer).file("b")["reason"] == "duplicate"
        (root / "a").unlink()
        run = score(root, out, scorer)
    assert run.file("b")["outcome"] == "scored"
    assert run.study("1.2.1")["images_scored"] == 1


def test_hashed_or_not_the_scores_are_the_same_and_none_is_made_again(
    export, whole, scorer, reading_here, tmp_path
):
    out = tmp_path / "w.parquet"
    counting = CountingScorer(scorer)
    hashed = Presentation(identifiers=Identifiers(b"k" * 32))
    with reading_here():
        job.score_dir(export, out, counting, job.Options(presentation=hashed))
        first, run = counting.scored, read_run(out)
        job.score_dir(export, out, counting)
    assert counting.scored == first
    assert content(read_run(out)) == content(whole)
    kept = {row["study_instance_uid"] for row in whole.worklist} - {None}
    shown = Paths(out)
    assert len({row["study_instance_uid"] for row in run.worklist} - {None}) == len(kept)
    assert [row["likelihood"] for row in run.worklist if row["rank"]] == [
        row["likelihood"] for row in whole.worklist if row["rank"]
    ]
    for row in [*run.worklist, *run.files]:
        assert not kept & {value for value in row.values() if isinstance(value, str)}
        assert all(row.get(name) is None for name in ("study_datetime", "acquisition_datetime"))
    linked = {row["study_key"]: row["study_instance_uid"] for row in run.linkage}
    assert kept <= set(linked.values())
    for row in run.worklist:
        if row["study_instance_uid"]:
            assert (
                row["study_key"]
                == row["study_instance_uid"]
                == Identifiers(b"k" * 32).show(linked[row["study_key"]])
            )
    assert shown.state.exists()


def test_scores_of_another_model_policy_or_export_are_refused(
    export, scorer, reading_here, tmp_path
):
    out = tmp_path / "w.parquet"
    with reading_here():
        score(export, out, scorer)
        before = {path: path.read_bytes() for path in tables(out)}
        policy = job.ReadPolicy(max_frames=1)
        with pytest.raises(UsageError, match="policy"):
            job.score_dir(export, out, scorer, job.Options(policy=policy))
        other = tmp_path / "other"
        put(other, "IM1", dicom(1))
        with pytest.raises(UsageError, match="another export"):
            job.score_dir(other, out, scorer)
        assert {path: path.read_bytes() for path in tables(out)} == before
        run = score(other, out, scorer, restart=True)
    assert len(run.files) == 1
    assert Paths(out).state.with_name("w.state.old").exists()


# Killed for real


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An export that takes a while."""
    root = tmp_path_factory.mktemp("many") / "export"
    for number in range(400):
        put(root, f"{number // 40}/IM{number:02d}", dicom(number, f"1.2.{number // 2}"))
    return root


def start(export, out, bundle, **options):
    arguments = (export, "--out", out, "--bundle", bundle, "--workers", 2, "--batch-size", 4)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(*arguments), **pipes, **options)


def test_killed_again_and_again_it_ends_as_if_never_killed(
    many, tiny_bundle, scorer, reading_here, tmp_path
):
    out = put(tmp_path, "out/w.parquet", b"of last night")
    moments = random.Random(3)  # noqa: S311 - any moments will do
    killed = 0
    while killed < 5:
        process = start(many, out, tiny_bundle)
        wait_for_state(process, Paths(out).state)
        time.sleep(moments.uniform(0, 1.5))
        process.kill()
        process.communicate(timeout=60)  # ends when no worker holds the pipes any more
        if process.returncode == 0:
            break
        killed += 1
        assert out.read_bytes() == b"of last night"
    process = start(many, out, tiny_bundle)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, b"")
    assert killed > 0
    run = read_run(out)
    check_conserved(run)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "w.files.parquet",
        "w.linkage.parquet",
        "w.parquet",
        "w.state",
    ]
    with reading_here():
        whole = score(many, tmp_path / "whole.parquet", scorer)
    assert content(run) == content(whole)


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_a_ctrl_c_reaches_the_whole_terminal_and_is_one_line(many, tiny_bundle, tmp_path, seconds):
    out = tmp_path / "out/w.parquet"
    out.parent.mkdir()
    process = start(many, out, tiny_bundle, process_group=0)
    wait_for_state(process, Paths(out).state)
    time.sleep(seconds)  # while processes start, or at work
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert (said, errors) == (b"", b"fracjax: stopped; the same command goes on from here\n")


def test_a_signal_while_the_tables_are_written_leaves_those_of_before(
    export, scorer, reading_here, tmp_path, monkeypatch
):
    out = tmp_path / "w.parquet"

    def find(state):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(state)

    original = previews.find
    monkeypatch.setattr(previews, "find", find)
    with reading_here(), stoppable(), pytest.raises(SystemExit) as stop:
        job.score_dir(export, out, scorer)
    assert stop.value.code == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["w.state"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(many, tiny_bundle, tmp_path, stop):
    out = tmp_path / "out/w.parquet"
    out.parent.mkdir()
    process = start(many, out, tiny_bundle)
    wait_for_state(process, Paths(out).state)
    process.send_signal(stop)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + stop
    assert (said, errors) == (b"", b"fracjax: stopped; the same command goes on from here\n")
    assert [path.name for path in out.parent.iterdir()] == ["w.state"]


def test_two_runs_do_not_share_a_state(many, tiny_bundle, tmp_path):
    out = tmp_path / "w.parquet"
    first = start(many, out, tiny_bundle)
    wait_for_state(first, Paths(out).state)
    first.send_signal(signal.SIGSTOP)  # it holds what it has, however quick it is
    second = start(many, out, tiny_bundle)
    _, errors = second.communicate(timeout=120)
    first.kill()
    first.communicate(timeout=60)
    assert second.returncode == 2
    assert errors.startswith(b"fracjax: ")
    assert b"in use by another run" in errors


def test_an_interrupted_restart_goes_on(export, whole, scorer, reading_here, tmp_path):
    out = tmp_path / "w.parquet"
    counting = CountingScorer(scorer)
    options = job.Options(restart=True)

    def report(progress):
        if progress.done >= 20:
            raise Night

    with reading_here():
        score(export, out, scorer)
        with pytest.raises(Night):
            job.score_dir(export, out, counting, options, report=report)
        first = counting.scored
        job.score_dir(export, out, counting, options)
        assert content(read_run(out)) == content(whole)
        second = counting.scored
        assert 0 < first < second
        job.score_dir(export, out, counting, options)  # it had come to its end: all again
    assert counting.scored > 2 * second - first - 4


# Where it cannot write


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from fracjax import cli
sys.argv = ["fracjax", "score-dir", *{arguments!r}]
cli.main()
"""


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    part, export, whole, tiny_bundle, scorer, reading_here, tmp_path
):
    """A limit on the size of files stops writing as a full disk does."""
    out = tmp_path / "w.parquet"
    with reading_here():
        score(export, tmp_path / "sized.parquet", scorer)
    limit = int(part * Paths(tmp_path / "sized.parquet").state.stat().st_size)
    arguments = [str(export), "--out", str(out), "--bundle", str(tiny_bundle), "--workers", "1"]
    program = LIMITED.format(limit=limit, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == b""
    assert done.stderr.startswith(b"fracjax: ")
    assert done.stderr.count(b"\n") == 1
    assert not out.exists()
    with reading_here():
        assert content(score(export, out, scorer)) == content(whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes whatever the permissions")
def test_a_folder_that_is_made_read_only_midway_is_one_line(
    export, whole, scorer, reading_here, tmp_path
):
    out = tmp_path / "out/w.parquet"
    out.parent.mkdir()

    def report(progress):
        if progress.done >= 5:
            out.parent.chmod(0o500)

    with reading_here():
        with pytest.raises(UsageError, match=r"w\.\w+.* cannot be"):
            job.score_dir(export, out, scorer, report=report)
        out.parent.chmod(0o700)
        assert content(score(export, out, scorer)) == content(whole)


def test_a_folder_that_goes_midway_is_one_line(export, scorer, reading_here, tmp_path):
    out = tmp_path / "out/w.parquet"
    out.parent.mkdir()

    def report(progress):
        if progress.done >= 5 and out.parent.exists():
            shutil.move(out.parent, tmp_path / "gone")

    with reading_here(), pytest.raises(UsageError, match=r"w\.\w+.* cannot be"):
        job.score_dir(export, out, scorer, report=report)


@contextmanager
def stoppable():
    """Take signals as the command does."""
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    interrupt.install()
    try:
        yield
    finally:
        interrupt._received.clear()
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


def tables(out):
    paths = Paths(out)
    return [paths.worklist, paths.files, paths.linkage]
