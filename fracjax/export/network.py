"""A bundle's network in formats that others run, as bytes; and what XLA says, to compare."""

import functools
import json
from collections.abc import Callable
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export
from numpy.typing import NDArray

from fracjax import step
from fracjax.bundle import Bundle, check_float
from fracjax.errors import BundleError
from fracjax.export.integers import in_integers
from fracjax.export.onnx_graph import to_onnx
from fracjax.forward.probes import Answers
from fracjax.forward.xla import XlaForward, fitting_network
from fracjax.notice import NOTICE

PICTURES, RESULTS = "pictures", ("likelihoods", "features")
"""Names of what an exported model takes and gives."""

PLATFORMS = ("cpu", "cuda", "tpu")


def reference(bundle: Bundle, pictures: NDArray[np.float32]) -> Answers:
    """Give what a model says of the known radiographs, ``pictures`` (n, size, size).

    In float32 that is what XLA says, without the rounding of accelerators; of a model in 8-bit
    integers it was found when it was made.

    Raises:
        BundleError: The bundle's variables are not those of its network, or it was made when other
            radiographs were known.
    """
    if bundle.integers is not None:
        if len(bundle.integers.likelihoods) != len(pictures):
            raise BundleError(
                f"{bundle.manifest.model_id} was made when other radiographs were known; quantise "
                "it anew with this release"
            )
        return bundle.integers.likelihoods, bundle.integers.features
    network = fitting_network(bundle)
    with jax.default_matmul_precision("highest"):
        forward = XlaForward(network, bundle.manifest.preprocess, bundle.variables, len(pictures))
        return forward(pictures)


def onnx_of(bundle: Bundle) -> onnx.ModelProto:
    """Write a bundle's network as an ONNX model of any number of pictures.

    It takes ``pictures``, float32 (n, size, size) in 0..1 of :func:`fracjax.image.network_input`,
    and gives ``likelihoods`` (n, outputs), which are raw, and ``features`` (n, d), which the gate
    judges. A model in 8-bit integers is written with nodes that round to them.

    Raises:
        BundleError: The bundle's variables are not those of its network, or its ranges.
        ExportError: The network computes something that is not written.
    """
    manifest = bundle.manifest
    facts = {
        "notice": NOTICE,
        "model_id": manifest.model_id,
        "target": manifest.target,
        "preprocess": json.dumps(asdict(manifest.preprocess)),
    }
    model = to_onnx(_score(bundle), _argument(bundle), (PICTURES, RESULTS), facts)
    return model if bundle.integers is None else in_integers(model, bundle.integers.ranges)


def stablehlo_of(bundle: Bundle) -> bytes:
    """Write a bundle's network as an artifact of ``jax.export``, for CPU, CUDA and TPU.

    It takes and gives what :func:`onnx_of` does, in that order.

    Raises:
        BundleError: The bundle's variables are not those of its network.
        UsageError: The model multiplies 8-bit integers.
    """
    check_float(bundle.manifest)
    exported = export.export(jax.jit(_score(bundle)), platforms=PLATFORMS)(_argument(bundle))
    return bytes(exported.serialize())


def _score(bundle: Bundle) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    network = fitting_network(bundle)
    variables = {name: jnp.asarray(value) for name, value in bundle.variables.items()}
    return functools.partial(step.score, network, bundle.manifest.preprocess, variables)


def _argument(bundle: Bundle) -> jax.ShapeDtypeStruct:
    """Give the shape of any number of pictures."""
    size = bundle.manifest.preprocess.image_size
    (count,) = export.symbolic_shape("n")
    return jax.ShapeDtypeStruct((count, size, size), np.float32)
