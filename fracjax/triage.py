"""Bands of a worklist with a stated guarantee, from studies that a site has labelled itself.

A study is ruled out below one raw likelihood, ruled in above another, and uncertain between.
:mod:`fracjax.triage_fitting` finds both.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from fracjax import files
from fracjax.configs import Target
from fracjax.errors import DataError, UsageError
from fracjax.notice import NOTICE

if TYPE_CHECKING:
    from fracjax.bundle import Manifest

FORMAT = "fracjax-site"
VERSION = 2

LEAST_CONFIDENCE = 0.5
"""Below it, a promise is sooner broken than kept."""

Band = Literal["rule_in", "uncertain", "rule_out"]

ASSUMPTION = (
    "This holds of studies that are exchangeable with the labelled ones: drawn from the same "
    "patients, scanners and ways of working, and labelled alike. It says nothing of another site, "
    "of children if none were labelled, or of the time after a scanner or a protocol has changed; "
    "label anew then. It is of studies that get a score; those without one stand before all "
    "others. It is of one study of each patient and label, drawn by chance: where patients with "
    "many studies are harder, more of all studies are missed than that."
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be guaranteed.

    Attributes:
        miss_rate: Largest part of positive studies, one of each patient, that are ruled out.
        false_alarm_rate: Largest part of negative studies, one of each patient, that are ruled in.
        confidence: With what chance, over the labelled studies, each of the two holds.
    """

    miss_rate: float = 0.05
    false_alarm_rate: float = 0.05
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("miss_rate", "false_alarm_rate"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise UsageError(
                    f"{name.replace('_', ' ')} {value:g} is no claim; give a part above 0 and "
                    "below 1, like 0.05"
                )
        if not LEAST_CONFIDENCE <= self.confidence < 1:
            raise UsageError(
                f"confidence {self.confidence:g} promises nothing; give a part from "
                f"{LEAST_CONFIDENCE:g} to below 1, like 0.95"
            )


@dataclass(frozen=True, slots=True)
class BandCount:
    """How many labelled studies a band holds.

    Attributes:
        studies: All of them.
        positives: Those with a positive label.
    """

    studies: int
    positives: int


@dataclass(frozen=True, slots=True)
class Triage:
    """A site's bands, for one model.

    Attributes:
        format: ``FORMAT``.
        version: ``VERSION``.
        notice: Research use only.
        model_id: The model whose likelihoods were labelled.
        weights_sha256: Digest of its weights; another model's likelihoods have no bands here.
        gate_sha256: Digest of its gate: another one lets other studies through.
        target: What a positive label means.
        rule_out: Raw likelihood of a study below which it is ruled out.
        rule_in: Raw likelihood above which it is ruled in.
        claim: What is guaranteed.
        studies: Labelled studies that counted, one of a patient and label.
        positives: Those of them with a positive label.
        bands: What these bands hold of the labelled studies themselves.
        labels_sha256: Digest of the labels and likelihoods.
        created: The day, ISO 8601.
        remarks: What else a reader of the bands must know of the labels.
        assumption: Under which the guarantee holds.
    """

    format: str
    version: int
    notice: str
    model_id: str
    weights_sha256: str
    gate_sha256: str
    target: Target
    rule_out: float
    rule_in: float
    claim: Claim
    studies: int
    positives: int
    bands: Mapping[Band, BandCount]
    labels_sha256: str
    created: str
    remarks: tuple[str, ...]
    assumption: str = ASSUMPTION

    def band(self, likelihood: float) -> Band:
        """Give the band of a study by its raw likelihood."""
        if likelihood < self.rule_out:
            return "rule_out"
        return "rule_in" if likelihood > self.rule_in else "uncertain"

    def lines(self) -> list[str]:
        """Say what is guaranteed, and under which assumption."""
        claim, counts = self.claim, self.bands
        sure = f"with {100 * claim.confidence:g} % confidence"
        said = [
            NOTICE,
            f"bands for {self.model_id} ({self.target}), from {self.studies} labelled studies, "
            f"{self.positives} positive, one of each patient and label:",
            f"  rule_out  below {self.rule_out:.4f}: {sure}, at most {100 * claim.miss_rate:g} % "
            "of positive studies are ruled out, one of each patient",
            f"  rule_in   above {self.rule_in:.4f}: {sure}, at most "
            f"{100 * claim.false_alarm_rate:g} % of negative studies are ruled in, one of each "
            "patient",
            "of the labelled studies themselves:",
        ]
        for name, count in counts.items():
            said.append(f"  {name:<9} {count.studies:6d} studies, {count.positives} positive")
        return [*said, *(f"note: {remark}" for remark in self.remarks), self.assumption]

    def write(self, path: Path) -> None:
        """Write a file that ``score-dir --site`` takes."""
        files.write_text(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def read(path: Path) -> Triage:
    """Read what :meth:`Triage.write` wrote.

    Raises:
        DataError: It is no such file, or of a version that this release does not know.
    """
    way_out = "make it anew with 'fracjax calibrate-site'"
    try:
        found = TypeAdapter(Triage).validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {way_out}") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "its beginning"
        raise DataError(f"{path} describes no bands (at {where}); {way_out}") from None
    if (found.format, found.version) != (FORMAT, VERSION):
        raise DataError(f"{path} is of version {found.version} of {found.format}; {way_out}")
    return found


def check_model(triage: Triage, manifest: "Manifest") -> None:
    """Make sure that bands are of a model.

    Raises:
        UsageError: They are of another one.
    """
    way_out = "label a worklist of this model, and run 'fracjax calibrate-site' on it"
    wanted = manifest.model_id, manifest.weights_sha256
    if (triage.model_id, triage.weights_sha256) != wanted:
        raise UsageError(
            f"the bands are of {triage.model_id}, and the likelihoods of {manifest.model_id}; "
            f"{way_out}"
        )
    if triage.gate_sha256 != manifest.gate.sha256:
        raise UsageError(
            "the bands are of studies that another gate let through, by the digest of "
            f"{manifest.model_id}'s; {way_out}"
        )
