"""The report of an evaluation: one page that needs nothing else, and the same for a program."""

import base64
import csv
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fracjax import files
from fracjax.audit import BODY_PART, severity_of
from fracjax.calibration import as_shown
from fracjax.calibration import in_words as calibration_in_words
from fracjax.card import MEANING
from fracjax.errors import DataError
from fracjax.evaluate.evaluation import Evaluation
from fracjax.evaluate.examples import Shown
from fracjax.evaluate.locating import figures_in_words
from fracjax.evaluate.measuring import ALL, Measured, in_words
from fracjax.evaluate.running import Evaluated
from fracjax.figure import Figure, Undefined
from fracjax.metrics import Sample
from fracjax.page import document, drawings, table

REPORT_NAME = "report.html"
CASES_NAME = "cases.csv"

FIRST = (
    "auroc",
    "auroc_within_body_part",
    "auprc",
    "sensitivity_at_90_specificity",
    "brier",
    "ece",
)
"""What stands at the top of the page."""

COLUMNS = ("figure", "value", "95 % interval", "n", "positive", "groups")


def write_report(evaluated: Evaluated, directory: Path) -> None:
    """Write ``evaluation.json``, ``report.html`` and ``cases.csv`` into a new directory.

    The cases have no name: of a hospital's studies, that would be a patient's.

    Raises:
        OSError: It cannot be written.
    """
    directory.mkdir(parents=True)
    evaluated.evaluation.write(directory)
    files.write_text(directory / REPORT_NAME, render(evaluated))
    files.write_text(directory / CASES_NAME, _cases(evaluated))


def read_cases(path: Path) -> Sample:
    """Read the studies of ``cases.csv``, with their raw likelihoods.

    Raises:
        DataError: It is no such file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = zip(
            *[(row["label"], row["raw_likelihood"], row["group"]) for row in rows], strict=True
        )
        labels, scores, groups = (np.array(column, np.float64) for column in columns)
        if not (np.isin(labels, (0, 1)) & (scores >= 0) & (scores <= 1)).all():
            raise ValueError("no labels and likelihoods")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (KeyError, ValueError, UnicodeDecodeError, csv.Error):
        raise DataError(
            f"{path} holds no cases; give the cases.csv of 'fracjax evaluate --out'"
        ) from None
    return Sample.of(labels, scores, groups)


def _cases(evaluated: Evaluated) -> str:
    """Give the cases by their likelihood, and groups numbered as they come.

    So neither tells where a case stood among the labels, or a patient among names. Cases that are
    alike come as chance has it, by no seed: one that is known would give their order back.
    """
    sample, evaluation = evaluated.studies.sample, evaluated.evaluation
    likelihoods = as_shown(sample.scores, evaluation.calibration, evaluation.shown_for)
    chance = np.random.default_rng().random(len(sample))
    order = np.lexsort((chance, sample.labels, sample.scores))
    numbers: dict[Any, int] = {}
    groups = [numbers.setdefault(name, len(numbers)) for name in sample.groups[order].tolist()]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("label", "raw_likelihood", "likelihood", "group"))
    columns = (column[order].tolist() for column in (sample.labels, sample.scores, likelihoods))
    rows.writerows(zip(*columns, groups, strict=True))
    return text.getvalue()


def render(evaluated: Evaluated) -> str:
    """Write the page."""
    evaluation = evaluated.evaluation
    body = "\n".join(
        [
            _summary(evaluation),
            _curves(evaluated),
            _decisions(evaluated),
            _subsets(evaluation),
            _comparison(evaluation),
            _shortcuts(evaluation),
            _stresses(evaluation),
            _examples(evaluated),
            _all_figures(evaluation),
            _made(evaluation),
        ]
    )
    heading = f"{evaluation.model_id} on {evaluation.data}"
    return document(f"Evaluation of {evaluation.model_id}", heading, body)


def _summary(evaluation: Evaluation) -> str:
    rows = [row for name in FIRST for row in evaluation.rows if _is_overall(row, name)]
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in evaluation.remarks)
    shown = calibration_in_words(evaluation.calibration, evaluation.shown_for)
    return f"""<p>What it measures: the likelihood that {escape(MEANING[evaluation.target])};
{escape(shown)}. A case is a study, by the {evaluation.aggregation} of its images. Every interval
takes the images of a group (a patient, or what stands for one) as one case.</p>
<ul>{remarks}</ul>
{_table(rows)}
<p>{escape(evaluation.unavoidable)}.</p>"""


def _curves(evaluated: Evaluated) -> str:
    from fracjax.evaluate import pictures  # noqa: PLC0415 - matplotlib is slow to import

    evaluation, sample = evaluated.evaluation, evaluated.studies.sample
    cases = f"n = {len(sample)} studies, {int(sample.labels.sum())} positive."
    auroc, auprc = (evaluation.find(name).figure for name in ("auroc", "auprc"))
    points = " Marks: the thresholds below." if evaluation.thresholds else ""
    shown = [
        pictures.roc(sample, evaluation.thresholds, f"Area {auroc}.{points}"),
        pictures.precision_recall(
            sample,
            evaluation.thresholds,
            f"Area {auprc}. Faint: who calls at random, which is the part of positives.",
        ),
        pictures.diagram(
            sample,
            as_shown(sample.scores, evaluation.calibration, evaluation.shown_for),
            f"{cases} Ten bins of equally many studies; bars are Wilson's 95 % intervals, which "
            "take studies as independent. Below: how many studies have which likelihood.",
        ),
    ]
    return f"<h2>Curves</h2>\n{drawings(shown)}"


def _decisions(evaluated: Evaluated) -> str:
    evaluation, sample = evaluated.evaluation, evaluated.studies.sample
    parts = ["<h2>Decisions</h2>"]
    if not evaluation.thresholds:
        return "\n".join([*parts, "<p>No operating point was applied.</p>"])
    for name, point in evaluation.thresholds.items():
        called, positive = sample.scores >= point.threshold, sample.labels == 1
        sure = (
            ""
            if point.low is None
            else f" (its choice leaves {point.low:.4f} to {point.high:.4f} open)"
        )
        matrix = table(
            ("", "positive", "negative"),
            [
                (
                    "called",
                    str(int((called & positive).sum())),
                    str(int((called & ~positive).sum())),
                ),
                (
                    "not called",
                    str(int((~called & positive).sum())),
                    str(int((~called & ~positive).sum())),
                ),
            ],
            numbers=True,
        )
        rows = [
            row
            for row in evaluation.rows
            if (row.level, row.subset, row.at) == ("study", ALL, name)
        ]
        parts.append(
            f"<h3>{escape(name)}</h3>\n<p>Raw likelihood of {point.threshold:.4f} or more{sure}: "
            f"{escape(point.rule)}.</p>\n{matrix}\n{_table(rows, at=name)}"
        )
    return "\n".join(parts)


def _subsets(evaluation: Evaluation) -> str:
    from fracjax.evaluate import pictures  # noqa: PLC0415 - matplotlib is slow to import

    rows = [row for row in evaluation.rows if (row.name, row.level) == ("auroc", "study")]
    picture = pictures.forest(
        rows, "Squares: areas, with 95 % intervals. In brackets: positives of studies."
    )
    undefined = [row for row in rows if not isinstance(row.figure, Figure)]
    said = "".join(f"<li>{escape(row.subset)}: {escape(str(row.figure))}</li>" for row in undefined)
    listed = f"<p>Without a figure:</p>\n<ul>{said}</ul>" if undefined else ""
    worst = evaluation.worst
    first = "" if worst is None else f"<p>Worst: {escape(worst.subset)}, {worst.figure}.</p>"
    return f"<h2>Subsets</h2>\n{first}\n{drawings([picture])}\n{listed}"


def _comparison(evaluation: Evaluation) -> str:
    comparison = evaluation.comparison
    if comparison is None:
        return ""
    differences = "".join(f"<li>{escape(str(apart))}</li>" for apart in comparison.differences)
    calls = "".join(
        f"<li>{escape(str(discordance))}</li>" for discordance in comparison.discordance
    )
    return f"""<h2>Compared with {escape(comparison.other)}</h2>
<p>On the same studies; this model's figure less the other's. It is called better or worse only
where the interval excludes zero; {escape(comparison.remark)}.</p>
<ul>{differences}</ul>
<ul>{calls}</ul>"""


def _shortcuts(evaluation: Evaluation) -> str:
    if not evaluation.shortcuts:
        return ""
    ranked = sorted(evaluation.shortcuts.items(), key=lambda item: -item[1].value)
    rows = [
        (name, *_figure_cells(figure), "" if name == BODY_PART else severity_of(name, figure))
        for name, figure in ranked
    ]
    return f"""<h2>What predicts the label without looking at the bone</h2>
<p>AUROC of a small decision tree that sees only this, over images of one body part that it did not
learn from; <em>{BODY_PART}</em> itself over all images, which is an imbalance and no leak. Where
this is far above 0.5, part of the model's AUROC may come from it. Level: image.</p>
{table((*COLUMNS, "judged"), rows, numbers=True)}"""


def _stresses(evaluation: Evaluation) -> str:
    if not evaluation.stresses:
        return ""
    rows = [
        (
            each.change,
            *(_with_interval(figure) for figure in (each.moved, each.turned)),
            _with_interval(each.auroc),
            _with_interval(each.auroc_change, "+"),
            _with_interval(each.turned_away),
        )
        for each in evaluation.stresses
    ]
    columns = ("change", "moved by", "called otherwise", "AUROC", "against as is", "turned away")
    first = evaluation.stresses[0].moved
    cases = f"n = {first.n} images, {first.positives} positive, {first.groups} groups"
    return f"""<h2>Changes that should not matter</h2>
<p>Raw likelihoods of images that are changed, with 95 % intervals; {cases}. <em>Called
otherwise</em>: on the other side of {evaluation.stresses[0].threshold:.4f} than the image as it is.
<em>Turned away</em>: would no longer get a likelihood, as unlike what the model learned from.</p>
{table(columns, rows)}"""


def _with_interval(figure: Figure | Undefined, sign: str = "") -> str:
    if isinstance(figure, Undefined):
        return f"undefined: {figure.reason}"
    value, low, high = (
        format(number, f"{sign}.3f") for number in (figure.value, figure.low, figure.high)
    )
    return f"{value} ({low} to {high})"


def _examples(evaluated: Evaluated) -> str:
    if not evaluated.shown:
        return ""
    located = evaluated.evaluation.located
    said = (
        "Nothing is marked in these images, so it cannot be told whether the maps point right."
        if located is None
        else f"On all positive images with marked boxes, {located.verdict}."
    )
    rows = [] if located is None else figures_in_words(located)
    cells = [(name, *_figure_cells(figure)) for name, figure, _ in rows]
    pictures = "\n".join(
        f'<figure>\n<div class="pair">{_image(shown.plain, shown)}{_image(shown.heated, shown)}'
        f"</div>\n<figcaption><strong>{shown.kind}</strong>, raw likelihood "
        f"{shown.likelihood:.3f}{_source(shown)}</figcaption>\n</figure>"
        for shown in evaluated.shown
    )
    return f"""<h2>Examples</h2>
<p>The surest of each kind at {escape(evaluated.shown_at)}; wrong ones first. Left: the image, with
the boxes that are marked in it. Right: what moved the likelihood (Grad-CAM in float32), which is no
marking of a finding; the surer the model, the stronger the colours. {escape(said)}</p>
{table(COLUMNS, cells, numbers=True) if cells else ""}
<div class="curves">
{pictures}
</div>"""


def _source(shown: Shown) -> str:
    return f", {escape(shown.source)}" if shown.source else ""


def _image(jpeg: bytes, shown: Shown) -> str:
    encoded = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(shown.kind)}">'


def _all_figures(evaluation: Evaluation) -> str:
    parts = ["<h2>All figures</h2>"]
    for level in ("study", "image"):
        subsets = dict.fromkeys(row.subset for row in evaluation.rows if row.level == level)
        for subset in subsets:
            rows = [row for row in evaluation.rows if (row.level, row.subset) == (level, subset)]
            title = f"{level}, {escape(subset)}"
            parts.append(f"<details>\n<summary>{title}</summary>\n{_table(rows)}\n</details>")
    return "\n".join(parts)


def _made(evaluation: Evaluation) -> str:
    facts = [
        ("model", evaluation.model_id),
        ("weights", evaluation.weights_sha256),
        ("data", evaluation.data),
        ("digest of the data", evaluation.data_sha256),
        ("command", f"fracjax {evaluation.command}" if evaluation.command else "from Python"),
        ("software", ", ".join(f"{name} {v}" for name, v in evaluation.software.items())),
        ("made", evaluation.created),
    ]
    return f"<h2>Made from</h2>\n{table(('fact', 'value'), facts)}"


def _table(rows: list[Measured], at: str = "") -> str:
    return table(COLUMNS, _cells(rows, at), numbers=True)


def _cells(rows: list[Measured], at: str) -> Iterator[tuple[str, ...]]:
    """Give the cells of figures, each with its threshold, but for that of all of them."""
    for row in rows:
        name = in_words(row.name)
        if row.prevalence is not None:
            name += f" where {100 * row.prevalence:.3g} % are positive"
        if row.at != at:
            name += f", {row.at}"
        yield name, *_figure_cells(row.figure)


def _figure_cells(figure: Figure | Undefined) -> tuple[str, ...]:
    value = (
        (f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}")
        if isinstance(figure, Figure)
        else ("undefined", figure.reason)
    )
    return *value, str(figure.n), str(figure.positives), str(figure.groups)


def _is_overall(row: Measured, name: str) -> bool:
    return (row.name, row.level, row.subset, row.at) == (name, "study", ALL, "")
