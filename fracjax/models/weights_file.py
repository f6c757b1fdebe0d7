"""Our own file of published weights: our names, float32, and what must agree to use them.

A safetensors file of ImageNet weights does not say which strides, which batch norm and which
pixels they were trained with, and all of them fit where they are wrong. This one says it, in
the metadata of its header, as JSON.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save_file

from fracjax.configs import Model
from fracjax.errors import UsageError, WeightsError

FORMAT = "fracjax-weights"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a weights file says of itself.

    Attributes:
        model: The network that the weights are of.
        outputs: Logits of its head; 0 where the file has no head.
        channel_mean: Grey level, 0..255, that each input channel lost, in the order of the first
            convolution's input channels.
        channel_std: What each was divided by after that, in grey levels.
        source_sha256: Of the file that they came from.
        licence: What a holder of the weights must carry along, as the one who imported them said.
    """

    model: Model
    outputs: int
    channel_mean: tuple[float, float, float]
    channel_std: tuple[float, float, float]
    source_sha256: str
    licence: str


def write(path: Path, facts: Facts, variables: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a weights file. It appears under its name whole or not at all.

    Raises:
        UsageError: ``path`` exists already, or its folder does not.
    """
    if path.exists():
        raise UsageError(f"{path} exists already; give another name, or remove it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is no folder; create it, or give another --out")
    header = {"format": FORMAT, "version": VERSION, **asdict(facts)}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(
            dict(variables), partial, {name: json.dumps(value) for name, value in header.items()}
        )
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def read_facts(path: Path) -> Facts | None:
    """Read what a weights file says of itself.

    Returns:
        ``None`` if it is a safetensors file of another kind.

    Raises:
        WeightsError: It is missing, is no safetensors file, or is damaged or of another version.
    """
    try:
        with safe_open(path, "numpy") as file:
            header = dict(file.metadata() or {})
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; give the path of a weights file") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    if header.pop("format", None) != json.dumps(FORMAT):
        return None
    version = header.pop("version", None)
    if version != json.dumps(VERSION):
        raise WeightsError(
            f"{path} is of version {version}; this release reads {VERSION}: import it anew"
        )
    try:
        fields = {name: json.loads(value) for name, value in header.items()}
        return TypeAdapter(Facts).validate_json(json.dumps(fields))
    except (ValueError, ValidationError, UsageError) as error:
        raise WeightsError(f"{path} is damaged in its header; import it anew") from error


def read_variables(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the arrays of a weights file.

    Raises:
        WeightsError: It is damaged.
    """
    try:
        arrays = load(path.read_bytes())
    except (SafetensorError, KeyError) as error:
        raise WeightsError(f"{path} is damaged ({error}); import it anew") from error
    return {name: array.astype(np.float32) for name, array in arrays.items()}
