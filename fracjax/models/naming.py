"""What others call the tensors of our networks, and how they lay them out.

Every kernel is, in one way to see it, a convolution's (height, width, inputs, outputs): a 1x1
convolution has one place, a linear layer too, and VGG's first hidden layer has 7 by 7 of them.
PyTorch keeps (outputs, inputs, height, width), and flattens the last three for linear layers.
Keras keeps the order that we do, and flattens the first three.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fracjax.configs import Model
from fracjax.models.layers import HEAD
from fracjax.models.network import Network
from fracjax.models.vgg import BATCH_NORM_SUFFIX, DEPTHS, POOLED

Naming = Literal["torchvision", "timm", "keras", "keras_first"]
"""Whose names: those of torchvision; of timm, which differ for VGG's head alone; of
``keras.applications``; or of Keras's first ResNet-50 (``res2a_branch2a``), as it was ported from
He et al."""

TORCH_FIELDS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
KERAS_FIELDS = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}

FIRST_BRANCHES = {
    "conv1": "branch2a",
    "conv2": "branch2b",
    "conv3": "branch2c",
    "projection": "branch1",
}
KERAS_BLOCK_PARTS = {"projection": "0", "conv1": "1", "conv2": "2", "conv3": "3"}

KERAS_HEADS = ("predictions", "probs", "fc1000")
"""What releases of ``keras.applications`` called the last layer; they are one to us."""


@dataclass(frozen=True, slots=True)
class Source:
    """The tensor of somebody else's that becomes a variable of ours.

    Attributes:
        name: There.
        shape: There.
        is_torch: Whether it has PyTorch's order.
        geometry: The variable as (height, width, inputs, outputs); of another than a kernel, its
            shape.
    """

    name: str
    shape: tuple[int, ...]
    is_torch: bool
    geometry: tuple[int, ...]

    def to_variable(self, tensor: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Bring a tensor of this source's shape into our order and shape, as float32."""
        if self.is_torch and len(self.geometry) == 4:
            height, width, inputs, outputs = self.geometry
            tensor = tensor.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)
        return np.ascontiguousarray(tensor.reshape(shape), np.float32)


def source_of(name: str, network: Network, naming: Naming) -> Source | None:
    """Find what a variable of ours is called and shaped under a naming.

    Returns:
        ``None`` for the bias of a convolution that PyTorch's networks lack: it is zero there.
    """
    model, shape = network.config, network.shapes[name]
    module, _, leaf = name.rpartition("/")
    is_torch = naming in ("torchvision", "timm")
    if is_torch and leaf == "bias" and f"{module}/kernel" in network.shapes:
        has_bias = network.part_of(name) == HEAD or model.name.startswith("vgg")
        if not has_bias:
            return None
    geometry = _geometry(module, shape) if leaf == "kernel" else shape
    source = source_name(name, model, naming)
    if leaf != "kernel":
        return Source(source, shape, is_torch, geometry)
    height, width, inputs, outputs = geometry
    is_flat = network.part_of(name) == HEAD and not (naming == "timm" and "hidden" in name)
    if is_torch:
        flat, full = (outputs, inputs * height * width), (outputs, inputs, height, width)
        return Source(source, flat if is_flat else full, is_torch, geometry)
    flat = (height * width * inputs, outputs)
    return Source(source, flat if is_flat else geometry, is_torch, geometry)


def canonical(name: str, naming: Naming) -> str:
    """Give the one of several names that a tensor goes by under a naming.

    >>> canonical("module.features.denseblock1.denselayer1.norm.2.weight", "torchvision")
    'features.denseblock1.denselayer1.norm2.weight'
    """
    if naming in ("torchvision", "timm"):
        name = name.removeprefix("module.")  # of DataParallel
        return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name)
    if naming == "keras":
        layer, _, field = name.rpartition("/")
        layer = layer.replace("/", "_")
        return f"{'predictions' if layer in KERAS_HEADS else layer}/{field}"
    return name


def is_left_out(name: str) -> bool:
    """Tell whether a tensor is no part of what a network computes."""
    return name.endswith(".num_batches_tracked")


def _geometry(module: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4:
        return shape
    inputs, outputs = shape
    side = POOLED if module == "hidden1" else 1
    return side, side, inputs // side**2, outputs


def source_name(name: str, model: Model, naming: Naming) -> str:
    """Give the name that a variable of ours has under a naming.

    >>> source_name("stages/0/1/conv2/kernel", Model("resnet50"), "keras_first")
    'res2b_branch2b/kernel'
    """
    module, _, leaf = name.rpartition("/")
    words = module.split("/")
    if naming in ("torchvision", "timm"):
        family = re.match("resnet|vgg|densenet", model.name)
        torch = {"resnet": _torch_resnet, "densenet": _torch_densenet, "vgg": _torch_vgg}
        layer = torch[family.group() if family else ""](words, model, naming)
        return f"{layer}.{TORCH_FIELDS[leaf]}"
    is_norm = "norm" in words[-1]
    field = KERAS_FIELDS[leaf] if is_norm else leaf
    return f"{(_keras_first if naming == 'keras_first' else _keras)(words)}/{field}"


def _torch_resnet(words: list[str], model: Model, naming: Naming) -> str:
    match words:
        case ["stages", stage, block, part]:
            renamed = {"projection": "downsample.0", "projection_norm": "downsample.1"}
            layer = renamed.get(part, part.replace("norm", "bn"))
            return f"layer{int(stage) + 1}.{block}.{layer}"
        case [module]:
            return {"stem": "conv1", "stem_norm": "bn1", "head": "fc"}[module]
    raise ValueError(words)


def _torch_densenet(words: list[str], model: Model, naming: Naming) -> str:
    match words:
        case ["stages", stage, "layers", layer, part]:
            return f"features.denseblock{int(stage) + 1}.denselayer{int(layer) + 1}.{part}"
        case ["stages", stage, "transition", part]:
            return f"features.transition{stage}.{part}"
        case ["head"]:
            return "classifier"
        case [module]:
            return "features." + {"stem": "conv0", "stem_norm": "norm0", "norm": "norm5"}[module]
    raise ValueError(words)


def _torch_vgg(words: list[str], model: Model, naming: Naming) -> str:
    if words[0] != "stages":
        names = {"hidden1": "classifier.0", "hidden2": "classifier.3", "head": "classifier.6"}
        if naming == "timm":
            names = {"hidden1": "pre_logits.fc1", "hidden2": "pre_logits.fc2", "head": "head.fc"}
        return names[words[0]]
    _, stage, block, part = words
    # PyTorch numbers convolutions, norms, rectifiers and maxima in one row.
    depths = DEPTHS[model.name.removesuffix(BATCH_NORM_SUFFIX)]
    steps = 3 if model.name.endswith(BATCH_NORM_SUFFIX) else 2
    before = steps * (sum(depths[: int(stage)]) + int(block)) + int(stage)
    return f"features.{before + (part == 'norm')}"


def _keras(words: list[str]) -> str:
    match words:
        case ["stages", stage, "layers", layer, part]:  # DenseNet
            kind = "bn" if "norm" in part else "conv"
            number = {"norm1": "0", "conv1": "1", "norm2": "1", "conv2": "2"}[part]
            return f"conv{int(stage) + 2}_block{int(layer) + 1}_{number}_{kind}"
        case ["stages", stage, "transition", part]:
            return f"pool{int(stage) + 1}_{'bn' if part == 'norm' else 'conv'}"
        case ["norm"]:
            return "bn"
        case ["stages", stage, block, "conv"]:  # VGG
            return f"block{int(stage) + 1}_conv{int(block) + 1}"
        case ["stages", stage, block, part]:  # ResNet
            kind = "bn" if "norm" in part else "conv"
            number = KERAS_BLOCK_PARTS[_convolution(part)]
            return f"conv{int(stage) + 2}_block{int(block) + 1}_{number}_{kind}"
        case [module]:
            names = {"stem": "conv1_conv", "stem_norm": "conv1_bn", "head": "predictions"}
            return (names | {"hidden1": "fc1", "hidden2": "fc2"})[module]
    raise ValueError(words)


def _keras_first(words: list[str]) -> str:
    match words:
        case ["stages", stage, block, part]:
            unit = f"{int(stage) + 2}{chr(ord('a') + int(block))}"
            kind = "bn" if "norm" in part else "res"
            return f"{kind}{unit}_{FIRST_BRANCHES[_convolution(part)]}"
        case [module]:
            return {"stem": "conv1", "stem_norm": "bn_conv1", "head": "fc1000"}[module]
    raise ValueError(words)


def _convolution(part: str) -> str:
    """Give the convolution of a block that a batch norm follows, or the part itself."""
    return part.removesuffix("_norm").replace("norm", "conv")
