"""Typed configuration, and the named recipes that are made of it.

A recipe's docstring says what it gave and on what hardware, or that this was not measured.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from fracjax.errors import UsageError

CAFFE_BGR_MEAN = (103.939, 116.779, 123.68)
"""Mean grey levels of ImageNet in BGR order, as He et al. subtracted them (arXiv:1512.03385)."""

IMAGENET_RGB_MEAN = (123.675, 116.28, 103.53)
"""Mean grey levels of ImageNet in RGB order, as torchvision subtracts them: 255 times (0.485,
0.456, 0.406)."""

IMAGENET_RGB_STD = (58.395, 57.12, 57.375)
"""Standard deviations to go with them: 255 times (0.229, 0.224, 0.225)."""

HALF_RANGE = (127.5, 127.5, 127.5)
"""As mean and deviation, these bring grey levels to -1..1."""

T = TypeVar("T")

Target = Literal["fracture", "abnormality"]
"""What a positive label means. MURA labels abnormality, FracAtlas fracture; they never mix."""


Architecture = Literal[
    "small_cnn",
    "resnet14",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "densenet121",
    "densenet169",
]

DataSet = Literal["frac_atlas", "mura", "grazpedwri_dx", "rsna_cervical_spine", "own_images"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a displayed picture becomes the network's input. Stored in every bundle.

    Attributes:
        image_size: Side of the square input, pixels.
        channel_mean: Grey level (0..255) subtracted for each input channel of the network; a
            radiograph's one channel is given to each of them.
        channel_std: What each channel is divided by after that, in grey levels.
        border: Whether black and white borders around the exposed region are kept, or cropped.
        window: Whether the grey scale is taken as displayed, or stretched so that two percentiles
            of the exposed region become black and white.
        clahe: Clip limit of contrast-limited adaptive histogram equalisation (Zuiderveld 1994);
            0 switches it off.
        fit: How a picture that is no square becomes one: ``letterbox`` fills up with black,
            ``crop`` takes the square in the middle.
    """

    image_size: int = 288
    channel_mean: tuple[float, float, float] = CAFFE_BGR_MEAN
    channel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    border: Literal["keep", "crop"] = "keep"
    window: Literal["display", "percentile"] = "display"
    clahe: float = 0.0
    fit: Literal["letterbox", "crop"] = "letterbox"

    def __post_init__(self) -> None:
        _check_finite("preprocess", self)
        _check(
            32 <= self.image_size <= 4096, f"image size {self.image_size}", "from 32 to 4096 pixels"
        )
        _check(
            min(self.channel_std) > 0, f"preprocess.channel_std={self.channel_std}", "all above 0"
        )
        _check(0 <= self.clahe <= 256, f"preprocess.clahe={self.clahe}", "0 to 256")


@dataclass(frozen=True, slots=True)
class Model:
    """A network.

    Attributes:
        name: Architecture. ``resnet14`` is no published network: the smallest of its shape.
        strides: Where a bottleneck block of a ResNet halves the picture: on the first 1x1
            convolution (``v1``, He et al.) or on the 3x3 (``v1.5``, torchvision). Weights fit
            both; only one is right. Other networks have no such choice.
        norm_epsilon: What batch norm adds to the variance. It belongs to the weights: 1e-3 in
            those of Keras's first naming, 1e-5 in those of torchvision.
        head: What follows the last stage: what was published with the architecture, or the mean
            over the picture and one linear layer (``pooled``). They differ for VGG alone, whose
            published head has most of its parameters.
        dropout: Part of the head's inputs that a training step leaves out.
    """

    name: Architecture = "resnet50"
    strides: Literal["v1", "v1.5"] = "v1"
    norm_epsilon: float = 1e-3
    head: Literal["published", "pooled"] = "published"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("model", self)
        names = get_args(Architecture)
        _check(self.name in names, f"model.name={self.name}", f"one of {', '.join(names)}")
        _check(self.norm_epsilon > 0, f"model.norm_epsilon={self.norm_epsilon}", "above 0")
        _check(0 <= self.dropout < 1, f"model.dropout={self.dropout}", "from 0 to below 1")


@dataclass(frozen=True, slots=True)
class Data:
    """Which labelled images to learn from, and which to hold out.

    Attributes:
        name: A builder in ``tfds_mura``.
        train: Splits to learn from.
        valid: Splits whose figures are reported. They choose nothing.
        select: Part of the groups of ``train`` that is not learned from, but chooses: which
            checkpoint is the best, and when to stop. 0: nothing is chosen, and the last one counts.
        labels: What is learned besides the target, each an output of its own: ``hardware``,
            ``body_part:NAME``, or a finding that the data set's images carry.
    """

    name: DataSet = "frac_atlas"
    train: tuple[str, ...] = ("fold_1", "fold_2", "fold_3", "fold_4")
    valid: tuple[str, ...] = ("fold_0",)
    select: float = 0.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_finite("data", self)
        for name, chosen in (("train", self.train), ("valid", self.valid)):
            holds = 0 < len(chosen) == len(set(chosen))
            _check(holds, f"data.{name}={','.join(chosen)}", "one split or more, each once")
        shared = set(self.train) & set(self.valid)
        _check(not shared, f"data.valid={','.join(sorted(shared))}", "splits that data.train lacks")
        _check(0 <= self.select < 1, f"data.select={self.select}", "from 0 to below 1")
        twice = len(set(self.labels)) < len(self.labels)
        _check(not twice, f"data.labels={','.join(self.labels)}", "each label once")


@dataclass(frozen=True, slots=True)
class Augment:
    """The largest random change of a training picture. Zero everywhere switches it off.

    Attributes:
        rotation: Degrees, either way.
        scale: Enlargement, either way, as a part of the size.
        shift: Movement along each axis, either way, as a part of the size.
        flip: Probability of a horizontal flip.
        flip_vertical: Probability of a vertical flip.
        contrast: Change of the contrast about mid-grey, either way, as a part of it.
        gamma: Octaves of the exponent of the grey scale, either way.
        noise: Standard deviation of normal noise, up to this part of the range.
        cutout: Side of a black square, up to this part of the picture's (DeVries and Taylor,
            arXiv:1708.04552).
        mixup: Parameter of the beta distribution that two pictures are mixed by (Zhang et al.,
            arXiv:1710.09412).
        blur: Standard deviation of a Gaussian blur, up to this many pixels of the input: what
            tells a small picture from a large one.
        bars: Black bars at the four sides, each up to this part of the picture's: what tells its
            aspect ratio and its borders.
        corners: Probability with which each corner is black: where markers stand.
        jpeg: Coarseness of a compression like JPEG's, up to this multiple of the table that most
            files are written with (ITU-T T.81, K.1): 1 is what libjpeg calls quality 50, 2.5
            quality 20. It is the network's input that is compressed, not the larger file.
    """

    rotation: float = 20.0
    scale: float = 0.15
    shift: float = 0.05
    flip: float = 0.5
    flip_vertical: float = 0.0
    contrast: float = 0.2
    gamma: float = 0.3
    noise: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    blur: float = 0.0
    bars: float = 0.0
    corners: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("augment", self)
        for name in ("scale", "cutout"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"augment.{name}={value}", "from 0 to below 1")
        for name in ("shift", "flip", "flip_vertical", "contrast", "corners"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"augment.{name}={value}", "0 to 1")
        _check(0 <= self.bars < 0.5, f"augment.bars={self.bars}", "from 0 to below 0.5")
        for name in ("rotation", "gamma", "noise", "mixup", "blur", "jpeg"):
            value = getattr(self, name)
            _check(value >= 0, f"augment.{name}={value}", "0 or more")


@dataclass(frozen=True, slots=True)
class Loss:
    """What training minimises.

    Attributes:
        kind: Binary cross entropy, or focal loss (Lin et al., arXiv:1708.02002), which counts what
            is told already the less.
        focal_gamma: The exponent of the focal loss; at 0 it is the cross entropy.
        weights: How rare classes are made up for: ``none``; ``balanced``, both classes of an
            output count alike; or ``mura``, for each body part by the other class's part of its
            images (Rajpurkar et al., arXiv:1712.06957, 3.1), which holds for the target; so a
            body part whose images are of one class counts for nothing.
        label_smoothing: How far labels are drawn to one half (Szegedy et al., arXiv:1512.00567).
    """

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0
    weights: Literal["none", "balanced", "mura"] = "balanced"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("loss", self)
        _check(self.focal_gamma >= 0, f"loss.focal_gamma={self.focal_gamma}", "0 or more")
        _check(
            0 <= self.label_smoothing < 1,
            f"loss.label_smoothing={self.label_smoothing}",
            "from 0 to below 1",
        )


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW or SGD with warm-up and a cosine to zero.

    Attributes:
        algorithm: ``adamw`` (Loshchilov and Hutter, arXiv:1711.05101), or ``sgd`` with Nesterov's
            momentum and the same decoupled weight decay.
        epochs: Times as many steps as whole batches fit into the training images, if nothing stops
            the run before. Batches run on from one pass over the images to the next.
        batch_size: Images a step, over all devices.
        accumulate: Equal parts that a batch is divided into, one after the other, so that it needs
            less memory. Batch norm sees each part alone.
        learning_rate: At the end of the warm-up.
        warmup: Part of all steps, one at least, in which the rate rises from zero.
        momentum: Of ``sgd``.
        weight_decay: On kernels only, not on biases or batch norm.
        clip_norm: Largest global norm of a gradient.
        layer_decay: What the learning rate is multiplied by from each part of the network to the
            one before it (Howard and Ruder, arXiv:1801.06146).
        frozen_stages: Leading parts of the network (1: the stem, 2: and the first stage, ...)
            that stay as they were loaded.
        average: Part of the old value that an exponential moving average of the variables keeps
            each step, and (1 + n) / (10 + n) after n steps at most, lest it be what it began with
            for long. If it is not 0, that average is the model (Polyak and Juditsky 1992).
        patience: Epochs without a better ``monitor`` after which the run stops; 0: never. This
            needs ``data.select``.
        monitor: The figure of the selection images that says which epoch is the best.
        precision: Number format of convolutions and matrix products in training. Parameters,
            statistics, logits and loss are always ``float32``.
    """

    algorithm: Literal["adamw", "sgd"] = "adamw"
    epochs: int = 8
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 2e-4
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    layer_decay: float = 1.0
    frozen_stages: int = 0
    average: float = 0.0
    patience: int = 0
    monitor: Literal["auroc_study", "auroc_image", "loss"] = "auroc_study"
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _check_finite("optimizer", self)
        for name, way_out, holds in (
            ("epochs", "1 or more", self.epochs >= 1),
            ("batch_size", "1 or more", self.batch_size >= 1),
            ("accumulate", "1 or more", self.accumulate >= 1),
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("warmup", "from 0 to below 1", 0 <= self.warmup < 1),
            ("momentum", "from 0 to below 1", 0 <= self.momentum < 1),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("clip_norm", "above 0", self.clip_norm > 0),
            ("layer_decay", "above 0, to 1", 0 < self.layer_decay <= 1),
            ("frozen_stages", "0 to 5", 0 <= self.frozen_stages <= 5),
            ("average", "from 0 to below 1", 0 <= self.average < 1),
            ("patience", "0 or more", self.patience >= 0),
        ):
            _check(holds, f"optimizer.{name}={getattr(self, name)}", way_out)
        _check(
            self.batch_size % self.accumulate == 0,
            f"optimizer.accumulate={self.accumulate}",
            f"a divisor of optimizer.batch_size={self.batch_size}",
        )


@dataclass(frozen=True, slots=True)
class Config:
    """One training run."""

    name: str
    data: Data = field(default_factory=Data)
    preprocess: Preprocess = field(default_factory=Preprocess)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**31, f"seed={self.seed}", "0 to 2147483647")
        _check(
            self.optimizer.patience == 0 or self.data.select > 0,
            f"optimizer.patience={self.optimizer.patience}",
            "data.select above 0 with it, or leave it at 0",
        )


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run is computed. It may change when a run goes on: what is learned stays the same.

    Attributes:
        parallel: One program over all devices (``jit``), or one a device (``pmap``). They differ
            by rounding.
        resident: Whether all images are put on each device once, as uint8, instead of being read
            again in each epoch.
        save_every: Steps between two checkpoints; each epoch ends with one, too.
    """

    parallel: Literal["jit", "pmap"] = "jit"
    resident: bool = False
    save_every: int = 500

    def __post_init__(self) -> None:
        _check(self.save_every >= 1, f"{self.save_every} steps between checkpoints", "1 or more")


def fracatlas_resnet50() -> Config:
    """ResNet-50 at 288 px from ImageNet weights, fine-tuned on FracAtlas for fracture.

    The bundled model. The stem and the first two stages stay frozen, which makes it a job for a
    machine without an accelerator: two hours on two shared x86 cores, 4 to 5 images/s. Of the
    groups, 0.15 are not learned from, but choose the epoch, the calibration and the operating
    points: they chose the sixth of twelve. AUROC on fold_0, which
    chooses nothing: 0.912 (95 % interval 0.844
    to 0.952).

        fracjax train --config fracatlas_resnet50 --data-dir DIR --workdir runs/fracatlas \
            --weights resnet50_v1_imagenet1k.safetensors
    """
    return Config(
        name="fracatlas_resnet50",
        data=Data(select=0.15),
        optimizer=Optimizer(
            epochs=12, batch_size=32, learning_rate=2e-4, frozen_stages=3, average=0.99
        ),
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


def mura_densenet169() -> Config:
    """DenseNet-169 at 320 px on MURA for abnormality, after the baseline of the MURA paper.

    As there (Rajpurkar et al., arXiv:1712.06957, 3): ImageNet weights, batches of 8, a rate of
    1e-4, weights of each body part's classes. Instead of by plateaus the rate falls by a cosine.
    Never run: the archive needs a signed agreement. For a machine with an accelerator.

        fracjax import-weights densenet169.pth --model densenet169 --naming torchvision \
            --out densenet169.safetensors
        fracjax train --config mura_densenet169 --data-dir DIR --workdir runs/mura \
            --weights densenet169.safetensors
    """
    return Config(
        name="mura_densenet169",
        data=Data(name="mura", train=("train",), valid=("valid",)),
        preprocess=Preprocess(320, IMAGENET_RGB_MEAN, IMAGENET_RGB_STD),
        model=Model("densenet169", norm_epsilon=1e-5),
        augment=Augment(rotation=30, scale=0, shift=0, flip=0.5, contrast=0, gamma=0),
        loss=Loss(weights="mura"),
        optimizer=Optimizer(epochs=10, batch_size=8, learning_rate=1e-4, weight_decay=0),
    )


def small_cnn() -> Config:
    """The small CNN at 224 px from random weights, on FracAtlas for fracture: for a laptop.

    Not measured as it stands; docs/tutorials/laptop.md has a shorter run at 128 px.

    fracjax train --config small_cnn --data-dir DIR --workdir runs/small
    """
    return Config(
        name="small_cnn",
        preprocess=Preprocess(224, HALF_RANGE, HALF_RANGE),
        model=Model("small_cnn", norm_epsilon=1e-5),
        optimizer=Optimizer(epochs=12, batch_size=32, learning_rate=2e-3, average=0.99),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (fracatlas_resnet50, small_cnn, mura_resnet50, mura_densenet169)
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
        is_tuple = isinstance(target[leaf], tuple)
        target[leaf] = text.split(",") if is_tuple and text else () if is_tuple else text
    try:
        return TypeAdapter(type(config)).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}={first['input']!r} does not fit: {first['msg']}") from None


def changes(config: Config, other: Config) -> list[str]:
    """List the settings that :func:`override` would make another configuration with.

    >>> changes(small_cnn(), recipe("small_cnn", ["optimizer.epochs=2"]))
    ['optimizer.epochs=2']
    """
    ours, theirs = (dict(_leaves(dataclasses.asdict(each))) for each in (config, other))
    return [
        f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in theirs.items()
        if value != ours[name]
    ]


def _leaves(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, fields in values.items():
        if isinstance(fields, dict):
            yield from ((f"{section}.{leaf}", value) for leaf, value in fields.items())
        else:
            yield section, fields


def _fields(values: dict[str, Any]) -> str:
    names = ", ".join(name for name, _ in _leaves(values))
    return f"write one of {names} as field=value"


def _check_finite(section: str, values: Any) -> None:
    """Refuse what no comparison with a limit does: infinity, and what is no number."""
    for entry in dataclasses.fields(values):
        value = getattr(values, entry.name)
        numbers = value if isinstance(value, tuple) else (value,)
        finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
        _check(finite, f"{section}.{entry.name}={value}", "a number")


def _check(holds: bool, what: str, way_out: str) -> None:
    if not holds:
        raise UsageError(f"{what} is not usable; give {way_out}")
