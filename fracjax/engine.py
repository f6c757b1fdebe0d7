"""A bundle on a device: pictures in, likelihoods out."""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from fracjax import parallel, step
from fracjax.bundle import BUNDLED, HEADLINE, Bundle, Manifest, check_fit
from fracjax.bundle import load as load_bundle
from fracjax.card import MEANING
from fracjax.errors import UsageError
from fracjax.image import network_input, read_picture
from fracjax.models import Network
from fracjax.notice import NOTICE

DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image.

    Attributes:
        likelihood: 0..1, not calibrated, of what ``manifest.target`` names.
        manifest: The model that gave it, with its figures.
        notes: What a reader of the score should know of the image, as stable codes.
    """

    likelihood: float
    manifest: Manifest
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            NOTICE,
            f"{self.likelihood:.3f}  likelihood (0 to 1, not calibrated) that "
            f"{MEANING[self.manifest.target]}",
            *(f"note: {note}" for note in self.notes),
            f"model {self.manifest.model_id}; on images it was not trained on:",
            f"  AUROC {self.manifest.figures[HEADLINE]}",
        ]
        return "\n".join(lines)


class Scorer:
    """Scores network inputs in batches of one shape, split over all local devices.

    Attributes:
        manifest: What the model is, means and measured.
        batch_size: Images given to the devices at once: as asked for, or a few more.
    """

    def __init__(self, bundle: Bundle, batch_size: int = DEFAULT_BATCH_SIZE) -> None:
        """Put a bundle on the devices.

        Raises:
            BundleError: The bundle's variables are not those of its network.
            UsageError: ``batch_size`` is below 1.
        """
        self.manifest = bundle.manifest
        if batch_size < 1:
            raise UsageError(f"a batch of {batch_size} images cannot be scored; give 1 or more")
        mesh = parallel.data_mesh()
        # Batches are filled up anyway, so they may as well divide over the devices.
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        network = Network(self.manifest.model)
        check_fit(bundle, network)
        self._variables = jax.device_put(bundle.variables, parallel.replicated(mesh))
        self._score = jax.jit(
            functools.partial(step.score, network, self.manifest.preprocess),
            in_shardings=(parallel.replicated(mesh), parallel.sharded(mesh)),
        )

    def score(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score any number of pictures.

        Args:
            inputs: (n, size, size) in 0..1, of :func:`fracjax.image.network_input`.

        Returns:
            (n,) likelihoods in 0..1.
        """
        likelihoods = np.empty(len(inputs), np.float32)
        for start in range(0, len(inputs), self.batch_size):
            chunk = inputs[start : start + self.batch_size]
            # One shape, so one compilation: the last batch is filled up with black pictures.
            padding = ((0, self.batch_size - len(chunk)), (0, 0), (0, 0))
            logits = self._score(self._variables, np.pad(chunk, padding))
            likelihoods[start : start + len(chunk)] = jax.nn.sigmoid(logits)[: len(chunk)]
        return likelihoods

    def predict(self, path: Path | str) -> Prediction:
        """Read and score one image file.

        Raises:
            Rejected: The file yields no picture.
            OSError: It cannot be read.
        """
        picture = read_picture(Path(path).read_bytes())
        square = network_input(picture.display, self.manifest.preprocess)
        likelihood = self.score(square[np.newaxis])[0]
        return Prediction(float(likelihood), self.manifest, picture.notes)


def load(directory: Path | str = BUNDLED, *, batch_size: int = DEFAULT_BATCH_SIZE) -> Scorer:
    """Load a bundle, by default the one that ships with the package, ready to score.

    Raises:
        BundleError: The bundle is missing, damaged or of an unknown version.
    """
    return Scorer(load_bundle(Path(directory)), batch_size)
