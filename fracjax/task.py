"""What a run learns, from what images, and what it begins with."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fracjax import data, initial, labels
from fracjax.claim import NOT_OPENED
from fracjax.configs import Config
from fracjax.errors import DataError, UsageError
from fracjax.models import Network


@dataclass(frozen=True)
class Task:
    """What a run learns, from what, and what it begins with.

    Attributes:
        config: The run.
        learned: Images to learn from.
        selecting: Images that choose the best epoch; none, and the last one is the model.
        valid: Images whose figures are reported; none if they were not opened.
        weights: float32 (n, outputs, 2) of ``learned``, as :mod:`fracjax.losses` takes them.
        begin: Weights to begin with.
        claim: Which run this is, as JSON.
    """

    config: Config
    learned: data.Radiographs
    selecting: data.Radiographs
    valid: data.Radiographs
    weights: NDArray[np.float32]
    begin: initial.Initial
    claim: dict[str, Any]

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return len(self.learned) // self.config.optimizer.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epoch_steps * self.config.optimizer.epochs


def prepare(
    config: Config,
    data_dir: Path,
    initial_weights: Path | None = None,
    *,
    opens_valid: bool = True,
) -> Task:
    """Open what a run needs, and refuse what cannot be learned.

    Args:
        config: The run.
        data_dir: Where :func:`fracjax.data.prepare` put the data set.
        initial_weights: What to begin with.
        opens_valid: Whether the validation splits are opened. A trial of a sweep has no use for
            them, and when :func:`fit` finishes it they are checked.

    Raises:
        DataError, UsageError, WeightsError, BundleError: As :func:`fit`.
    """
    if config.optimizer.frozen_stages > 0 and initial_weights is None:
        raise UsageError(
            f"optimizer.frozen_stages={config.optimizer.frozen_stages} would freeze random "
            "weights; give --weights, or set it to 0"
        )
    given = data.load(config.data.name, config.data.train, data_dir)
    outputs = (given.facts[0].target, *config.data.labels)
    begin = initial.read(initial_weights, training_network(config), outputs, config.preprocess)
    valid = given.subset([])
    if opens_valid:
        valid = data.load(config.data.name, config.data.valid, data_dir)
        initial.check_held_out(initial_weights, begin, valid.splits)
        data.check_disjoint(given, valid)
        _check_studies(
            valid, "the studies of the validation splits are of one class only; choose others"
        )
    if config.data.select > 0:  # or the images that choose would have been learned from
        initial.check_held_out(initial_weights, begin, given.splits)
    learned, selecting = data.hold_out(given, config.data.select, config.seed)
    if len({fact.label for fact in learned.facts}) < 2:
        raise DataError("the images of the training splits are of one class only; choose others")
    if config.data.select > 0:
        _check_studies(
            selecting,
            f"data.select={config.data.select} keeps studies of one class only to choose by; "
            "set a larger part, or 0, which chooses nothing",
        )
    if len({fact.group for fact in learned.facts}) < 2:
        raise DataError("the training splits hold one group only; choose more splits")
    if len(learned) < config.optimizer.batch_size:
        raise DataError(
            f"{len(learned)} training images do not fill a batch of "
            f"{config.optimizer.batch_size}; give a smaller optimizer.batch_size"
        )
    table = labels.known(learned.facts, outputs)
    parts = [fact.body_part for fact in learned.facts]
    claim = {
        "config": dataclasses.asdict(config),
        "initial_weights": begin.sha256,
        "train_images": given.sha256,
        "valid_images": valid.sha256 if opens_valid else NOT_OPENED,
    }
    weights = labels.weights(table, parts, config.loss)
    return Task(config, learned, selecting, valid, weights, begin, json.loads(json.dumps(claim)))


def training_network(config: Config, axis_name: str | None = None) -> Network:
    """Give the network as a run learns; under ``pmap``, for devices along ``axis_name``."""
    return Network(
        config.model,
        outputs=1 + len(config.data.labels),
        frozen_stages=config.optimizer.frozen_stages,
        axis_name=axis_name,
        dtype=config.optimizer.precision,
    )


def _check_studies(images: data.Radiographs, refusal: str) -> None:
    """Make sure that the studies that are to be measured are of both classes."""
    studies: dict[str, int] = {}
    for fact in images.facts:  # a study is positive if one of its images is
        studies[fact.study_id] = max(fact.label, studies.get(fact.study_id, 0))
    if len(set(studies.values())) < 2:
        raise DataError(refusal)
