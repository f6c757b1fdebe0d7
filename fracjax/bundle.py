"""A model bundle: one directory with all that scoring needs, and nothing that can execute.

``bundle.json`` says what the model is, means and measured; ``weights.safetensors`` holds its
arrays; ``CARD.md`` says the same for a person. ``docs/bundle.md`` describes the format.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fracjax.configs import Config, Model, Preprocess, Target
from fracjax.errors import BundleError, UsageError
from fracjax.figure import Figure
from fracjax.models import Network

FORMAT = "fracjax-bundle"
VERSION = 1
MANIFEST_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "CARD.md"

HEADLINE = "auroc_study"
"""The figure that every bundle has, and that is shown beside a score."""

BUNDLED = Path(__file__).parent / "bundles" / "fracatlas"
"""The model that ships with the package."""

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a model was made from.

    Attributes:
        dataset: Name and version of the builder.
        learned: Splits, as ``data set:split``, that this model or one it began with learned from.
        train_images: Images learned from.
        train_positives: Those with a positive label.
        train_groups: Their patients or leakage groups.
        initial_weights: sha256 of the file that training began with; empty for random weights.
        licences: What a holder of the model must carry along.
        note: What the one who trained it says of the images; may be empty.
    """

    dataset: str
    learned: tuple[str, ...]
    train_images: int
    train_positives: int
    train_groups: int
    initial_weights: str
    licences: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of ``bundle.json``."""

    format: str
    version: int
    model_id: str
    target: Target
    model: Model
    preprocess: Preprocess
    weights_sha256: str
    training: Config
    provenance: Provenance
    figures: dict[str, Figure]
    software: dict[str, str]
    created: str


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: its manifest, and its variables as float32 arrays by name."""

    manifest: Manifest
    variables: Arrays


def encode_weights(variables: Arrays) -> bytes:
    """Serialise variables: kernels in half precision, the rest as they are.

    Raises:
        BundleError: A value is not finite, or too large for half precision.
    """
    stored = {}
    for name, value in sorted(variables.items()):
        kept = value.astype(np.float16) if name.endswith("kernel") else value.astype(np.float32)
        if not np.isfinite(kept).all():
            raise BundleError(
                f"{name} has values that half precision cannot hold; "
                "train with a lower learning rate"
            )
        stored[name] = kept
    return save_tensors(stored)


def decode_weights(data: bytes) -> Arrays:
    """Read what :func:`encode_weights` wrote, as float32.

    Raises:
        BundleError: The bytes are no such file.
    """
    try:
        return {name: value.astype(np.float32) for name, value in load_tensors(data).items()}
    except (SafetensorError, KeyError) as error:  # KeyError: a number format that NumPy lacks
        raise BundleError(
            f"{WEIGHTS_NAME} is not a safetensors file ({error}); copy the bundle again"
        ) from error


def write(directory: Path, manifest: Manifest, weights: bytes, card: str) -> None:
    """Write a bundle. It appears under its name whole or not at all.

    Raises:
        BundleError: ``directory`` exists already.
    """
    if directory.exists():
        raise BundleError(f"{directory} exists already; give another name, or remove it")
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    if partial.exists():  # of a process that died; in a container, process ids repeat
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        (partial / WEIGHTS_NAME).write_bytes(weights)
        text = json.dumps(asdict(manifest), indent=2) + "\n"
        (partial / MANIFEST_NAME).write_text(text, encoding="utf-8")
        (partial / CARD_NAME).write_text(card, encoding="utf-8")
        partial.rename(directory)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load(directory: Path = BUNDLED) -> Bundle:
    """Read a bundle and check it against its own digests. Nothing in it is executed.

    Args:
        directory: A bundle, or the working directory of a finished training run.

    Raises:
        BundleError: It is missing, damaged, or of a version that this release does not know.
    """
    if not (directory / MANIFEST_NAME).is_file() and (directory / "bundle").is_dir():
        directory = directory / "bundle"
    manifest = _read_manifest(directory)
    try:
        weights = (directory / WEIGHTS_NAME).read_bytes()
    except OSError as error:
        raise BundleError(f"{directory / WEIGHTS_NAME} cannot be read: {error.strerror}") from None
    if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
        raise BundleError(
            f"{directory / WEIGHTS_NAME} is not the file that {MANIFEST_NAME} describes "
            "(sha256 differs); copy the bundle again"
        )
    return Bundle(manifest, decode_weights(weights))


def check_fit(bundle: Bundle, network: Network) -> None:
    """Check that a bundle holds the variables of a network and nothing else.

    Raises:
        BundleError: A variable is missing, unknown, or has another shape.
    """
    found = {name: value.shape for name, value in bundle.variables.items()}
    for name in sorted(found.keys() | network.shapes.keys()):
        if found.get(name) != network.shapes.get(name):
            raise BundleError(
                f"bundle {bundle.manifest.model_id} does not fit a {network.config.name}: it has "
                f"{found.get(name, 'no')} {name}, the network {network.shapes.get(name, 'none')}; "
                "give a bundle of that network"
            )


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}; give the directory of a model bundle"
        ) from None
    try:
        head = json.loads(text)
        found = (head["format"], head["version"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{path} does not describe a bundle; copy the bundle again") from None
    if found != (FORMAT, VERSION):
        raise BundleError(
            f"{path} is of format {found[0]!r}, version {found[1]!r}; this release reads "
            f"{FORMAT!r}, version {VERSION}"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_json(text)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise BundleError(f"{path} is damaged at {where}; copy the bundle again") from None
    except UsageError as error:
        raise BundleError(f"{path} is damaged ({error}); copy the bundle again") from None
    if HEADLINE not in manifest.figures:
        raise BundleError(f"{path} has no figure {HEADLINE}; copy the bundle again")
    return manifest
