"""The record of a run: what survives a kill, what TensorBoard reads, and the page."""

import dataclasses
import json
import logging
import math
import re
import signal
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.card import MEANING
from fracjax.configs import Data, Optimizer
from fracjax.errors import DataError
from fracjax.figure import Figure
from fracjax.notice import NOTICE
from fracjax.record import Record, curves, read, selection_values, write_report

STEPS = 24
EPOCH_STEPS = 6

RUN = f"""
import os, signal, sys
from pathlib import Path
from fracjax.record import Record

workdir, killed_after = Path(sys.argv[1]), int(sys.argv[2])
checkpoint = workdir / "checkpoint"
first = int(checkpoint.read_text()) if checkpoint.exists() else 0
with Record(workdir, first) as record:
    for step in range(first + 1, {STEPS} + 1):
        record.write(step, {{"epoch": step / {EPOCH_STEPS}, "loss": 1 / (3 + step)}})
        if step == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if step % {EPOCH_STEPS} == 0:
            record.sync()
            checkpoint.write_text(str(step))
"""


def go(record, first, last):
    """Write what a run writes in some steps, which follows from the step."""
    for step in range(first + 1, last + 1):
        values = {"epoch": step / EPOCH_STEPS, "loss": np.float32(1 / (3 + step))}
        if step % EPOCH_STEPS == 0:
            values |= selection_values({"auroc_study": Figure(step / 99, 0.1, 0.9, 50, 9, 40)})
        record.write(step, values, speed={"images_per_second": 7.0})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The lines of a run that was never killed."""
    workdir = tmp_path_factory.mktemp("whole")
    with Record(workdir, 0) as record:
        go(record, 0, STEPS)
    return (workdir / "metrics.jsonl").read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    kills=st.lists(
        st.tuples(st.integers(0, STEPS), st.integers(0, 400), st.binary(max_size=30)), max_size=4
    )
)
def test_a_run_killed_anywhere_ends_with_the_lines_of_one_never_killed(whole, kills):
    with tempfile.TemporaryDirectory() as directory:
        workdir, first = Path(directory), 0
        for further, lost_bytes, garbage in kills:
            reached = min(first + further, STEPS)
            synced = reached // EPOCH_STEPS * EPOCH_STEPS
            with Record(workdir, first) as record:
                go(record, first, synced)
                record.sync()
                durable = (workdir / "metrics.jsonl").stat().st_size
                go(record, max(first, synced), reached)
            written = (workdir / "metrics.jsonl").read_bytes()
            left = written[: max(durable, len(written) - lost_bytes)]
            (workdir / "metrics.jsonl").write_bytes(left + garbage)
            first = max(first, synced)
        with Record(workdir, first) as record:
            go(record, first, STEPS)
        assert (workdir / "metrics.jsonl").read_bytes() == whole


def test_a_process_that_is_killed_leaves_its_lines_and_goes_on(tmp_path, run_python):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    assert run_python("-c", RUN, tmp_path / "whole", 0).returncode == 0
    for killed_after in (4, 15):
        killed = run_python("-c", RUN, tmp_path / "killed", killed_after)
        assert killed.returncode == -signal.SIGKILL
        assert read(tmp_path / "killed")[-1]["step"] == killed_after
    assert run_python("-c", RUN, tmp_path / "killed", 0).returncode == 0
    whole, killed = (tmp_path / name / "metrics.jsonl" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("step", [0, 1, 11, 12, 23, 24, 30])
def test_opening_at_a_step_cuts_off_what_came_after_it(tmp_path, whole, step):
    (tmp_path / "metrics.jsonl").write_bytes(whole)
    Record(tmp_path, step).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(whole.splitlines(True)[:step])


def test_a_line_without_its_end_is_torn_though_it_can_be_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    Record(tmp_path, 2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_record_that_is_damaged_before_the_step_goes_on_and_says_so(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\0p": 2}\n{"step": 3}\n')
    with caplog.at_level(logging.WARNING), Record(tmp_path, 3) as record:
        record.write(4, {})
    assert [row["step"] for row in read(tmp_path)] == [1, 4]
    assert caplog.messages == ["metrics.jsonl is damaged; it goes on after the lines before"]


def test_a_record_that_was_lost_goes_on_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), Record(tmp_path, 12) as record:
        go(record, 12, 14)
    assert [row["step"] for row in read(tmp_path)] == [13, 14]
    assert caplog.messages == ["metrics.jsonl is lost up to step 12; it goes on from there"]


def test_a_step_that_is_recorded_is_not_recorded_again(tmp_path):
    with Record(tmp_path, 0) as record:
        record.write(3, {"loss": 1.0})
        record.write(3, {"hardware": 1.0})
        with pytest.raises(ValueError, match="step 2 is recorded already"):
            record.write(2, {"loss": 1.0})
    with Record(tmp_path, 3) as record, pytest.raises(ValueError, match="step 3 is recorded"):
        record.write(3, {"loss": 1.0})
    assert read(tmp_path) == [{"step": 3, "loss": 1.0}, {"step": 3, "hardware": 1.0}]


@settings(max_examples=60, deadline=None)
@given(value=st.one_of(st.floats(), st.floats(width=32).map(np.float32), st.integers(-9, 9)))
def test_a_value_comes_back_as_it_was_and_json_stays_json(value):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    with tempfile.TemporaryDirectory() as directory:
        with Record(Path(directory), 0) as record:
            record.write(1, {"loss": value})
        (line,) = (Path(directory) / "metrics.jsonl").read_text().splitlines()
        json.loads(line, parse_constant=refuse)
        (row,) = read(Path(directory))
    if math.isfinite(value):
        assert row["loss"] == float(value)
        assert isinstance(row["loss"], float)
    else:
        assert math.isnan(row["loss"])


def test_a_line_that_is_being_written_is_not_read_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')
    assert read(tmp_path) == [{"step": 1}]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 3}\n')
    with pytest.raises(DataError, match="damaged at line 2"):
        read(tmp_path)


def test_rates_are_in_tensorboard_alone_and_curves_do_not_double_back(tmp_path):
    from tensorflow.compat.v1.train import summary_iterator

    for first, last in ((0, 9), (6, 12)):
        with Record(tmp_path, first) as record:
            go(record, first, last)
    assert b"images_per_second" not in (tmp_path / "metrics.jsonl").read_bytes()

    losses, rates = {}, {}
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        events = list(summary_iterator(str(path)))
        assert events[0].file_version == "brain.Event:2"
        for event in events:
            if event.HasField("session_log"):  # as TensorBoard does
                assert event.session_log.status == event.session_log.START
                losses = {step: loss for step, loss in losses.items() if step < event.step}
                assert sorted(losses) == list(range(1, event.step))
            for value in event.summary.value:
                series = {"loss": losses, "speed/images_per_second": rates}.get(value.tag, {})
                assert series is rates or event.step not in series
                series[event.step] = value.simple_value
    assert losses == {row["step"]: row["loss"] for row in read(tmp_path)}
    assert set(rates.values()) == {7.0}


def test_neither_matplotlib_nor_tensorflow_nor_jax_is_imported_with_the_record(run_python):
    heavy = '{"matplotlib", "tensorflow", "jax"}'
    done = run_python("-c", f"import sys, fracjax.record; print({heavy} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=1500),
    stride=st.integers(0, 10),
)
def test_a_thinned_curve_loses_no_peak(values, stride):
    values = np.array(values)
    thinned = curves.thin(np.arange(len(values)) * float(stride), values)
    assert len(thinned.steps) <= curves.POINTS
    assert (thinned.low.min(), thinned.high.max()) == (values.min(), values.max())
    assert (thinned.low <= thinned.mean + 1e-6).all()
    assert (thinned.mean <= thinned.high + 1e-6).all()
    assert (np.diff(thinned.steps) >= 0).all()


def test_the_mean_of_each_span_of_steps_is_that_of_its_values():
    count = 3 * curves.POINTS
    thinned = curves.thin(np.arange(count, dtype=float), np.arange(count, dtype=float))
    np.testing.assert_allclose(thinned.mean, np.arange(1, count, 3))
    np.testing.assert_allclose(thinned.high - thinned.low, 2)


def test_the_running_mean_takes_the_neighbours_that_there_are():
    means = curves.running_mean(np.array([1.0, 2.0, 6.0, 4.0]), 3)
    np.testing.assert_allclose(means, [1.5, 3.0, 4.0, 5.0])


def test_the_best_epoch_is_the_first_of_equals_and_a_loss_is_best_where_it_is_lowest():
    rows = [
        {"step": 10 * epoch, "epoch": epoch, "selection/auroc_study": auroc, "selection/loss": loss}
        for epoch, auroc, loss in ((1, 0.7, 0.5), (2, 0.9, 0.4), (3, 0.9, 0.6), (4, math.nan, 0.7))
    ]
    assert curves.best_epoch(rows, "auroc_study")[:3] == (2, 20, 0.9)
    assert curves.best_epoch(rows, "loss")[:3] == (2, 20, 0.4)
    assert curves.best_epoch(rows, "auroc_image") is None


class Page(HTMLParser):
    """A page, taken apart; fails where an element is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.said = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


@pytest.fixture(scope="module")
def report(tmp_path_factory, tiny_manifest):
    """The page of a run with selection images and a note that is markup."""
    workdir = tmp_path_factory.mktemp("run")
    with Record(workdir, 0) as record:
        for step in range(1, 61):
            values = {"epoch": step / 20, "loss": 1 / step, "gradient_norm": step % 7 + 0.5}
            if step % 20 == 0:
                height = {20: 0.6, 40: 0.8, 60: 0.7}[step]
                figure = Figure(height, height - 0.1, height + 0.1, 50, 9, 40)
                values |= {"selection/loss": 0.5} | selection_values({"auroc_study": figure})
            record.write(step, values)
        record.write(61, {"loss": math.nan, 'a<b>&"': 1.0})
    manifest = tiny_manifest(b"weights")
    manifest = dataclasses.replace(
        manifest,
        training=dataclasses.replace(
            manifest.training, data=Data(select=0.2), optimizer=Optimizer(learning_rate=3.25e-4)
        ),
        provenance=dataclasses.replace(
            manifest.provenance, note='<img src="https://example.org/x.png"> & <script>'
        ),
    )
    return write_report(workdir, manifest), manifest


def test_the_page_refers_to_nothing_outside_itself(report):
    text = report[0].read_text(encoding="utf-8")
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.elements:
        assert tag not in ("script", "img", "link", "iframe", "object", "image")
        assert attributes.keys().isdisjoint({"src", "srcset", "data", "action", "xlink:href"})
        if "href" in attributes:
            assert attributes["href"].removeprefix("#") in ids
    references = re.findall(r"url\(([^)]*)\)", text)
    assert references
    assert {reference.removeprefix("#") for reference in references} <= set(ids)
    assert "@import" not in text


def test_the_page_escapes_what_others_wrote(report):
    text = report[0].read_text(encoding="utf-8")
    assert '<img src="https://example.org/x.png">' not in text
    said = Page(text).said
    assert '<img src="https://example.org/x.png"> & <script>' in said
    assert 'a<b>&"' in said


def test_the_page_says_what_the_model_is_and_how_it_was_measured(report):
    path, manifest = report
    said = " ".join(Page(path.read_text(encoding="utf-8")).said.split())
    figure = manifest.figures["auroc_study"]
    for words in (
        manifest.model_id,
        NOTICE,
        MEANING[manifest.target],
        f"auroc_study{figure.value:.3f}{figure.low:.3f} to {figure.high:.3f}{figure.n}",
        "optimizer.learning_rate0.000325",
        "fracjax 0.1.0",
        manifest.created,
        "The best epoch is 2, step 40, by auroc_study: 0.800 "
        "(95 % interval 0.700 to 0.900; n = 50)",
        "Left out, as no finite numbers: 1.",
    ):
        assert words in said


def test_each_curve_of_the_page_is_told_to_those_who_do_not_see_it(report):
    page = Page(report[0].read_text(encoding="utf-8"))
    pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert [picture["aria-label"].split(".")[0] for picture in pictures] == [
        "loss",
        "auroc_study",
        "loss",
        "gradient_norm",
        'a<b>&"',
    ]
    assert {picture["role"] for picture in pictures} == {"img"}
    assert next(attributes for tag, attributes in page.elements if tag == "html")["lang"] == "en"


def test_the_page_of_one_run_is_always_the_same(report):
    path, manifest = report
    before = path.read_bytes()
    assert write_report(path.parent, manifest) == path
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "metrics.jsonl",
        "report.html",
        "tensorboard",
    ]


def test_a_run_that_chose_nothing_says_so(tmp_path, tiny_manifest):
    Record(tmp_path, 0).close()
    said = Page(write_report(tmp_path, tiny_manifest(b"weights")).read_text(encoding="utf-8")).said
    assert "Nothing was chosen by its figures." in said
    assert "Nothing was recorded." in said


def test_the_page_of_a_long_run_is_small_and_says_what_it_thinned(tmp_path, tiny_manifest):
    noise = np.random.default_rng(0).lognormal(size=100_000)
    rows = (
        f'{{"step": {10 * step}, "epoch": {step}, "loss": {value}, "gradient_norm": {value}}}\n'
        for step, value in enumerate(noise, start=1)
    )
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    path = write_report(tmp_path, tiny_manifest(b"weights"))
    assert path.stat().st_size < 500_000
    said = Page(path.read_text(encoding="utf-8")).said
    assert f"100000 values, drawn in {curves.POINTS} spans of steps" in said
