"""The model of a bundle in 8-bit integers: other likelihoods, and faster where a CPU has them.

Nothing is trained. Images that the model learned from tell the range of what each convolution takes
(:mod:`fracjax.integers`); then all that was measured of the model in float32 is measured anew.
"""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fracjax import bundle, data, evaluate, finish
from fracjax.bundle import Bundle, Manifest
from fracjax.card import render_card
from fracjax.engine import DEFAULT_BATCH_SIZE, Scorer
from fracjax.errors import BundleError, UsageError
from fracjax.export.integers import RANGES, in_integers, watched
from fracjax.export.network import PICTURES, RESULTS, onnx_of
from fracjax.forward import probes
from fracjax.forward.openvino import OpenVinoForward
from fracjax.image import network_input
from fracjax.integers import UNMEASURED, Facts, Integers, moved

IMAGES = 300
"""That tell ranges, at most."""

QUANTILE = 0.95
"""Part of the images whose extremes a range holds: those of all would be those of an outlier."""

IN_FLOAT = 5
"""Convolutions that stay in float32, from the first: of a ResNet, what sees the picture and the
first block, which move the features most when they alone are rounded (docs/performance.md)."""

_SOFTWARE = ("fracjax", "onnx", "onnxruntime", "openvino")


def quantize(
    source: Path,
    *,
    data_dir: Path,
    outside: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
    stage: finish.Stage = lambda *_: None,
) -> Manifest:
    """Write the bundle of a bundle's weights in 8-bit integers, into its folder ``int8``.

    This takes a look at some training images, three passes over all of them, and four over the
    validation images.

    Args:
        source: A bundle in float32.
        data_dir: Where :func:`fracjax.data.prepare` put its data set.
        outside: As :func:`fracjax.finish.fit_gate` takes them.
        stage: Called now and then.

    Returns:
        The manifest of the new bundle.

    Raises:
        BundleError: ``source`` is missing or damaged, or has such a folder already.
        UsageError: ``source`` is one in 8-bit integers, or has too few convolutions.
        DataError: The data set is missing, or is not the one that the model was trained on.
        ExportError: OpenVINO and ONNX Runtime do not say the same.
    """
    directory = bundle.find(source) / bundle.INT8
    if directory.exists():
        raise BundleError(f"{directory} exists already; to make it anew, remove it first")
    exact = bundle.load(source)
    bundle.check_float(exact.manifest)
    learned, tuned_on = finish.training_images(exact.manifest, data_dir)
    valid = finish.validation_images(exact.manifest, data_dir)
    arrays = _integers(exact, learned, stage)
    encoded = bundle.encode_integers(arrays)
    convolutions = int(np.isfinite(arrays.ranges[:, 0]).sum())
    if convolutions == 0:
        raise UsageError(
            f"{exact.manifest.model_id} has {len(arrays.ranges)} convolutions, and the first "
            f"{IN_FLOAT} stay in float32; give a larger network"
        )
    sha256 = hashlib.sha256(encoded).hexdigest()
    facts = Facts(
        source=exact.manifest.model_id,
        convolutions=convolutions,
        images=min(IMAGES, len(learned)),
        moved=UNMEASURED,
        sha256=sha256,
        software={name: importlib.metadata.version(name) for name in _SOFTWARE},
        created=datetime.now(UTC).date().isoformat(),
    )
    # With the gate of the other model, until its own is fitted.
    manifest = replace(
        exact.manifest,
        version=bundle.INTEGERS_VERSION,
        model_id=f"{exact.manifest.model_id}-{bundle.INT8}-{sha256[:8]}",
        integers=facts,
    )
    quantised = Bundle(manifest, exact.variables, exact.gate, arrays)
    network = OpenVinoForward(quantised, DEFAULT_BATCH_SIZE)
    fitted, gate_facts, _ = finish.fitted_gate(manifest, network, learned, stage)
    manifest = replace(manifest, gate=gate_facts)
    scorer = Scorer(replace(quantised, manifest=manifest, gate=fitted), engine="openvino")
    gate_facts, scores = finish.measured_gate(scorer, valid, stage, outside)
    before = evaluate.predict(
        Scorer(exact, engine="openvino"),
        valid,
        report=lambda done: stage("comparing with float32", done, len(valid)),
    )
    manifest = replace(
        manifest,
        gate=gate_facts,
        figures=evaluate.figures(valid.facts, scores, manifest.training.data.labels),
        integers=replace(facts, moved=moved(scores.likelihoods, before.likelihoods)),
        **finish.tune(scorer, tuned_on, stage),
    )
    bundle.write(directory, manifest, encoded, bundle.encode_gate(fitted), render_card(manifest))
    return manifest


def _integers(exact: Bundle, learned: data.Radiographs, stage: finish.Stage) -> Integers:
    """Find what a network in integers takes, and let ONNX Runtime say what is then to be said.

    It is another engine than the one that will score, which has to agree with it.
    """
    model = onnx_of(exact)
    ranges = _ranges(_session(watched(model).SerializeToString()), exact, learned, stage)
    session = _session(in_integers(model, ranges).SerializeToString())
    pictures = probes.pictures(exact.manifest.preprocess)
    likelihoods, features = session.run(list(RESULTS), {PICTURES: pictures})
    return Integers(ranges, likelihoods, features)


def _ranges(
    session: onnxruntime.InferenceSession,
    exact: Bundle,
    learned: data.Radiographs,
    stage: finish.Stage,
) -> NDArray[np.float32]:
    """Find least and largest input of each convolution, (n, 2) as :class:`Integers` has them."""
    rng = np.random.default_rng(exact.manifest.training.seed)
    chosen = rng.permutation(len(learned))[:IMAGES]
    reached = []
    for done, place in enumerate(chosen.tolist()):
        stage("finding ranges", done, len(chosen))
        square = network_input(learned[place].pixels(), exact.manifest.preprocess)
        (extremes,) = session.run([RANGES], {PICTURES: square[np.newaxis]})
        reached.append(extremes)
    low = np.quantile([each[:, 0] for each in reached], 1 - QUANTILE, axis=0)
    high = np.quantile([each[:, 1] for each in reached], QUANTILE, axis=0)
    ranges = np.stack([np.minimum(low, 0), np.maximum(high, 0)], axis=1).astype(np.float32)
    ranges[:IN_FLOAT] = np.nan
    return ranges


def _session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
