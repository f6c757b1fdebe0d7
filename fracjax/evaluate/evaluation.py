"""An evaluation: what was measured, of which model, on which cases, and how to do it again."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fracjax import files
from fracjax.audit import BODY_PART
from fracjax.calibration import Calibration
from fracjax.configs import Target
from fracjax.errors import DataError
from fracjax.evaluate.cases import Aggregation, Level
from fracjax.evaluate.comparing import Comparison
from fracjax.evaluate.locating import Located, lines
from fracjax.evaluate.measuring import ALL, Measured, find, in_words
from fracjax.evaluate.stress import Stress
from fracjax.evaluate.stress import lines as stress_lines
from fracjax.figure import Figure
from fracjax.notice import NOTICE

FORMAT = "fracjax-evaluation"
VERSION = 3

JSON_NAME = "evaluation.json"

OF_A_WORKLIST = "labelled studies of a worklist"
"""What the cases are where no image was scored."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """An operating point as it was applied.

    Attributes:
        threshold: Raw likelihood from which on a study is called positive.
        low: Lower end of what its choice left open, by ``operating.SPREADS``; ``None`` of one that
            nobody chose.
        high: Upper end.
        rule: How it was chosen.
    """

    threshold: float
    low: float | None
    high: float | None
    rule: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures, and what they are of.

    Attributes:
        model_id: The model.
        weights_sha256: Digest of its weights.
        target: What a positive label means.
        data: The cases, in words.
        data_sha256: Digest of their images and labels.
        aggregation: How images became studies.
        prevalence: What predictive values are said of.
        thresholds: The operating points, by name.
        calibration: What made likelihoods of raw ones; ``None`` for nothing.
        shown_for: The prevalence that likelihoods were said of; ``None`` for that of calibration.
        unavoidable_ece: The ECE that perfect likelihoods would have on these studies: its mean, and
            what one of forty exceeds.
        remarks: What a reader of the figures must know.
        rows: The figures.
        comparison: With another model; ``None`` if there was none.
        located: How well heat maps point; ``None`` where nothing is marked.
        stresses: What changes do that should not matter; none where they were not asked for.
        shortcuts: How well the label of these images is predicted by each of what is no anatomy;
            none of a worklist.
        command: What was run.
        software: Versions.
        created: When, ISO 8601.
    """

    model_id: str
    weights_sha256: str
    target: Target
    data: str
    data_sha256: str
    aggregation: Aggregation
    prevalence: float
    thresholds: Mapping[str, Threshold]
    calibration: Calibration | None
    shown_for: float | None
    unavoidable_ece: tuple[float, float]
    remarks: tuple[str, ...]
    rows: tuple[Measured, ...]
    comparison: Comparison | None
    located: Located | None
    stresses: tuple[Stress, ...]
    shortcuts: Mapping[str, Figure]
    command: str
    software: Mapping[str, str]
    created: str

    def find(self, name: str, at: str = "", level: Level = "study") -> Measured:
        """Give the row of a figure of all cases; see :func:`fracjax.evaluate.measuring.find`."""
        return find(list(self.rows), name, level, at)

    @property
    def unavoidable(self) -> str:
        """Say what an ECE has to be held against."""
        mean, high = self.unavoidable_ece
        return (
            f"For comparison: perfect likelihoods would show an ECE of {mean:.3f} on as many "
            f"studies, and of more than {high:.3f} once in 40 such samples"
        )

    @property
    def worst(self) -> Measured | None:
        """The subset of studies with the smallest AUROC; ``None`` if none has any."""
        defined = [
            (row.figure.value, row)
            for row in self.rows
            if (row.name, row.level) == ("auroc", "study")
            and row.subset != ALL
            and isinstance(row.figure, Figure)
        ]
        return min(defined, key=lambda pair: pair[0])[1] if defined else None

    def json(self) -> str:
        """Give everything for a program."""
        head = {"format": FORMAT, "version": VERSION, "notice": NOTICE}
        fields: dict[str, Any] = dataclasses.asdict(self)
        return json.dumps(head | fields, indent=1) + "\n"

    def lines(self) -> list[str]:
        """Give what a terminal shows."""
        said = [NOTICE, f"{self.model_id} ({self.target}) on {self.data}"]
        said += [f"data {self.data_sha256}", *(f"note: {remark}" for remark in self.remarks)]
        said += ["", f"figures of studies ({self.aggregation} of images)", *self._block("")]
        said.append(f"  {self.unavoidable}")
        for name, point in self.thresholds.items():
            said += [
                "",
                f"studies at {name}, raw likelihood {point.threshold:.4f} or more: {point.rule}",
                *self._block(name),
            ]
        said += ["", "AUROC of subsets of studies"]
        said += [
            f"  {row.subset:<40} {row.figure}"
            for row in self.rows
            if (row.name, row.level) == ("auroc", "study") and row.subset != ALL
        ]
        if (worst := self.worst) is not None:
            said += ["", f"worst subset: {worst.subset}, {worst.figure}"]
        if any(row.level == "image" for row in self.rows):
            said += ["", f"AUROC of images: {self.find('auroc', level='image').figure}"]
        if self.located is not None:
            said += ["", *lines(self.located)]
        if self.stresses:
            said += ["", *stress_lines(self.stresses)]
        if self.shortcuts:
            said += ["", *self.shortcut_lines()]
        if self.comparison is not None:
            said += ["", f"this model's figures less those of {self.comparison.other}"]
            said += [f"  {self.comparison.remark}"]
            said += [f"  {apart}" for apart in self.comparison.differences]
            said += [f"  {discordance}" for discordance in self.comparison.discordance]
        return said

    def shortcut_lines(self) -> list[str]:
        """Say what predicts the label without looking at the bone."""
        within = {name: figure for name, figure in self.shortcuts.items() if name != BODY_PART}
        said = ["what predicts the label without looking at the bone: AUROC within body parts"]
        said += [f"  {name:<40} {figure}" for name, figure in within.items()]
        if (figure := self.shortcuts.get(BODY_PART)) is not None:
            said += [
                "and over all images, which is an imbalance and no leak",
                f"  {BODY_PART:<40} {figure}",
            ]
        return said

    def _block(self, at: str) -> list[str]:
        """Give a line for each figure of all studies at an operating point."""
        return [
            f"  {_with_prevalence(row):<40} {row.figure}"
            for row in self.rows
            if (row.at, row.level, row.subset) == (at, "study", ALL)
        ]

    def write(self, directory: Path) -> None:
        """Write ``evaluation.json`` into a directory."""
        files.write_text(directory / JSON_NAME, self.json())


def read(path: Path) -> Evaluation:
    """Read an evaluation that was written.

    Raises:
        DataError: There is none, or not of this version.
    """
    way_out = f"give the {JSON_NAME} that fracjax evaluate --out writes"
    try:
        fields = json.loads(path.read_text())
        if (fields.pop("format"), fields.pop("version")) != (FORMAT, VERSION):
            raise DataError(f"{path} is of another version; {way_out}")
        del fields["notice"]
        return TypeAdapter(Evaluation).validate_python(fields)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {way_out}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is no evaluation; {way_out}") from None


def _with_prevalence(row: Measured) -> str:
    name = in_words(row.name)
    return name if row.prevalence is None else f"{name} at {100 * row.prevalence:.3g} % positive"
