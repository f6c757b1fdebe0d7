"""A network compiled by XLA, on all local devices."""

import functools

import jax
import numpy as np
from numpy.typing import NDArray

from fracjax import parallel, step
from fracjax.bundle import Arrays, Bundle, Manifest
from fracjax.configs import Preprocess
from fracjax.errors import BundleError, UsageError
from fracjax.forward import Engine, check_batch_size
from fracjax.models import Network

_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""What the message of XLA's error begins with, of an allocation or a compilation."""


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
        batch_size: Images given to the devices at once: as asked for, or a few more; and fewer,
            once a device had no memory for them.
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
        self._devices = mesh.size
        self.batch_size = self._divisible(batch_size)
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
        """Run pictures (n, size, size); likelihoods (n, outputs) and features (n, d).

        Raises:
            UsageError: A device has no memory for even one picture.
        """
        likelihoods, features = (np.empty((len(inputs), n), np.float32) for n in self._widths)
        start = 0
        while start < len(inputs):
            chunk = inputs[start : start + self.batch_size]
            try:
                outputs = self._run(chunk)
            except jax.errors.JaxRuntimeError as error:
                if not str(error).startswith(_OUT_OF_MEMORY):
                    raise
                self._halve()
                continue
            for rows, output in zip((likelihoods, features), outputs, strict=True):
                rows[start : start + len(chunk)] = output
            start += len(chunk)
        return likelihoods, features

    def _run(self, chunk: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        # One shape, so one compilation: the last batch is filled up with black pictures.
        padding = ((0, self.batch_size - len(chunk)), (0, 0), (0, 0))
        # Placed beforehand: of several processes, each runs this on its own devices alone.
        placed = jax.device_put(np.pad(chunk, padding), self._sharded)
        outputs = self._score(self._variables, placed)
        # Fetched here: what fails on a device is raised only where its result is looked at.
        return [np.asarray(output)[: len(chunk)] for output in outputs]

    def _halve(self) -> None:
        """Give the devices fewer pictures at once from now on."""
        if self.batch_size == self._devices:
            raise UsageError(
                f"{self.engine.device} has no memory left for one picture; end what else runs on "
                "it, or give --engine openvino, and --restart where a run has begun"
            )
        self.batch_size = self._divisible(self.batch_size // 2)

    def _divisible(self, batch_size: int) -> int:
        """Round up to what divides over the devices: batches are filled up anyway."""
        return -(-batch_size // self._devices) * self._devices
