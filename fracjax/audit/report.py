"""What an audit found: for a terminal, for a person, for a program."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from fracjax.figure import Figure
from fracjax.text import printable

Severity = Literal["failure", "warning", "information"]

SEVERITIES: tuple[Severity, ...] = ("failure", "warning", "information")
"""The worst first. A failure makes figures of this set false; a warning may."""

SHOWN = 3
"""Files of a finding that the terminal names."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One side of a pair."""

    split: str
    source: str
    label: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that show the same picture."""

    kind: Literal["exact", "near"]
    """Whether every pixel is the same, or the picture was changed."""
    first: Copy
    second: Copy
    turn: str
    """What was done to the second to find the first."""
    distance: int
    """Bits of 64 by which their hashes differ."""
    correlation: float
    """Of their detail, up to 1."""
    same_group: bool

    @property
    def across_splits(self) -> bool:
        """Whether one may be learned from and the other reported on."""
        return self.first.split != self.second.split

    @property
    def contradictory(self) -> bool:
        """Whether their labels differ."""
        return self.first.label != self.second.label


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about a data set."""

    severity: Severity
    check: str
    text: str
    files: tuple[str, ...] = ()
    """Paths inside the data set, for a person to look at."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The images of a body part in a split."""

    split: str
    body_part: str
    images: int
    positives: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that an audit found."""

    splits: tuple[str, ...]
    images: int
    positives: int
    radius: int
    """Bits within which hashes were compared."""
    findings: tuple[Finding, ...]
    """The worst first."""
    pairs: tuple[Pair, ...]
    """The worst first: across splits, then contradictory."""
    predictability: dict[str, Figure]
    """AUROC of each feature alone."""
    balance: tuple[Balance, ...]

    @property
    def failed(self) -> bool:
        """Whether figures of this set would be false."""
        return any(finding.severity == "failure" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The outcome in a line."""
        counts = {
            severity: sum(finding.severity == severity for finding in self.findings)
            for severity in SEVERITIES
        }
        outcome = "FAILED" if self.failed else "passed"
        return (
            f"audit {outcome}: {counts['failure']} failures, {counts['warning']} warnings; "
            f"{self.images} images, {self.positives} positive, in {len(self.splits)} splits"
        )

    def lines(self) -> list[str]:
        """Say it shortly, for a terminal."""
        lines = [self.verdict]
        for finding in self.findings:
            lines.append(f"{finding.severity}: {finding.check}: {finding.text}")
            lines += [f"  {printable(file)}" for file in finding.files[:SHOWN]]
            if len(finding.files) > SHOWN:
                lines.append(f"  and {len(finding.files) - SHOWN} more, in the report file")
        return lines

    def json(self) -> str:
        """Give all of it as JSON, with every pair."""
        return json.dumps(asdict(self) | {"failed": self.failed}, indent=1)

    def markdown(self) -> str:
        """Write all of it as Markdown, with every pair."""
        sections = [f"# Data audit\n\n{self.verdict}."]
        for severity in SEVERITIES:
            chosen = [finding for finding in self.findings if finding.severity == severity]
            if chosen:
                sections.append(f"## {severity.capitalize()}")
            for finding in chosen:
                files = "".join(f"\n- `{printable(file)}`" for file in finding.files)
                sections.append(f"**{finding.check}**: {finding.text}" + (files and "\n" + files))
        figures = [[name, str(figure)] for name, figure in self.predictability.items()]
        sections.append(_table("How well each predicts the label", ["alone", "AUROC"], figures))
        rows = [
            [row.split, row.body_part, str(row.images), str(row.positives)] for row in self.balance
        ]
        head = ["split", "body part", "images", "positive"]
        sections.append(_table("Classes", head, rows))
        pairs = [
            [
                pair.kind,
                f"{pair.first.split}: `{pair.first.source}` ({pair.first.label})",
                f"{pair.second.split}: `{pair.second.source}` ({pair.second.label})",
                pair.turn,
                f"{pair.correlation:.3f}",
            ]
            for pair in self.pairs
        ]
        head = ["kind", "first (label)", "second (label)", "the second is", "correlation"]
        sections.append(_table("Pairs that show the same picture", head, pairs))
        return "\n\n".join(sections) + "\n"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"## {title}\n\nNone."
    cells = [head, ["---"] * len(head), *rows]
    lines = [
        "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |"
        for row in cells
    ]
    return f"## {title}\n\n" + "\n".join(lines)
