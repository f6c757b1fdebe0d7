"""A bundle as a folder for others, each file compared with the bundle before it gets its name."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import onnxruntime
from jax import export
from numpy.typing import NDArray

from fracjax import bundle as bundles
from fracjax import files
from fracjax.bundle import Bundle
from fracjax.card import MEANING, render_card
from fracjax.export.network import PICTURES, RESULTS, onnx_of, reference, stablehlo_of
from fracjax.forward import probes
from fracjax.forward.quiet_openvino import openvino
from fracjax.notice import NOTICE

ONNX_NAME, STABLEHLO_NAME, FACTS_NAME = "model.onnx", "model.jax", "model.json"


def write(bundle: Bundle, directory: Path) -> dict[str, probes.Bounds]:
    """Write a bundle for those who do not run fracjax. Nothing in it can execute.

    A model in 8-bit integers is written as ONNX alone.

    Args:
        bundle: The model.
        directory: A new folder. It appears whole, once all readers have said of known radiographs
            what the bundle says.

    Returns:
        By reader, how far what it said differed.

    Raises:
        BundleError: ``directory`` exists, or the bundle's variables are not those of its network.
        ExportError: The network computes something that is not written, or a reader says something
            else.
    """
    bundles.check_free(directory)
    pictures = probes.pictures(bundle.manifest.preprocess)
    wanted = reference(bundle, pictures)
    contents = {
        ONNX_NAME: onnx_of(bundle).SerializeToString(),
        bundles.GATE_NAME: bundles.encode_gate(bundle.gate),
        bundles.CARD_NAME: render_card(bundle.manifest).encode(),
    }
    allowed = probes.ALLOWED_IN_INTEGERS
    if bundle.integers is None:
        contents[STABLEHLO_NAME], allowed = stablehlo_of(bundle), probes.ALLOWED
    differences = {}
    for name, reader, run in READERS:
        if name in contents:
            who = f"{name} in {reader}"
            differences[who] = probes.check(run(contents[name], pictures), wanted, who, allowed)
    contents[FACTS_NAME] = _facts(bundle, contents, differences)
    files.write_folder(directory, contents)
    return differences


def _facts(
    bundle: Bundle, contents: dict[str, bytes], differences: dict[str, probes.Bounds]
) -> bytes:
    """Say what the files are: what goes in, what comes out, and what it means."""
    manifest = bundle.manifest
    facts = {
        "notice": NOTICE,
        "model_id": manifest.model_id,
        "target": manifest.target,
        "meaning": MEANING[manifest.target],
        "takes": "pictures: float32 (n, size, size) in 0..1, as fracjax.image.network_input makes",
        "gives": [
            "likelihoods: float32 (n, outputs), raw, of target and further labels",
            "features: float32 (n, d), for the gate: of a picture that it refuses, a likelihood "
            "means nothing",
        ],
        "outputs": [manifest.target, *manifest.training.data.labels],
        "scope": manifest.scope,
        "preprocess": asdict(manifest.preprocess),
        "gate": asdict(manifest.gate),
        "calibration": None if manifest.calibration is None else asdict(manifest.calibration),
        "operating_points": {
            name: asdict(point) for name, point in manifest.operating_points.items()
        },
        "licences": manifest.provenance.licences,
        "differences": {reader: asdict(bounds) for reader, bounds in differences.items()},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    return json.dumps(facts, indent=2).encode() + b"\n"


def _run_onnxruntime(model: bytes, pictures: NDArray[np.float32]) -> probes.Answers:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    likelihoods, features = session.run(list(RESULTS), {PICTURES: pictures})
    return likelihoods, features


def _run_openvino(model: bytes, pictures: NDArray[np.float32]) -> probes.Answers:
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", exact)
    found = compiled({PICTURES: pictures})
    return found[RESULTS[0]], found[RESULTS[1]]


def _run_stablehlo(artifact: bytes, pictures: NDArray[np.float32]) -> probes.Answers:
    with jax.default_device(jax.devices("cpu")[0]):  # accelerators round products
        likelihoods, features = export.deserialize(bytearray(artifact)).call(pictures)
    return np.asarray(likelihoods), np.asarray(features)


READERS = (
    (ONNX_NAME, "ONNX Runtime", _run_onnxruntime),
    (ONNX_NAME, "OpenVINO", _run_openvino),
    (STABLEHLO_NAME, "JAX", _run_stablehlo),
)
