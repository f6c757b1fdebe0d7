"""PyTorch's side of ``benchmarks/training.py``, which runs it with its settings as JSON.

It needs PyTorch alone; and fracjax besides, where images are read.
"""

import importlib
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch  # no dependency of fracjax
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler

MEAN = (103.939, 116.779, 123.68)
ROTATION, SCALE, SHIFT, FLIP, CONTRAST, GAMMA = 20.0, 0.15, 0.05, 0.5, 0.2, 0.3
"""The defaults of ``fracjax.configs.Augment``."""

CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 1.0, 2e-4, 0.05, 0.9
"""The defaults of ``fracjax.configs.Optimizer``."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Step = Callable[[Any, Any], None]
"""Learns from images uint8 (batch, size, size) and labels float32 (batch,)."""


class Bottleneck(nn.Module):  # type: ignore[misc]
    """A bottleneck block of the v1.5 kind, named as torchvision names it."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = (
            nn.Identity()
            if in_channels == 4 * width
            else nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )
        )

    def forward(self, x: Any) -> Any:
        """Map (batch, channels, height, width)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):  # type: ignore[misc]
    """ResNet-50 with one output; the state dict is that of torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            width, blocks = 64 << stage, []
            for place in range(depth):
                blocks.append(Bottleneck(in_channels, width, 2 if stage and not place else 1))
                in_channels = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(in_channels, 1)

    def forward(self, x: Any) -> Any:
        """Give logits (batch, 1) for pictures (batch, 3, height, width)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def augment(pictures: Any, draws: Any) -> Any:
    """Change pictures as ``fracjax.augment`` does by default.

    Args:
        pictures: float32 (batch, size, size) in 0..1.
        draws: float32 (batch, 7), uniform in -1..1.
    """
    angle, scale = draws[:, 0] * math.radians(ROTATION), 1 + draws[:, 1] * SCALE
    down, right = (2 * SHIFT * draws[:, axis] for axis in (2, 3))  # the grid goes from -1 to 1
    mirror = torch.where(draws[:, 4] < 2 * FLIP - 1, -1.0, 1.0)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    across = torch.stack([cosine, sine, -(cosine * right + sine * down)], dim=-1) * mirror[:, None]
    along = torch.stack([-sine, cosine, sine * right - cosine * down], dim=-1)
    channel = pictures[:, None]
    grid = functional.affine_grid(
        torch.stack([across, along], dim=1), list(channel.shape), align_corners=False
    )
    moved = functional.grid_sample(channel, grid, align_corners=False)[:, 0]
    contrast = (1 + draws[:, 5] * CONTRAST)[:, None, None]
    gamma = torch.exp2(draws[:, 6] * GAMMA)[:, None, None]
    return ((moved - 0.5) * contrast + 0.5).clamp(0, 1) ** gamma * (moved > 0)


def create_step(model: Any, optimizer: Any, settings: dict[str, Any], *, augmented: bool) -> Step:
    """Make a training step."""
    mean = torch.tensor(MEAN, device=DEVICE)[:, None, None]

    def loss_of(images: Any, labels: Any) -> Any:
        pictures = images.float() / 255
        if augmented:
            pictures = augment(pictures, 2 * torch.rand(len(images), 7, device=DEVICE) - 1)
        x = (pictures[:, None] * 255 - mean).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            DEVICE.type, torch.bfloat16, enabled=settings["precision"] == "bfloat16"
        ):
            logits = model(x)[:, 0]
        return functional.binary_cross_entropy_with_logits(logits.float(), labels)

    if settings["compile"] != "off":
        loss_of = torch.compile(loss_of, mode=settings["compile"])

    def take(images: Any, labels: Any) -> None:
        loss_of(images, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return take


def create_optimizer(model: Any, algorithm: str) -> Any:
    """Make a fused optimizer, by which kernels alone decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if algorithm == "adamw":
        return torch.optim.AdamW(groups, LEARNING_RATE, fused=True)
    return torch.optim.SGD(groups, LEARNING_RATE, MOMENTUM, nesterov=True, fused=True)


class Pictures:
    """Labelled network inputs, read from disk one by one by the functions that ours uses."""

    def __init__(self, data_dir: str, size: int) -> None:
        self._data_dir = Path(data_dir)
        self._size = size

    @cached_property
    def _images(self) -> Any:  # opened by each worker for itself
        from fracjax import data  # noqa: PLC0415 - needed by those alone who read images

        return data.load("frac_atlas", data.splits("frac_atlas", self._data_dir), self._data_dir)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        from fracjax.configs import Preprocess  # noqa: PLC0415
        from fracjax.image import network_input  # noqa: PLC0415

        example = self._images[index]
        square = network_input(example.pixels(), Preprocess(image_size=self._size))
        return np.rint(square * 255).astype(np.uint8), np.float32(example.label)


def can_read() -> bool:
    """Tell whether fracjax is there to read images with, and say so if it is not."""
    try:
        importlib.import_module("fracjax.data")
    except ImportError as error:
        sys.stderr.write(f"{sys.executable} cannot read images ({error}); install fracjax there\n")
        return False
    return True


def read(settings: dict[str, Any]) -> Iterator[Any]:
    """Give batches on the device, read ahead by processes, without an end of an epoch."""
    pictures = Pictures(settings["data_dir"], settings["size"])
    batches = settings["ahead"] + settings["read_steps"]
    loader = DataLoader(
        pictures,
        settings["batch"],
        sampler=RandomSampler(
            range(len(pictures)), replacement=True, num_samples=batches * settings["batch"]
        ),
        num_workers=settings["workers"],
        pin_memory=DEVICE.type == "cuda",
        multiprocessing_context="spawn",  # a fork would share open readers and their threads
    )
    for images, labels in loader:
        yield images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)


def rate(
    take: Step, batches: Iterator[Any], settings: dict[str, Any], *, skip: int, steps: int
) -> float:
    """Give the images a second of some steps, after others that are not counted."""
    seconds = []
    for count in (skip, steps):
        begin = time.perf_counter()
        for batch in itertools.islice(batches, count):
            take(*batch)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return float(steps * settings["batch"] / seconds[1])


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Give images a second, by what is done."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, which JAX uses too where float32 is asked
    model = ResNet50().to(DEVICE, memory_format=torch.channels_last)
    optimizer = create_optimizer(model, settings["algorithm"])
    shape = settings["batch"], settings["size"], settings["size"]
    batch = (
        torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE),
        (torch.arange(settings["batch"], device=DEVICE) % 2).float(),
    )
    take = create_step(model, optimizer, settings, augmented=True)
    steps = settings["steps"]
    rates = {
        name: rate(step, itertools.repeat(batch), settings, skip=settings["warm_up"], steps=steps)
        for name, step in (
            ("plain", create_step(model, optimizer, settings, augmented=False)),
            ("augmented", take),
        )
    }
    if settings["data_dir"] is not None and can_read():
        window = {"skip": settings["ahead"], "steps": settings["read_steps"]}
        rates["reading"] = rate(lambda *_: None, read(settings), settings, **window)
        rates["streamed"] = rate(take, read(settings), settings, **window)
    return rates


def main() -> None:
    """Measure, and print."""
    rates = measure(json.loads(sys.argv[1]))
    on_gpu = DEVICE.type == "cuda"
    told = {
        "rates": rates,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "software": f"torch {torch.__version__} (CUDA {torch.version.cuda if on_gpu else 'none'})",
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
