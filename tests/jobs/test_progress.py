"""What a run says while it goes on."""

import io
import json

import pytest
from rich.console import Console

from fracjax_jobs import progress
from fracjax_jobs.score_dir import Progress

LISTED = [Progress(found, is_listing=True) for found in (1, 2, 3)]
SCORED = [Progress(3, done, known=1) for done in (1, 2, 3)]


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_lines_tell_what_is_listed_then_what_is_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.json_lines() as report:
        for state in LISTED + SCORED:
            report(state)
    lines = said(capsys)
    assert [line["event"] for line in lines] == ["listing"] * 3 + ["progress"] * 3
    assert [line["files_found"] for line in lines] == [1, 2, 3, 3, 3, 3]
    assert [line["files_done"] for line in lines[3:]] == [1, 2, 3]
    assert lines[3]["seconds_left"] is None
    assert lines[4]["seconds_left"] == pytest.approx(0, abs=60)


def test_lines_come_now_and_then_but_always_at_the_ends(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 3600.0)
    with progress.json_lines() as report:
        for state in LISTED + SCORED:
            report(state)
    assert [line["files_done"] for line in said(capsys)] == [1, 3]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch, is_terminal):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress,
        "Console",
        lambda **_: Console(file=screen, force_terminal=is_terminal, no_color=True, width=100),
    )
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_FRAMES", 0.0)
    with progress.bar() as report:
        for state in LISTED + SCORED:
            report(state)
    shown = screen.getvalue()
    assert ("scoring" in shown and "3/3 files" in shown) == is_terminal
    assert is_terminal or shown == ""
