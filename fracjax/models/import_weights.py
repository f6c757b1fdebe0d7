"""Published ImageNet weights into a :class:`~fracjax.models.network.Network`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fracjax.errors import WeightsError
from fracjax.models.network import Network

BRANCHES = {
    "conv1": "branch2a",
    "conv2": "branch2b",
    "conv3": "branch2c",
    "projection": "branch1",
}
NORM_FIELDS = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def load_keras_resnet(
    path: Path, network: Network, *, with_head: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Read a ResNet of Keras's first naming (``res2a_branch2a``), as ported from He et al.

    Those weights are of the v1 kind and were trained on BGR pictures, 0 to 255, minus the
    channel means in :data:`fracjax.configs.CAFFE_BGR_MEAN`. Nothing in the file says so, and the
    wrong strides fit it as well, so a v1.5 network is refused.

    Args:
        path: A ``.safetensors`` file with kernels in HWIO order.
        network: The network to fill.
        with_head: Also read the 1000-class layer.

    Returns:
        A value for each variable of ``network`` but those of its head, unless ``with_head``.

    Raises:
        WeightsError: The file is missing, unreadable, or a tensor is absent or of another shape.
    """
    if network.config.strides != "v1":
        raise WeightsError(f"{path} holds v1 weights; set model.strides=v1, not v1.5")
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; give the path of a weights file") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    values = {}
    for name, shape in network.shapes.items():
        if name.startswith("head/") and not with_head:
            continue
        source = keras_name(name)
        if source not in tensors:
            raise WeightsError(f"{path} has no tensor {source} for {network.config.name}'s {name}")
        tensor = tensors[source]
        is_pointwise = name.endswith(("conv1/kernel", "conv3/kernel", "projection/kernel"))
        needed = (1, 1, *shape) if is_pointwise else shape  # ours is the matrix alone
        if tensor.shape != needed:
            raise WeightsError(f"{path}: {source} has shape {tensor.shape}, {name} needs {needed}")
        values[name] = tensor.astype(np.float32).reshape(shape)
    return values


def keras_name(name: str) -> str:
    """Translate a variable's path to Keras's name.

    >>> keras_name("stages/0/1/conv2/kernel")
    'res2b_branch2b/kernel'
    """
    *module, leaf = name.split("/")
    match module:
        case ["head"]:
            return f"fc1000/{leaf}"
        case ["stem"]:
            return f"conv1/{leaf}"
        case ["stem_norm"]:
            return f"bn_conv1/{NORM_FIELDS[leaf]}"
        case ["stages", stage, block, part]:
            unit = f"{int(stage) + 2}{chr(ord('a') + int(block))}"
            if "norm" in part:
                convolution = part.removesuffix("_norm").replace("norm", "conv")
                return f"bn{unit}_{BRANCHES[convolution]}/{NORM_FIELDS[leaf]}"
            return f"res{unit}_{BRANCHES[part]}/{leaf}"
    raise ValueError(f"not a variable of a ResNet: {name}")
