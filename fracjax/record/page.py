"""The report of a run: one page that needs nothing else."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracjax import files
from fracjax.card import MEANING
from fracjax.notice import NOTICE
from fracjax.record.journal import read

if TYPE_CHECKING:
    from fracjax.bundle import Manifest
    from fracjax.record.curves import Best, Curve

REPORT_NAME = "report.html"
"""In a working directory: the page."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2330; --faint: #dfe3e8;
  --soft: #5b6472; --accent: #1a6fb5; --mark: #c2410c; --warn: #fff4e5; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e4e8ee; --faint: #333b47;
  --soft: #a0a9b8; --accent: #6db3f2; --mark: #fb923c; --warn: #3a2a14; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 3rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
.notice { background: var(--warn); border-left: .3rem solid var(--mark); font-weight: 600;
  padding: .6rem .9rem; }
.curves { display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; max-width: 36rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
figcaption { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--faint); padding: .3rem 1.2rem .3rem 0; text-align: left;
  vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 400; white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding-right: .6rem; } }
"""


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
    training: Sequence["Curve"],
    selection: Sequence["Curve"],
    best: "Best | None",
) -> str:
    """Write the page."""
    provenance, data = manifest.provenance, manifest.training.data
    measured = _table(
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
    made = _table(
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
    configuration = _table(("setting", "value"), _settings(dataclasses.asdict(manifest.training)))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(manifest.model_id)}: report of a training run</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(manifest.model_id)}</h1>
<p class="notice">{escape(NOTICE)}</p>
<p>A {escape(manifest.model.name)} at {manifest.preprocess.image_size} px, trained for
<strong>{escape(manifest.target)}</strong>. Its score is the likelihood, 0 to 1 and not calibrated,
that {escape(MEANING[manifest.target])}.</p>

<h2>Measured</h2>
<p>On {escape(provenance.dataset)}, {escape(", ".join(data.valid))}: groups that were not trained
on, of the same set, so expect less elsewhere. These images chose nothing. Intervals are a
bootstrap over groups.</p>
{measured}

<h2>Selection</h2>
{_selection(manifest, selection, best)}

<h2>Training</h2>
{_figures(training)}

<h2>Configuration</h2>
{configuration}

<h2>Made from</h2>
{made}
</main>
</body>
</html>
"""


def _selection(manifest: "Manifest", curves: Sequence["Curve"], best: "Best | None") -> str:
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
{_figures(curves)}"""


def _figures(curves: Sequence["Curve"]) -> str:
    """Lay pictures side by side, where there is room."""
    if not curves:
        return "<p>Nothing was recorded.</p>"
    figures = "\n".join(
        f"<figure>\n<h3>{escape(curve.title)}</h3>\n{curve.svg}\n"
        f"<figcaption>{escape(curve.caption)}</figcaption>\n</figure>"
        for curve in curves
    )
    return f'<div class="curves">\n{figures}\n</div>'


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Name each field of a configuration as ``--set`` does."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")
        elif isinstance(value, tuple | list):
            yield prefix + name, ",".join(map(str, value))
        else:
            yield prefix + name, str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Write a table whose first column names its rows; the others may be numbers."""
    kind = ' class="number"' if numbers else ""
    head = "".join(
        f'<th scope="col"{kind if index else ""}>{escape(column)}</th>'
        for index, column in enumerate(columns)
    )
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
