"""A model bundle: one directory with all that scoring needs, and nothing that can execute.

``bundle.json`` says what the model is, means and measured; ``weights.safetensors`` holds its
arrays and ``gate.safetensors`` those of its picture gate; ``CARD.md`` says the same for a person.
In a folder ``int8`` of its own it may hold the model of the same weights that multiplies 8-bit
integers: a bundle, too, with ``integers.safetensors``, whose weights lie one folder up.
``docs/bundle.md`` describes the format.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fracjax import files
from fracjax.calibration import Calibration
from fracjax.configs import Config, Model, Preprocess, Target
from fracjax.errors import BundleError, UsageError
from fracjax.figure import Figure
from fracjax.gate import UNFITTED, Gate
from fracjax.gate import Facts as GateFacts
from fracjax.integers import Facts as IntegersFacts
from fracjax.integers import Integers
from fracjax.operating import Name as PointName
from fracjax.operating import OperatingPoint

FORMAT = "fracjax-bundle"
VERSION = 3
INTEGERS_VERSION = 4
"""Of a model that multiplies 8-bit integers, which earlier releases would take for another."""

UNTUNED_VERSION = 2
"""A version that had neither calibration nor operating points, and is read as having none."""

UNGATED_VERSION = 1
"""A version that had neither gate nor scope. :func:`fracjax.finish.fit_gate` makes 2 of it."""

VERSIONS = (UNTUNED_VERSION, VERSION, INTEGERS_VERSION)
"""That can score."""

MANIFEST_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
GATE_NAME = "gate.safetensors"
INTEGERS_NAME = "integers.safetensors"
CARD_NAME = "CARD.md"

HEADLINE = "auroc_study"
"""The figure that every bundle has, and that is shown beside a score."""

INT8 = "int8"
"""The folder in a bundle of the same weights in 8-bit integers."""

BUNDLED = Path(__file__).parent / "bundles" / "fracatlas"
"""The model that ships with the package."""

SHIPPED = {Path("fracatlas"): BUNDLED, Path("fracatlas") / INT8: BUNDLED / INT8}
"""The bundles that ship, by the names that stand for them."""

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A model that another is the mean of.

    Attributes:
        model_id: Its own.
        training: How it was trained.
    """

    model_id: str
    training: Config


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
        averaged: The models whose mean its weights are; none of a model that was trained itself.
    """

    dataset: str
    learned: tuple[str, ...]
    train_images: int
    train_positives: int
    train_groups: int
    initial_weights: str
    licences: tuple[str, ...]
    note: str
    averaged: tuple[Ingredient, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of ``bundle.json``, but for its own digest.

    ``scope`` are the terms of :class:`fracjax.image.anatomy.BodyPart` that the model is meant for.
    ``measured_on`` is the digest of the images and labels that the figures are of. ``integers`` is
    there where the model multiplies 8-bit integers.
    """

    format: str
    version: int
    model_id: str
    target: Target
    scope: tuple[str, ...]
    model: Model
    preprocess: Preprocess
    weights_sha256: str
    gate: GateFacts
    training: Config
    provenance: Provenance
    figures: dict[str, Figure]
    software: dict[str, str]
    created: str
    measured_on: str = ""
    calibration: Calibration | None = None
    operating_points: dict[PointName, OperatingPoint] = field(default_factory=dict)
    integers: IntegersFacts | None = None


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: its manifest, its variables as float32 arrays by name, and its gate.

    ``integers`` is there if ``manifest.integers`` is.
    """

    manifest: Manifest
    variables: Arrays
    gate: Gate
    integers: Integers | None = None


def encode_weights(variables: Arrays) -> bytes:
    """Serialise variables: kernels in half precision, the rest as they are.

    Raises:
        BundleError: A value is not finite, or too large for half precision.
    """
    stored = {}
    for name, value in sorted(variables.items()):
        kind = np.float16 if name.endswith("kernel") else np.float32
        kept = value.astype(kind, order="C")  # safetensors writes any other order as if it were C
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
    return _decode(data, WEIGHTS_NAME)


def encode_gate(gate: Gate) -> bytes:
    """Serialise a gate, in float32."""
    return save_tensors(
        {name: np.array(value, np.float32, order="C") for name, value in gate._asdict().items()}
    )


def decode_gate(data: bytes) -> Gate:
    """Read what :func:`encode_gate` wrote.

    Raises:
        BundleError: The bytes are no such file, or their arrays do not belong together.
    """
    arrays = _decode(data, GATE_NAME)
    count, features = (np.size(arrays.get(name, ())) for name in ("variances", "mean"))
    shapes = {
        "mean": (features,),
        "components": (count, features),
        "variances": (count,),
        "noise": (),
        "normal": (features,),
        "offset": (),
    }
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise BundleError(f"{GATE_NAME} is no gate over {features} features; copy the bundle again")
    return Gate(**arrays)


def encode_integers(arrays: Integers) -> bytes:
    """Serialise what a network in 8-bit integers takes beside its weights."""
    return save_tensors(
        {name: np.array(value, np.float32, order="C") for name, value in arrays._asdict().items()}
    )


def decode_integers(data: bytes) -> Integers:
    """Read what :func:`encode_integers` wrote.

    Raises:
        BundleError: The bytes are no such file.
    """
    arrays = _decode(data, INTEGERS_NAME)
    if arrays.keys() != set(Integers._fields) or arrays["ranges"].shape[1:] != (2,):
        raise BundleError(f"{INTEGERS_NAME} holds no ranges; copy the bundle again")
    return Integers(**arrays)


def check_float(manifest: Manifest) -> None:
    """Make sure that a model computes in float32.

    Raises:
        UsageError: It multiplies 8-bit integers.
    """
    if manifest.integers is not None:
        raise UsageError(
            f"{manifest.model_id} multiplies 8-bit integers; give the bundle that it lies in, of "
            f"{manifest.integers.source}"
        )


def check_free(directory: Path) -> None:
    """Make sure that a bundle may be written there, before what it costs to make one.

    Raises:
        BundleError: ``directory`` exists already.
    """
    if directory.exists():
        raise BundleError(f"{directory} exists already; give another name, or remove it")


def write(directory: Path, manifest: Manifest, arrays: bytes, gate: bytes, card: str) -> None:
    """Write a bundle. It appears under its name whole or not at all.

    Args:
        directory: A new folder; if the model multiplies 8-bit integers, in a bundle of the same
            weights.
        manifest: What the model is.
        arrays: Of :func:`encode_weights`; or of :func:`encode_integers`, if it multiplies them.
        gate: Of :func:`encode_gate`.
        card: The manifest for a person.

    Raises:
        BundleError: ``directory`` exists already.
    """
    check_free(directory)
    fields = asdict(manifest)
    text = json.dumps(fields | {"sha256": _digest_of(fields)}, indent=2) + "\n"
    contents = {
        WEIGHTS_NAME if manifest.integers is None else INTEGERS_NAME: arrays,
        GATE_NAME: gate,
        MANIFEST_NAME: text.encode(),
        CARD_NAME: card.encode(),
    }
    files.write_folder(directory, contents)


def load(directory: Path = BUNDLED) -> Bundle:
    """Read a bundle and check it against its own digests. Nothing in it is executed.

    Args:
        directory: A bundle, the working directory of a finished training run, or the name of a
            bundle that ships: ``fracatlas`` or ``fracatlas/int8``.

    Raises:
        BundleError: It is missing, damaged, or of a version that this release does not know.
    """
    directory = find(directory)
    path = directory / MANIFEST_NAME
    manifest = _validated(path, _read_fields(path, VERSIONS))
    gate = decode_gate(_read_checked(directory / GATE_NAME, manifest.gate.sha256))
    if manifest.integers is None:
        weights = _read_checked(directory / WEIGHTS_NAME, manifest.weights_sha256)
        return Bundle(manifest, decode_weights(weights), gate)
    path = directory.resolve().parent / WEIGHTS_NAME
    if not path.is_file():
        raise BundleError(
            f"{path} is not there: the weights of {manifest.model_id} are those of the bundle that "
            f"it lies in; copy that of {manifest.integers.source}, with its folder {INT8}"
        )
    weights = _read_checked(path, manifest.weights_sha256)
    arrays = _read_checked(directory / INTEGERS_NAME, manifest.integers.sha256)
    return Bundle(manifest, decode_weights(weights), gate, decode_integers(arrays))


def read_without_gate(directory: Path) -> tuple[Manifest, bytes]:
    """Read a bundle whose gate is to be fitted anew, or was never fitted.

    Args:
        directory: A bundle of this version or of ``UNGATED_VERSION``, or of a training run.

    Returns:
        Its manifest, with an unfitted gate and no scope; and the bytes of its weights.

    Raises:
        BundleError: As :func:`load`.
        UsageError: It multiplies 8-bit integers.
    """
    directory = find(directory)
    path = directory / MANIFEST_NAME
    fields = _read_fields(path, (UNGATED_VERSION, *VERSIONS))
    version = max(fields["version"], VERSION)
    gateless = {"gate": asdict(UNFITTED), "scope": (), "version": version}
    manifest = _validated(path, fields | gateless)
    check_float(manifest)
    return manifest, _read_checked(directory / WEIGHTS_NAME, manifest.weights_sha256)


def find(directory: Path) -> Path:
    """Give the folder of a bundle that is named as :func:`load` takes it."""
    if (directory / MANIFEST_NAME).is_file():
        return directory
    if (directory / "bundle").is_dir():
        return directory / "bundle"
    if directory in SHIPPED and not Path(directory.parts[0]).exists():
        return SHIPPED[directory]
    return directory


def _digest_of(fields: dict[str, Any]) -> str:
    """Give the sha256 of a manifest's fields, however its file is laid out."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _decode(data: bytes, name: str) -> Arrays:
    try:
        return {key: value.astype(np.float32) for key, value in load_tensors(data).items()}
    except (SafetensorError, KeyError) as error:  # KeyError: a number format that NumPy lacks
        raise BundleError(
            f"{name} is not a safetensors file ({error}); copy the bundle again"
        ) from error


def _read_checked(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; copy it again") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(
            f"{path} is not the file that {MANIFEST_NAME} describes (sha256 differs); "
            "copy the bundle again"
        )
    return data


def _read_fields(path: Path, versions: tuple[int, ...]) -> dict[str, Any]:
    """Read ``bundle.json``, check that it is whole, and take its digest off."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}; give the directory of a model bundle"
        ) from None
    try:
        fields = json.loads(text)
        name, version = fields["format"], fields["version"]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{path} does not describe a bundle; copy the bundle again") from None
    if name != FORMAT or version not in versions:
        way_out = (
            "; fracjax.finish.fit_gate makes one of it"
            if (name, version) == (FORMAT, UNGATED_VERSION)
            else ""
        )
        raise BundleError(
            f"{path} is of format {name!r}, version {version!r}; this release reads "
            f"{FORMAT!r}, versions {', '.join(map(str, VERSIONS))}{way_out}"
        )
    sha256 = fields.pop("sha256", None)
    if version != UNGATED_VERSION and sha256 != _digest_of(fields):
        raise BundleError(f"{path} is damaged (its sha256 differs); copy the bundle again")
    return dict(fields)


def _validated(path: Path, fields: dict[str, Any]) -> Manifest:
    try:
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(fields))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise BundleError(f"{path} is damaged at {where}; copy the bundle again") from None
    except UsageError as error:
        raise BundleError(f"{path} is damaged ({error}); copy the bundle again") from None
    if (manifest.version == INTEGERS_VERSION) != (manifest.integers is not None):
        raise BundleError(f"{path} is damaged at integers; copy the bundle again")
    if HEADLINE not in manifest.figures:
        raise BundleError(f"{path} has no figure {HEADLINE}; copy the bundle again")
    return manifest
