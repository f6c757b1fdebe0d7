"""The report of a run: one page that needs nothing else."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracjax import files
from fracjax.calibration import in_words
from fracjax.card import MEANING
from fracjax.page import document, drawings, table
from fracjax.record.journal import read

if TYPE_CHECKING:
    from fracjax.bundle import Manifest
    from fracjax.drawing import Drawing
    from fracjax.record.curves import Best

REPORT_NAME = "report.html"
"""In a working directory: the page."""


def write_report(workdir: Path, manifest: "Manifest") -> Path:
    """Write ``report.html`` from the record of a run and the manifest of its model.

    The page appears under its name whole or not at all, and is the same for the same run.

    Args:
        workdir: The working directory, with the record of a run that has ended.
        manifest: Of the model that the run made.

    Returns:
        Where the page is.

    Raises:
        DataError: The record is damaged.
        OSError: There is no record, or the page cannot be written.
    """
    from fracjax.record import curves  # noqa: PLC0415 - matplotlib is slow to import

    rows = read(workdir)
    best = curves.best_epoch(rows, manifest.training.optimizer.monitor)
    page = _render(
        manifest, curves.training_curves(rows, best), curves.selection_curves(rows, best), best
    )
    path = workdir / REPORT_NAME
    files.write_text(path, page)
    return path


def _render(
    manifest: "Manifest",
    training: Sequence["Drawing"],
    selection: Sequence["Drawing"],
    best: "Best | None",
) -> str:
    """Write the page."""
    provenance, data = manifest.provenance, manifest.training.data
    measured = table(
        ("figure", "value", "95 % interval", "n", "positive", "groups"),
        [
            (
                name,
                f"{figure.value:.3f}",
                f"{figure.low:.3f} to {figure.high:.3f}",
                str(figure.n),
                str(figure.positives),
                str(figure.groups),
            )
            for name, figure in manifest.figures.items()
        ],
        numbers=True,
    )
    made = table(
        ("fact", "value"),
        [
            ("data", f"{provenance.dataset}, {', '.join(data.train)}"),
            ("images", f"{provenance.train_images}, {provenance.train_positives} positive"),
            ("groups", str(provenance.train_groups)),
            ("initial weights", provenance.initial_weights or "random"),
            ("note", provenance.note or "none"),
            ("software", ", ".join(f"{name} {v}" for name, v in manifest.software.items())),
            ("made", manifest.created),
            ("weights", manifest.weights_sha256),
        ],
    )
    configuration = table(("setting", "value"), _settings(dataclasses.asdict(manifest.training)))
    body = f"""<p>A {escape(manifest.model.name)} at {manifest.preprocess.image_size} px, for
<strong>{escape(manifest.target)}</strong>. Its score is the likelihood, 0 to 1, that
{escape(MEANING[manifest.target])}; {escape(in_words(manifest.calibration, None))}.</p>

<h2>Measured</h2>
<p>On {escape(provenance.dataset)}, {escape(", ".join(data.valid))}: groups that were not trained
on, of the same set, so expect less elsewhere. These images chose nothing. Intervals are a
bootstrap over groups.</p>
{measured}

<h2>Selection</h2>
{_selection(manifest, selection, best)}

<h2>Training</h2>
{drawings(training)}

<h2>Configuration</h2>
{configuration}

<h2>Made from</h2>
{made}"""
    return document(f"{manifest.model_id}: report of a training run", manifest.model_id, body)


def _selection(manifest: "Manifest", curves: Sequence["Drawing"], best: "Best | None") -> str:
    """Say what chose among the epochs, if anything did."""
    if best is None:
        return "<p>Nothing was chosen by its figures.</p>"
    interval = (
        f" (95 % interval {best.low:.3f} to {best.high:.3f}; n = {best.cases:g})"
        if best.low <= best.high
        else ""
    )
    part = 100 * manifest.training.data.select
    monitor = escape(manifest.training.optimizer.monitor)
    return f"""<p>On {part:g} % of the groups of the training splits, which were not learned from.
The best epoch is <strong>{best.epoch:g}</strong>, step {best.step:g}, by <code>{monitor}</code>:
{best.value:.3f}{interval}. That figure was chosen among several, so it flatters; the measured ones
above did not choose.</p>
{drawings(curves)}"""


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Name each field of a configuration as ``--set`` does."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")
        elif isinstance(value, tuple | list):
            yield prefix + name, ",".join(map(str, value))
        else:
            yield prefix + name, str(value)
