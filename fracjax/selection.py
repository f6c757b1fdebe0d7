"""Which state of a run is its model: images that are kept for it choose the best epoch."""

from typing import NamedTuple

import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import NDArray

from fracjax import bundle, data, evaluate
from fracjax.engine import DEFAULT_BATCH_SIZE
from fracjax.errors import DivergedError
from fracjax.forward.xla import XlaForward
from fracjax.models import Network
from fracjax.record import selection_values
from fracjax.task import Task


class Selection(NamedTuple):
    """Which epoch is the best so far. A checkpoint holds it, so all are arrays."""

    best: NDArray[np.float32]
    """The monitored figure; the larger, the better."""
    step: NDArray[np.int32]
    """When it was reached."""
    stale: NDArray[np.int32]
    """Epochs since then."""

    @classmethod
    def of(cls, best: float, at_step: int, stale: int) -> "Selection":
        """Make the arrays."""
        return cls(
            np.array(best, np.float32), np.array(at_step, np.int32), np.array(stale, np.int32)
        )

    def after(self, value: float, at_step: int) -> "Selection":
        """Take another epoch into account; of equals the first is the best."""
        if value > self.best:
            return Selection.of(value, at_step, 0)
        return Selection.of(float(self.best), int(self.step), int(self.stale) + 1)


NOTHING_SELECTED = Selection.of(-np.inf, 0, 0)


class Judge:
    """Measures a model on the images that choose."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._forward: XlaForward | None = None

    def __call__(self, variables: bundle.Arrays) -> tuple[dict[str, float], float]:
        """Give the figures, and the one that chooses, the larger the better."""
        config, images = self._task.config, self._task.selecting
        if self._forward is None:
            # The network that will score, in float32 whatever training computes in.
            network = Network(config.model, outputs=1 + len(config.data.labels))
            self._forward = XlaForward(network, config.preprocess, variables, DEFAULT_BATCH_SIZE)
        self._forward.load(variables)
        inputs = data.inputs(images, config.preprocess, batch_size=DEFAULT_BATCH_SIZE)
        likelihoods = np.concatenate([self._forward(batch)[0][:, 0] for batch in inputs])
        if not np.isfinite(likelihoods).all():
            raise DivergedError(
                "the model's likelihoods of the selection images are no longer numbers",
                "train in another --workdir with a lower optimizer.learning_rate",
            )
        figures = evaluate.overall(images.facts, likelihoods)
        loss = evaluate.cross_entropy(images.facts, likelihoods)
        chosen = (
            -loss if config.optimizer.monitor == "loss" else figures[config.optimizer.monitor].value
        )
        # All processes must choose alike, whatever their devices' last digits.
        chosen = float(multihost_utils.broadcast_one_to_all(np.float32(chosen)))
        return selection_values(figures) | {"selection/loss": loss}, chosen
