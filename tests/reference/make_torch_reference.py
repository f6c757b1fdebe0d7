"""Compute what PyTorch's networks put out, for ``test_import_weights.py``. Run by hand:

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 safetensors
    python tests/reference/make_torch_reference.py [resnet50_v1_imagenet1k.safetensors]

It writes ``torch.json``, and small files of ``torch.save`` in both its formats. With a file of
Keras's first ResNet-50 it also runs that one in PyTorch.
"""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from random_weights import PICTURES, pictures, random_tensor
from safetensors.numpy import load_file
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

HERE = Path(__file__).parent
KEPT = 8
"""Logits and features of each picture that are written."""

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
VGGS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
DENSENETS = ["densenet121", "densenet169"]


def to_v1(model):
    """Move the strides of bottleneck blocks to their first convolution."""
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return model


def fill(model):
    """Fill a network with random weights by name."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(random_tensor(name, tuple(tensor.shape))))
    return model


def feature_module(model):
    """Give the module that puts out what our features are the means of."""
    if isinstance(model, ResNet):
        return model.layer3
    if hasattr(model.features, "denseblock3"):
        return model.features.denseblock3
    pools = [module for module in model.features if isinstance(module, nn.MaxPool2d)]
    return pools[3]


@torch.no_grad()
def outputs(model, x):
    """Run a network on pictures (batch, height, width, 3)."""
    kept = []
    module = feature_module(model)
    handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = model.eval()(torch.from_numpy(x).permute(0, 3, 1, 2))
    handle.remove()
    features = kept[0].mean(dim=(2, 3))
    return {
        "logits": logits[:, :KEPT].tolist(),
        "features": features[:, :KEPT].tolist(),
        "scale": logits.abs().max().item(),
    }


def first_keras(path):
    """Build a v1 ResNet-50 with the weights of Keras's first naming."""
    model = to_v1(torchvision.models.resnet50())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    tensors = load_file(path)
    branches = {
        "branch2a": ("conv1", "bn1"),
        "branch2b": ("conv2", "bn2"),
        "branch2c": ("conv3", "bn3"),
        "branch1": ("downsample.0", "downsample.1"),
    }
    fields = {
        **{"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"},
        **{"moving_variance": "running_var", "kernel": "weight", "bias": "bias"},
    }
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # these weights have biases
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    state = {}
    for name, tensor in tensors.items():
        layer, field = name.split("/")
        if layer in ("conv1", "bn_conv1", "fc1000"):
            module = {"conv1": "conv1", "bn_conv1": "bn1", "fc1000": "fc"}[layer]
        else:
            unit, branch = layer.removeprefix("res").removeprefix("bn").split("_")
            stage, block = int(unit[0]) - 1, ord(unit[1]) - ord("a")
            module = f"layer{stage}.{block}.{branches[branch][layer.startswith('bn')]}"
        value = torch.from_numpy(tensor.astype(np.float32))
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
        state[f"{module}.{fields[field]}"] = value.permute(order)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model


def references(weights):
    """Yield the outputs of all networks by ``naming/architecture/strides``."""
    x = pictures(*PICTURES)
    resnets = {name: getattr(torchvision.models, name) for name in RESNETS}
    resnets["resnet14"] = lambda: ResNet(Bottleneck, [1, 1, 1, 1])
    for name, make in resnets.items():
        yield f"torchvision/{name}/v1.5", outputs(fill(make()), x)
        if name in ("resnet14", "resnet50"):  # the others differ in their depths alone
            yield f"torchvision/{name}/v1", outputs(to_v1(fill(make())), x)
    for name in VGGS + DENSENETS:
        yield f"torchvision/{name}/v1", outputs(fill(getattr(torchvision.models, name)()), x)
    for name in RESNETS + DENSENETS:  # timm's names are torchvision's here
        ours, theirs = getattr(torchvision.models, name)(), timm.create_model(name)
        shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
        assert shapes[0] == shapes[1], name
    for name in VGGS:
        yield f"timm/{name}/v1", outputs(fill(timm.create_model(name)), x)
    if weights:
        yield "keras_first/resnet50/v1", outputs(first_keras(weights), 50 * x)


def small_state_dict():
    """Make tensors of every kind that a state dict may hold."""
    shared = torch.arange(24, dtype=torch.float32)
    return {
        "plain": shared.reshape(2, 3, 4),
        "part": shared[5:9],
        "transposed": shared.reshape(4, 6).T,
        "every_other": shared[::2],
        "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "bfloat16": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "long": torch.tensor(7),
        "parameter": nn.Parameter(torch.ones(3)),
        "empty": torch.empty(0, 4),
    }


def main():
    """Write the files."""
    found = dict(references(sys.argv[1] if len(sys.argv) > 1 else None))
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
    (HERE / "torch.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    state = small_state_dict()
    wrapped = {"state_dict": state, "epoch": 3, "best": 0.5, "history": [1, (2.5, None)]}
    for zipped, name in ((True, "zip.pth"), (False, "stream.pth")):
        torch.save(state, HERE / name, _use_new_zipfile_serialization=zipped)
    torch.save(wrapped, HERE / "wrapped.pth")
    torch.save(nn.Linear(2, 2), HERE / "module.pth")


if __name__ == "__main__":
    main()
