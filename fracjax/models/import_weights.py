"""Published ImageNet weights into our networks: what fits is taken whole, the rest is refused."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fracjax.configs import (
    CAFFE_BGR_MEAN,
    HALF_RANGE,
    IMAGENET_RGB_MEAN,
    IMAGENET_RGB_STD,
    Architecture,
    Model,
)
from fracjax.errors import UsageError, WeightsError
from fracjax.models import weights_file
from fracjax.models.layers import HEAD
from fracjax.models.naming import Naming, Source, canonical, is_left_out, source_name, source_of
from fracjax.models.network import Network
from fracjax.models.resnet import DEPTHS
from fracjax.models.source_file import read_tensors
from fracjax.models.torch_file import Tensors

Pixels = Literal["rgb-imagenet", "rgb-half", "bgr-caffe"]
"""What pixels weights were trained on: RGB less the mean over the deviation of ImageNet; RGB from
-1 to 1; or BGR less the mean of ImageNet."""

Levels = tuple[float, float, float]

PIXELS: Final[dict[Pixels, tuple[Levels, Levels]]] = {
    "rgb-imagenet": (IMAGENET_RGB_MEAN, IMAGENET_RGB_STD),
    "rgb-half": (HALF_RANGE, HALF_RANGE),
    "bgr-caffe": (CAFFE_BGR_MEAN, (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of each channel, in grey levels 0..255."""

EPSILONS: Final[dict[Naming, float]] = {
    "torchvision": 1e-5,
    "timm": 1e-5,
    "keras": 1.001e-5,
    "keras_first": 1e-3,
}
"""What batch norm adds to the variance in each of these libraries."""

BOTTLENECKS: Final = frozenset(name for name, depths in DEPTHS.items() if depths.is_bottleneck)
"""ResNets that may have either kind of strides."""

KERAS_ARCHITECTURES: Final = BOTTLENECKS | {"vgg16", "vgg19", "densenet121", "densenet169"}


@dataclass(frozen=True, slots=True)
class Summary:
    """What was imported.

    Attributes:
        facts: As they stand in the file.
        variables: How many arrays it holds.
        values: How many numbers.
        left_out: Tensors of the source that are no part of the network.
    """

    facts: weights_file.Facts
    variables: int
    values: int
    left_out: int

    def settings(self) -> list[str]:
        """Give what ``fracjax train`` must be told of these weights."""
        model = self.facts.model
        values = {
            "model.name": model.name,
            "model.strides": model.strides,
            "model.norm_epsilon": model.norm_epsilon,
            "preprocess.channel_mean": ",".join(map(str, self.facts.channel_mean)),
            "preprocess.channel_std": ",".join(map(str, self.facts.channel_std)),
        }
        return [f"--set {name}={value}" for name, value in values.items()]


def import_weights(
    source: Path,
    out: Path,
    *,
    name: Architecture,
    naming: Naming,
    strides: Literal["v1", "v1.5"] | None = None,
    pixels: Pixels | None = None,
    norm_epsilon: float | None = None,
    licence: str = "",
) -> Summary:
    """Turn a published weights file into one of our own.

    Args:
        source: A state dict of PyTorch (``.pth``), ``.safetensors``, or Keras's ``.h5``.
        out: The new file.
        name: The architecture that the weights are of.
        naming: Whose names the tensors have.
        strides: Of a ResNet with bottleneck blocks. Must be given unless the naming is Keras's,
            which is ``v1``: weights of either kind fit both.
        pixels: What the weights were trained on. Must be given for timm, whose models differ.
        norm_epsilon: What batch norm adds to the variance, where it is not the library's usual.
        licence: What a holder of the weights must carry along.

    Raises:
        UsageError: ``out`` exists, or an argument is missing or makes no sense.
        WeightsError: The file is missing or damaged, or does not fit the network.
    """
    model = Model(
        name,
        strides=_strides(name, naming, strides),
        norm_epsilon=EPSILONS[naming] if norm_epsilon is None else norm_epsilon,
    )
    mean, std = PIXELS[_pixels(name, naming, pixels)]
    if out.exists():
        raise UsageError(f"{out} exists already; give another name, or remove it")
    data = read_bytes(source)
    variables, outputs, left_out = translate(source, read_tensors(source, data), model, naming)
    facts = weights_file.Facts(model, outputs, mean, std, hashlib.sha256(data).hexdigest(), licence)
    weights_file.write(out, facts, variables)
    values = sum(value.size for value in variables.values())
    return Summary(facts, len(variables), values, left_out)


def translate(
    path: Path, tensors: Tensors, model: Model, naming: Naming
) -> tuple[dict[str, NDArray[np.float32]], int, int]:
    """Give the tensors of a file our names, order and shapes.

    Args:
        path: Of the file, for messages.
        tensors: By the names of ``naming``.
        model: The network that they are of.
        naming: Whose names they have.

    Returns:
        The variables of the network, as many outputs as the head has, and how many tensors are no
        part of it. A file without a head gives none, and 0 outputs.

    Raises:
        WeightsError: A tensor is missing, unexpected, of another shape, no floating point, or not
            finite.
    """
    found = {canonical(name, naming): tensor for name, tensor in tensors.items()}
    left_out = {name for name in found if is_left_out(name)}
    bias = found.get(source_name("head/bias", model, naming))
    outputs = 0 if bias is None else bias.size
    network = Network(model, outputs=max(1, outputs))
    sources = {name: source_of(name, network, naming) for name in network.shapes}
    in_head = {
        source.name
        for name, source in sources.items()
        if source is not None and network.part_of(name) == HEAD
    }
    if not in_head & found.keys():  # a file without a head
        sources = {name: s for name, s in sources.items() if network.part_of(name) < HEAD}
        outputs = 0
    expected = {source.name for source in sources.values() if source is not None}
    if not expected & found.keys():
        raise WeightsError(
            f"{path} holds none of the tensors of a {naming} {model.name}; its first is "
            f"{min(found, default='missing')}: give the --model and --naming that it has"
        )
    unexpected = sorted(found.keys() - expected - left_out)
    if unexpected:
        raise WeightsError(
            f"{path} holds {unexpected[0]}, which a {naming} {model.name} has not "
            f"({len(unexpected)} such tensors); give the --model that the weights are of"
        )
    variables = {}
    for name, source in sources.items():
        shape = network.shapes[name]
        if source is None:
            variables[name] = np.zeros(shape, np.float32)
            continue
        if source.name not in found:
            raise WeightsError(
                f"{path} has no tensor {source.name} for {model.name}'s {name}; give the --model "
                "that the weights are of"
            )
        variables[name] = _variable(path, found[source.name], source, name, shape)
    return variables, outputs, len(left_out)


def read_bytes(path: Path) -> bytes:
    """Read a weights file.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; give the path of a weights file") from None
    except OSError as error:
        raise WeightsError(f"{path} is not a readable weights file: {error.strerror}") from None


def _variable(
    path: Path, tensor: NDArray[Any], source: Source, name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    if tensor.shape != source.shape:
        raise WeightsError(
            f"{path}: {source.name} has shape {tensor.shape}, and {name} needs {source.shape}; "
            "give the --model that the weights are of"
        )
    if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
        raise WeightsError(
            f"{path}: {source.name} is of {tensor.dtype}, and weights are floating point; give "
            "weights that are not quantised"
        )
    with np.errstate(over="ignore"):
        variable = source.to_variable(tensor, shape)
    if not np.isfinite(variable).all():
        raise WeightsError(f"{path}: {source.name} has values that are not finite; copy it again")
    return variable


def _strides(
    name: Architecture, naming: Naming, strides: Literal["v1", "v1.5"] | None
) -> Literal["v1", "v1.5"]:
    is_keras = naming in ("keras", "keras_first")
    known = BOTTLENECKS if naming == "keras_first" else KERAS_ARCHITECTURES
    if name == "small_cnn" or (is_keras and name not in known):
        raise UsageError(f"{naming} has no {name}; give another --model or --naming")
    if name not in BOTTLENECKS:
        if strides is not None:
            raise UsageError(f"a {name} has one kind of strides; leave --strides out")
        return "v1"
    if is_keras:
        if strides == "v1.5":
            raise UsageError("Keras's ResNets are of the v1 kind; leave --strides out")
        return "v1"
    if strides is None:
        raise UsageError(
            f"weights of a {name} fit both kinds of strides, and one is wrong; give --strides: "
            "v1.5 for those of torchvision and most of timm, v1 for those of He et al."
        )
    return strides


def _pixels(name: Architecture, naming: Naming, pixels: Pixels | None) -> Pixels:
    if pixels is not None:
        return pixels
    if naming == "timm":
        raise UsageError(
            "timm's models differ in what pixels they take; give --pixels: rgb-imagenet where the "
            "model's page says mean (0.485, 0.456, 0.406), rgb-half where it says 0.5"
        )
    if naming == "torchvision" or name.startswith("densenet"):
        return "rgb-imagenet"
    return "bgr-caffe"
