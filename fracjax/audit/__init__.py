"""Look at a labelled data set for what would make figures measured on it false."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from fracjax.audit import duplicates, shortcuts
from fracjax.audit.report import SEVERITIES, Balance, Copy, Finding, Pair, Report, Severity
from fracjax.data import Example
from fracjax.errors import DataError
from fracjax.figure import Figure
from fracjax.image.picture import Rejected

__all__ = ["BODY_PART", "Finding", "Pair", "Report", "audit", "predictability", "severity_of"]

BODY_PART = "body part"
"""The feature that is anatomy, for comparison."""

AT_WORST_A_WARNING = ("order", "metal", "corners", "compression")
"""The order of files is not in the picture. Metal is; anatomy may reach into corners; and fine bone
takes more bytes. What it means is for a person to say."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""

_EVERY = 100
"""Items between two reports of progress."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class _Image:
    split: str
    example: Example
    """Without its bytes."""
    sketch: duplicates.Sketch
    traits: shortcuts.Traits


def audit(
    splits: Mapping[str, Sequence[Example]], report: Progress = lambda _what, _done, _of: None
) -> Report:
    """Look for leakage between splits, for copies, and for shortcuts to the label.

    Args:
        splits: The images of each split; they are read in threads, once.
        report: Called now and then, in the calling thread; what it raises ends the audit.

    Returns:
        What was found. ``Report.failed`` says whether figures of this set would be false.

    Raises:
        DataError: There are no images, or one cannot be decoded.
    """
    tasks = [(split, images, i) for split, images in splits.items() for i in range(len(images))]
    if not tasks:
        raise DataError("the data set has no images to audit; prepare it again, or name its splits")
    images = list(_in_threads(_read, tasks, partial(report, "reading images")))
    pairs, radius = _pairs(images, partial(report, "comparing pictures"))
    facts = [(image.split, image.example) for image in images]
    predicted = _predictability(images, report)
    findings = [
        *_shared(facts, "patients or groups", lambda example: example.group),
        *_shared(facts, "studies", lambda example: example.study_id),
        *_copies(pairs, radius),
        *_shortcuts(predicted),
        *_marks(images),
        *_balance_findings(facts),
    ]
    return Report(
        splits=tuple(splits),
        images=len(images),
        positives=sum(example.label for _, example in facts),
        radius=radius,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        pairs=tuple(pairs),
        predictability=predicted,
        balance=tuple(_balance(facts)),
    )


def predictability(
    images: Sequence[Example], report: Progress = lambda _what, _done, _of: None
) -> dict[str, Figure]:
    """Measure how well the label is predicted by each of what is no anatomy.

    Args:
        images: They are read in threads, once.
        report: Called now and then, in the calling thread; what it raises ends it.

    Returns:
        For each feature the area under the ROC curve, over pairs of one body part; see
        :func:`fracjax.audit.shortcuts.predictability`. What cannot be measured is left out.

    Raises:
        DataError: An image cannot be decoded.
    """
    tasks = [("", images, index) for index in range(len(images))]
    return _predictability(
        list(_in_threads(_read, tasks, partial(report, "reading images"))), report
    )


def _in_threads(
    function: Callable[[_In], _Out], items: Sequence[_In], report: Callable[[int, int], None]
) -> Iterator[_Out]:
    """Map in threads: decoding and OpenCV release the interpreter."""
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        for done, result in enumerate(pool.map(function, items)):
            if done % _EVERY == 0:
                report(done, len(items))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _read(task: tuple[str, Sequence[Example], int]) -> _Image:
    split, images, index = task
    example = images[index]
    try:
        pixels = example.pixels()
    except Rejected as rejected:
        raise DataError(
            f"{example.source} of {split} cannot be decoded: {rejected.detail}; "
            "prepare the set again"
        ) from None
    traits = shortcuts.traits(example.encoded, pixels)
    return _Image(split, replace(example, encoded=b""), duplicates.sketch(pixels), traits)


# Copies


def _pairs(images: Sequence[_Image], report: Callable[[int, int], None]) -> tuple[list[Pair], int]:
    """Find the pairs that show one picture, and the hash distance that was searched."""
    order = [(image.split, image.example.label, image.example.group) for image in images]
    exact = duplicates.chains([image.sketch.digest for image in images], order)
    pairs = [_pair(images[first], images[second], "exact", 0, 0, 1.0) for first, second in exact]
    later = {second for _, second in exact}
    distinct = [image for index, image in enumerate(images) if index not in later]
    found = duplicates.candidates(np.stack([image.sketch.hashes for image in distinct]))
    near = list(
        zip(
            found.first.tolist(),
            found.second.tolist(),
            found.turn.tolist(),
            found.distance.tolist(),
            strict=True,
        )
    )

    def compare(candidate: tuple[int, int, int, int]) -> float:
        first, second, turn, _ = candidate
        other = duplicates.turned(distinct[second].sketch.thumbnail, turn)
        return duplicates.correlation(distinct[first].sketch.thumbnail, other)

    correlations = _in_threads(compare, near, report)
    for (first, second, turn, distance), correlation in zip(near, correlations, strict=True):
        if correlation >= duplicates.MIN_CORRELATION:
            pairs.append(
                _pair(distinct[first], distinct[second], "near", turn, distance, correlation)
            )
    pairs.sort(key=lambda p: (not p.across_splits, not p.contradictory, -p.correlation))
    return pairs, found.radius


def _pair(
    first: _Image,
    second: _Image,
    kind: Literal["exact", "near"],
    turn: int,
    distance: int,
    correlation: float,
) -> Pair:
    one, other = (
        Copy(image.split, image.example.source, image.example.label) for image in (first, second)
    )
    return Pair(
        kind,
        one,
        other,
        duplicates.TURNS[turn],
        distance,
        correlation,
        first.example.group == second.example.group,
    )


def _copies(pairs: Sequence[Pair], radius: int) -> Iterator[Finding]:
    across = [pair for pair in pairs if pair.across_splits]
    contradictory = [pair for pair in pairs if pair.contradictory]
    strangers = [pair for pair in pairs if not pair.across_splits and not pair.same_group]
    kin = [pair for pair in pairs if not pair.across_splits and pair.same_group]
    kinds: tuple[tuple[Severity, str, list[Pair], str], ...] = (
        ("failure", "copies across splits", across, "what is reported on was learned from"),
        ("failure", "copies with opposite labels", contradictory, "one of each pair is wrong"),
        (
            "warning",
            "copies in different groups",
            strangers,
            "the groups are no patients, and intervals over them too narrow",
        ),
        ("information", "copies within groups", kin, "harmless, but they count twice"),
    )
    for severity, check, chosen, meaning in kinds:
        if chosen:
            exact = sum(pair.kind == "exact" for pair in chosen)
            yield Finding(
                severity,
                check,
                f"{len(chosen)} pairs show the same picture ({exact} the same pixels): {meaning}",
                tuple(_in_words(pair) for pair in chosen),
            )
    if radius < duplicates.RADIUS:
        yield Finding(
            "warning",
            "search",
            "so many pictures look alike that only hashes of a distance up to "
            f"{radius} bits were compared, not {duplicates.RADIUS}: changed copies may be missed",
        )


def _in_words(pair: Pair) -> str:
    first, second = (
        f"{copy.source} ({copy.split}, label {copy.label})" for copy in (pair.first, pair.second)
    )
    return f"{first} = {second}, {pair.turn}, correlation {pair.correlation:.3f}"


# Splits


def _shared(
    facts: Iterable[tuple[str, Example]], what: str, name: Callable[[Example], str]
) -> Iterator[Finding]:
    """Tell what stands in several splits, by its files: its name may be a patient's."""
    seen: dict[str, dict[str, str]] = {}
    for split, example in facts:
        seen.setdefault(name(example), {}).setdefault(split, example.source)
    several = [places for places in seen.values() if len(places) > 1]
    if several:
        yield Finding(
            "failure",
            f"{what} across splits",
            f"{len(several)} stand in more than one split: what is reported on was learned from",
            tuple(
                " and ".join(f"{source} ({split})" for split, source in places.items())
                for places in several
            ),
        )


# Shortcuts


def _predictability(images: Sequence[_Image], report: Progress) -> dict[str, Figure]:
    labels = np.array([image.example.label for image in images])
    parts = [image.example.body_part for image in images]
    groups = [image.example.group for image in images]
    features = _features(images)
    measured = {}
    for done, feature in enumerate(features):
        report("measuring shortcuts", done, len(features))
        figure = shortcuts.predictability(feature, labels, parts, groups)
        if figure:
            measured[feature.name] = figure
    body_part = shortcuts.Feature(BODY_PART, shortcuts.codes(parts))
    figure = shortcuts.predictability(body_part, labels, [""] * len(images), groups)
    return measured | ({body_part.name: figure} if figure else {})


def _features(images: Sequence[_Image]) -> list[shortcuts.Feature]:
    sources = [image.example.source for image in images]
    sizes = np.array([(image.traits.width, image.traits.height) for image in images], float)
    metal = np.array([[image.example.hardware] for image in images], float)
    return [
        shortcuts.Feature("size", sizes),
        shortcuts.Feature("aspect ratio", sizes[:, :1] / sizes[:, 1:]),
        shortcuts.Feature(
            "file kind", shortcuts.codes([image.traits.file_kind for image in images])
        ),
        shortcuts.Feature(
            "source", shortcuts.codes([shortcuts.source_pattern(name) for name in sources])
        ),
        shortcuts.Feature("order", np.array([shortcuts.numbers(name) for name in sources])),
        shortcuts.Feature(
            "truncation", np.array([[image.example.truncated] for image in images], float)
        ),
        shortcuts.Feature("border", np.array([image.traits.border for image in images])),
        shortcuts.Feature("corners", np.array([image.traits.corners for image in images])),
        shortcuts.Feature(
            "compression", np.array([[image.traits.compression] for image in images])
        ),
        shortcuts.Feature("metal", metal),
    ]


def _shortcuts(predicted: Mapping[str, Figure]) -> Iterator[Finding]:
    if not predicted:
        yield Finding(
            "information",
            "shortcuts",
            "none were measured: too few groups have each label, or all images are alike",
        )
    ranked = sorted(predicted.items(), key=lambda item: -item[1].value)
    for name, figure in ranked:
        if name == BODY_PART:
            yield Finding(
                "information",
                name,
                f"alone, it predicts the label with AUROC {figure}: an imbalance, no leak",
            )
        elif (severity := severity_of(name, figure)) != "information":
            yield Finding(
                severity,
                name,
                f"alone, it predicts the label of images of one body part with AUROC {figure}",
            )


def severity_of(name: str, figure: Figure) -> Severity:
    """Judge how well a feature alone predicts the label.

    A failure is at least a medium effect that is surely a small one; a warning at least a small
    one that is surely there.
    """
    if (
        figure.value >= shortcuts.MEDIUM_EFFECT
        and figure.low >= shortcuts.SMALL_EFFECT
        and name not in AT_WORST_A_WARNING
    ):
        return "failure"
    if figure.value >= shortcuts.SMALL_EFFECT and figure.low > 0.5:
        return "warning"
    return "information"


def _marks(images: Sequence[_Image]) -> Iterator[Finding]:
    labels = np.array([image.example.label for image in images])
    parts = [image.example.body_part for image in images]
    values = {
        "size": [f"{image.traits.width} x {image.traits.height}" for image in images],
        "file kind": [image.traits.file_kind for image in images],
        "source": [shortcuts.source_pattern(image.example.source) for image in images],
        "truncation": ["truncated" if image.example.truncated else "whole" for image in images],
        "metal": [{0: "no", 1: "yes"}.get(image.example.hardware, "") for image in images],
    }
    for mark in shortcuts.marks(values, labels, parts):
        kind = "positive" if mark.label else "negative"
        other = "negative" if mark.label else "positive"
        yield Finding(
            "warning",
            f"{mark.feature}: {mark.value}",
            f"all {len(mark.images)} images are {kind}, where {mark.expected:.1f} {other} ones "
            "are expected by their body parts: a model can know them by this",
            tuple(images[index].example.source for index in mark.images),
        )


# Classes


def _balance(facts: Sequence[tuple[str, Example]]) -> list[Balance]:
    images = Counter((split, example.body_part) for split, example in facts)
    positives = Counter((split, example.body_part) for split, example in facts if example.label)
    return [Balance(*key, images[key], positives[key]) for key in sorted(images)]


def _balance_findings(facts: Sequence[tuple[str, Example]]) -> Iterator[Finding]:
    labels: dict[str, list[int]] = {}
    for split, example in facts:
        labels.setdefault(split, []).append(example.label)
    for split, values in labels.items():
        n, positives = len(values), sum(values)
        if 0 < positives < n:
            text = f"{n} images, {positives} positive ({100 * positives / n:.1f} %)"
            yield Finding("information", f"classes of {split}", text)
        else:
            yield Finding(
                "failure",
                f"classes of {split}",
                f"all {n} images are {'positive' if positives else 'negative'}: "
                "no figure can be measured",
            )
