"""One model of several: the mean of their weights.

Networks that were fine-tuned from the same weights often lie in one basin, so that the mean of them
is nearly as good as their ensemble, at the cost of one (Wortsman et al., Model Soups,
arXiv:2203.05482). It is a new model: gate, calibration, operating points and figures are its own.
Statistics of batch norm are averaged like the rest.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fracjax import bundle, finish
from fracjax.bundle import Arrays, Bundle, Ingredient, Manifest
from fracjax.configs import Config
from fracjax.errors import UsageError
from fracjax.forward.xla import fitting_network
from fracjax.initial import Initial


def average(
    sources: Sequence[Path],
    workdir: Path,
    *,
    data_dir: Path,
    image_size: int | None = None,
    stage: finish.Stage = lambda *_: None,
) -> Manifest:
    """Write the bundle ``workdir/bundle`` of the mean of several bundles' weights.

    This takes three passes over the training images and three over the validation images.

    Args:
        sources: Two bundles or more, which began with the same weights, and learned from and held
            out the same images. Whatever else they were trained with may differ. Name and settings
            are those of the first.
        workdir: Where the bundle and the predictions on the validation images go.
        data_dir: Where :func:`fracjax.data.prepare` put their data set.
        image_size: Side of the network's input, pixels; that of the first by default.
        stage: Called now and then.

    Returns:
        The manifest of the new bundle.

    Raises:
        BundleError: A source is missing or damaged, or ``workdir`` holds a bundle.
        UsageError: There are fewer than two, or they do not go together.
        DataError: The data set is missing, or is not the one that they learned from.
    """
    bundle.check_free(workdir / "bundle")
    loaded = [bundle.load(source) for source in sources]
    check_alike([each.manifest for each in loaded])
    for each in loaded:
        fitting_network(each)
    first = loaded[0].manifest
    config = _resized(first.training, image_size)
    learned, tuned_on = finish.training_images(first, data_dir)
    valid = finish.validation_images(first, data_dir)
    made = first.provenance
    workdir.mkdir(parents=True, exist_ok=True)
    return finish.write_bundle(
        config,
        mean([each.variables for each in loaded]),
        workdir,
        begin=Initial({}, made.initial_weights, made.licences, made.learned),
        learned=learned,
        tuned_on=tuned_on,
        valid=valid,
        note=made.note,
        averaged=tuple(_ingredient(each) for each in loaded),
        stage=stage,
    )


def mean(variables: Sequence[Arrays]) -> Arrays:
    """Average networks' variables, those of batch norm included: float32 arrays by name."""
    return {
        name: np.mean([each[name] for each in variables], axis=0, dtype=np.float32)
        for name in variables[0]
    }


def check_alike(manifests: Sequence[Manifest]) -> None:
    """Make sure that the mean of some models is a model.

    Raises:
        UsageError: There are fewer than two, two are one, or they do not go together.
    """
    if len(manifests) < 2:
        raise UsageError("the mean of one model is that model; give two bundles or more")
    for manifest in manifests:
        bundle.check_float(manifest)
    if len({manifest.weights_sha256 for manifest in manifests}) < len(manifests):
        raise UsageError("two of the bundles are the same model; give each once")
    first = manifests[0]
    if not first.provenance.initial_weights:
        raise UsageError(
            f"{first.model_id} began with random weights, which no other model shares, so that "
            "there is no mean; give models that were fine-tuned from the same weights"
        )
    wanted = _shared(first)
    for manifest in manifests[1:]:
        found = _shared(manifest)
        differing = [name for name, value in wanted.items() if found[name] != value]
        if differing:
            raise UsageError(
                f"{manifest.model_id} and {first.model_id} differ in {', '.join(differing)}, so "
                "that there is no mean; give models that differ in how they were trained alone"
            )


def _shared(manifest: Manifest) -> dict[str, Any]:
    """Give what models must have in common, by what a reader knows it as."""
    settings, preprocess = manifest.training.data, manifest.preprocess
    return {
        "the target": manifest.target,
        "the network": replace(manifest.model, dropout=0.0),
        "the first weights": manifest.provenance.initial_weights,
        "preprocess (but for the size)": replace(preprocess, image_size=32),
        "data.name": (settings.name, manifest.provenance.dataset),
        "data.train": settings.train,
        "data.valid": (settings.valid, manifest.measured_on),
        "data.select": settings.select,
        "data.labels": settings.labels,
        "the seed, by which groups are held out and heads begin": manifest.training.seed,
        "the images learned from": manifest.provenance.train_images,
    }


def _ingredient(loaded: Bundle) -> Ingredient:
    return Ingredient(loaded.manifest.model_id, loaded.manifest.training)


def _resized(config: Config, image_size: int | None) -> Config:
    if image_size is None:
        return config
    return replace(config, preprocess=replace(config.preprocess, image_size=image_size))
