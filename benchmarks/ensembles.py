"""What several models say together, and of mirrored pictures, against what each says alone.

    python benchmarks/ensembles.py runs/one runs/other --data-dir ~/tfds

Prints figures of each bundle, of the mean of all likelihoods, and of either with the mean over a
picture and its mirror image: on the images that were set apart to choose (`data.select`), and on
the validation splits, which should choose nothing. The bundles are of the same splits and seed.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from fracjax import data, engine, finish
from fracjax.average import check_alike
from fracjax.engine import Scorer
from fracjax.evaluate import cases
from fracjax.evaluate.measuring import find, in_words, measure_all
from fracjax.image import network_input
from fracjax.notice import NOTICE

SHOWN = ("auroc", "auroc_within_body_part", "sensitivity_at_90_specificity")

Floats = NDArray[np.float32]


def likelihoods(scorer: Scorer, images: data.Radiographs) -> tuple[Floats, Floats]:
    """Give raw likelihoods (n,) of pictures, and of their mirror images."""
    preprocess = scorer.manifest.preprocess
    squares = np.stack([network_input(image.pixels(), preprocess) for image in images])
    mirrored = np.ascontiguousarray(squares[:, :, ::-1])
    return scorer.score(squares).likelihoods, scorer.score(mirrored).likelihoods


def say(name: str, images: data.Radiographs, given: list[Floats]) -> None:
    """Print the figures of the mean of some likelihoods."""
    mean = np.asarray(np.mean(given, axis=0), np.float32)
    studies = [fact.study_id for fact in images.facts]
    measured = measure_all(cases.of_studies(cases.of_images(images.facts, mean), studies), {})
    typer.echo(name)
    for figure in SHOWN:
        typer.echo(f"  {in_words(figure):<34} {find(measured, figure).figure}")


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Models that began alike.")],
    data_dir: Annotated[Path, typer.Option()] = Path("data"),
) -> None:
    """Measure each, and all together."""
    scorers = [engine.load(path) for path in bundles]
    if len(scorers) > 1:
        check_alike([scorer.manifest for scorer in scorers])
    training = scorers[0].manifest.training
    name, folder = training.data.name, data_dir.expanduser()
    _, selecting = finish.training_images(scorers[0].manifest, folder)
    valid = data.load(name, training.data.valid, folder)
    typer.echo(NOTICE)
    for title, images in (("set apart to choose", selecting), ("validation", valid)):
        if not len(images):
            continue
        typer.echo(f"\n{title}: {name}, sha256 {images.sha256}")
        found = [likelihoods(scorer, images) for scorer in scorers]
        for scorer, (plain, mirrored) in zip(scorers, found, strict=True):
            say(scorer.manifest.model_id, images, [plain])
            say(f"{scorer.manifest.model_id}, mirrored too", images, [plain, mirrored])
        if len(scorers) > 1:
            say("all", images, [plain for plain, _ in found])
            say("all, mirrored too", images, [each for pair in found for each in pair])


if __name__ == "__main__":
    typer.run(main)
