"""The model card: what a bundle is, for a person."""

from typing import TYPE_CHECKING

from fracjax.calibration import in_words
from fracjax.configs import Config, Target, changes
from fracjax.dataset_facts import FACTS
from fracjax.notice import NOTICE
from fracjax.operating import RULES, SPREADS

if TYPE_CHECKING:
    from fracjax.bundle import Manifest

MEANING: dict[Target, str] = {
    "fracture": "the picture shows a fracture",
    "abnormality": "the study is abnormal: a fracture, but also metal, joint disease or else",
}


def not_for(manifest: "Manifest") -> str:
    """List what a model must not be used for."""
    return f"""- Diagnosis, or any decision about a patient: it has no clearance, and no clinic has
  validated it.
- Leaving a study unread: a low score does not rule out that {MEANING[manifest.target]}.
- Pictures of anything but {scope_in_words(manifest)}, or made otherwise than those of
  {manifest.training.data.name}. The network gives a number for anything; the gate that turns
  pictures away was measured on few kinds, and lets some of them through.
- Reading the likelihood as a frequency in your population: positives are less or more frequent
  there, and may look otherwise."""


def scope_in_words(manifest: "Manifest") -> str:
    """Name the body parts that a model is meant for."""
    return ", ".join(part.replace("_", " ") for part in manifest.scope) or "any body part"


def choice_in_words(manifest: "Manifest") -> str:
    """Say which state of a run is the model, and what its outputs are of."""
    training = manifest.training
    if manifest.provenance.averaged:
        return _mean_in_words(training)
    said = "The state after the last step is the model; nothing was chosen by its figures."
    if training.data.select > 0:
        said = (
            f"The model is the state after the epoch with the best {training.optimizer.monitor} on "
            f"groups set apart: {training.data.select:g} of the groups of the splits it learned "
            "from, and not counted with them. The figures below chose nothing."
        )
    if training.optimizer.average > 0:
        said += " It is the moving average of the training's states."
    if training.loss.weights != "none":
        said += " Training made up for rare classes, so raw likelihoods are not frequencies."
    return said + _labels_in_words(training)


def _mean_in_words(training: Config) -> str:
    said = "Each of the models is the state after its run's last step."
    if training.data.select > 0:
        said = (
            "Each of the models is the state of its run that did best on groups set apart: "
            f"{training.data.select:g} of the groups of the splits that all learned from, and not "
            "counted with them. The figures below chose none of these states."
        )
    return said + _labels_in_words(training)


def _labels_in_words(training: Config) -> str:
    labels = training.data.labels
    return f" It also learned {', '.join(labels)}." if labels else ""


def _points(manifest: "Manifest") -> str:
    """Tell the thresholds that were frozen."""
    if not manifest.operating_points:
        return (
            "None: too few images were kept to choose them by (`data.select`)."
            if manifest.training.data.select > 0
            else "None: no images were kept to choose them by (`data.select`)."
        )
    rows = "\n".join(
        f"| `{name}` | {point.threshold:.4f} ({SPREADS[name]} {point.low:.4f} to "
        f"{point.high:.4f}) | "
        f"{point.sensitivity} | {point.specificity} |"
        for name, point in manifest.operating_points.items()
    )
    rules = "\n".join(f"- `{name}`: {RULES[name]}." for name in manifest.operating_points)
    return f"""Thresholds of a study's raw likelihood, and how far other studies might have chosen
others. Sensitivity and specificity are those of the studies that did, so they flatter.

| point | threshold | sensitivity | specificity |
|---|---|---|---|
{rows}

{rules}"""


def averaged_in_words(manifest: "Manifest") -> str:
    """Say what a model is the mean of, and how the others were trained: what differs from it."""
    said = []
    for ingredient in manifest.provenance.averaged:
        settings = ", ".join(
            f"`{each}`" for each in changes(manifest.training, ingredient.training)
        )
        said.append(f"{ingredient.model_id} ({settings or 'the same settings'})")
    return f"the mean of the weights of {len(said)} models: {'; '.join(said)}"


def numbers_in_words(manifest: "Manifest") -> str:
    """Say what it means that a model multiplies integers; nothing of one in float32."""
    facts = manifest.integers
    if facts is None:
        return ""
    return (
        f" It multiplies 8-bit integers in {facts.convolutions} of its convolutions, over ranges "
        f"that {facts.images} of the training images told, and computes in float32 else. In "
        f"float32 alone the same weights are another model, {facts.source}: likelihoods of the "
        f"images measured here differ {facts.moved}. OpenVINO computes it; heat maps "
        "are those of float32."
    )


def _made(manifest: "Manifest") -> str:
    facts = manifest.integers
    return "" if facts is None else f" Integers sha256 `{facts.sha256}`, made {facts.created}."


def _recipe(manifest: "Manifest") -> str:
    training = manifest.training
    if manifest.provenance.averaged:
        return f"`{training.name}`, {averaged_in_words(manifest)}"
    return f"`{training.name}`, epochs: {training.optimizer.epochs}, seed: {training.seed}"


def render_card(manifest: "Manifest") -> str:
    """Write a bundle's ``CARD.md`` (after Mitchell et al., Model Cards, arXiv:1810.03993)."""
    training, provenance = manifest.training, manifest.provenance
    figures = "\n".join(f"| `{name}` | {figure} |" for name, figure in manifest.figures.items())
    initial = f"sha256 {provenance.initial_weights}" if provenance.initial_weights else "random"
    licences = "\n".join(f"- {licence}" for licence in provenance.licences)
    limits = "\n".join(f"- {item}" for item in FACTS[training.data.name].limits)
    gate = manifest.gate
    used = "stored" if manifest.integers is None else "rounded to integers"
    rejects = "\n".join(f"| {name} | {rate} |" for name, rate in gate.false_reject.items())
    accepts = "\n".join(f"| {name} | {rate} |" for name, rate in gate.false_accept.items())
    return f"""# {manifest.model_id}

**{NOTICE}**

A {manifest.model.name} ({manifest.model.strides} strides) at {manifest.preprocess.image_size} px.
Its score is the likelihood, 0 to 1, that {MEANING[manifest.target]}.
It is {in_words(manifest.calibration, None)}.{numbers_in_words(manifest)}

## Must not be used for

{not_for(manifest)}

## Made from

| | |
|---|---|
| data | {provenance.dataset}, {", ".join(training.data.train)} |
| images | {provenance.train_images}, {provenance.train_positives} positive |
| groups | {provenance.train_groups} |
| recipe | {_recipe(manifest)} |
| initial weights | {initial} |

{choice_in_words(manifest)}

{provenance.note}

{limits}

## Measured

On {training.data.name}, {", ".join(training.data.valid)}: groups that were not trained on, of the
same set, so expect less elsewhere. With the weights as {used}; intervals are a bootstrap over
groups.

| figure | value |
|---|---|
{figures}

Images and labels: sha256 `{manifest.measured_on or "not recorded"}`.

## Operating points

{_points(manifest)}

## What it turns away

For pictures of {scope_in_words(manifest)}.

A picture gets no score if its features (mean output of stage {gate.stage}) lie further than
{gate.threshold:.3f} from those of {gate.images} pictures: the training images, as they are and
changed by chance as in training, beside white borders; or if it looks like the negative of one.
Unit: root mean square standard deviations. Method: {gate.method}.

Of those pictures {100 * gate.quantile:g} % lie within, each measured by a gate that was fitted on
other groups; but the network has learned from all of them. The figures above are of all images,
those that the gate turns away included.

| radiographs that are turned away, wrongly | part |
|---|---|
{rejects}

| other pictures that are let through, wrongly | part |
|---|---|
{accepts}

Intervals count images as independent. Method, stage and part were chosen with such pictures in
view, so expect more errors elsewhere; `python benchmarks/gate.py NAME=FOLDER` measures your own. A
picture that is let through need not be a radiograph, let alone one that the model reads well.

## Licences to carry along

{licences}

Weights sha256 `{manifest.weights_sha256}`, made {manifest.created}.{_made(manifest)}
"""
