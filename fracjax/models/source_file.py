"""Tensors out of other people's files: safetensors, PyTorch's, and Keras's HDF5."""

import io
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from fracjax.errors import WeightsError
from fracjax.models.torch_file import STREAM_START, ZIP_START, Tensors, read_state_dict

HDF5_START = b"\x89HDF\r\n\x1a\n"

SAFETENSORS_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
}

KERAS_FIELDS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""What a layer with so many arrays has, in Keras's order; their names in the file vary."""


def read_tensors(path: Path, data: bytes) -> Tensors:
    """Read a weights file. Its content decides what it is, not its name; nothing is executed.

    Args:
        path: For messages.
        data: The file.

    Returns:
        Arrays in the number formats of the file.

    Raises:
        WeightsError: It is damaged, or of no kind that is read here.
    """
    if data.startswith((ZIP_START, STREAM_START)):
        return read_state_dict(path, data)
    if data.startswith(HDF5_START):
        return _read_keras(path, data)
    try:
        return {
            name: np.frombuffer(view["data"], SAFETENSORS_TYPES[view["dtype"]]).reshape(
                view["shape"]
            )
            for name, view in deserialize(data)
        }
    except KeyError as error:
        raise WeightsError(
            f"{path} has numbers of format {error.args[0]}; give weights in half, single or double "
            "precision"
        ) from None
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a readable weights file ({error}); give a .safetensors file, one of "
            "torch.save, or Keras's .h5"
        ) from error


def _read_keras(path: Path, data: bytes) -> Tensors:
    """Read the HDF5 layout of ``keras.applications``: a group for each layer, by its name."""
    tensors: Tensors = {}
    try:
        with h5py.File(io.BytesIO(data)) as file:
            layers = file.get("model_weights", file)  # there, in a file of a whole model
            if "layer_names" not in layers.attrs:
                raise WeightsError(
                    f"{path} is HDF5 without names of layers, as Keras 3 writes .weights.h5; save "
                    "the whole model: model.save('model.h5')"
                )
            for layer in layers.attrs["layer_names"]:
                group = layers[layer]
                arrays = [np.asarray(group[name]) for name in group.attrs["weight_names"]]
                if arrays and len(arrays) not in KERAS_FIELDS:
                    raise ValueError("a layer of an unknown kind")
                fields = KERAS_FIELDS.get(len(arrays), ())
                for field, array in zip(fields, arrays, strict=True):
                    tensors[f"{_text(layer)}/{field}"] = _numeric(array)
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path} is no whole HDF5 file of Keras ({error}); copy it again") from (
            error
        )
    return tensors


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _numeric(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array of {array.dtype}")
    return array
