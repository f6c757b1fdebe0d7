"""The model card: what a bundle is, for a person."""

from typing import TYPE_CHECKING

from fracjax.configs import Target

if TYPE_CHECKING:
    from fracjax.bundle import Manifest

MEANING: dict[Target, str] = {
    "fracture": "the picture shows a fracture",
    "abnormality": "the study is abnormal: a fracture, but also metal, joint disease or else",
}

NOT_FOR = (
    "Diagnosis, or any decision about a patient: it has no clearance and no clinical validation.",
    "Leaving a study unread: a low score does not mean that there is no fracture.",
    "Chest, spine, skull, dental films, CT, MR or photographs: it gives a number for anything.",
    "Reading the likelihood as a probability in your population: it is not calibrated, and "
    "training counted both classes alike.",
)


def render_card(manifest: "Manifest") -> str:
    """Write a bundle's ``CARD.md`` (after Mitchell et al., Model Cards, arXiv:1810.03993)."""
    training, provenance = manifest.training, manifest.provenance
    figures = "\n".join(f"| `{name}` | {figure} |" for name, figure in manifest.figures.items())
    licences = "\n".join(f"- {licence}" for licence in provenance.licences)
    not_for = "\n".join(f"- {item}" for item in NOT_FOR)
    return f"""# {manifest.model_id}

**Research use only. Not a medical device.**

A {manifest.model.name} ({manifest.model.strides} strides) at {manifest.preprocess.image_size} px.
Its score is the likelihood, 0 to 1 and not calibrated, that {MEANING[manifest.target]}.

## Must not be used for

{not_for}

## Made from

| | |
|---|---|
| data | {provenance.dataset}, {", ".join(training.data.train)} |
| images | {provenance.train_images}, {provenance.train_positives} positive |
| groups | {provenance.train_groups} (patients, or a proxy for them) |
| recipe | `{training.name}`, {training.optimizer.epochs} epochs, seed {training.seed} |
| initial weights | {provenance.initial_weights or "random"} (sha256) |

The state after the last step is the model; nothing was chosen by its figures.

## Measured

On {provenance.dataset}, {", ".join(training.data.valid)}: groups that were not trained on, of the
same set, so expect less elsewhere. With the weights as stored; intervals are a bootstrap over
groups.

| figure | value |
|---|---|
{figures}

## Licences to carry along

{licences}

Weights sha256 `{manifest.weights_sha256}`, made {manifest.created}.
"""
