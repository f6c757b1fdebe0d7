"""Tensors out of Keras's HDF5 files: a program from standard input to standard output.

The HDF5 library crashes on some damaged files and never ends on others, so
:mod:`fracjax.models.source_file` runs this in a process of its own. It writes safetensors, or one
line of what is wrong to standard error.
"""

import io
import sys
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

FIELDS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""What a layer with so many arrays has, in Keras's order; their names in the file vary."""


OTHER_LAYOUT = 3
"""The exit code for a file that is whole, but not of a network of ``keras.applications``."""


class LayoutError(Exception):
    """A file is whole, but not of a network of ``keras.applications``."""


def read(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the layout of ``keras.applications``: a group for each layer, by its name.

    Raises:
        LayoutError: The file has another layout, or arrays of what is no number.
        Exception: Whatever h5py raises of a damaged file, which is not documented.
    """
    tensors: dict[str, NDArray[Any]] = {}
    with h5py.File(io.BytesIO(data)) as file:
        layers = file.get("model_weights", file)  # there, in a file of a whole model
        if "layer_names" not in layers.attrs:
            raise LayoutError(
                "has no names of layers, as Keras 3 writes .weights.h5; save the whole model: "
                "model.save('model.h5')"
            )
        for layer in layers.attrs["layer_names"]:
            group = layers[layer]
            arrays = [np.asarray(group[name]) for name in group.attrs["weight_names"]]
            if arrays and len(arrays) not in FIELDS:
                raise LayoutError(
                    f"has a layer {_text(layer)} of {len(arrays)} arrays, and no network here has "
                    "one; give a file of the network alone"
                )
            for field, array in zip(FIELDS.get(len(arrays), ()), arrays, strict=True):
                if array.dtype.kind not in "fiu":
                    raise LayoutError(
                        f"has numbers of format {array.dtype} in {_text(layer)}; give weights in "
                        "half, single or double precision"
                    )
                tensors[f"{_text(layer)}/{field}"] = np.ascontiguousarray(array)
    return tensors


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


if __name__ == "__main__":
    try:
        result = save(read(sys.stdin.buffer.read()))
    except LayoutError as error:
        sys.stderr.write(str(error))
        sys.exit(OTHER_LAYOUT)
    except Exception as error:  # noqa: BLE001 - of h5py, see above
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
    sys.stdout.buffer.write(result)
