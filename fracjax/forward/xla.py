"""A network compiled by XLA, on all local devices."""

import functools

import jax
import numpy as np
from numpy.typing import NDArray

from fracjax import parallel, step
from fracjax.bundle import Arrays, Bundle, Manifest
from fracjax.configs import Preprocess
from fracjax.errors import BundleError
from fracjax.forward import Engine, check_batch_size
from fracjax.models import Network


def network_of(manifest: Manifest) -> Network:
    """Give the network of a bundle: the first output is of its target, and one of each label."""
    return Network(manifest.model, outputs=1 + len(manifest.training.data.labels))


def fitting_network(bundle: Bundle) -> Network:
    """Give the network of a bundle, whose variables it holds, and a gate over its features.

    Raises:
        BundleError: A variable is missing, unknown, or has another shape; or the gate does not fit.
    """
    network = network_of(bundle.manifest)
    found = {name: value.shape for name, value in bundle.variables.items()}
    for name in sorted(found.keys() | network.shapes.keys()):
        if found.get(name) != network.shapes.get(name):
            raise BundleError(
                f"bundle {bundle.manifest.model_id} does not fit a {network.config.name}: it has "
                f"{found.get(name, 'no')} {name}, the network {network.shapes.get(name, 'none')}; "
                "give a bundle of that network"
            )
    if (width := len(bundle.gate.mean)) != network.features:
        raise BundleError(
            f"the gate of bundle {bundle.manifest.model_id} is over {width} features, and a "
            f"{network.config.name} has {network.features}; copy the bundle again"
        )
    return network


class XlaForward:
    """A network on all local devices, run in batches of one shape.

    Attributes:
        engine: What runs it.
        batch_size: Images given to the devices at once: as asked for, or a few more.
    """

    def __init__(
        self, network: Network, preprocess: Preprocess, variables: Arrays, batch_size: int
    ) -> None:
        """Put a network on the devices.

        Raises:
            UsageError: ``batch_size`` is not in 1..``MOST_BATCH_SIZE``.
        """
        check_batch_size(batch_size)
        mesh = parallel.data_mesh()
        # Batches are filled up anyway, so they may as well divide over the devices.
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        device = mesh.devices.flat[0]
        # Accelerators round what a product is of, each kind in its own way.
        precision = "float32" if device.platform == "cpu" else "float32, rounded products"
        self.engine = Engine("xla", jax.__version__, device.device_kind, precision)
        self._widths = network.outputs, network.features
        self._replicated, self._sharded = parallel.replicated(mesh), parallel.sharded(mesh)
        self.load(variables)
        self._score = jax.jit(
            functools.partial(step.score, network, preprocess),
            in_shardings=(self._replicated, self._sharded),
        )

    def load(self, variables: Arrays) -> None:
        """Put other variables of the network on the devices."""
        self._variables = jax.device_put(variables, self._replicated)

    def __call__(
        self, inputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run pictures (n, size, size); likelihoods (n, outputs) and features (n, d)."""
        likelihoods, features = (np.empty((len(inputs), n), np.float32) for n in self._widths)
        for start in range(0, len(inputs), self.batch_size):
            chunk = inputs[start : start + self.batch_size]
            # One shape, so one compilation: the last batch is filled up with black pictures.
            padding = ((0, self.batch_size - len(chunk)), (0, 0), (0, 0))
            # Placed beforehand: of several processes, each runs this on its own devices alone.
            placed = jax.device_put(np.pad(chunk, padding), self._sharded)
            outputs = self._score(self._variables, placed)
            for rows, output in zip((likelihoods, features), outputs, strict=True):
                rows[start : start + len(chunk)] = output[: len(chunk)]
        return likelihoods, features
