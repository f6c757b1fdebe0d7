"""What runs a network: XLA on any device, or OpenVINO on the cores of a CPU.

Heavy imports wait for the engine that needs them. Scoring under OpenVINO imports JAX at the first
start with a bundle, and where JAX has a plugin that may find an accelerator; heat maps always do.
"""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from fracjax.bundle import Bundle
from fracjax.errors import UsageError

if TYPE_CHECKING:
    from fracjax.explain import Explainer

EngineName = Literal["auto", "openvino", "xla"]
"""``auto`` is OpenVINO where it is installed and JAX finds no accelerator; else XLA.

Of a model in 8-bit integers it is OpenVINO.
"""

MOST_BATCH_SIZE = 4096
"""Beyond it no device is faster, and memory ends."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes, as far as a likelihood depends on it.

    Attributes:
        name: Of the library.
        version: Of the library.
        device: What it computes on, in words.
        precision: The number format of convolutions and matrix products.
    """

    name: Literal["openvino", "xla"]
    version: str
    device: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} on {self.device}, {self.precision}"


class Forward(Protocol):
    """A network that is ready to run.

    Attributes:
        engine: What runs it.
        batch_size: Pictures that are best given at once.
    """

    engine: Engine
    batch_size: int

    def __call__(
        self, inputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run pictures (n, size, size) in 0..1; likelihoods (n, outputs) and features (n, d).

        What a picture gives does not depend on the others, to the bit.
        """


def create(bundle: Bundle, batch_size: int, engine: EngineName, cores: int = 0) -> Forward:
    """Make a bundle's network ready to run.

    Args:
        bundle: The model.
        batch_size: Pictures given to the devices at once.
        engine: What computes.
        cores: Of the CPU, for OpenVINO; 0 is all that this process may use. XLA takes all.

    Raises:
        UsageError: There is no such engine here, it does not compute in the bundle's numbers, or
            ``batch_size`` is not in 1..``MOST_BATCH_SIZE``.
        BundleError: The bundle's variables are not those of its network.
        ExportError: The engine does not say what it should.
    """
    check_batch_size(batch_size)
    if engine not in get_args(EngineName):
        raise UsageError(f"there is no engine {engine!r}; give {', '.join(get_args(EngineName))}")
    has_openvino = _is_installed("openvino") and _is_installed("onnx")
    in_integers = bundle.manifest.integers is not None
    if in_integers and (engine == "xla" or not has_openvino):
        raise UsageError(
            f"{bundle.manifest.model_id} multiplies 8-bit integers, which OpenVINO does; "
            'pip install "fracjax[cpu]" and --engine openvino, or give the bundle that it lies in'
        )
    if engine == "openvino" and not has_openvino:
        raise UsageError('OpenVINO is not installed; pip install "fracjax[cpu]", or use xla')
    if engine == "auto":
        engine = "openvino" if in_integers or (has_openvino and _is_cpu_all()) else "xla"
    if engine == "openvino":
        from fracjax.forward.openvino import OpenVinoForward

        return OpenVinoForward(bundle, batch_size, cores)
    from fracjax.forward.xla import XlaForward, fitting_network

    return XlaForward(
        fitting_network(bundle), bundle.manifest.preprocess, bundle.variables, batch_size
    )


def explainer(bundle: Bundle) -> "Explainer":
    """Make a bundle's network ready to be explained, which XLA does whatever engine scores.

    Raises:
        BundleError: The bundle's variables are not those of its network.
    """
    from fracjax.explain import Explainer
    from fracjax.forward.xla import fitting_network

    return Explainer(fitting_network(bundle), bundle.manifest.preprocess, bundle.variables)


def check_batch_size(batch_size: int) -> None:
    """Make sure that a batch may be of a size.

    Raises:
        UsageError: It is not in 1..``MOST_BATCH_SIZE``.
    """
    if not 1 <= batch_size <= MOST_BATCH_SIZE:
        raise UsageError(
            f"a batch of {batch_size} images cannot be scored; give 1 to {MOST_BATCH_SIZE}"
        )


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _is_cpu_all() -> bool:
    """Tell whether JAX would compute on the CPU; it is only asked where it could do else."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins and not _is_installed("libtpu"):
        return True
    import jax

    return jax.default_backend() == "cpu"
