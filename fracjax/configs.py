"""Typed configuration, and the named recipes that are made of it.

A recipe's docstring gives the expected result, the command and the hardware it was measured on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from fracjax.errors import UsageError

CAFFE_BGR_MEAN = (103.939, 116.779, 123.68)
"""Mean grey levels of ImageNet in BGR order, as He et al. subtracted them (arXiv:1512.03385)."""

T = TypeVar("T")

Target = Literal["fracture", "abnormality"]
"""What a positive label means. MURA labels abnormality, FracAtlas fracture; they never mix."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a displayed picture becomes the network's input. Stored in every bundle.

    Attributes:
        image_size: Side of the square input, pixels.
        channel_mean: Grey level (0..255) subtracted for each input channel of the network; a
            radiograph's one channel is given to each of them.
    """

    image_size: int = 288
    channel_mean: tuple[float, float, float] = CAFFE_BGR_MEAN

    def __post_init__(self) -> None:
        _check(
            32 <= self.image_size <= 4096, f"image size {self.image_size}", "from 32 to 4096 pixels"
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A network.

    Attributes:
        name: Architecture.
        strides: Where a stage halves the picture: on the first 1x1 convolution (``v1``, He et
            al.) or on the 3x3 (``v1.5``, torchvision). Weights fit both; only one is right.
    """

    name: Literal["resnet14", "resnet50", "resnet101", "resnet152"] = "resnet50"
    strides: Literal["v1", "v1.5"] = "v1"


@dataclass(frozen=True, slots=True)
class Data:
    """Which labelled images to learn from, and which to hold out.

    Attributes:
        name: A builder in ``tfds_mura``.
        train: Splits to learn from.
        valid: Splits whose figures are reported. They choose nothing.
    """

    name: Literal["frac_atlas", "mura"] = "frac_atlas"
    train: tuple[str, ...] = ("fold_1", "fold_2", "fold_3", "fold_4")
    valid: tuple[str, ...] = ("fold_0",)

    def __post_init__(self) -> None:
        shared = set(self.train) & set(self.valid)
        _check(not shared, f"data.valid={','.join(sorted(shared))}", "splits that data.train lacks")


@dataclass(frozen=True, slots=True)
class Augment:
    """The largest random change of a training picture. Zero everywhere switches it off.

    Attributes:
        rotation: Degrees, either way.
        scale: Enlargement, either way, as a part of the size.
        shift: Movement along each axis, either way, as a part of the size.
        flip: Probability of a horizontal flip.
        contrast: Change of the contrast about mid-grey, either way, as a part of it.
        gamma: Octaves of the exponent of the grey scale, either way.
    """

    rotation: float = 20.0
    scale: float = 0.15
    shift: float = 0.05
    flip: float = 0.5
    contrast: float = 0.2
    gamma: float = 0.3

    def __post_init__(self) -> None:
        _check(0 <= self.scale < 1, f"augment.scale={self.scale}", "from 0 to below 1")
        _check(0 <= self.flip <= 1, f"augment.flip={self.flip}", "0 to 1")


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) with warm-up and a cosine to zero.

    Attributes:
        epochs: Passes over the training images. The last one is the model; none is chosen.
        batch_size: Images a step, over all devices.
        learning_rate: At the end of the warm-up.
        warmup: Part of all steps in which the rate rises from zero.
        weight_decay: On kernels only, not on biases or batch norm.
        clip_norm: Largest global norm of a gradient.
        frozen_stages: Leading parts of the network (1: the stem, 2: and the first stage, ...)
            that stay as they were loaded.
    """

    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    frozen_stages: int = 0

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"optimizer.epochs={self.epochs}", "1 or more")
        _check(self.batch_size >= 1, f"optimizer.batch_size={self.batch_size}", "1 or more")
        _check(self.learning_rate > 0, f"optimizer.learning_rate={self.learning_rate}", "above 0")
        _check(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay}", "0 or more")
        _check(self.clip_norm > 0, f"optimizer.clip_norm={self.clip_norm}", "above 0")
        _check(0 <= self.warmup < 1, f"optimizer.warmup={self.warmup}", "from 0 to below 1")
        _check(
            0 <= self.frozen_stages <= 5, f"optimizer.frozen_stages={self.frozen_stages}", "0 to 5"
        )


@dataclass(frozen=True, slots=True)
class Config:
    """One training run."""

    name: str
    data: Data = field(default_factory=Data)
    preprocess: Preprocess = field(default_factory=Preprocess)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**31, f"seed={self.seed}", "0 to 2147483647")


def fracatlas_resnet50() -> Config:
    """ResNet-50 at 288 px from ImageNet weights, fine-tuned on FracAtlas for fracture.

    The bundled model. The stem and the first two stages stay frozen, which makes it a job for a
    machine without an accelerator: 50 minutes on two shared x86 cores, 8 images/s where they were
    idle. AUROC on fold_0, which is not trained on: 0.905 (95 % interval 0.866 to 0.935).

        fracjax train --config fracatlas_resnet50 --data-dir DIR --workdir runs/fracatlas \
            --weights resnet50_v1_imagenet1k.safetensors
    """
    return Config(
        name="fracatlas_resnet50",
        optimizer=Optimizer(epochs=6, batch_size=32, learning_rate=2e-4, frozen_stages=3),
    )


def mura_resnet50() -> Config:
    """ResNet-50 at 320 px from ImageNet weights, fine-tuned on MURA for abnormality.

    Never run: the archive needs a signed agreement. For a machine with an accelerator.
    """
    return Config(
        name="mura_resnet50",
        data=Data(name="mura", train=("train",), valid=("valid",)),
        preprocess=Preprocess(image_size=320),
        optimizer=Optimizer(epochs=10, batch_size=64, learning_rate=1e-4),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe for recipe in (fracatlas_resnet50, mura_resnet50)
}


def recipe(name: str, overrides: Sequence[str] = ()) -> Config:
    """Build a named recipe, with ``section.field=value`` settings on top.

    >>> recipe("fracatlas_resnet50", ["optimizer.epochs=2"]).optimizer.epochs
    2

    Raises:
        UsageError: There is no such recipe, section or field, or a value does not fit.
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return override(RECIPES[name](), overrides)


def override(config: T, overrides: Sequence[str]) -> T:
    """Put ``section.field=value`` settings on top of a configuration; commas part a tuple.

    Raises:
        UsageError: There is no such section or field, or a value does not fit.
    """
    values = dataclasses.asdict(config)  # type: ignore[call-overload]  # a dataclass
    for override in overrides:
        path, separator, text = override.partition("=")
        *sections, leaf = path.split(".")
        target: Any = values
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not separator or not isinstance(target, dict) or leaf not in target:
            raise UsageError(f"{override!r} sets no field of the configuration; {_fields(values)}")
        if isinstance(target[leaf], dict):
            raise UsageError(f"{override!r} names a section; {_fields(values)}")
        target[leaf] = text.split(",") if isinstance(target[leaf], tuple) else text
    try:
        return TypeAdapter(type(config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}={first['input']!r} does not fit: {first['msg']}") from None


def _fields(values: dict[str, Any]) -> str:
    names = [
        f"{section}.{leaf}" if isinstance(fields, dict) else section
        for section, fields in values.items()
        for leaf in (fields if isinstance(fields, dict) else [""])
    ]
    return f"write one of {', '.join(names)} as field=value"


def _check(holds: bool, what: str, way_out: str) -> None:
    if not holds:
        raise UsageError(f"{what} is not usable; give {way_out}")
