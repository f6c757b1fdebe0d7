"""Tensors out of other people's files: safetensors, PyTorch's, and Keras's HDF5."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from fracjax.errors import WeightsError
from fracjax.models.keras_file import OTHER_LAYOUT
from fracjax.models.torch_file import STREAM_START, ZIP_START, Tensors, read_state_dict

HDF5_START = b"\x89HDF\r\n\x1a\n"

SAFETENSORS_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
}

KERAS_PROGRAM = Path(__file__).with_name("keras_file.py")
KERAS_SECONDS = 120
"""After which a file of Keras counts as damaged; a whole one takes a few."""


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
    return _read_safetensors(path, data)


def _read_safetensors(path: Path, data: bytes) -> Tensors:
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
    """Read Keras's HDF5 in a process of its own: a damaged file may crash it or never end."""
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-P", str(KERAS_PROGRAM)],
            input=data,
            capture_output=True,
            timeout=KERAS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(
            f"{path} was not read within {KERAS_SECONDS} s; copy it again, or wait until the "
            "machine has less to do"
        ) from None
    if done.returncode == 0:
        return _read_safetensors(path, done.stdout)
    lines = done.stderr.decode(errors="replace").splitlines()
    if done.returncode == OTHER_LAYOUT and lines:
        raise WeightsError(f"{path} {lines[-1]}")
    crashed = done.returncode < 0 or not lines
    why = f"the HDF5 library ended with {done.returncode}" if crashed else lines[-1]
    raise WeightsError(f"{path} is no whole HDF5 file of Keras ({why}); copy it again")
